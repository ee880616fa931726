//! A private redis-server process.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
#[cfg(target_os = "linux")]
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{self, Ending, Launch, Process};
use crate::resp::{Control, Reply};
#[cfg(target_os = "linux")]
use crate::wall_clock::WallClock;
use crate::{RedisBuilder, process::on_a_free_port};

/// A private Redis (or Valkey) server: a child process, its folder, port and socket. Dropping it
/// kills the process and deletes the folder.
///
/// Which binary is run: that in the environment's `DLOCK_REDIS_SERVER`, else `redis-server`.
pub struct RedisServer {
    options: RedisBuilder,
    port: u16,
    tls_port: Option<u16>,
    process: Option<Process>,
    #[cfg(target_os = "linux")]
    clock: Option<WallClock>,
    folder: TempDir,
}

impl RedisServer {
    /// A server without password, users or TLS.
    ///
    /// # Panics
    ///
    /// If it cannot be started: because the binary is missing, say.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A server with more than the bare minimum.
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    pub(super) fn started(options: RedisBuilder) -> Self {
        let folder = process::folder();
        #[cfg(feature = "tls")]
        match &options.certificates {
            Some(other) => super::tls::copy_certificates(other, folder.path()),
            None if options.tls => {
                super::tls::write_certificates(folder.path(), options.certificate);
            }
            None => {}
        }
        let mut server = RedisServer {
            #[cfg(target_os = "linux")]
            clock: options.clock_step.then(|| WallClock::build(folder.path())),
            options,
            port: 0,
            tls_port: None,
            process: None,
            folder,
        };
        (server.port, server.tls_port, server.process) =
            on_a_free_port(server.folder.path(), |port| {
                let port = match server.options.is_cluster_node {
                    true => process::free_port_with_bus(),
                    false => port,
                };
                let tls_port = server
                    .options
                    .tls
                    .then(|| match server.options.is_cluster_node {
                        true => process::free_port_with_bus(),
                        false => process::free_port(),
                    });
                let process = server.launch(port, tls_port)?;
                Some((port, tls_port, Some(process)))
            });
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }

    /// `redis://127.0.0.1:port/`, with the default user's password if it has one.
    pub fn url(&self) -> String {
        format!("redis://{}127.0.0.1:{}/", self.credentials(), self.port)
    }

    /// The same for one of its users.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        format!("redis://{user}:{password}@127.0.0.1:{}/", self.port)
    }

    /// `unix:///path/to/socket`.
    pub fn unix_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// `rediss://localhost:port/`, with the default user's password if it has one.
    ///
    /// # Panics
    ///
    /// If the server was started without TLS.
    #[cfg(feature = "tls")]
    pub fn tls_url(&self) -> String {
        let port = self.tls_port.expect("the server was started with tls()");
        format!("rediss://{}localhost:{port}/", self.credentials())
    }

    /// Where it listens for TLS; `None` if it was started without.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_port
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// The file with the certificate (PEM) of the authority that signed the server's; there only if
    /// it was started with TLS.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// The file with the certificate (PEM) of a client, signed by the same authority; there only if
    /// the server was started with TLS.
    pub fn client_certificate_file(&self) -> PathBuf {
        self.folder.path().join("client.crt")
    }

    /// The file with that client's key (PEM).
    pub fn client_key_file(&self) -> PathBuf {
        self.folder.path().join("client.key")
    }

    /// Has the server carry out a command, on a connection of its own.
    ///
    /// # Panics
    ///
    /// If the server does not answer, or answers an error.
    pub fn command<'a>(&self, words: impl AsRef<[&'a str]>) -> Reply {
        let words = words.as_ref();
        match self.try_command(words) {
            Reply::Error(error) => panic!("{}: {error}", words.join(" ")),
            reply => reply,
        }
    }

    /// The same, where an error is an answer.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn try_command<'a>(&self, words: impl AsRef<[&'a str]>) -> Reply {
        self.ask(words.as_ref())
            .unwrap_or_else(|error| panic!("the Redis server does not answer: {error}"))
    }

    /// The same, where no answer is one too: sentinels cut all connections to a node whose role
    /// they change.
    pub(super) fn ask(&self, words: &[&str]) -> io::Result<Reply> {
        Control::open(&self.socket(), self.options.password.as_deref())
            .and_then(|mut control| control.call(words))
    }

    /// Changes the running server's configuration.
    ///
    /// # Panics
    ///
    /// If the server does not take it.
    pub fn config_set(&self, name: &str, value: &str) {
        self.command(["CONFIG", "SET", name, value]);
    }

    /// How often each command was carried out since the start or the last
    /// [`reset_calls`](Self::reset_calls), by lower-case name. Counts what scripts call as well,
    /// and what this value sends itself (`info`, `config|resetstat`, `auth`).
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        let text = self.command(["INFO", "commandstats"]).text();
        let text = text.unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
                let calls = rest.split(',').next()?.parse().ok()?;
                Some((name.to_owned(), calls))
            })
            .collect()
    }

    /// Sets the counts of [`calls`](Self::calls) to zero.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn reset_calls(&self) {
        self.command(["CONFIG", "RESETSTAT"]);
    }

    /// The names of all keys, sorted.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn keys(&self) -> Vec<String> {
        let Reply::List(keys) = self.command(["KEYS", "*"]) else {
            return Vec::new();
        };
        let mut keys: Vec<_> = keys.iter().filter_map(Reply::text).collect();
        keys.sort();
        keys
    }

    /// Stops it (SIGSTOP): the system still accepts connections and takes bytes for it, but nothing
    /// is answered.
    ///
    /// # Panics
    ///
    /// If it is not running.
    pub fn pause(&self) {
        self.running().pause();
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Panics
    ///
    /// If it is not running.
    pub fn resume(&self) {
        self.running().resume();
    }

    /// Kills it (SIGKILL) and waits until it is gone. What it kept in memory is lost.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again after [`kill`](Self::kill), at the same address, with what it has on disk.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start_again(&mut self) {
        self.process = self.launch(self.port, self.tls_port);
        assert!(
            self.process.is_some(),
            "the Redis server did not come back; its log:\n{}",
            self.log()
        );
    }

    /// Saves everything, kills it and starts it again.
    ///
    /// # Panics
    ///
    /// If it does not answer or does not start.
    pub fn restart_with_data(&mut self) {
        self.command(["SAVE"]);
        self.kill();
        self.start_again();
    }

    /// Kills it and starts it again with nothing.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn restart_empty(&mut self) {
        self.kill();
        // Whether or not they are there.
        let _ = fs::remove_file(self.folder.path().join("dump.rdb"));
        let _ = fs::remove_dir_all(self.folder.path().join("appendonlydir"));
        self.start_again();
    }

    /// Sets its wall clock forward by this much, at once; it lasts through restarts.
    ///
    /// # Panics
    ///
    /// If it was started without [`clock_step`](RedisBuilder::clock_step).
    #[cfg(target_os = "linux")]
    pub fn step_clock_forward(&self, by: Duration) {
        self.wall_clock().step(by, true);
    }

    /// Sets its wall clock back by this much, at once; it lasts through restarts.
    ///
    /// # Panics
    ///
    /// If it was started without [`clock_step`](RedisBuilder::clock_step).
    #[cfg(target_os = "linux")]
    pub fn step_clock_back(&self, by: Duration) {
        self.wall_clock().step(by, false);
    }

    #[cfg(target_os = "linux")]
    fn wall_clock(&self) -> &WallClock {
        self.clock
            .as_ref()
            .expect("the server was started with clock_step()")
    }

    /// Whether there is a process that is not stopped.
    pub(super) fn is_awake(&self) -> bool {
        self.process
            .as_ref()
            .is_some_and(|process| !process.is_paused())
    }

    /// The process id.
    ///
    /// # Panics
    ///
    /// If it is not running.
    pub fn pid(&self) -> u32 {
        self.running().id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        process::log_text(self.folder.path())
    }

    /// Starts the process; `None` if it ended at once, since somebody took its port, say.
    fn launch(&self, port: u16, tls_port: Option<u16>) -> Option<Process> {
        let folder = self.folder.path();
        let file = folder.join("redis.conf");
        // A port that was taken may be in the file of a sentinel that did not start.
        let is_restart = self.port == port;
        if !(self.options.is_sentinel && is_restart) {
            fs::write(&file, self.options.file(folder, port, tls_port))
                .expect("the server's folder is ours");
        }
        let mut arguments = vec![file.into()];
        if self.options.is_sentinel {
            arguments.push("--sentinel".into());
        }
        let launch = Launch {
            binary: &process::binary("DLOCK_REDIS_SERVER", "redis-server"),
            install: "apt-get install redis-server",
            arguments,
            #[cfg(target_os = "linux")]
            environment: self
                .clock
                .as_ref()
                .map_or_else(Vec::new, |clock| clock.environment().into()),
            #[cfg(not(target_os = "linux"))]
            environment: Vec::new(),
            folder,
            user: None,
            ending: Ending::Kill,
        };
        let (socket, password) = (self.socket(), self.options.password.as_deref());
        // One that a killed server left behind refuses connections.
        Process::start(&launch, || {
            let pong =
                Control::open(&socket, password).and_then(|mut control| control.call(&["PING"]));
            matches!(pong, Ok(Reply::Text(pong)) if pong == "PONG")
        })
    }

    #[cfg(feature = "tls")]
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Whether this many replicas acknowledge what is written now, in a moment.
    pub(super) fn acknowledged_by(&self, replicas: usize) -> io::Result<bool> {
        let mut control = Control::open(&self.socket(), self.options.password.as_deref())?;
        // Over one connection: WAIT asks for what was written over its own.
        control.call(&["SET", "dlock-test-servers", "written"])?;
        control.call(&["DEL", "dlock-test-servers"])?;
        let wanted = replicas.to_string();
        let count = control.call(&["WAIT", &wanted, "200"])?.integer();
        Ok(count.is_some_and(|count| usize::try_from(count).is_ok_and(|n| n >= replicas)))
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the server is running")
    }

    fn credentials(&self) -> String {
        match &self.options.password {
            Some(password) => format!(":{password}@"),
            None => String::new(),
        }
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("socket")
}
