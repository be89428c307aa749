//! Owns the processor's time that a run takes, by process, and what the machine gave to others
//! meanwhile. Refuses a window in which a process came or went.

use std::fs;

use anyhow::{Context, ensure};
use testkit::processes::Table;

use super::trees::{self, Firsts, LAUNCHER, LOAD};
use crate::record::ByProcess;

/// Of the kernel's accounts, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What everybody has used up to one moment.
#[derive(Debug, Clone)]
pub struct Reading {
    firsts: Firsts,
    seconds: ByProcess,
    /// This process alone, which belongs to the run and to no saga.
    own_seconds: f64,
    machine: Machine,
}

/// Seconds of all processors together.
#[derive(Debug, Clone, Copy)]
struct Machine {
    /// Taken by processes here, or by the machine's own host.
    busy: f64,
    all: f64,
}

/// What was used between two readings.
#[derive(Debug, Clone, PartialEq)]
pub struct Used {
    pub ms: ByProcess,
    /// The share of the machine that went to anything but the stack, the load and this process.
    pub outside: f64,
}

impl Reading {
    /// Of the stack below a launcher. Whatever else this process has started is the load.
    pub fn take(launcher: u32) -> anyhow::Result<Self> {
        let own = std::process::id();
        let table = Table::read()?;
        let of = |pid| table.get(pid).with_context(|| format!("process {pid} is gone"));
        let firsts = trees::of_stack(&table, launcher);
        let mut seconds: ByProcess = (firsts.iter())
            .map(|(name, pids)| {
                (name.clone(), pids.iter().map(|pid| table.cpu_seconds(*pid)).sum())
            })
            .collect();
        seconds.insert(LAUNCHER.to_owned(), of(launcher)?.own_seconds);
        let load = trees::of_load(&table, launcher, own);
        let living: f64 = load.into_iter().map(|pid| table.cpu_seconds(pid)).sum();
        // The load has ended when its run is over, and then stands in this process's account.
        seconds.insert(LOAD.to_owned(), of(own)?.ended_seconds + living);
        let machine = Machine::parse(&fs::read_to_string("/proc/stat")?).context("/proc/stat")?;
        Ok(Self { firsts, seconds, own_seconds: of(own)?.own_seconds, machine })
    }
}

impl Machine {
    /// Interrupts are left out: those of a busy run are its own, and no process has them.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let fields = line.split_whitespace().map(str::parse);
        let ticks: Vec<f64> = fields.collect::<Result<_, _>>().ok()?;
        let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = *ticks else {
            return None;
        };
        let busy = user + nice + system + steal;
        let all = busy + idle + iowait + irq + softirq;
        Some(Self { busy: busy / TICKS_PER_SECOND, all: all / TICKS_PER_SECOND })
    }
}

impl Used {
    pub fn between(before: &Reading, after: &Reading) -> anyhow::Result<Self> {
        ensure!(
            before.firsts == after.firsts,
            "a process came or went meanwhile: {:?}, then {:?}",
            before.firsts,
            after.firsts
        );
        let used = |(name, seconds): (&String, &f64)| {
            let before = before.seconds.get(name).copied().unwrap_or_default();
            (name.clone(), (seconds - before) * 1_000.0)
        };
        let ms: ByProcess = after.seconds.iter().map(used).collect();
        let run = ms.values().sum::<f64>() / 1_000.0 + after.own_seconds - before.own_seconds;
        let busy = after.machine.busy - before.machine.busy;
        let all = after.machine.all - before.machine.all;
        ensure!(all > 0.0, "no time has passed between two readings");
        Ok(Self { ms, outside: ((busy - run) / all).max(0.0) })
    }

    #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^53 sagas")]
    pub fn ms_per_saga(&self, sagas: u64) -> ByProcess {
        let per_saga = |(name, ms): (&String, &f64)| (name.clone(), ms / sagas as f64);
        self.ms.iter().map(per_saga).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::{BufRead, BufReader, Write as _};
    use std::process::{Child, Command, Stdio};

    use super::*;

    const BUSY: &str = "i=0; while [ $i -lt 400000 ]; do i=$((i + 1)); done";

    fn reading(postgres: f64, load: f64, own: f64, busy: f64, all: f64) -> Reading {
        let firsts = Firsts::from([("postgres".to_owned(), BTreeSet::from([7]))]);
        let seconds = [("postgres", postgres), (LOAD, load)];
        let seconds = seconds.map(|(name, seconds)| (name.to_owned(), seconds)).into();
        Reading { firsts, seconds, own_seconds: own, machine: Machine { busy, all } }
    }

    fn near(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-9
    }

    #[test]
    fn the_run_and_the_load_and_the_bench_itself_are_not_outside() -> anyhow::Result<()> {
        let before = reading(10.0, 1.0, 5.0, 100.0, 1_000.0);
        let after = reading(14.0, 2.0, 6.0, 109.0, 1_020.0);
        let used = Used::between(&before, &after)?;
        assert!(near(used.ms["postgres"], 4_000.0) && near(used.ms[LOAD], 1_000.0), "{used:?}");
        assert!(near(used.outside, 3.0 / 20.0), "{used:?}");
        assert!(near(used.ms_per_saga(2_000)["postgres"], 2.0));
        Ok(())
    }

    #[test]
    fn accounts_that_do_not_agree_to_the_tick_are_no_negative_share() -> anyhow::Result<()> {
        let before = reading(10.0, 0.0, 0.0, 100.0, 1_000.0);
        let after = reading(12.01, 0.0, 0.0, 102.0, 1_002.0);
        assert!(near(Used::between(&before, &after)?.outside, 0.0));
        Ok(())
    }

    #[test]
    fn a_window_in_which_a_process_was_started_again_has_no_figure() {
        let before = reading(10.0, 1.0, 5.0, 100.0, 1_000.0);
        let mut after = reading(0.5, 1.0, 5.0, 110.0, 1_020.0);
        after.firsts.insert("postgres".to_owned(), BTreeSet::from([8]));
        let refused = Used::between(&before, &after).expect_err("another process");
        assert!(refused.to_string().contains("came or went"), "{refused}");
    }

    #[test]
    fn no_time_at_all_has_no_share() {
        let reading = reading(1.0, 1.0, 1.0, 1.0, 1.0);
        assert!(Used::between(&reading, &reading).is_err());
    }

    #[test]
    fn what_the_host_takes_away_is_busy_and_what_interrupts_take_is_not() {
        let stat = "cpu  100 20 30 400 50 6 7 80 9 9\ncpu0 1 2 3 4 5 6 7 8 9 9\n";
        let machine = Machine::parse(stat).expect("as the kernel writes it");
        assert!(near(machine.busy, 2.3) && near(machine.all, 6.93), "{machine:?}");
        assert!(Machine::parse("cpu 1 2 3\n").is_none());
    }

    fn line_of(child: &mut Child) -> anyhow::Result<String> {
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().context("piped")?).read_line(&mut said)?;
        Ok(said)
    }

    fn shell(script: &str) -> std::io::Result<Child> {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
    }

    #[test]
    fn what_a_child_does_is_its_own_and_the_loads_even_after_its_end() -> anyhow::Result<()> {
        // What stands below this launcher is a shell, too: it waits, works and waits.
        let work = format!("echo; read l; {BUSY}; echo; read l || :");
        let mut launcher = shell(&format!("sh -c '{work}; :'; :"))?;
        line_of(&mut launcher)?;
        let before = Reading::take(launcher.id())?;

        launcher.stdin.as_mut().context("piped")?.write_all(b"\n")?;
        line_of(&mut launcher)?;
        let mut load = shell(BUSY)?;
        assert!(load.wait()?.success());
        let after = Reading::take(launcher.id())?;
        drop(launcher.stdin.take());
        launcher.wait()?;

        let used = Used::between(&before, &after)?;
        assert!(used.ms["sh"] > 50.0 && used.ms[LOAD] > 50.0, "{used:?}");
        assert!(used.ms[LAUNCHER] < used.ms["sh"], "{used:?}");
        Ok(())
    }

    #[test]
    fn work_of_a_stranger_is_outside() -> anyhow::Result<()> {
        let mut launcher = shell("read l || :")?;
        let before = Reading::take(launcher.id())?;
        // Its parent ends at once, so it is nobody's child here; it says how much it has used.
        let mut stranger = shell(&format!("(({BUSY}); times >&2; echo) 2>&1 &"))?;
        stranger.wait()?;
        let said = BufReader::new(stranger.stdout.take().context("piped")?).lines();
        let said: Vec<String> = said.collect::<Result<_, _>>()?;
        let after = Reading::take(launcher.id())?;
        drop(launcher.stdin.take());
        launcher.wait()?;

        let children = said.get(1).context("user and system time of what it ran")?;
        let minutes = children.split(['m', 's', ' ']).filter(|part| !part.is_empty());
        let minutes: Vec<f64> = minutes.map(str::parse).collect::<Result<_, _>>()?;
        let stranger = minutes[1] + minutes[3];
        assert!(stranger > 0.05, "{said:?}");
        let used = Used::between(&before, &after)?;
        let all = after.machine.all - before.machine.all;
        assert!(used.outside * all > stranger / 2.0, "{used:?}, {stranger} of {all}");
        Ok(())
    }
}
