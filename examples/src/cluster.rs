//! Starts this same program again, once for each server of the example, and reads what the servers
//! report.

use std::env;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use dlock_core::{LockOptions, LockOptionsBuilder, Store};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::Outcome;

const SERVER: &str = "DLOCK_EXAMPLE_SERVER";
const STORE: &str = "DLOCK_EXAMPLE_STORE";
const PREFIX: &str = "DLOCK_EXAMPLE_PREFIX";
const FOLDER: &str = "DLOCK_EXAMPLE_FOLDER";

/// Prints a line on standard output.
#[allow(clippy::print_stdout)]
pub fn report(text: impl std::fmt::Display) {
    println!("{text}");
    // Another process reads it, so it must not stay in a buffer.
    let _ = std::io::stdout().flush();
}

/// The role of a server process: its name, and the paths that it uses.
#[derive(Debug)]
pub struct Role {
    /// Its name, for example `web-2`.
    pub server: String,
    /// The folder that the servers share beside the store.
    pub folder: PathBuf,
    url: String,
    prefix: String,
}

impl Role {
    /// The role of this process, if it was started as a server.
    pub fn of_this_process() -> Option<Role> {
        Some(Role {
            server: env::var(SERVER).ok()?,
            url: env::var(STORE).ok()?,
            prefix: env::var(PREFIX).ok()?,
            folder: env::var_os(FOLDER)?.into(),
        })
    }

    /// The store.
    ///
    /// # Errors
    ///
    /// If the store cannot be used.
    pub fn store(&self) -> Outcome<Store> {
        crate::open(&self.url)
    }

    /// Options with keys that no other run of the example uses.
    pub fn options(&self) -> LockOptionsBuilder {
        LockOptions::builder()
            .key_prefix(&self.prefix)
            .label(&self.server)
    }
}

/// A line that a server printed.
#[derive(Debug)]
pub struct Line {
    /// The server.
    pub server: String,
    /// The line.
    pub text: String,
}

/// The servers of an example, and their store. Dropping it ends the servers.
#[derive(Debug)]
pub struct Cluster {
    url: String,
    prefix: String,
    folder: TempDir,
    lines_to_us: Sender<Line>,
    lines: Receiver<Line>,
}

impl Cluster {
    /// Uses the store that the first argument of this program names, or else a folder of its own.
    ///
    /// # Errors
    ///
    /// If there is no such store, or a temporary folder cannot be created.
    pub fn from_arguments() -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let url = match env::args().nth(1) {
            Some(url) => url,
            None => format!("file:{}", folder.path().join("locks").display()),
        };
        // Check the URL here, so that a wrong one is reported once and not by each server.
        crate::open(&url)?;
        let run = folder.path().file_name().unwrap_or_default();
        let prefix = format!("example-{}", run.to_string_lossy().trim_start_matches('.'));
        let (lines_to_us, lines) = channel();
        Ok(Cluster {
            url,
            prefix,
            folder,
            lines_to_us,
            lines,
        })
    }

    /// The folder that the servers share beside the store.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a server: this program with these arguments.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(&self, server: &str, arguments: &[&str]) -> Outcome<Process> {
        let mut child = Command::new(env::current_exe()?)
            .args(arguments)
            .env(SERVER, server)
            .env(STORE, &self.url)
            .env(PREFIX, &self.prefix)
            .env(FOLDER, self.folder())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("it has no standard output")?;
        let (lines_to_us, server) = (self.lines_to_us.clone(), server.to_owned());
        let listener = thread::spawn(move || {
            for text in BufReader::new(stdout).lines().map_while(Result::ok) {
                report(format_args!("  {server}: {text}"));
                let server = server.clone();
                if lines_to_us.send(Line { server, text }).is_err() {
                    return;
                }
            }
        });
        Ok(Process {
            child,
            listener: Some(listener),
        })
    }

    /// Waits until a server prints a line that contains `text`, and returns the line.
    ///
    /// # Errors
    ///
    /// If no server prints it within a minute.
    pub fn until(&self, text: &str) -> Outcome<Line> {
        let patience = std::time::Duration::from_secs(60);
        loop {
            let line = self
                .lines
                .recv_timeout(patience)
                .map_err(|_| format!("no server printed `{text}`"))?;
            if line.text.contains(text) {
                return Ok(line);
            }
        }
    }

    /// Waits for the end of these servers, and until all their lines were read.
    ///
    /// # Errors
    ///
    /// If one failed.
    pub fn end(&self, servers: impl IntoIterator<Item = Process>) -> Outcome {
        for mut server in servers {
            let status = server.child.wait()?;
            if !status.success() {
                return Err(format!("a server ended with {status}").into());
            }
            server.wait_for_output();
        }
        Ok(())
    }
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    listener: Option<JoinHandle<()>>,
}

impl Process {
    /// Kills it, like a crash: it can do nothing more.
    ///
    /// # Errors
    ///
    /// If the system does not allow it.
    pub fn kill(mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until all its lines were read.
    fn wait_for_output(&mut self) {
        if let Some(listener) = self.listener.take() {
            // The thread does nothing that can panic.
            let _ = listener.join();
        }
    }

    /// Stops it in the middle of its work, as a debugger, an overloaded host or the migration of a
    /// virtual machine would.
    ///
    /// # Errors
    ///
    /// If the system does not allow it.
    pub fn pause(&self) -> Outcome {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }

    /// Continues it.
    ///
    /// # Errors
    ///
    /// If the system does not allow it.
    pub fn resume(&self) -> Outcome {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
