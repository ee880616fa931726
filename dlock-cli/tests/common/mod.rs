//! What the tests of the command share. They run the real binary.

#![allow(clippy::unwrap_used)]
#![allow(dead_code)] // Each test file uses a part of it.

pub(crate) mod pty;

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a test waits for what must happen some time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with a file store in it, and room for the files of a test.
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

    /// `dlock run --store … <arguments>`, in this folder; the arguments are split at spaces, then come `-- sh -c <script>`.
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

    /// Waits until the file says something, and gives it.
    pub(crate) fn await_text(&self, name: &str) -> String {
        self.await_lines(name, 1)
    }

    pub(crate) fn await_lines(&self, name: &str, lines: usize) -> String {
        wait_until(&format!("{lines} lines in {name}"), || {
            Some(self.read(name))
                .filter(|text| text.lines().count() >= lines && text.ends_with('\n'))
        })
    }

    /// Waits until the file has a process id in it.
    pub(crate) fn await_pid(&self, name: &str) -> i32 {
        self.await_text(name).trim().parse().unwrap()
    }
}

/// The binary, without the environment of whoever runs the tests.
pub(crate) fn dlock() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dlock"));
    command.env_remove("DLOCK_STORE").stdin(Stdio::null());
    // SAFETY: system calls, nothing else.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(with_default_signals)
    };
    command
}

/// A shell ignores Ctrl-C for what it runs in the background, and `nohup` the hang-up, and both are inherited: the tests must not depend on how
/// they were started.
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

/// Asks until there is an answer.
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

/// The exit code; for a process that a signal ended there is none.
pub(crate) fn code(output: &Output) -> i32 {
    output
        .status
        .code()
        .unwrap_or_else(|| panic!("no exit code: {output:?}"))
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs it to its end.
pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// Starts it with its output captured.
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

/// Whether the process runs. One that ended and that nobody waited for does not.
pub(crate) fn runs(pid: i32) -> bool {
    let state = if cfg!(target_os = "linux") {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name of the program, in parentheses, may hold anything.
        stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned())
    } else {
        let ps = Command::new("ps")
            .args(["-o", "stat=", "-p", &pid.to_string()])
            .output();
        String::from_utf8(ps.unwrap().stdout).ok()
    };
    state.is_some_and(|state| !state.trim().is_empty() && !state.starts_with(['Z', 'X']))
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
