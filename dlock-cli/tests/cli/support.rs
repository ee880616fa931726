//! Helpers for the tests of the command, which run the real binary.

// Two test programs have these helpers, and only one of them is in this folder.
#[path = "support/pty.rs"]
pub(crate) mod pty;

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// How long a test waits for an expected event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// No process of a test takes so long, on however busy a machine: one that does hangs.
const END_WITHIN: Duration = Duration::from_secs(300);

/// A folder with a file store and the files of a test.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Place {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// The URL of the store.
    pub(crate) fn store(&self) -> String {
        format!("file:{}", self.path("locks").display())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// `dlock run --store … <arguments>`, in this folder; the arguments are split at spaces, then
    /// come `-- sh -c <script>`.
    pub(crate) fn run(&self, arguments: &str, script: &str) -> Command {
        let mut command = self.dlock(arguments);
        command.args(["--", "sh", "-c", script]);
        command
    }

    pub(crate) fn dlock(&self, arguments: &str) -> Command {
        let mut command = dlock();
        command
            .args(["run", "--store", &self.store()])
            .args(arguments.split_whitespace())
            .current_dir(self.folder.path());
        command
    }

    /// Waits until the file has text, and returns it.
    pub(crate) fn await_text(&self, name: &str) -> String {
        self.await_lines(name, 1)
    }

    pub(crate) fn await_lines(&self, name: &str, lines: usize) -> String {
        wait_until(&format!("{lines} lines in {name}"), || {
            Some(self.read(name))
                .filter(|text| text.lines().count() >= lines && text.ends_with('\n'))
        })
    }

    /// Waits until the file has a process id, and returns it.
    pub(crate) fn await_pid(&self, name: &str) -> i32 {
        self.await_text(name).trim().parse().unwrap()
    }
}

/// The binary, without the environment of the tests.
pub(crate) fn dlock() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dlock"));
    for variable in [
        "DLOCK_STORE",
        "DLOCK_STORE_FILE",
        "DLOCK_CONFIG",
        "CREDENTIALS_DIRECTORY",
    ] {
        command.env_remove(variable);
    }
    // No configuration of the user who runs the tests.
    command
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .stdin(Stdio::null());
    // SAFETY: system calls, nothing else.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(with_default_signals)
    };
    command
}

/// Restores the default handling of signals, so that the tests do not depend on how they were
/// started: programs inherit that a shell ignores Ctrl-C for background jobs, and `nohup` the
/// hang-up.
pub(crate) fn with_default_signals() -> io::Result<()> {
    for signal in [
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGHUP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ] {
        // SAFETY: no handler is installed, and none of ours is replaced.
        #[allow(unsafe_code)]
        unsafe {
            libc::signal(signal, libc::SIG_DFL)
        };
    }
    Ok(())
}

/// A user that is not root and runs only what these tests start.
pub(crate) const USER: u32 = 61_234;

/// Copies a program in another process. In this process, a test that forks at the same time would
/// inherit the writing descriptor, and the copy could not be executed until that is closed.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "cannot copy {}", from.display());
}

/// `dlock run --store … <arguments>` as [`USER`] in this folder, which becomes the user's.
pub(crate) fn dlock_as_user(place: &Place, arguments: &str) -> Command {
    assert!(
        rustix::process::geteuid().is_root(),
        "only root can start dlock as another user: run this test as root"
    );
    // The user may have no access to the folder of the binary.
    let binary = place.path("dlock");
    copy_program(Path::new(env!("CARGO_BIN_EXE_dlock")), &binary);
    for path in [place.path(""), binary.clone()] {
        std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
    }
    let mut command = Command::new(binary);
    command
        .env_remove("DLOCK_STORE")
        .args(["run", "--store", &place.store()])
        .args(arguments.split_whitespace())
        .current_dir(place.path(""))
        .stdin(Stdio::null())
        .uid(USER)
        .gid(USER);
    command
}

/// Makes every call to the store fail from now on.
pub(crate) fn take_store_away(place: &Place) {
    fs::rename(place.path("locks"), place.path("locks-away")).unwrap();
    fs::write(place.path("locks"), "").unwrap();
}

/// Removes all locks in the store.
pub(crate) fn break_lock(place: &Place) {
    for entry in fs::read_dir(place.path("locks")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "lease")
        {
            fs::remove_file(path).unwrap();
        }
    }
}

/// Calls `ask` until it returns a value.
pub(crate) fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "gave up waiting for {what}");
        sleep(Duration::from_millis(5));
    }
}

/// The exit code. Panics if a signal ended the process.
pub(crate) fn code(output: &Output) -> i32 {
    output
        .status
        .code()
        .unwrap_or_else(|| panic!("no exit code: {output:?}"))
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs the command to its end.
pub(crate) fn output(command: &mut Command) -> Output {
    ended(spawn(command))
}

/// Waits for the end of the process, and of all that write to its output. Returns what they wrote.
pub(crate) fn ended(child: Child) -> Output {
    let pid = child.id();
    let (send, output) = mpsc::channel();
    // The thread stays behind if the process does not end.
    thread::spawn(move || send.send(child.wait_with_output()));
    match output.recv_timeout(END_WITHIN) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            let pid = i32::try_from(pid).unwrap();
            if runs(pid) {
                kill(pid, rustix::process::Signal::KILL);
            }
            panic!("process {pid}, or what it started, has not ended after {END_WITHIN:?}")
        }
    }
}

/// Waits for the end of the process.
pub(crate) fn status_of(child: &mut Child) -> ExitStatus {
    // As `Child::wait` does: it may read to the end.
    drop(child.stdin.take());
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > END_WITHIN {
            let _ = child.kill();
            panic!("process {} has not ended after {END_WITHIN:?}", child.id());
        }
        sleep(Duration::from_millis(5));
    }
}

/// Starts the command with its output captured.
pub(crate) fn spawn(command: &mut Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(crate) fn kill(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

pub(crate) fn kill_child(child: &Child, signal: rustix::process::Signal) {
    kill(i32::try_from(child.id()).unwrap(), signal);
}

/// Returns whether the process runs. A zombie does not.
pub(crate) fn runs(pid: i32) -> bool {
    let state = if cfg!(target_os = "linux") {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name of the program, in parentheses, may contain any characters.
        stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned())
    } else {
        let ps = Command::new("ps")
            .args(["-o", "stat=", "-p", &pid.to_string()])
            .output();
        String::from_utf8(ps.unwrap().stdout).ok()
    };
    state.is_some_and(|state| !state.trim().is_empty() && !state.starts_with(['Z', 'X']))
}

/// Waits until the process has a handler for the signal. Before, the signal would end it in the
/// ordinary way.
pub(crate) fn await_handler(child: &Child, signal: rustix::process::Signal) {
    let status = format!("/proc/{}/status", child.id());
    wait_until(&format!("a handler for {signal:?}"), || {
        if !cfg!(target_os = "linux") {
            sleep(Duration::from_millis(300));
            return Some(());
        }
        let status = fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
        (caught >> (signal.as_raw() - 1) & 1 == 1).then_some(())
    });
}

pub(crate) fn await_end_of(pid: i32) {
    wait_until(&format!("the end of process {pid}"), || {
        (!runs(pid)).then_some(())
    });
}

/// Removes what is at the path, whatever it is.
pub(crate) fn remove(path: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}
