//! Owns where a throwaway Kafka lives: its folder, its settings and its ports. Refuses to run it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::Options;
use crate::folder::Folder;
use crate::{parts, ports};

const ANSWER_MAX: Duration = Duration::from_secs(1);
/// An answer to `ApiVersions` has some hundred bytes.
const ANSWER_BYTES_MAX: u32 = 64 * 1024;
const CLUSTER_ID: &str = "c3dpdGNoYmFjay1sb2NhbA";
const SETTINGS: &str = "server.properties";
const LOGGING: &str = "log4j2.properties";
const HEAP: &str = "-Xmx400m";
/// Ready in half the time, slower at its best.
const QUICK_TO_START: [&str; 3] = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"];

/// A node's folder and ports; the folder is gone when this is dropped, so end the server first.
pub struct Home {
    java: PathBuf,
    libs: PathBuf,
    folder: Folder,
    at: SocketAddr,
    bootstrap: String,
    long_lived: bool,
}

impl Home {
    /// Makes and formats a node that nobody serves yet.
    pub fn make(options: Options) -> anyhow::Result<Self> {
        let (java, libs) = (parts::java()?, parts::kafka_libs()?);
        let folder = Folder::create()?;
        let port = options.port.map_or_else(|| ports::free_base(&[0, 1]), Ok)?;
        let controller_port = port.checked_add(1).context("the controller's port")?;
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let advertised = options.advertised.unwrap_or(at);
        let settings = settings(folder.path(), at, advertised, controller_port);
        fs::write(folder.path().join(SETTINGS), settings)?;
        fs::write(folder.path().join(LOGGING), include_str!("log4j2.properties"))?;
        let home = Self {
            java,
            libs,
            folder,
            at,
            bootstrap: at.to_string(),
            long_lived: options.long_lived,
        };
        home.format()?;
        Ok(home)
    }

    /// The server of this node. It is killed when the *thread* that starts it ends, so start it
    /// from one that lives as long as it is wanted.
    pub fn server(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.java).arg(HEAP);
        if !self.long_lived {
            command.args(QUICK_TO_START);
        }
        self.add_program(&mut command, "kafka.Kafka");
        command.arg(self.folder.path().join(SETTINGS));
        command
    }

    /// What a client's `bootstrap.servers` has to be.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether a server runs here and answers. A connection alone proves nothing.
    pub fn is_served(&self) -> bool {
        answers(self.at).is_ok_and(|error_code| error_code == 0)
    }

    /// Kafka's own tool writes down what the cluster is called and which features it begins with.
    fn format(&self) -> anyhow::Result<()> {
        let mut tool = Command::new(&self.java);
        tool.args(QUICK_TO_START);
        self.add_program(&mut tool, "kafka.tools.StorageTool");
        tool.args(["format", "-t", CLUSTER_ID, "-c"]).arg(self.folder.path().join(SETTINGS));
        let made = tool.stdin(Stdio::null()).output().context("Kafka's storage tool")?;
        ensure!(
            made.status.success(),
            "Kafka's storage could not be formatted: {}{}",
            String::from_utf8_lossy(&made.stdout),
            String::from_utf8_lossy(&made.stderr)
        );
        Ok(())
    }

    fn add_program(&self, java: &mut Command, main: &str) {
        let logging = self.folder.path().join(LOGGING);
        java.arg("-cp").arg(self.libs.join("*"));
        java.arg(format!("-Dlog4j2.configurationFile={}", logging.display())).arg(main);
    }
}

/// One node that is broker and controller, on loopback only.
fn settings(folder: &Path, at: SocketAddr, advertised: SocketAddr, controller_port: u16) -> String {
    let controller = SocketAddr::from((Ipv4Addr::LOCALHOST, controller_port));
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{at},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={}
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
# A node that was killed may come back as soon as the controller has given it up.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=1000
",
        folder.join("data").display()
    )
}

/// Asks for the versions of the API that it speaks, and gives the error code of the answer.
fn answers(at: SocketAddr) -> anyhow::Result<u16> {
    let mut socket = TcpStream::connect_timeout(&at, ANSWER_MAX)?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    socket.write_all(&API_VERSIONS)?;
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    ensure!((6..=ANSWER_BYTES_MAX).contains(&length), "that is not Kafka");
    // The request's number, then the error code.
    let mut head = [0; 6];
    socket.read_exact(&mut head)?;
    ensure!(head[..4] == API_VERSIONS[8..12], "that answers something else");
    Ok(u16::from_be_bytes([head[4], head[5]]))
}

/// Ten bytes follow the length: API 18 in version 0, request number 7, and a client without a name.
const API_VERSIONS: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];
