//! The launcher itself, with a real Postgres and broker, and small programs in place of services.

mod executable;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use testkit::{ports, wait};

const SOON: Duration = Duration::from_secs(30);
const LAUNCHER: &str = env!("CARGO_BIN_EXE_switchback");
const NAMES: [&str; 5] = ["order", "inventory", "payment", "shipping", "providers"];
/// Never ready, and gone with the launcher, as the real ones are.
const IDLE: &str = "exec setpriv --pdeathsig KILL sleep 600";

/// A folder with a launcher, services of our own making, and room for throwaway folders.
struct Site {
    folder: TempDir,
}

impl Site {
    fn new(script: &str) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        // Postgres' user has to pass through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        fs::create_dir(folder.path().join("tmp"))?;
        executable::run(Command::new("cp").arg(LAUNCHER).arg(folder.path().join("switchback")))?;
        for name in NAMES {
            executable::script(&folder.path().join(name), script)?;
        }
        Ok(Self { folder })
    }

    fn launch(&self, port_base: u16) -> anyhow::Result<Child> {
        let mut command = Command::new(self.folder.path().join("switchback"));
        command.args(["local", "--port-base", &port_base.to_string()]);
        command.env("TMPDIR", self.folder.path().join("tmp")).stdin(Stdio::null());
        Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path().join("tmp")).into_iter().flatten();
        entries.flatten().map(|entry| entry.path()).collect()
    }
}

fn free_base() -> anyhow::Result<u16> {
    ports::free_base(&[1, 2, 3, 4, 5, 12, 32])
}

fn processes_with(text: &Path) -> usize {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let text = text.to_string_lossy();
    let commands = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    commands.filter(|command| String::from_utf8_lossy(command).contains(&*text)).count()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn services_that_cannot_start_are_named_with_their_last_words_and_nothing_is_left()
-> anyhow::Result<()> {
    let site = Site::new("echo no such setting; exit 7")?;
    let output = site.launch(free_base()?)?.wait_with_output()?;
    assert_eq!(output.status.code(), Some(1));
    let errors = errors(&output);
    assert!(errors.contains("providers dies again and again"), "{errors}");
    assert!(errors.contains("no such setting"), "{errors}");
    assert_eq!(site.leftovers(), [] as [PathBuf; 0]);
    assert_eq!(processes_with(site.folder.path()), 0);
    Ok(())
}

#[test]
fn a_launcher_that_is_asked_to_stop_leaves_nothing() -> anyhow::Result<()> {
    let site = Site::new(IDLE)?;
    let launcher = site.launch(free_base()?)?;
    wait::until_blocking(SOON, "the folder", || (!site.leftovers().is_empty()).then_some(()))?;
    let pid = rustix::process::Pid::from_child(&launcher);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let output = launcher.wait_with_output()?;
    assert!(output.status.success(), "{}: {}", output.status, errors(&output));
    assert_eq!(site.leftovers(), [] as [PathBuf; 0]);
    assert_eq!(processes_with(site.folder.path()), 0);
    Ok(())
}

#[test]
fn a_killed_launcher_leaves_no_process_and_the_next_start_removes_its_folder() -> anyhow::Result<()>
{
    let site = Site::new(IDLE)?;
    let base = free_base()?;
    let mut launcher = site.launch(base)?;
    let folder = wait::until_blocking(SOON, "Postgres and the services to run", || {
        let folder = site.leftovers().pop()?;
        folder.join("log/shipping.log").exists().then_some(folder)
    })?;
    assert!(processes_with(&folder) > 0);
    launcher.kill()?;
    assert_eq!(launcher.wait()?.signal(), Some(9));
    wait::until_blocking(SOON, "every process to end", || {
        (processes_with(&folder) == 0).then_some(())
    })?;
    assert!(folder.exists(), "nobody was left to remove it");

    executable::script(&site.folder.path().join("providers"), "exit 1")?;
    let output = site.launch(base)?.wait_with_output()?;
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    assert_eq!(site.leftovers(), [] as [PathBuf; 0]);
    Ok(())
}

#[test]
fn a_taken_port_is_named_before_anything_is_started() -> anyhow::Result<()> {
    let site = Site::new(IDLE)?;
    let base = free_base()?;
    let _taken = TcpListener::bind(("127.0.0.1", base + 12))?;
    let output = site.launch(base)?.wait_with_output()?;
    assert_eq!(output.status.code(), Some(1));
    let wanted = format!("port {} is taken; choose others with --port-base", base + 12);
    assert!(errors(&output).contains(&wanted), "{}", errors(&output));
    assert_eq!(site.leftovers(), [] as [PathBuf; 0]);
    Ok(())
}
