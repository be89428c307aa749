//! Owns reaching all processes of a server. Refuses to rely on process groups: each of Postgres'
//! own is in a session of its own.

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::processes::Table;

/// Sends a signal to a server's first process and to all that it has made.
pub fn signal_family(first: Pid, signal: Signal) -> rustix::io::Result<()> {
    // It makes no more of them while it stands still.
    kill_process(first, Signal::STOP)?;
    let unknown = |error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let table = Table::read().map_err(unknown)?;
    let children = table.children(first.as_raw_nonzero().get().cast_unsigned());
    for child in children.filter_map(|(pid, _)| Pid::from_raw(pid.cast_signed())) {
        match kill_process(child, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error),
        }
    }
    kill_process(first, signal)
}
