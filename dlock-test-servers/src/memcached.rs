//! A private memcached process.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{self, Ending, Launch, Process, on_a_free_port};

/// A server that does not answer for this long is stopped, or lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// A private memcached: a child process with a port of its own on 127.0.0.1. Dropping it kills the
/// process.
///
/// Which binary is run: that in the environment's `DLOCK_MEMCACHED`, else `memcached`.
pub struct MemcachedServer {
    arguments: Vec<OsString>,
    port: u16,
    process: Option<Process>,
    folder: TempDir,
}

impl MemcachedServer {
    /// A server with its defaults.
    ///
    /// # Panics
    ///
    /// If it cannot be started: because the binary is missing, say.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server with further arguments: `["-C"]`, `["-m", "1"]`.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start_with(arguments: &[&str]) -> Self {
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        let folder = process::folder();
        let (port, process) = on_a_free_port(folder.path(), |port| {
            Some((port, launch(&arguments, folder.path(), port)?))
        });
        MemcachedServer {
            arguments,
            port,
            process: Some(process),
            folder,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        address(self.port)
    }

    /// `memcache://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("memcache://{}", self.address())
    }

    /// Sends one line and gives back the first line of the answer, on a connection of its own.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn command(&self, line: &str) -> String {
        ask(self.port, line).expect("the memcached server answers")
    }

    /// The server's statistics by name.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn stats(&self) -> std::collections::BTreeMap<String, String> {
        let stream = connect(self.port).expect("the memcached server answers");
        let mut stream = BufReader::new(stream);
        stream
            .get_mut()
            .write_all(b"stats\r\n")
            .expect("the memcached server answers");
        let mut stats = std::collections::BTreeMap::new();
        for line in stream.lines() {
            let line = line.expect("the memcached server answers");
            let mut words = line.splitn(3, ' ');
            let (Some("STAT"), Some(name), Some(value)) =
                (words.next(), words.next(), words.next())
            else {
                break;
            };
            stats.insert(name.to_owned(), value.to_owned());
        }
        stats
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

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again after [`kill`](Self::kill), at the same address, empty.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start_again(&mut self) {
        let folder = self.folder.path();
        self.process = launch(&self.arguments, folder, self.port);
        assert!(
            self.process.is_some(),
            "memcached did not come back; its log:\n{}",
            process::log_text(folder)
        );
    }

    /// Kills it and starts it again.
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
}

/// Starts the process; `None` if it ended at once, since somebody took its port, say.
fn launch(arguments: &[OsString], folder: &Path, port: u16) -> Option<Process> {
    let port_text = port.to_string();
    let mut all: Vec<OsString> = ["-l", "127.0.0.1", "-p", &port_text, "-U", "0"]
        .iter()
        .map(OsString::from)
        .collect();
    // It refuses to run as root unless a user is given.
    if rustix::process::geteuid().is_root() {
        all.extend(["-u", "root"].map(OsString::from));
    }
    all.extend(arguments.iter().cloned());
    let launch = Launch {
        binary: &process::binary("DLOCK_MEMCACHED", "memcached"),
        install: "apt-get install memcached",
        arguments: all,
        environment: Vec::new(),
        folder,
        user: None,
        ending: Ending::Kill,
    };
    Process::start(&launch, || {
        ask(port, "version").is_ok_and(|answer| answer.starts_with("VERSION"))
    })
}

fn ask(port: u16, line: &str) -> std::io::Result<String> {
    let mut stream = BufReader::new(connect(port)?);
    stream
        .get_mut()
        .write_all(format!("{line}\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_line(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address(port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
