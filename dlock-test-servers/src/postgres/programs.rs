//! The programs of a PostgreSQL installation, and the user who runs them.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use super::PostgresServer;
use crate::process::{self, User};

pub(super) const INSTALL: &str = "apt-get install postgresql";

/// The folder with the programs, and who runs the server.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    folder: Option<PathBuf>,
    /// `None` if this process's own user may.
    pub(super) user: Option<User>,
}

impl Programs {
    pub(super) fn find() -> Self {
        let chosen = std::env::var_os("DLOCK_POSTGRES").map(PathBuf::from);
        let is_root = rustix::process::geteuid().is_root();
        Programs {
            folder: chosen.or_else(|| match is_in_path("initdb") {
                true => None,
                false => newest_of_debian(),
            }),
            user: is_root.then(|| {
                User::named(&["postgres", "nobody"])
                    .expect("the system has a user `postgres` or `nobody`, since root is refused")
            }),
        }
    }

    /// What runs the program of this name.
    pub(super) fn path(&self, name: &str) -> String {
        match &self.folder {
            Some(folder) => folder.join(name).to_string_lossy().into_owned(),
            None => name.to_owned(),
        }
    }

    /// A folder in which that user may write.
    pub(super) fn folder(&self) -> TempDir {
        self.owned(process::folder_with_room())
    }

    /// The same in memory.
    pub(super) fn folder_in_memory(&self) -> TempDir {
        self.owned(process::folder_in_memory().expect("the system has a folder in memory"))
    }

    fn owned(&self, folder: TempDir) -> TempDir {
        if let Some(user) = self.user {
            chown(folder.path(), Some(user.id), Some(user.group)).expect("root may give it away");
        }
        folder
    }

    /// Gives the server's key to the server alone, which refuses it otherwise.
    #[cfg(feature = "tls")]
    pub(super) fn give_key(&self, key: &Path) {
        use std::os::unix::fs::PermissionsExt;

        let only_the_owner = fs::Permissions::from_mode(0o600);
        fs::set_permissions(key, only_the_owner).expect("the file is ours");
        if let Some(user) = self.user {
            chown(key, Some(user.id), Some(user.group)).expect("root may give it away");
        }
    }

    /// The data of a new server in the folder `to`. One `initdb` a process is enough.
    pub(super) fn copy_new_data(&self, to: &Path) {
        static NEW: OnceLock<PathBuf> = OnceLock::new();
        let new = NEW.get_or_init(|| {
            let folder = self.folder();
            let data = folder.path().join("new");
            self.run("initdb", |initdb| {
                initdb.args(["--no-sync", "--auth=trust", "--username=postgres"]);
                initdb.args(["--encoding=UTF8", "--locale=C", "-D"]);
                initdb.arg(&data);
            });
            fs::write(data.join("pg_hba.conf"), rules()).expect("the folder is ours");
            process::delete_when_this_process_ends(&folder.keep());
            data
        });
        let mut copy = Command::new("cp");
        copy.args(["-a", "--"]).args([new, to]);
        succeed(copy, "cp");
    }

    /// A copy of the data of the server at this port, for a standby.
    pub(super) fn copy_from(&self, port: u16, to: &Path) {
        self.run("pg_basebackup", |backup| {
            backup.args(["-R", "-X", "stream", "-c", "fast", "--no-sync"]);
            backup.args(["-h", "127.0.0.1", "-U", "postgres", "-p"]);
            backup.arg(port.to_string()).arg("-D").arg(to);
        });
    }

    fn run(&self, name: &str, arguments: impl Fn(&mut Command)) {
        let mut command = Command::new(self.path(name));
        if let Some(user) = self.user {
            user.runs(&mut command);
        }
        arguments(&mut command);
        // The folder of this process may be closed to that user.
        command.current_dir("/");
        succeed(command, name);
    }
}

fn succeed(mut command: Command, name: &str) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| {
            panic!("cannot run `{name}`: {error}\n    install it with: {INSTALL}")
        });
    assert!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Who may log in, and how.
fn rules() -> String {
    let with_password = PostgresServer::WITH_PASSWORD;
    let with_certificate = PostgresServer::WITH_CERTIFICATE;
    format!(
        "local all all trust\n\
         local replication all trust\n\
         hostssl all +{with_certificate} 127.0.0.1/32 trust clientcert=verify-ca\n\
         host all +{with_certificate} 127.0.0.1/32 reject\n\
         host all +{with_password} 127.0.0.1/32 scram-sha-256\n\
         host all all 127.0.0.1/32 trust\n\
         host replication all 127.0.0.1/32 trust\n"
    )
}

fn is_in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Debian keeps each major version in a folder of its own, which no `PATH` has.
fn newest_of_debian() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.map(|version| version.path()).max_by_key(number)?;
    Some(newest.join("bin"))
}
