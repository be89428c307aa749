//! Owns the disk's answer to what a commit asks of it: eight kilobytes, written and synced. Refuses
//! to know what lies on it.

use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::Times;
use crate::record::Fsync;

const BLOCK: [u8; 8_192] = [7; 8_192];

/// Writes the same block of a file of its own in `folder` again and again, as the log's segments
/// are written again, for so long. It takes the thread that calls it.
pub fn fsync(folder: &Path, so_long: Duration) -> anyhow::Result<Fsync> {
    let place = || format!("a file in {}", folder.display());
    let mut file = tempfile::tempfile_in(folder).with_context(place)?;
    file.write_all(&BLOCK).with_context(place)?;
    file.sync_all()?;
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < so_long {
        let asked = Instant::now();
        file.write_all_at(&BLOCK, 0)?;
        file.sync_data()?;
        times.push(asked.elapsed());
    }
    let times = Times::try_new(&times)?;
    Ok(Fsync { p50: times.percentile_ms(50), p99: times.percentile_ms(99) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_asked_for_as_long_as_wanted_and_nothing_is_left() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let begun = Instant::now();
        let found = fsync(folder.path(), Duration::from_millis(200))?;
        assert!(begun.elapsed() >= Duration::from_millis(200));
        assert!(0.0 < found.p50 && found.p50 <= found.p99, "{found:?}");
        assert!(found.p99 <= 1e3 * begun.elapsed().as_secs_f64(), "in milliseconds: {found:?}");
        assert_eq!(folder.path().read_dir()?.count(), 0);
        Ok(())
    }

    #[test]
    fn no_folder_has_no_answer() {
        let refused = fsync(Path::new("/nowhere/at/all"), Duration::from_millis(1));
        assert!(refused.is_err_and(|error| error.to_string().contains("/nowhere/at/all")));
    }
}
