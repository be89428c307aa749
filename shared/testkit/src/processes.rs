//! Owns the kernel's table of processes at one moment. Refuses to keep up with it: whoever wants to
//! know what is now reads it again.

use std::collections::BTreeMap;
use std::{fs, io};

/// Of the kernel's accounts, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process as the kernel describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    pub parent: u32,
    /// Its program's file, or the first 15 bytes of that name.
    pub name: String,
    /// The processor's time that it has used itself.
    pub own_seconds: f64,
    /// The same for all below it that have ended and were waited for.
    pub ended_seconds: f64,
}

/// Every process by its number.
#[derive(Debug, Clone, Default)]
pub struct Table(BTreeMap<u32, Process>);

impl Table {
    pub fn read() -> io::Result<Self> {
        let mut processes = BTreeMap::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            // One that has ended meanwhile is not there.
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            let (pid, process) = parse(&stat).ok_or(io::ErrorKind::InvalidData)?;
            processes.insert(pid, process);
        }
        Ok(Self(processes))
    }

    pub fn get(&self, pid: u32) -> Option<&Process> {
        self.0.get(&pid)
    }

    pub fn children(&self, parent: u32) -> impl Iterator<Item = (u32, &Process)> {
        let all = self.0.iter().map(|(pid, process)| (*pid, process));
        all.filter(move |(_, process)| process.parent == parent)
    }

    /// A process and all below it.
    pub fn family(&self, first: u32) -> Vec<u32> {
        let mut family = vec![first];
        let mut seen = 0;
        while let Some(parent) = family.get(seen) {
            family.extend(self.children(*parent).map(|(child, _)| child));
            seen += 1;
        }
        family
    }

    /// What a process and all below it have used so far, those included that have ended.
    pub fn cpu_seconds(&self, first: u32) -> f64 {
        let family = self.family(first).into_iter().filter_map(|pid| self.get(pid));
        family.map(|process| process.own_seconds + process.ended_seconds).sum()
    }
}

/// A line of `/proc/<pid>/stat`. The name may hold anything, so what follows it is found from the
/// right.
fn parse(stat: &str) -> Option<(u32, Process)> {
    let (head, tail) = stat.rsplit_once(") ")?;
    let (pid, name) = head.split_once(" (")?;
    let fields: Vec<&str> = tail.split(' ').collect();
    let seconds = |first: usize| -> Option<f64> {
        // In user mode and in the kernel.
        let ticks = fields.get(first..first + 2)?.iter().map(|ticks| ticks.parse::<f64>());
        Some(ticks.sum::<Result<f64, _>>().ok()? / TICKS_PER_SECOND)
    };
    let process = Process {
        parent: fields.get(1)?.parse().ok()?,
        name: name.to_owned(),
        own_seconds: seconds(11)?,
        ended_seconds: seconds(13)?,
    };
    Some((pid.parse().ok()?, process))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use anyhow::Context;

    use super::*;

    const BUSY: &str = "i=0; while [ $i -lt 400000 ]; do i=$((i + 1)); done";

    /// Says a line when it has done what `script` says, and then waits for the end of its input.
    fn shell(script: &str) -> anyhow::Result<Child> {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{script}; echo done; read line || :")]);
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        BufReader::new(shell.stdout.as_mut().context("piped")?).read_line(&mut said)?;
        Ok(shell)
    }

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "7 (a) (b) R 3 0 0 0 -1 4194560 1 2 3 4 50 60 7 8 20 0 1";
        let process =
            Process { parent: 3, name: "a) (b".to_owned(), own_seconds: 1.1, ended_seconds: 0.15 };
        assert_eq!(parse(stat), Some((7, process)));
    }

    #[test]
    fn what_a_child_has_used_counts_for_its_family_while_it_lives_and_afterwards()
    -> anyhow::Result<()> {
        let parent = std::process::id();
        let mut idle = shell(":")?;
        let mut lives = shell(BUSY)?;
        let mut ended = shell(&format!("sh -c '{BUSY}; :'"))?;
        let table = Table::read()?;
        for child in [&lives, &ended] {
            assert!(table.cpu_seconds(child.id()) > table.cpu_seconds(idle.id()) + 0.05);
            assert!(table.family(parent).contains(&child.id()));
        }
        let of = |child: &Child| table.get(child.id()).expect("it waits for its input");
        assert!(of(&lives).own_seconds > of(&lives).ended_seconds);
        assert!(of(&ended).own_seconds < of(&ended).ended_seconds);
        assert_eq!((of(&lives).parent, &*of(&lives).name), (parent, "sh"));
        for child in [&mut idle, &mut lives, &mut ended] {
            drop(child.stdin.take());
            child.wait()?;
        }
        Ok(())
    }
}
