//! A child process that can be stopped, killed and started again, and that does not outlive this
//! one.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// A machine with more work than cores takes its time to start a process.
const START_WITHIN: Duration = Duration::from_secs(20);
/// How often a starting server is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// A server that was asked to end is killed after this time.
const QUIT_WITHIN: Duration = Duration::from_secs(10);
/// Below those from which Linux and others take the ports of clients.
const PORTS: std::ops::Range<u16> = 11_300..32_000;
/// The nodes of a cluster talk to each other on a port that is this much higher.
const BUS: u16 = 10_000;
/// The folder in memory of Linux.
const MEMORY: &str = "/dev/shm";
/// In a container there may be far less than this, in bytes.
const ROOM: u64 = 4 << 30;
/// Ports that were free a moment ago are tried this often.
const PORTS_TRIED: usize = 10;

/// A running server process.
pub(super) struct Process {
    child: Child,
    watcher: Child,
    is_paused: AtomicBool,
    ending: Ending,
}

/// How a server process is started.
pub(super) struct Launch<'a> {
    /// The name of the binary, or its path.
    pub(super) binary: &'a str,
    /// How to install it, for the error message.
    pub(super) install: &'a str,
    pub(super) arguments: Vec<OsString>,
    pub(super) environment: Vec<(&'static str, OsString)>,
    /// The server's private folder: holds its log, and is deleted if this process is killed.
    pub(super) folder: &'a Path,
    /// The system's user who runs it, if it refuses to run as this one.
    pub(super) user: Option<User>,
    /// How it is ended.
    pub(super) ending: Ending,
}

/// How a server is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// By SIGKILL.
    Kill,
    /// By SIGQUIT, at which it ends its children and frees its shared memory, but saves nothing. By
    /// SIGKILL if it does not end.
    Quit,
}

/// A user of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct User {
    pub(super) id: u32,
    pub(super) group: u32,
}

impl User {
    /// The first of these users that the system has.
    pub(super) fn named(names: &[&str]) -> Option<Self> {
        let all = fs::read_to_string("/etc/passwd").ok()?;
        let of_name = |name: &&str| {
            let mut lines = all.lines().map(|line| line.split(':').collect::<Vec<_>>());
            let fields = lines.find(|fields| fields.first() == Some(name))?;
            Some(User {
                id: fields.get(2)?.parse().ok()?,
                group: fields.get(3)?.parse().ok()?,
            })
        };
        names.iter().find_map(of_name)
    }

    /// Has `command` run by this user.
    pub(super) fn runs(self, command: &mut Command) {
        command.uid(self.id).gid(self.group);
    }
}

impl Process {
    /// Starts the server and waits until `ready` says so. `None` if the process ended first.
    ///
    /// # Panics
    ///
    /// If the binary is missing, or the server is not ready in 20 seconds.
    pub(super) fn start(launch: &Launch<'_>, mut ready: impl FnMut() -> bool) -> Option<Self> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log_file(launch.folder))
            .expect("the server's folder is ours");
        let errors = log.try_clone().expect("a file can be opened twice");
        let mut command = Command::new(launch.binary);
        if let Some(user) = launch.user {
            user.runs(&mut command);
        }
        let child = command
            .args(&launch.arguments)
            .envs(launch.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "cannot run `{}`: {error}\n    install it with: {}",
                    launch.binary, launch.install
                )
            });
        let watcher = watch(&child, launch.folder, launch.ending);
        let is_paused = AtomicBool::new(false);
        let mut process = Process {
            child,
            watcher,
            is_paused,
            ending: launch.ending,
        };
        let started = Instant::now();
        while !ready() {
            if process.has_ended() {
                return None;
            }
            assert!(
                started.elapsed() < START_WITHIN,
                "`{}` is not ready after {START_WITHIN:?}; its log:\n{}",
                launch.binary,
                log_text(launch.folder)
            );
            thread::sleep(ASK_EVERY);
        }
        // Another server may have answered on a port that this one did not get.
        (!process.has_ended()).then_some(process)
    }

    /// Stops the process where it is (SIGSTOP) and waits until it has stopped.
    pub(super) fn pause(&self) {
        self.signal(Signal::STOP);
        let stopped = waitpid(Some(self.pid()), WaitOptions::UNTRACED).expect("it is our child");
        assert!(
            stopped.is_some_and(|(_, status)| status.stopped()),
            "the server ended instead of stopping"
        );
        self.is_paused.store(true, Ordering::Relaxed);
    }

    /// Lets a stopped process go on (SIGCONT).
    pub(super) fn resume(&self) {
        self.is_paused.store(false, Ordering::Relaxed);
        self.signal(Signal::CONT);
    }

    /// Whether it was stopped and does not go on yet.
    pub(super) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Relaxed)
    }

    /// The process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The processes that it has started and that have not ended.
    #[cfg(target_os = "linux")]
    pub(super) fn children(&self) -> Vec<Pid> {
        children_of(self.id())
    }

    /// Kills it (SIGKILL) with all that it has started, and waits until they are gone.
    #[cfg(target_os = "linux")]
    pub(super) fn crash(mut self) {
        // So that it starts no others meanwhile, and does not notice how they end.
        self.pause();
        for child in self.children() {
            let _ = kill_process(child, Signal::KILL);
        }
        while !self.children().is_empty() {
            thread::sleep(ASK_EVERY);
        }
        self.ending = Ending::Kill;
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the server is running");
    }

    /// Asks it to end at once, and waits until it has, or for a while.
    fn quit(&mut self) {
        let asked = Instant::now();
        let _ = kill_process(self.pid(), Signal::QUIT);
        let _ = kill_process(self.pid(), Signal::CONT);
        while !self.has_ended() && asked.elapsed() < QUIT_WITHIN {
            thread::sleep(ASK_EVERY);
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }
}

/// The processes whose parent is this one, without those that have ended.
#[cfg(target_os = "linux")]
fn children_of(parent: u32) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").expect("Linux has it").flatten();
    let child = |entry: fs::DirEntry| {
        let id: i32 = entry.file_name().to_str()?.parse().ok()?;
        // It may have ended since.
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // Its name, in brackets, may have anything in it.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let has_ended = matches!(fields.next()?, "Z" | "X");
        let is_child = fields.next()?.parse() == Ok(parent);
        Pid::from_raw(id).filter(|_| is_child && !has_ended)
    };
    processes.filter_map(child).collect()
}

impl Drop for Process {
    /// Kills the server, also a stopped one, and waits until it is gone.
    fn drop(&mut self) {
        // The watcher first: its target's process id must not be free while it may still act.
        let _ = self.watcher.kill();
        let _ = self.watcher.wait();
        if self.ending == Ending::Quit {
            self.quit();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a shell that kills the server when this process is gone: its standard input is a pipe of
/// which we hold the other end. (A parent-death signal would come when the *thread* that started
/// the server ends, and needs unsafe code.)
fn watch(server: &Child, folder: &Path, ending: Ending) -> Child {
    let script = match ending {
        Ending::Kill => r#"trap '' HUP INT TERM; read -r _; kill -9 "$1"; rm -rf "$2""#,
        Ending::Quit => {
            r#"trap '' HUP INT TERM; read -r _; kill -QUIT "$1"; sleep 2; kill -9 "$1"; rm -rf "$2""#
        }
    };
    Command::new("sh")
        .args(["-c", script, "dlock-test-watcher"])
        .arg(server.id().to_string())
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("every Unix has a shell")
}

/// Deletes the folder when this process has ended, however it ends.
pub(super) fn delete_when_this_process_ends(folder: &Path) {
    let waiting = Command::new("sh")
        .args(["-c", "trap '' HUP INT TERM; read -r _; rm -rf \"$1\""])
        .arg("dlock-test-watcher")
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("every Unix has a shell");
    // Its input is open until this process ends.
    std::mem::forget(waiting);
}

/// Calls `start` with ports that are free at the moment, until it succeeds.
///
/// # Panics
///
/// If it does not in ten tries; the message carries the log in `folder`.
pub(super) fn on_a_free_port<T>(folder: &Path, mut start: impl FnMut(u16) -> Option<T>) -> T {
    for _ in 0..PORTS_TRIED {
        if let Some(started) = start(free_port()) {
            return started;
        }
    }
    panic!(
        "the server ended at once, {PORTS_TRIED} times; its log:\n{}",
        log_text(folder)
    );
}

/// The ports that this process was given. None is given twice: two servers that start at the same
/// time would both find it free, and one that was killed must get it back.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port of 127.0.0.1 that nobody listens on, that no other server of this process gets, and that
/// the system gives to no client by itself: a client that tries it while its server is killed must
/// not be connected with itself.
///
/// # Panics
///
/// If there is none.
pub(super) fn free_port() -> u16 {
    free_port_of(PORTS, is_free)
}

/// The same for a node of a cluster, whose bus needs a second port.
///
/// # Panics
///
/// If there is none.
pub(super) fn free_port_with_bus() -> u16 {
    let ports = PORTS.start..PORTS.end - BUS;
    free_port_of(ports, |port| is_free(port) && is_free(port + BUS))
}

fn free_port_of(ports: std::ops::Range<u16>, is_free: impl Fn(u16) -> bool) -> u16 {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    (0..1000)
        .map(|_| {
            let mut random = [0; 2];
            getrandom::fill(&mut random).expect("the system gives random numbers");
            ports.start + u16::from_ne_bytes(random) % (ports.end - ports.start)
        })
        .find(|port| given.insert(*port) && is_free(*port))
        .expect("127.0.0.1 has free ports")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// What the server wrote so far.
pub(super) fn log_text(folder: &Path) -> String {
    fs::read_to_string(log_file(folder)).unwrap_or_default()
}

/// The binary of a server: what this variable of the environment says, or the usual one.
#[must_use]
pub fn binary(variable: &str, usual: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| usual.to_owned())
}

/// A folder for one server. Its path is short, since Unix sockets in it may not have more than
/// about 100 bytes.
///
/// # Panics
///
/// If the temporary folder cannot be written.
pub(super) fn folder() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("dlk")
        .tempdir()
        .expect("the temporary folder can be written")
}

/// The same in memory, where data costs no write to a disk, on Linux.
pub(super) fn folder_in_memory() -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("dlk").tempdir_in(MEMORY)
}

/// In memory, if it has room for many servers; else on the disk, where it takes most of a second to
/// make the thousand files of a database.
pub(super) fn folder_with_room() -> tempfile::TempDir {
    let room = rustix::fs::statvfs(MEMORY).map(|all| all.f_bavail.saturating_mul(all.f_frsize));
    match room {
        Ok(ROOM..) => folder_in_memory().unwrap_or_else(|_| folder()),
        _ => folder(),
    }
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("log")
}
