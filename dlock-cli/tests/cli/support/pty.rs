//! A shell on a terminal of its own, for job control.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::wait_until;

pub(crate) const CTRL_C: &str = "\x03";
pub(crate) const CTRL_Z: &str = "\x1a";

/// A shell whose controlling terminal belongs to the test.
pub(crate) struct Shell {
    keyboard: File,
    screen: Arc<Mutex<String>>,
    seen: usize,
    child: Child,
}

impl Shell {
    /// Runs a script with job control, in which `dlock` is the binary. The script itself survives
    /// Ctrl-C, as an interactive shell does.
    pub(crate) fn run(script: &str) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let tty = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap()
        };
        let binary = std::path::Path::new(env!("CARGO_BIN_EXE_dlock"));
        let path = format!(
            "{}:{}",
            binary.parent().unwrap().display(),
            std::env::var("PATH").unwrap()
        );
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("set -m; trap : INT\n{script}")])
            .env("PATH", path)
            .env_remove("DLOCK_STORE")
            .stdin(tty())
            .stdout(tty())
            .stderr(tty());
        let start_session = || {
            super::with_default_signals()?;
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        };
        // SAFETY: two system calls, nothing else.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(start_session)
        };
        let child = command.spawn().unwrap();
        let keyboard = File::from(master);
        let screen = Arc::<Mutex<String>>::default();
        thread::spawn({
            let (screen, mut from) = (Arc::clone(&screen), keyboard.try_clone().unwrap());
            move || {
                let mut buffer = [0; 4096];
                // The read fails when no process has the terminal open any more.
                while let Ok(length @ 1..) = from.read(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    screen.lock().unwrap().push_str(&text);
                }
            }
        });
        Shell {
            keyboard,
            screen,
            seen: 0,
            child,
        }
    }

    pub(crate) fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the text appears on the screen after the text of the previous wait.
    pub(crate) fn shows(&mut self, text: &str) {
        let (screen, seen) = (Arc::clone(&self.screen), self.seen);
        let shown = move || screen.lock().unwrap()[seen..].to_owned();
        let end = std::panic::catch_unwind(|| {
            wait_until(text, || shown().find(text).map(|at| seen + at + text.len()))
        });
        self.seen = end.unwrap_or_else(|_| panic!("no `{text}` in:\n{}", self.screen()));
    }

    /// Everything on the screen so far.
    pub(crate) fn screen(&self) -> String {
        self.screen.lock().unwrap().clone()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The terminal hangs up, which ends the whole session.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
