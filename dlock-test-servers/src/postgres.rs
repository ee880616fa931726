//! A private PostgreSQL server.

mod pooler;
mod programs;
mod session;

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::process::{self, Ending, Launch, Process, on_a_free_port};
pub use pooler::PostgresPooler;
use programs::Programs;
pub use session::PostgresSession;

/// The settings of every server. Nothing is forced to disk: the machine does not fail in a test.
const SETTINGS: [(&str, &str); 5] = [
    ("listen_addresses", "127.0.0.1"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("shared_buffers", "16MB"),
    ("max_connections", "200"),
];

/// A machine with more work than cores takes its time to recover, or to copy data.
const PATIENCE: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(10);

/// A private PostgreSQL: a child process with a port of its own on 127.0.0.1, and a Unix socket.
/// Dropping it ends the process. Its superuser is `postgres`.
///
/// Users need no password, except the members of a role with the name
/// [`WITH_PASSWORD`](Self::WITH_PASSWORD), who log in over TCP with SCRAM.
///
/// Which binaries are run: those in the folder in the environment's `DLOCK_POSTGRES`, else those in
/// the `PATH`, else the newest in `/usr/lib/postgresql`.
pub struct PostgresServer {
    programs: Programs,
    settings: Vec<(String, String)>,
    port: u16,
    process: Option<Process>,
    folder: TempDir,
}

impl PostgresServer {
    /// The role whose members must give a password.
    pub const WITH_PASSWORD: &'static str = "with_password";
    /// The role whose members must use TLS and show the certificate of a client.
    pub const WITH_CERTIFICATE: &'static str = "with_certificate";

    /// A server with few settings but its defaults.
    ///
    /// # Panics
    ///
    /// If it cannot be started: because the binaries are missing, say.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server with further settings: `[("lock_timeout", "1s")]`.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let programs = Programs::find();
        let folder = programs.folder();
        programs.copy_new_data(&data(folder.path()));
        Self::launched(programs, folder, settings)
    }

    /// The same with its data in memory, where a write to the disk costs nothing.
    ///
    /// # Panics
    ///
    /// If it cannot be started, or the system has no folder in memory.
    pub fn start_in_memory(settings: &[(&str, &str)]) -> Self {
        let programs = Programs::find();
        let folder = programs.folder_in_memory();
        programs.copy_new_data(&data(folder.path()));
        Self::launched(programs, folder, settings)
    }

    /// A server that speaks TLS too, with a certificate that is made for it. Clients need none,
    /// except the members of a role with the name [`WITH_CERTIFICATE`](Self::WITH_CERTIFICATE).
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[cfg(feature = "tls")]
    pub fn start_with_tls(certificate: crate::TlsCertificate) -> Self {
        let programs = Programs::find();
        let folder = programs.folder();
        programs.copy_new_data(&data(folder.path()));
        crate::tls::write_certificates(folder.path(), certificate);
        programs.give_key(&folder.path().join("server.key"));
        let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let (ca, certificate, key) = (file("ca.crt"), file("server.crt"), file("server.key"));
        let settings = [
            ("ssl", "on"),
            ("ssl_ca_file", &ca),
            ("ssl_cert_file", &certificate),
            ("ssl_key_file", &key),
        ];
        Self::launched(programs, folder, &settings)
    }

    /// A standby, which follows this server until it is [promoted](Self::promote). Unless a setting
    /// says otherwise, commits do not wait for it. Its name in `pg_stat_replication` is
    /// `walreceiver`.
    ///
    /// # Panics
    ///
    /// If this server does not answer, or the other cannot be started.
    pub fn standby(&self) -> Self {
        let programs = self.programs.clone();
        let folder = programs.folder();
        programs.copy_from(self.port, &data(folder.path()));
        Self::launched(programs, folder, &[])
    }

    fn launched(programs: Programs, folder: TempDir, settings: &[(&str, &str)]) -> Self {
        let settings = SETTINGS.iter().chain(settings);
        let mut server = PostgresServer {
            programs,
            settings: settings
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            port: 0,
            process: None,
            folder,
        };
        (server.port, server.process) = on_a_free_port(server.folder.path(), |port| {
            Some((port, Some(server.launch(port)?)))
        });
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The file with the authority (PEM) that has signed its certificate; there only if the server
    /// was started with TLS, as the next two.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// The file with the certificate (PEM) of a client, signed by the same authority.
    pub fn client_certificate_file(&self) -> PathBuf {
        self.folder.path().join("client.crt")
    }

    /// The file with that client's key (PEM).
    pub fn client_key_file(&self) -> PathBuf {
        self.folder.path().join("client.key")
    }

    /// The folder with its Unix socket.
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// `postgres://postgres@127.0.0.1:port/postgres`.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The same for another login: `user` or `user:password`.
    pub fn url_of(&self, login: &str) -> String {
        format!("postgres://{login}@{}/postgres", self.address())
    }

    /// The same over the Unix socket.
    pub fn socket_url(&self) -> String {
        let folder = self.socket_folder().display();
        format!(
            "postgres://postgres@/postgres?host={folder}&port={}",
            self.port
        )
    }

    /// Has the superuser run SQL, on a connection of its own and in one transaction. The answer has
    /// a line for each row, with a `|` between columns.
    ///
    /// # Panics
    ///
    /// If the server does not answer, or answers an error.
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same, where an error is an answer: its text, with the SQLSTATE.
    ///
    /// # Errors
    ///
    /// That of the server, or that there is none.
    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        let folder = self.socket_folder();
        session::answer(&self.programs, folder.as_os_str(), self.port, sql)
    }

    /// A connection of the superuser that stays open.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn session(&self) -> PostgresSession {
        let folder = self.socket_folder();
        PostgresSession::open(&self.programs, folder.as_os_str(), self.port)
    }

    /// Makes a standby a primary, and waits until it is one.
    ///
    /// # Panics
    ///
    /// If it is none, or does not answer.
    pub fn promote(&self) {
        assert_eq!(self.sql("SELECT pg_promote()"), "t", "it is promoted");
    }

    /// Ends it at once, with all its connections. What was committed is on disk.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again after [`kill`](Self::kill), at the same address, with its data.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start_again(&mut self) {
        self.process = self.launch(self.port);
        assert!(
            self.process.is_some(),
            "PostgreSQL did not come back; its log:\n{}",
            self.log()
        );
    }

    /// Kills it (SIGKILL) with all of its backends, and waits until they are gone. What was
    /// committed stays, since the system has it.
    ///
    /// # Panics
    ///
    /// If it is not running.
    #[cfg(target_os = "linux")]
    pub fn crash(&mut self) {
        let process = self.process.take();
        process.expect("the server is running").crash();
    }

    /// Kills (SIGKILL) the backend of one of the connections with this `application_name`, if there
    /// is one. The server then ends all others, and recovers: see
    /// [`wait_until_ready`](Self::wait_until_ready).
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub fn kill_backend(&self, application: &str) {
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE application_name = '{application}' LIMIT 1"
        );
        let backend = self.sql(&sql).parse().ok().and_then(Pid::from_raw);
        if let Some(backend) = backend {
            // It may have ended meanwhile.
            let _ = kill_process(backend, Signal::KILL);
        }
    }

    /// Stops all of its processes (SIGSTOP): the system still accepts connections and takes bytes
    /// for it, but nothing is answered.
    ///
    /// # Panics
    ///
    /// If it is not running.
    #[cfg(target_os = "linux")]
    pub fn pause(&self) {
        let process = self.running();
        // First the one that starts the others.
        process.pause();
        for child in process.children() {
            let _ = kill_process(child, Signal::STOP);
        }
    }

    /// Lets them go on (SIGCONT).
    ///
    /// # Panics
    ///
    /// If it is not running.
    #[cfg(target_os = "linux")]
    pub fn resume(&self) {
        let process = self.running();
        for child in process.children() {
            let _ = kill_process(child, Signal::CONT);
        }
        process.resume();
    }

    /// Waits until it carries out SQL: after a crash it recovers first.
    ///
    /// # Panics
    ///
    /// If it does not for long.
    pub fn wait_until_ready(&self) {
        self.wait_for("SELECT 1", "1");
    }

    /// Asks until the answer to this SQL is that.
    ///
    /// # Panics
    ///
    /// If it is not for long.
    pub fn wait_for(&self, sql: &str, answer: &str) {
        let asked = Instant::now();
        loop {
            let last = self.try_sql(sql);
            if last.as_ref().is_ok_and(|last| last == answer) {
                return;
            }
            let is_late = asked.elapsed() > PATIENCE;
            assert!(!is_late, "not {answer} after {PATIENCE:?}: {sql}: {last:?}");
            thread::sleep(ASK_EVERY);
        }
    }

    /// Makes it a standby of `primary`, whatever it was: its data is replaced by a copy. Its
    /// address stays.
    ///
    /// # Panics
    ///
    /// If `primary` does not answer, or this server does not start.
    pub fn follow(&mut self, primary: &PostgresServer) {
        self.kill();
        let data = data(self.folder.path());
        fs::remove_dir_all(&data).expect("the folder is ours");
        self.programs.copy_from(primary.port, &data);
        self.start_again();
    }

    /// Ends it and starts it again.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// The process id.
    ///
    /// # Panics
    ///
    /// If it is not running.
    pub fn pid(&self) -> u32 {
        self.running().id()
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the server is running")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        process::log_text(self.folder.path())
    }

    /// Starts the process; `None` if it ended at once, since somebody took its port, say.
    fn launch(&self, port: u16) -> Option<Process> {
        let folder = self.folder.path();
        let mut arguments: Vec<OsString> = vec!["-D".into(), data(folder).into()];
        arguments.extend(["-p", &port.to_string(), "-k"].map(OsString::from));
        arguments.push(folder.into());
        for (name, value) in &self.settings {
            arguments.extend(["-c".into(), format!("{name}={value}").into()]);
        }
        let launch = Launch {
            binary: &self.programs.path("postgres"),
            install: programs::INSTALL,
            arguments,
            environment: Vec::new(),
            folder,
            user: self.programs.user,
            ending: Ending::Quit,
        };
        Process::start(&launch, || {
            session::is_ready(&self.programs, folder.as_os_str(), port)
        })
    }
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}
