//! Owns the line that a person watches while a load runs. Refuses to print one that nobody reads: it
//! is there on a terminal only.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(200);
const WIDTH: usize = 30;

pub(super) struct Progress {
    /// Nothing, when nobody looks.
    printed: Option<Instant>,
}

impl Progress {
    pub(super) fn begin() -> Self {
        Self { printed: stderr().is_terminal().then(Instant::now) }
    }

    /// Says how far it is, unless it has just said so.
    pub(super) fn show(&mut self, share: f64, placed: u64, ended: u64) {
        let Some(printed) = self.printed.as_mut().filter(|printed| printed.elapsed() >= EVERY)
        else {
            return;
        };
        *printed = Instant::now();
        let line = format!("\r{} {placed} placed, {ended} ended ", bar(share));
        // It is only a picture: a terminal that is gone stops no load.
        let _ = stderr().write_all(line.as_bytes());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.printed.is_some() {
            let _ = stderr().write_all(b"\n");
        }
    }
}

fn bar(share: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 30")]
    let full = (share.clamp(0.0, 1.0) * 30.0).round() as usize;
    format!("[{:WIDTH$}]", "=".repeat(full.min(WIDTH)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_the_share_and_never_longer_than_its_frame() {
        assert_eq!(bar(0.0), "[                              ]");
        assert_eq!(bar(0.5), "[===============               ]");
        assert_eq!(bar(7.0), "[==============================]");
    }
}
