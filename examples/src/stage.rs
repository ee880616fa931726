//! The stage: it starts this same program again, once for each server that the example needs, and hears what they say.

use std::env;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use dlock_core::{LockOptions, Store};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::Outcome;

const SERVER: &str = "DLOCK_EXAMPLE_SERVER";
const STORE: &str = "DLOCK_EXAMPLE_STORE";
const PREFIX: &str = "DLOCK_EXAMPLE_PREFIX";
const FOLDER: &str = "DLOCK_EXAMPLE_FOLDER";

/// Says something, on standard output.
#[allow(clippy::print_stdout)]
pub fn say(text: impl std::fmt::Display) {
    println!("{text}");
    // Another process reads it: it must not wait in a buffer.
    let _ = std::io::stdout().flush();
}

/// What one of the servers was told: who it is, and where things are.
#[derive(Debug)]
pub struct Part {
    /// Its name, `web-2`.
    pub server: String,
    /// What the servers share beside the store.
    pub folder: PathBuf,
    url: String,
    prefix: String,
}

impl Part {
    /// The part of this process, if it was started as one of the servers.
    pub fn of_this_process() -> Option<Part> {
        Some(Part {
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
    /// One that cannot be used.
    pub fn store(&self) -> Outcome<Store> {
        crate::open(&self.url)
    }

    /// Options whose keys do not meet those of another run of the example.
    pub fn options(&self) -> LockOptions {
        LockOptions::default()
            .with_key_prefix(&self.prefix)
            .with_label(&self.server)
    }
}

/// What a server said.
#[derive(Debug)]
pub struct Line {
    /// Who.
    pub server: String,
    /// What.
    pub text: String,
}

/// Where the example plays. Ends with the servers that it started.
#[derive(Debug)]
pub struct Stage {
    url: String,
    prefix: String,
    folder: TempDir,
    to_us: Sender<Line>,
    said: Receiver<Line>,
}

impl Stage {
    /// A stage with the store that the first argument of this program names, or else with a folder of its own.
    ///
    /// # Errors
    ///
    /// No such store, or no room for a temporary folder.
    pub fn from_arguments() -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let url = match env::args().nth(1) {
            Some(url) => url,
            None => format!("file:{}", folder.path().join("locks").display()),
        };
        // A wrong URL should be told once, not by each server.
        crate::open(&url)?;
        let run = folder.path().file_name().unwrap_or_default();
        let prefix = format!("example-{}", run.to_string_lossy().trim_start_matches('.'));
        let (to_us, said) = channel();
        Ok(Stage {
            url,
            prefix,
            folder,
            to_us,
            said,
        })
    }

    /// What the servers share beside the store.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a server: this program, with these arguments.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
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
        let (to_us, server) = (self.to_us.clone(), server.to_owned());
        let listener = thread::spawn(move || {
            for text in BufReader::new(stdout).lines().map_while(Result::ok) {
                say(format_args!("  {server}: {text}"));
                let server = server.clone();
                if to_us.send(Line { server, text }).is_err() {
                    return;
                }
            }
        });
        Ok(Process {
            child,
            listener: Some(listener),
        })
    }

    /// Waits until a server says something that contains `text`; that line.
    ///
    /// # Errors
    ///
    /// When nobody said it within a minute.
    pub fn until(&self, text: &str) -> Outcome<Line> {
        let patience = std::time::Duration::from_secs(60);
        loop {
            let line = self
                .said
                .recv_timeout(patience)
                .map_err(|_| format!("nobody said `{text}`"))?;
            if line.text.contains(text) {
                return Ok(line);
            }
        }
    }

    /// Waits for the end of these servers, and until all that they said was passed on.
    ///
    /// # Errors
    ///
    /// When one failed.
    pub fn end(&self, servers: impl IntoIterator<Item = Process>) -> Outcome {
        for mut server in servers {
            let status = server.child.wait()?;
            if !status.success() {
                return Err(format!("a server ended with {status}").into());
            }
            server.hear_out();
        }
        Ok(())
    }
}

/// A server that was started. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    listener: Option<JoinHandle<()>>,
}

impl Process {
    /// Ends it as a crash would: it can do nothing any more.
    ///
    /// # Errors
    ///
    /// When the system does not let us.
    pub fn kill(mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until all that it said was heard.
    fn hear_out(&mut self) {
        if let Some(listener) = self.listener.take() {
            // It does nothing that can panic.
            let _ = listener.join();
        }
    }

    /// Stops it in the midst of whatever it does, as a debugger, an overloaded host or a moved virtual machine would.
    ///
    /// # Errors
    ///
    /// When the system does not let us.
    pub fn pause(&self) -> Outcome {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }

    /// Lets it go on.
    ///
    /// # Errors
    ///
    /// When the system does not let us.
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
