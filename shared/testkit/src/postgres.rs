//! Owns throwaway Postgres servers made from the system's own binaries. Refuses to install or
//! download anything: what is missing is named.

mod cluster;
mod database;
mod family;
mod home;
mod installation;

use std::fs::{self, File};
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

pub use database::{Database, database};
pub use family::signal_family;
pub use home::Home;

use crate::wait;

/// The superuser of every throwaway server.
pub const SUPERUSER: &str = "postgres";

const READY_MAX: Duration = Duration::from_mins(1);
const STOP_FAST_MAX: Duration = Duration::from_secs(5);
const STOP_IMMEDIATE_MAX: Duration = Duration::from_secs(2);

/// What a throwaway server is made for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Any free one when absent.
    pub port: Option<u16>,
    /// Whether a commit survives a power cut: on for measurements, off for tests and demos. The
    /// death of the server's processes it survives in any case.
    pub durable: bool,
}

/// A running server in a home of its own; both are gone when this is dropped.
///
/// It ends with the *thread* that started it: see [`Home::server`].
pub struct Postgres {
    // Dropped after `drop` has ended the server.
    home: Home,
    server: Child,
}

impl Postgres {
    /// Makes a cluster and returns when it accepts connections.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let home = Home::make(options)?;
        let server = serve(&home)?;
        let mut postgres = Self { home, server };
        let ready = wait::until_blocking(READY_MAX, "Postgres to be ready", || postgres.begun())?;
        anyhow::ensure!(ready, "Postgres ended instead of starting: {}", postgres.log());
        Ok(postgres)
    }

    /// The process above all others of the server.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.server)
    }

    /// Ends all of its processes at once, as an out-of-memory killer would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        signal_family(self.pid(), Signal::KILL)?;
        self.server.wait()?;
        Ok(())
    }

    /// Serves the same data again, ending what is left of the server before.
    ///
    /// As long as one of its processes lingers, a new server ends at once, and another is tried.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.end();
        self.server = serve(&self.home)?;
        wait::until(READY_MAX, "Postgres to be ready again", async || {
            let ready = self.begun()?;
            if !ready {
                self.server = serve(&self.home).ok()?;
            }
            ready.then_some(())
        })
        .await
        .map_err(|error| error.context(self.log()))
    }

    /// Ends the server (open transactions are rolled back) and removes the folder.
    pub fn stop(self) {
        drop(self);
    }

    /// Whether it accepts connections, or has ended; nothing while it is on its way.
    fn begun(&mut self) -> Option<bool> {
        if self.home.is_served() {
            return Some(true);
        }
        self.server.try_wait().ok().flatten().map(|_ended| false)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.folder().join(LOG)).unwrap_or_default()
    }

    fn end(&mut self) {
        // SIGINT is Postgres' fast shutdown, SIGQUIT its immediate one.
        for (signal, at_most) in [(Signal::INT, STOP_FAST_MAX), (Signal::QUIT, STOP_IMMEDIATE_MAX)]
        {
            // Waited for below, so the number cannot belong to another process yet.
            if !matches!(self.server.try_wait(), Ok(Some(_))) {
                let _ = kill_process(self.pid(), signal);
            }
            let ended = wait::until_blocking(at_most, "Postgres to end", || {
                self.server.try_wait().ok().flatten()
            });
            if ended.is_ok() {
                return;
            }
        }
        let _ = self.kill();
    }
}

/// What is known of the place holds for the server.
impl Deref for Postgres {
    type Target = Home;

    fn deref(&self) -> &Home {
        &self.home
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end();
    }
}

const LOG: &str = "postgres.log";

fn serve(home: &Home) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(home.folder().join(LOG))?;
    let mut server = home.server();
    server.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Ctrl-C at a terminal goes to a whole group; whoever started this ends it in time.
    Ok(server.process_group(0).spawn()?)
}
