//! Owns the one server that all test processes of a run share. Refuses to outlive them: a small
//! watchdog stops it and removes its folder when nobody has used it for some seconds.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;

use super::home::{accepts_connections, free_port, make_cluster};
use super::installation::Installation;
use super::{READY_MAX, SUPERUSER};
use crate::folder::Folder;
use crate::wait;

/// The end of one server, a moment after the last user: bounded, and longer than the gap between
/// two test programs.
const LINGER_SECONDS: u32 = 5;
const JOIN_MAX: Duration = Duration::from_secs(90);

/// Every user holds a shared lock on `$users`, so an exclusive one means that nobody is left. It
/// is kept until all is removed: a newcomer waits for it and then starts a server of its own.
const WATCHDOG: &str = r#"
users=$1 ready=$2 folder=$3 linger=$4; shift 4
exec 7<"$folder" 8<"$users"
flock -s 7
"$@" 7<&- 8<&- & server=$!
while kill -0 $server; do
    flock -x 8; flock -u 8
    sleep "$linger"
    flock -x -n 8 && break
done
rm -f "$ready"
kill -INT $server
tries=0
while kill -0 $server && [ $tries -lt 50 ]; do tries=$((tries + 1)); sleep 0.1; done
kill -KILL $server
rm -rf "$folder"
"#;

/// A share in the server of this test run.
pub(super) struct Cluster {
    installation: Installation,
    port: u16,
}

/// The first database of a process joins for all that follow; the lock is held until it ends.
static JOINED: Mutex<Option<(File, u16)>> = Mutex::new(None);

impl Cluster {
    pub(super) fn join() -> anyhow::Result<Self> {
        let installation = Installation::find()?;
        let mut joined = JOINED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, port)) = &*joined {
            return Ok(Self { installation, port: *port });
        }
        let (lock, port) = join(&installation)?;
        *joined = Some((lock, port));
        Ok(Self { installation, port })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Best effort: what is left goes with the server.
    pub(super) fn drop_database(&self, name: &str) {
        let mut dropdb = self.installation.client("dropdb");
        dropdb.args(["--force", "--if-exists", "-h", "127.0.0.1", "-U", SUPERUSER]);
        dropdb.args(["-p", &self.port.to_string(), name]);
        let _ = dropdb.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn join(installation: &Installation) -> anyhow::Result<(File, u16)> {
    let place = place()?;
    let users = open(&place.join("users"))?;
    wait::until_blocking(JOIN_MAX, "the last test run's server to end", || {
        users.try_lock_shared().ok()
    })?;
    let starting = open(&place.join("starting"))?;
    wait::until_blocking(JOIN_MAX, "another test to start the server", || {
        starting.try_lock().ok()
    })?;
    let ready = place.join("ready");
    let port = match running(&ready) {
        Some(port) => port,
        None => start(installation, &place)?,
    };
    Ok((users, port))
}

/// Beside the folder of the test programs: one place for all programs of a build.
fn place() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.ancestors().nth(2).context("a test program lies in a folder")?;
    let place = folder.join("testkit");
    fs::create_dir_all(&place)?;
    Ok(place)
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

/// `ready` holds the port and the folder; after a power cut it says more than is true.
fn running(ready: &Path) -> Option<u16> {
    let text = fs::read_to_string(ready).ok()?;
    let (port, folder) = text.split_once('\n')?;
    let port = port.parse().ok()?;
    let alive = Path::new(folder).join("data/postmaster.pid").exists();
    (alive && accepts_connections(port)).then_some(port)
}

fn start(installation: &Installation, place: &Path) -> anyhow::Result<u16> {
    let folder = Folder::create()?;
    let data = make_cluster(installation, folder.path())?;
    let port = free_port()?;
    let log_path = folder.path().join("postgres.log");
    let log = File::create(&log_path)?;
    let server = installation.server(&data, port, false);
    let ready = place.join("ready");
    // A session of its own: a runner that ends a test's process group must not take the server.
    Command::new("setsid")
        .args(["sh", "-c", WATCHDOG, "watchdog"])
        .arg(place.join("users"))
        .arg(&ready)
        .arg(folder.path())
        .arg(LINGER_SECONDS.to_string())
        .arg(server.get_program())
        .args(server.get_args())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("setsid (package util-linux)")?;
    let up = wait::until_blocking(READY_MAX, "Postgres to be ready", || {
        accepts_connections(port).then_some(())
    });
    up.with_context(|| fs::read_to_string(&log_path).unwrap_or_default())?;
    let folder = folder.hand_over();
    fs::write(&ready, format!("{port}\n{}", folder.display()))?;
    Ok(port)
}
