//! Owns the memory that each process of a run holds while it runs, as its share of what lies in the
//! machine (PSS). Refuses to take more of the processor than a fiftieth for looking.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::anyhow;
use rustix::io::Errno;
use testkit::processes::Table;

use super::trees::{self, LAUNCHER, LOAD};
use crate::record::ByProcess;

const EVERY: Duration = Duration::from_millis(500);
/// The kernel walks through every page of a process to add its shares up, which a large Postgres
/// makes slow: then it is looked at less often.
const TIMES_ITS_OWN: u32 = 50;

/// Looks again and again, on a thread of its own, until it is stopped.
pub struct Watch {
    stop: Sender<()>,
    looks: JoinHandle<io::Result<Vec<ByProcess>>>,
}

/// What was seen, in order and at least once: megabytes by process.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen(Vec<ByProcess>);

impl Watch {
    /// Over the stack below a launcher, and what else this process has started.
    pub fn start(launcher: u32) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let mut looks = vec![look(launcher)?];
        let mut took = begun.elapsed();
        let (stop, stopped) = channel();
        let looks = std::thread::spawn(move || {
            loop {
                let pause = EVERY.max(took * TIMES_ITS_OWN);
                if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return Ok(looks);
                }
                let begun = Instant::now();
                looks.push(look(launcher)?);
                took = begun.elapsed();
            }
        });
        Ok(Self { stop, looks })
    }

    pub fn stop(self) -> anyhow::Result<Seen> {
        drop(self.stop);
        let looks = self.looks.join().map_err(|_| anyhow!("the watch over memory panicked"))?;
        Ok(Seen(looks?))
    }
}

impl Seen {
    /// The most that each held at one look.
    pub fn peak_mb(&self) -> ByProcess {
        fold(&self.0, f64::max)
    }

    /// The means over the first and the last quarter of the looks.
    pub fn quarters_mb(&self) -> [ByProcess; 2] {
        let quarter = self.0.len().div_ceil(4);
        [&self.0[..quarter], &self.0[self.0.len() - quarter..]].map(mean)
    }
}

fn fold(looks: &[ByProcess], of: impl Fn(f64, f64) -> f64) -> ByProcess {
    let mut all = ByProcess::new();
    for (name, mb) in looks.iter().flatten() {
        let so_far = all.entry(name.clone()).or_insert(0.0);
        *so_far = of(*so_far, *mb);
    }
    all
}

#[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^53 looks")]
fn mean(looks: &[ByProcess]) -> ByProcess {
    let mut all = fold(looks, |sum, mb| sum + mb);
    for sum in all.values_mut() {
        *sum /= looks.len() as f64;
    }
    all
}

fn look(launcher: u32) -> io::Result<ByProcess> {
    let table = Table::read()?;
    let mut firsts = trees::of_stack(&table, launcher);
    firsts.insert(LOAD.to_owned(), trees::of_load(&table, launcher, std::process::id()));
    let mut all = ByProcess::from([(LAUNCHER.to_owned(), pss_mb(launcher)?)]);
    for (name, pids) in firsts {
        let mut sum = 0.0;
        for pid in pids.iter().flat_map(|pid| table.family(*pid)) {
            sum += pss_mb(pid)?;
        }
        all.insert(name, sum);
    }
    Ok(all)
}

/// Nothing, for a process that has ended meanwhile.
fn pss_mb(pid: u32) -> io::Result<f64> {
    let rollup = match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0.0),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => return Ok(0.0),
        read => read?,
    };
    let kb = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kb = kb.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kb.unwrap_or_default() / 1_024.0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use testkit::wait;

    use super::*;

    fn seen(mb: &[f64]) -> Seen {
        Seen(mb.iter().map(|mb| ByProcess::from([("order".to_owned(), *mb)])).collect())
    }

    #[test]
    fn growth_shows_in_the_quarters_and_a_peak_wherever_it_is() {
        let seen = seen(&[10.0, 12.0, 90.0, 20.0, 20.0, 20.0, 30.0, 34.0]);
        let [first, last] = seen.quarters_mb();
        assert!((first["order"] - 11.0).abs() < 1e-9 && (last["order"] - 32.0).abs() < 1e-9);
        assert!((seen.peak_mb()["order"] - 90.0).abs() < 1e-9);
    }

    #[test]
    fn a_single_look_is_its_first_quarter_and_its_last() {
        let seen = seen(&[10.0]);
        assert_eq!(seen.quarters_mb(), [seen.peak_mb(), seen.peak_mb()]);
    }

    #[test]
    fn what_a_process_holds_is_seen_and_its_end_is_no_error() -> anyhow::Result<()> {
        // A shell keeps what it has read in a variable, until its own input ends.
        let script = "held=$(head -c 16000000 /dev/zero | tr '\\0' x); read line || :; echo $held";
        let mut child = Command::new("sh");
        child.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = child.spawn()?;
        wait::until_blocking(Duration::from_secs(10), "it to hold them", || {
            pss_mb(child.id()).ok().filter(|mb| *mb > 10.0)
        })?;
        let watch = Watch::start(std::process::id())?;
        drop(child.stdin.take());
        child.wait()?;
        assert!(pss_mb(child.id())?.abs() < 1e-9, "it is gone");
        let peak = watch.stop()?.peak_mb();
        assert!(peak.get("sh").is_some_and(|mb| *mb > 10.0), "{peak:?}");
        Ok(())
    }
}
