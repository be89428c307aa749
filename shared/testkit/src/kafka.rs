//! Owns throwaway Apache Kafka nodes, run from the jars that `make kafka` brings. Refuses to make a
//! topic: whoever wants one asks for it by the admin API.

mod forget;
mod home;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

pub use forget::forget;
pub use home::Home;

use crate::wait;

/// A node that was killed waits for its own old session first.
const READY_MAX: Duration = Duration::from_mins(1);
const END_MAX: Duration = Duration::from_secs(20);
const LOG: &str = "kafka.log";

/// What a throwaway node is made for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Any free ones when absent; the controller's is the one after.
    pub port: Option<u16>,
    /// Where clients are told to come, when something stands in front of it.
    pub advertised: Option<SocketAddr>,
    /// Let Java take its time to start, and run faster later: for measurements.
    pub long_lived: bool,
}

/// A running node in a home of its own; both are gone when this is dropped.
///
/// It ends with the *thread* that started it: see [`Home::server`].
pub struct Kafka {
    // Dropped after `drop` has ended the server.
    home: Home,
    server: Child,
}

impl Kafka {
    /// Formats a node and returns when it answers.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let home = Home::make(options)?;
        let server = serve(&home)?;
        let mut kafka = Self { home, server };
        let ready = wait::until_blocking(READY_MAX, "Kafka to be ready", || kafka.begun());
        kafka.judge(ready)?;
        Ok(kafka)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.server)
    }

    /// Ends it at once, as an out-of-memory killer would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.server.kill()?;
        self.server.wait()?;
        Ok(())
    }

    /// Asks it to end, and returns when it has. What else runs goes on meanwhile.
    pub async fn terminate(&mut self) -> anyhow::Result<()> {
        // Not waited for yet, so the number cannot belong to another process.
        if self.server.try_wait()?.is_none() {
            kill_process(self.pid(), Signal::TERM)?;
        }
        let ended = async || self.server.try_wait().ok().flatten();
        wait::until(END_MAX, "Kafka to end", ended).await.map(drop)
    }

    /// Serves the same data again, killing what is left of the server before.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.server = serve(&self.home)?;
        let ready = wait::until(READY_MAX, "Kafka to be ready again", async || self.begun()).await;
        self.judge(ready)
    }

    /// Whether it answers, or has ended; nothing while it is on its way.
    fn begun(&mut self) -> Option<bool> {
        if self.home.is_served() {
            return Some(true);
        }
        self.server.try_wait().ok().flatten().map(|_ended| false)
    }

    fn judge(&self, ready: anyhow::Result<bool>) -> anyhow::Result<()> {
        let log = || fs::read_to_string(self.home.folder().join(LOG)).unwrap_or_default();
        match ready {
            Ok(true) => Ok(()),
            Ok(false) => anyhow::bail!("Kafka ended instead of starting: {}", log()),
            Err(error) => Err(error.context(log())),
        }
    }
}

/// What is known of the place holds for the server.
impl Deref for Kafka {
    type Target = Home;

    fn deref(&self) -> &Home {
        &self.home
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        // Its data is thrown away, so nobody waits for an orderly end.
        let _ = self.kill();
    }
}

fn serve(home: &Home) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(home.folder().join(LOG))?;
    let mut server = home.server();
    server.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Ctrl-C at a terminal goes to a whole group; whoever started this ends it in time.
    Ok(server.process_group(0).spawn()?)
}
