//! Owns the launcher's process, what runs below it, and the folder of all logs. Refuses to know
//! what a process does.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use testkit::wait;

use super::{KAFKA, Options};
use crate::instance_of;
use crate::link::Links;

const READY_MAX: Duration = Duration::from_mins(1);
/// Longer than the launcher gives the services, and then Postgres.
const STOP_MAX: Duration = Duration::from_secs(45);
const TAIL_LINES: usize = 30;
const OWN_LOG: &str = "launcher.log";

pub(super) struct Launcher {
    process: Child,
    folder: Option<TempDir>,
}

impl Launcher {
    /// It is asked to end when the thread that called this ends, whatever becomes of the test.
    pub(super) fn start(
        port_base: u16,
        options: &Options,
        links: Option<&Links>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("e2e-").tempdir()?;
        let log = File::create(folder.path().join(OWN_LOG))?;
        let programs = options.programs.clone().map_or_else(programs, Ok)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(programs.join("switchback"));
        command.args(["local", "--port-base", &port_base.to_string()]);
        command.args(["--instances", &options.instances.to_string()]);
        command.arg("--log-dir").arg(folder.path().join("logs"));
        if options.durable {
            command.arg("--durable");
        }
        if let Some(links) = links {
            command.args(["--broker-advertised", &links.broker().to_string()]);
        }
        // The last one counts.
        let of_links = links.map(Links::settings).unwrap_or_default();
        for (process, name, value) in of_links.iter().chain(&options.settings) {
            command.arg("--set").arg(format!("{process}:{name}={value}"));
        }
        command.envs(options.environment.iter().map(|(name, value)| (*name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().context("setpriv (util-linux) starts the launcher")?;
        Ok(Self { process, folder: Some(folder) })
    }

    pub(super) async fn ready(&mut self) -> anyhow::Result<()> {
        let ready = wait::until(READY_MAX, "the stack to be ready", async || {
            if self.said().lines().any(|line| line == "ready") {
                return Some(true);
            }
            self.process.try_wait().ok().flatten().map(|_ended| false)
        });
        match ready.await {
            Ok(true) => Ok(()),
            Ok(false) => bail!("the launcher has ended: {}", self.said()),
            Err(error) => Err(error.context(self.said())),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it has printed so far.
    pub(super) fn said(&self) -> String {
        self.read(Path::new(OWN_LOG))
    }

    /// What a process has logged so far.
    pub(super) fn log(&self, process: &str) -> String {
        self.read(&Path::new("logs").join(format!("{process}.log")))
    }

    fn read(&self, path: &Path) -> String {
        let folder = self.folder.as_ref().map_or(Path::new(""), TempDir::path);
        fs::read_to_string(folder.join(path)).unwrap_or_default()
    }

    /// The process that the launcher calls so, if it runs now.
    pub(super) fn child(&self, process: &str) -> Option<Pid> {
        let launcher = self.process.id().to_string();
        let (service, instance) = instance_of(process);
        let named = match service {
            KAFKA => "(java)".to_owned(),
            own => format!("({own})"),
        };
        let stats = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| {
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let mut fields = stat.split(' ');
            let (pid, command) = (fields.next()?, fields.next()?);
            let parent = fields.nth(1)?;
            (command == named && parent == launcher).then_some(())?;
            (told_instance(&entry.path()) == instance).then(|| pid.parse::<i32>().ok())?
        });
        stats.into_iter().find_map(Pid::from_raw)
    }

    /// The last words of the launcher, and where all logs are.
    pub(super) fn keep_logs(mut self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        let kept = self.folder.take().map(TempDir::keep).unwrap_or_default();
        format!("{tail}\nlogs are kept in {}", kept.display())
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.process);
        let _ = kill_process(pid, Signal::TERM);
        let ended = wait::until_blocking(STOP_MAX, "the launcher to end", || {
            self.process.try_wait().ok().flatten()
        });
        if ended.is_err() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// The instance that a process was told to be: the first, where there is only one.
fn told_instance(process: &Path) -> u16 {
    let environment = fs::read(process.join("environ")).unwrap_or_default();
    let mut variables = environment.split(|byte| *byte == 0);
    let told = variables.find_map(|variable| variable.strip_prefix(b"INSTANCE="));
    let told = told.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
    told.unwrap_or(1)
}

/// The folder into which this program and those that it tests were built.
pub fn programs() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let mut folder = own.parent().context("a program lies in a folder")?;
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder = folder.parent().context("a folder of a build")?;
    }
    let launcher = folder.join("switchback");
    ensure!(launcher.is_file(), "{} is missing: type `make e2e`", launcher.display());
    Ok(folder.to_path_buf())
}
