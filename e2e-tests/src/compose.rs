//! Owns a compose project of a test's own: what runs in it, killing and starting it, and taking all
//! of it away. Refuses to touch any other project, and to reach the engine but by its command line.

pub mod container;
pub mod roles;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use testkit::{ports, wait};
use tokio::process::Command;
use tokio::time::timeout;
use uuid::Uuid;

use crate::SERVICES;
use crate::stack::Stack;
use container::{Container, Memory};

const OF_PROJECT: &str = "label=com.docker.compose.project=switchback-test";
const UP_MAX: Duration = Duration::from_mins(3);
const DOWN_MAX: Duration = Duration::from_mins(2);
const ANSWER_MAX: Duration = Duration::from_secs(30);
const HEALTHY_MAX: Duration = Duration::from_mins(1);
/// What compose.yaml calls each port, and where it lies above the first.
const PORTS: [(&str, u16); 9] = [
    ("ORDER_PORT", 1),
    ("INVENTORY_PORT", 2),
    ("PAYMENT_PORT", 3),
    ("SHIPPING_PORT", 4),
    ("PROVIDERS_PORT", 5),
    ("KAFKA_PORT", 12),
    ("JAEGER_OTLP_PORT", 14),
    ("JAEGER_PORT", JAEGER_PORT),
    ("POSTGRES_PORT", 32),
];
const JAEGER_PORT: u16 = 15;
const SUPERUSER: &str = "postgres";

/// compose.yaml under another name, on ports that are free, with passwords that nobody knows.
#[derive(Debug)]
pub struct Project {
    folder: PathBuf,
    port_base: u16,
    run: Uuid,
}

impl Project {
    /// Not the name that compose.yaml gives itself: a stack that somebody uses stays as it is.
    pub const NAME: &str = "switchback-test";

    pub fn of_its_own() -> anyhow::Result<Self> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = own.parent().context("the workspace is above")?.to_owned();
        let port_base = ports::free_base(&PORTS.map(|(_, offset)| offset))?;
        Ok(Self { folder, port_base, run: Uuid::new_v4() })
    }

    /// What `user` logs in to Postgres with: the superuser, or a service.
    pub fn password(&self, user: &str) -> String {
        format!("{user}{}", self.run.simple())
    }

    /// Where its Jaeger answers questions.
    pub fn jaeger(&self) -> String {
        format!("http://127.0.0.1:{}", self.port_base + JAEGER_PORT)
    }

    /// Starts everything and says how long it took to be healthy. The images must be there.
    pub async fn up(&self) -> anyhow::Result<Duration> {
        // Another run may have been killed.
        self.down().await?;
        let begun = Instant::now();
        let up = ["up", "--detach", "--wait", "--no-build", "--quiet-pull"];
        self.compose(&up, UP_MAX).await?;
        Ok(begun.elapsed())
    }

    /// Ends everything and removes it, with its data.
    pub async fn down(&self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.compose(&["down", "--volumes", "--remove-orphans"], DOWN_MAX).await?;
        Ok(begun.elapsed())
    }

    /// What still belongs to the project: containers, networks and volumes.
    pub async fn left(&self) -> anyhow::Result<Vec<String>> {
        let mut left = Vec::new();
        for of_kind in [
            ["ps", "--all", "--quiet", "--filter", OF_PROJECT].as_slice(),
            &["network", "ls", "--quiet", "--filter", OF_PROJECT],
            &["volume", "ls", "--quiet", "--filter", OF_PROJECT],
        ] {
            let found = docker(of_kind, ANSWER_MAX).await?;
            left.extend(found.lines().map(|id| format!("{} {id}", of_kind[0])));
        }
        Ok(left)
    }

    /// The harness' view of it.
    pub async fn stack(&self) -> anyhow::Result<Stack> {
        let superuser = format!("{SUPERUSER}:{}", self.password(SUPERUSER));
        let processes = SERVICES.map(str::to_owned).to_vec();
        Stack::over(self.port_base, &superuser, processes).await
    }

    /// Every container of it, those that have ended included.
    pub async fn containers(&self) -> anyhow::Result<Vec<Container>> {
        let ids = docker(&["ps", "--all", "--quiet", "--filter", OF_PROJECT], ANSWER_MAX).await?;
        let arguments: Vec<&str> = ["inspect"].into_iter().chain(ids.lines()).collect();
        ensure!(arguments.len() > 1, "the project has no containers");
        Ok(serde_json::from_str(&docker(&arguments, ANSWER_MAX).await?)?)
    }

    /// The one container of a service.
    pub async fn container(&self, service: &str) -> anyhow::Result<Container> {
        let all = self.containers().await?;
        let found = all.into_iter().find(|container| container.service() == service);
        found.with_context(|| format!("there is no container of {service}"))
    }

    /// What each running container uses.
    pub async fn memory(&self) -> anyhow::Result<Vec<Memory>> {
        let ids = docker(&["ps", "--quiet", "--filter", OF_PROJECT], ANSWER_MAX).await?;
        let stats = ["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"];
        let arguments: Vec<&str> = stats.into_iter().chain(ids.lines()).collect();
        docker(&arguments, ANSWER_MAX).await?.lines().map(str::parse).collect()
    }

    /// Ends a service's container as a power cut would, and returns when it is seen to be dead.
    pub async fn kill(&self, service: &str) -> anyhow::Result<()> {
        self.compose(&["kill", service], ANSWER_MAX).await?;
        wait::until(ANSWER_MAX, &format!("{service} to be dead"), async || {
            self.container(service).await.ok()?.was_killed().then_some(())
        })
        .await
    }

    /// Starts a container again that has ended, and returns when it is healthy.
    pub async fn start(&self, service: &str) -> anyhow::Result<()> {
        self.compose(&["start", service], ANSWER_MAX).await?;
        wait::until(HEALTHY_MAX, &format!("{service} to be healthy"), async || {
            self.container(service).await.ok()?.is_healthy().then_some(())
        })
        .await
    }

    /// Writes what every container has said into a file, and says where that is.
    pub async fn keep_logs(&self) -> anyhow::Result<PathBuf> {
        let path = std::env::temp_dir().join(format!("{}-{}.log", Self::NAME, self.run.simple()));
        let mut logs = self.command(&["logs", "--no-color", "--timestamps"]);
        logs.stdout(File::create(&path)?);
        answer(logs, ANSWER_MAX).await?;
        Ok(path)
    }

    async fn compose(&self, arguments: &[&str], at_most: Duration) -> anyhow::Result<String> {
        answer(self.command(arguments), at_most).await
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["compose", "--project-name", Self::NAME, "--ansi", "never"]).args(arguments);
        // Whatever a developer's shell says of other projects.
        for name in ["COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME"] {
            command.env_remove(name);
        }
        command.current_dir(&self.folder);
        command.envs(PORTS.map(|(name, offset)| (name, (self.port_base + offset).to_string())));
        for user in SERVICES.into_iter().chain([SUPERUSER]) {
            command.env(format!("{}_PASSWORD", user.to_uppercase()), self.password(user));
        }
        command.stdout(Stdio::piped());
        command
    }
}

async fn docker(arguments: &[&str], at_most: Duration) -> anyhow::Result<String> {
    let mut command = Command::new("docker");
    command.args(arguments).stdout(Stdio::piped());
    answer(command, at_most).await
}

/// What a command has printed; fails with what it complained of.
async fn answer(mut command: Command, at_most: Duration) -> anyhow::Result<String> {
    command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let asked = format!("{:?}", command.as_std().get_args().collect::<Vec<_>>());
    let child = command.spawn().context("docker cannot be started")?;
    let Ok(ended) = timeout(at_most, child.wait_with_output()).await else {
        bail!("docker {asked} took longer than {at_most:?}");
    };
    let output = ended?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "docker {asked}: {}", complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
