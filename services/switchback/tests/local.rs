//! The launcher itself, with a real Postgres and broker, and small programs in place of services.

mod executable;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use testkit::postgres::signal_family;
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
        self.launch_with(port_base, &[])
    }

    fn launch_with(&self, port_base: u16, arguments: &[&str]) -> anyhow::Result<Child> {
        Ok(self.command(port_base, arguments).spawn()?)
    }

    fn command(&self, port_base: u16, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.folder.path().join("switchback"));
        command.args(["local", "--port-base", &port_base.to_string()]).args(arguments);
        command.env("TMPDIR", self.folder.path().join("tmp")).env_remove("BROKER");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path().join("tmp")).into_iter().flatten();
        entries.flatten().map(|entry| entry.path()).collect()
    }
}

fn free_base() -> anyhow::Result<u16> {
    ports::free_base(&[1, 2, 3, 4, 5, 12, 13, 21, 22, 23, 24, 32])
}

fn processes_with(text: &Path) -> usize {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let text = text.to_string_lossy();
    let commands = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    commands.filter(|command| String::from_utf8_lossy(command).contains(&*text)).count()
}

/// The throwaway folder as soon as its Postgres has been served and the services were started.
fn served(site: &Site) -> anyhow::Result<PathBuf> {
    wait::until_blocking(SOON, "Postgres and the services to run", || {
        let folder = site.leftovers().pop()?;
        folder.join("log/shipping.log").exists().then_some(folder)
    })
}

/// The first of Postgres' processes, by its own word.
fn postmaster(folder: &Path) -> Option<Pid> {
    let words = fs::read_to_string(folder.join("data/postmaster.pid")).ok()?;
    Pid::from_raw(words.lines().next()?.parse().ok()?)
}

fn end(launcher: Child) -> anyhow::Result<Output> {
    kill_process(Pid::from_child(&launcher), Signal::TERM)?;
    Ok(launcher.wait_with_output()?)
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
    let output = end(launcher)?;
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
    let folder = served(&site)?;
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

#[test]
fn a_kafka_that_is_missing_is_named_with_the_command_that_brings_it() -> anyhow::Result<()> {
    let site = Site::new(IDLE)?;
    let mut command = site.command(free_base()?, &["--broker", "kafka"]);
    let output = command.env("KAFKA_HOME", site.folder.path()).output()?;
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("type `make kafka`"), "{}", errors(&output));
    assert_eq!(site.leftovers(), [] as [PathBuf; 0]);
    assert_eq!(processes_with(site.folder.path()), 0);
    Ok(())
}

#[test]
fn a_postgres_that_dies_is_started_again_over_the_same_data() -> anyhow::Result<()> {
    let site = Site::new(IDLE)?;
    let launcher = site.launch(free_base()?)?;
    let folder = served(&site)?;
    let first = postmaster(&folder).expect("it is served");
    signal_family(first, Signal::KILL)?;
    let second = wait::until_blocking(SOON, "Postgres to be served again", || {
        let log = fs::read_to_string(folder.join("log/postgres.log")).ok()?;
        let ready = log.matches("ready to accept connections").count() == 2;
        postmaster(&folder).filter(|second| ready && *second != first)
    })?;
    let output = end(launcher)?;
    let said = String::from_utf8(output.stdout)?;
    assert!(said.starts_with("postgres died (signal 9), started again as pid "), "{said}");
    assert!(said.ends_with(&format!(" {second}\n")), "{said}");
    assert_eq!(site.leftovers(), [] as [PathBuf; 0]);
    assert_eq!(processes_with(site.folder.path()), 0);
    Ok(())
}

#[test]
fn a_second_process_of_each_service_is_told_who_it_is_and_what_is_set_for_it_alone()
-> anyhow::Result<()> {
    let site = Site::new(&format!("echo $INSTANCE $LISTEN $LANES $KAFKA_BROKERS; {IDLE}"))?;
    let base = free_base()?;
    let set = ["--set", "payment-2:LANES=3", "--set", "payment-2:LANES=4"];
    let elsewhere = ["--set", "order:KAFKA_BROKERS=elsewhere:1"];
    let launcher =
        site.launch_with(base, &[&["--instances", "2"], &set[..], &elsewhere].concat())?;
    let folder = served(&site)?;
    let told = |process: &str, line: &str| {
        let log = folder.join(format!("log/{process}.log"));
        let what = format!("{process} to say {line}");
        let said = wait::until_blocking(SOON, &what, || {
            fs::read_to_string(&log).ok().filter(|log| log.ends_with('\n'))
        });
        assert_eq!(said.expect("it speaks").trim_end(), line, "{process}");
    };
    let broker = format!("127.0.0.1:{}", base + 12);
    told("payment", &format!("1 127.0.0.1:{} {broker}", base + 3));
    told("payment-2", &format!("2 127.0.0.1:{} 4 {broker}", base + 23));
    told("shipping-2", &format!("2 127.0.0.1:{} {broker}", base + 24));
    told("order", &format!("1 127.0.0.1:{} elsewhere:1", base + 1));
    end(launcher)?;
    assert_eq!(processes_with(site.folder.path()), 0);
    Ok(())
}

#[test]
fn a_setting_for_a_process_that_is_not_there_is_refused_before_anything_is_started()
-> anyhow::Result<()> {
    let site = Site::new(IDLE)?;
    let launcher = site.launch_with(free_base()?, &["--set", "payment-2:LANES=4"])?;
    let output = launcher.wait_with_output()?;
    assert_eq!(output.status.code(), Some(1));
    let errors = errors(&output);
    assert!(errors.contains("there is no process payment-2; there are providers"), "{errors}");
    assert_eq!(site.leftovers(), [] as [PathBuf; 0]);
    Ok(())
}
