//! Owns where a throwaway server lives: its folder, its data and its port. Refuses to run it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use super::installation::Installation;
use super::{Options, SUPERUSER, database};
use crate::folder::Folder;
use crate::ports;

const ANSWER_MAX: Duration = Duration::from_secs(1);

/// A cluster's folder and port; the folder is gone when this is dropped, so end the server first.
pub struct Home {
    installation: Installation,
    folder: Folder,
    data: PathBuf,
    port: u16,
    durable: bool,
}

impl Home {
    /// Makes a cluster that nobody serves yet.
    pub fn make(options: Options) -> anyhow::Result<Self> {
        let installation = Installation::find()?;
        let folder = Folder::create()?;
        let port = options.port.map_or_else(free_port, Ok)?;
        let data = make_cluster(&installation, folder.path())?;
        Ok(Self { installation, folder, data, port, durable: options.durable })
    }

    /// The server of this cluster, to be started from `/`. It asks the kernel to be told when the
    /// *thread* that starts it ends, so start it from one that lives as long as it is wanted.
    pub fn server(&self) -> Command {
        self.installation.server(&self.data, self.port, self.durable)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Other throwaway files may lie there too.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn url(&self, user: &str, database: &str) -> String {
        url(self.port, user, database)
    }

    /// Whether a server runs here and lets people in.
    pub fn is_served(&self) -> bool {
        accepts_connections(self.port)
    }

    /// Creates a database with the roles and the schema of each service.
    pub async fn create_database(&self, name: &str, services: &[&str]) -> anyhow::Result<()> {
        database::create(self.port, name, services).await
    }
}

pub(super) fn make_cluster(installation: &Installation, folder: &Path) -> anyhow::Result<PathBuf> {
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

pub(super) fn url(port: u16, user: &str, database: &str) -> String {
    format!("postgres://{user}@127.0.0.1:{port}/{database}")
}

/// No connection may take it while the server is away.
pub(super) fn free_port() -> anyhow::Result<u16> {
    ports::free_base(&[0])
}

/// A connection alone proves nothing: the server listens long before it lets anybody in.
pub(super) fn accepts_connections(port: u16) -> bool {
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
