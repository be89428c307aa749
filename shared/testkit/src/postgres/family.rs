//! Owns reaching all processes of a server. Refuses to rely on process groups: each of Postgres'
//! own is in a session of its own.

use std::fs;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// Sends a signal to a server's first process and to all that it has made.
pub fn signal_family(first: Pid, signal: Signal) -> rustix::io::Result<()> {
    // It makes no more of them while it stands still.
    kill_process(first, Signal::STOP)?;
    for child in children(first) {
        match kill_process(child, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error),
        }
    }
    kill_process(first, signal)
}

/// The processes whose parent this is now.
fn children(parent: Pid) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let children = processes.filter_map(|process| {
        let stat = fs::read_to_string(process.path().join("stat")).ok()?;
        // The name may hold anything, so what follows it is found from the right.
        let (_, after_name) = stat.rsplit_once(") ")?;
        (after_name.split(' ').nth(1)? == parent).then_some(())?;
        Pid::from_raw(process.file_name().to_str()?.parse().ok()?)
    });
    children.collect()
}
