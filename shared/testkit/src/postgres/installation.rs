//! Owns where Postgres' programs are and as whom they run. Refuses to run a server as root, as
//! Postgres itself does.

use std::env;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use rustix::process::geteuid;

use super::SUPERUSER;

const DEBIAN: &str = "/usr/lib/postgresql";
const CONNECTIONS_MAX: u32 = 300;

/// The programs, and the user that a root process becomes for them.
pub(super) struct Installation {
    bin: PathBuf,
    user: Option<User>,
}

struct User {
    uid: u32,
    gid: u32,
}

impl Installation {
    pub(super) fn find() -> anyhow::Result<Self> {
        let Some(bin) = candidates().into_iter().find(|bin| bin.join("initdb").is_file()) else {
            bail!(
                "Postgres' programs are neither in $PG_BIN, on the PATH, nor in {DEBIAN}; \
                 install them, on Debian: apt-get install postgresql"
            )
        };
        let user = if geteuid().is_root() { Some(unprivileged()?) } else { None };
        Ok(Self { bin, user })
    }

    /// Makes the server's user the owner of a folder.
    pub(super) fn give(&self, folder: &Path) -> anyhow::Result<()> {
        if let Some(user) = &self.user {
            chown(folder, Some(user.uid), Some(user.gid))?;
        }
        Ok(())
    }

    pub(super) fn initdb(&self, data: &Path) -> Command {
        let mut command = self.command("initdb");
        command.args(["-A", "trust", "-U", SUPERUSER, "-E", "UTF8", "--no-locale"]);
        command.args(["--no-sync", "--no-instructions", "-D"]).arg(data);
        command
    }

    /// Listens on loopback only and has no socket file.
    pub(super) fn server(&self, data: &Path, port: u16, durable: bool) -> Command {
        let mut command = self.command("postgres");
        command.arg("-D").arg(data).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", ""]);
        command.args(["-c", &format!("max_connections={CONNECTIONS_MAX}")]);
        if !durable {
            // What was committed survives the processes' death, not the machine's.
            let fast = ["fsync=off", "full_page_writes=off"];
            command.args(fast.iter().flat_map(|setting| ["-c", setting]));
            command.args(["-c", "shared_buffers=32MB"]);
        }
        command
    }

    /// For programs that only connect.
    pub(super) fn client(&self, program: &str) -> Command {
        Command::new(self.bin.join(program))
    }

    /// `setpriv` changes the user and then asks for a signal at the death of its parent, in the
    /// order that the kernel wants (a change of user forgets the request), and becomes the program.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        if let Some(user) = &self.user {
            command.args(["--reuid", &user.uid.to_string(), "--regid", &user.gid.to_string()]);
            command.arg("--clear-groups").current_dir("/");
        }
        command.args(["--pdeathsig", "INT", "--"]).arg(self.bin.join(program));
        command
    }
}

/// `$PG_BIN`, then the PATH, then Debian's folders, newest version first. A program on the PATH
/// may be a link into a folder that holds only some of them, so links are followed.
fn candidates() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = env::var_os("PG_BIN").map(PathBuf::from).into_iter().collect();
    let path = env::var_os("PATH").unwrap_or_default();
    found.extend(env::split_paths(&path).filter_map(|folder| {
        let real = fs::canonicalize(folder.join("postgres")).ok()?;
        real.parent().map(Path::to_path_buf)
    }));
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir(DEBIAN)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect();
    debian.sort_by(|one, other| other.cmp(one));
    found.extend(debian.into_iter().map(|(_, folder)| folder.join("bin")));
    found
}

/// initdb looks its user up by number, so only a user that is in the list will do.
fn unprivileged() -> anyhow::Result<User> {
    let list = fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
    let find = |wanted: &str| list.lines().find_map(|line| parse(line, wanted));
    find("postgres").or_else(|| find("nobody")).context("neither user postgres nor nobody exists")
}

fn parse(line: &str, wanted: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, ..] = fields.as_slice() else { return None };
    (*name == wanted).then_some(())?;
    Some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}
