//! Owns throwaway Postgres servers made from the system's own binaries. Refuses to install or
//! download anything: what is missing is named.

mod cluster;
mod database;
mod installation;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

pub use database::{Database, database};

use crate::folder::Folder;
use crate::wait;
use installation::Installation;

/// The superuser of every throwaway server.
pub const SUPERUSER: &str = "postgres";

const READY_MAX: Duration = Duration::from_mins(1);
const STOP_FAST_MAX: Duration = Duration::from_secs(5);
const STOP_IMMEDIATE_MAX: Duration = Duration::from_secs(2);
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What a throwaway server is made for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Any free one when absent.
    pub port: Option<u16>,
    /// Whether a commit survives a power cut: on for measurements, off for tests and demos.
    pub durable: bool,
}

/// A running server in a folder of its own; both are gone when this is dropped.
///
/// The server asks the kernel to be told when the *thread* that started it ends, so start it from
/// a thread that lives as long as it is wanted.
pub struct Postgres {
    server: Child,
    port: u16,
    folder: Folder,
}

impl Postgres {
    /// Makes a cluster and returns when it accepts connections.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let installation = Installation::find()?;
        let folder = Folder::create()?;
        let port = options.port.map_or_else(free_port, Ok)?;
        let data = make_cluster(&installation, folder.path())?;
        let log = File::create(folder.path().join("postgres.log"))?;
        let server = installation
            .server(&data, port, options.durable)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at a terminal goes to a whole group; whoever started this ends it in time.
            .process_group(0)
            .spawn()?;
        let mut postgres = Self { server, port, folder };
        postgres.wait_until_ready()?;
        Ok(postgres)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the server lives; other throwaway files may lie there too.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn url(&self, user: &str, database: &str) -> String {
        url(self.port, user, database)
    }

    /// Creates a database with the roles and the schema of each service.
    pub async fn create_database(&self, name: &str, services: &[&str]) -> anyhow::Result<()> {
        database::create(self.port, name, services).await
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let (port, server) = (self.port, &mut self.server);
        let ready = wait::until_blocking(READY_MAX, "Postgres to be ready", || {
            if accepts_connections(port) {
                return Some(true);
            }
            server.try_wait().ok().flatten().map(|_ended| false)
        })?;
        if !ready {
            let log = fs::read_to_string(self.folder.path().join("postgres.log"))?;
            anyhow::bail!("Postgres ended instead of starting on port {port}:\n{log}");
        }
        Ok(())
    }

    /// Ends the server (open transactions are rolled back) and removes the folder.
    pub fn stop(self) {
        drop(self);
    }

    fn end(&mut self) {
        // SIGINT is Postgres' fast shutdown, SIGQUIT its immediate one.
        for (signal, at_most) in [(Signal::INT, STOP_FAST_MAX), (Signal::QUIT, STOP_IMMEDIATE_MAX)]
        {
            let pid = Pid::from_child(&self.server);
            // Waited for below, so the number cannot belong to another process yet.
            let _ = kill_process(pid, signal);
            let ended = wait::until_blocking(at_most, "Postgres to end", || {
                self.server.try_wait().ok().flatten()
            });
            if ended.is_ok() {
                return;
            }
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end();
    }
}

fn make_cluster(installation: &Installation, folder: &Path) -> anyhow::Result<PathBuf> {
    let data = folder.join("data");
    fs::DirBuilder::new().mode(0o700).create(&data)?;
    installation.give(&data)?;
    let made = installation.initdb(&data).stdin(Stdio::null()).output().context("initdb")?;
    anyhow::ensure!(
        made.status.success(),
        "initdb failed: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    Ok(data)
}

fn url(port: u16, user: &str, database: &str) -> String {
    format!("postgres://{user}@127.0.0.1:{port}/{database}")
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A connection alone proves nothing: the server listens long before it lets anybody in.
fn accepts_connections(port: u16) -> bool {
    let ask = || -> std::io::Result<u8> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut socket = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
        socket.set_read_timeout(Some(ANSWER_MAX))?;
        socket.write_all(&startup_packet())?;
        let mut first = [0];
        socket.read_exact(&mut first)?;
        Ok(first[0])
    };
    ask().is_ok_and(|answer| answer == b'R')
}

/// Length (of all, itself included), protocol 3.0, then name and value pairs, all ending in NUL.
fn startup_packet() -> Vec<u8> {
    let parameters = format!("user\0{SUPERUSER}\0database\0postgres\0\0");
    let length = u32::try_from(parameters.len() + 8).unwrap_or(u32::MAX);
    let mut packet = Vec::with_capacity(parameters.len() + 8);
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&196_608_u32.to_be_bytes());
    packet.extend_from_slice(parameters.as_bytes());
    packet
}
