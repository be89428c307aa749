//! Owns the throwaway folder of a stack: whoever lives in it holds a lock on it, so that a folder
//! whose owner was killed is known as such. Refuses to touch a folder that anybody lives in.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use crate::wait;

const PREFIX: &str = "switchback-";
const CREATE_ATTEMPTS_MAX: u32 = 5;
const ORPHAN_END_MAX: Duration = Duration::from_secs(5);

/// A folder that goes with its owner.
pub(crate) struct Folder {
    dir: TempDir,
    _lock: File,
}

impl Folder {
    /// Removes what killed owners left behind, then makes a new folder.
    pub(crate) fn create() -> anyhow::Result<Self> {
        sweep(&std::env::temp_dir());
        for _ in 0..CREATE_ATTEMPTS_MAX {
            let dir = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
            match lock(dir.path()) {
                Ok(lock) if dir.path().exists() => return Ok(Self { dir, _lock: lock }),
                // Another start may have taken it for a leftover before the lock was there.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        anyhow::bail!("could not make a folder under {}", std::env::temp_dir().display())
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves the folder to another process, which must have locked it (shared) by now.
    pub(crate) fn hand_over(self) -> PathBuf {
        self.dir.keep()
    }
}

fn lock(folder: &Path) -> io::Result<File> {
    // The server's user must be able to pass through to its own folder below.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
    let lock = File::open(folder)?;
    lock.lock_shared()?;
    Ok(lock)
}

/// Leftovers are a matter of tidiness: what cannot be removed is left for the next start.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let _ = remove_if_left_over(&entry.path());
        }
    }
}

fn remove_if_left_over(folder: &Path) -> anyhow::Result<()> {
    let metadata = fs::symlink_metadata(folder)?;
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() {
        return Ok(());
    }
    let lock = File::open(folder)?;
    lock.try_lock().context("somebody lives here")?;
    end_orphan(folder)?;
    Ok(fs::remove_dir_all(folder)?)
}

/// A server hears of its launcher's death at once, but takes a moment to end.
fn end_orphan(folder: &Path) -> anyhow::Result<()> {
    let Some(pid) = postmaster(folder) else { return Ok(()) };
    wait::until_blocking(ORPHAN_END_MAX, "an orphaned Postgres to end", || {
        if !is_server_of(pid, folder).unwrap_or(false) {
            return Some(());
        }
        // SIGQUIT is Postgres' immediate shutdown; the data is thrown away anyway.
        let _ = kill_process(pid, Signal::QUIT);
        None
    })
}

fn postmaster(folder: &Path) -> Option<Pid> {
    let text = fs::read_to_string(folder.join("data/postmaster.pid")).ok()?;
    let number: i32 = text.lines().next()?.trim().parse().ok()?;
    // initdb's own short-lived server writes a negative one.
    (number > 0).then(|| Pid::from_raw(number))?
}

/// The number alone proves nothing: it may belong to another process by now.
fn is_server_of(pid: Pid, folder: &Path) -> io::Result<bool> {
    let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))?;
    Ok(String::from_utf8_lossy(&command).contains(&*folder.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_left_alone_while_its_owner_lives_and_removed_afterwards() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let folder = parent.path().join("switchback-x");
        fs::create_dir(&folder).expect("a fresh folder");
        let owner = File::open(&folder).expect("the folder is there");
        owner.lock_shared().expect("nobody else locks it");

        sweep(parent.path());
        assert!(folder.exists());

        drop(owner);
        // As initdb leaves it when it is killed.
        fs::create_dir(folder.join("data")).expect("a fresh folder");
        fs::write(folder.join("data/postmaster.pid"), "-77\n").expect("a fresh file");
        fs::create_dir(parent.path().join("other")).expect("a fresh folder");
        sweep(parent.path());
        assert!(!folder.exists());
        assert!(parent.path().join("other").exists());
    }
}
