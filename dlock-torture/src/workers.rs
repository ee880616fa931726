//! Starts, stops and kills the worker processes.

use std::env;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::Time;
use rustix::process::{Pid, Signal, kill_process};

use crate::Failure;
use crate::backend::Backend;
use crate::sabotage::Sabotage;

/// A worker that does not end within this time when asked hangs.
const ENDS_WITHIN: Duration = Duration::from_secs(45);

/// The worker processes of one round. Dropping it kills them.
pub(crate) struct Workers {
    backend: Backend,
    url: String,
    /// The folder of the histories.
    folder: PathBuf,
    /// The folder of the guarded resources.
    resources: PathBuf,
    seed: u64,
    /// The end of the time in which workers may stop themselves.
    breaks_until: Time,
    sabotage: Option<Sabotage>,
    running: Vec<Option<Child>>,
    started: usize,
    watcher: Watcher,
}

impl Workers {
    pub(crate) fn start_all(
        backend: Backend,
        url: &str,
        (folder, resources): (&Path, &Path),
        (seed, breaks_until): (u64, Time),
        count: usize,
        sabotage: Option<Sabotage>,
    ) -> Result<Self, Failure> {
        let mut workers = Workers {
            backend,
            url: url.to_owned(),
            folder: folder.to_owned(),
            resources: resources.to_owned(),
            seed,
            breaks_until,
            sabotage,
            running: (0..count).map(|_| None).collect(),
            started: 0,
            watcher: Watcher::start()?,
        };
        for number in 0..count {
            workers.start(number)?;
        }
        Ok(workers)
    }

    /// Starts worker `number`. It must not be running.
    pub(crate) fn start(&mut self, number: usize) -> Result<(), Failure> {
        let actor = format!("worker-{number}-{}", self.started);
        let errors = File::create(self.folder.join(format!("{actor}.stderr")))?;
        // Two in three are blocking. What a sabotage breaks, it breaks in blocking stores.
        let kind = match number.is_multiple_of(3) && self.sabotage.is_none() {
            true => "async-worker",
            false => "worker",
        };
        let child = Command::new(env::current_exe()?)
            .arg(kind)
            .args([self.backend.name(), &self.url])
            .args([&self.folder, &self.resources])
            .args([
                &actor,
                &self.seed.wrapping_add(self.started as u64).to_string(),
                &self.breaks_until.as_nanos().to_string(),
            ])
            .args(self.sabotage.map(Sabotage::name))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()?;
        self.started += 1;
        self.watcher.send('+', &child);
        self.running[number] = Some(child);
        Ok(())
    }

    pub(crate) fn count(&self) -> usize {
        self.running.len()
    }

    /// Stops a worker with SIGSTOP.
    pub(crate) fn stop(&self, number: usize) {
        self.signal(number, Signal::STOP);
    }

    /// Continues a worker with SIGCONT.
    pub(crate) fn resume(&self, number: usize) {
        self.signal(number, Signal::CONT);
    }

    fn signal(&self, number: usize, signal: Signal) {
        if let Some(child) = &self.running[number] {
            // The process is not reaped yet, so its id is not reused even if it is dead.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Kills a worker with SIGKILL.
    ///
    /// # Errors
    ///
    /// If the worker had already ended by itself.
    pub(crate) fn kill(&mut self, number: usize) -> Result<(), Failure> {
        let Some(mut child) = self.running[number].take() else {
            return Ok(());
        };
        let ended = child.try_wait()?;
        self.end(&mut child);
        match ended {
            Some(status) => Err(self.ended_by_itself(number, status)),
            None => Ok(()),
        }
    }

    fn end(&mut self, child: &mut Child) {
        // In this order: while the watcher may kill an id, it must belong to this child.
        self.watcher.send('-', child);
        let _ = child.kill();
        let _ = child.wait();
    }

    fn ended_by_itself(&self, number: usize, status: std::process::ExitStatus) -> Failure {
        let folder = self.folder.display();
        format!("worker {number} ended by itself ({status}); see the .stderr files in {folder}")
            .into()
    }

    /// Asks all workers to end, and waits until they have.
    ///
    /// # Errors
    ///
    /// If a worker failed or did not end.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        let asked = Instant::now();
        for number in 0..self.running.len() {
            self.resume(number);
            if let Some(child) = &mut self.running[number] {
                drop::<Option<ChildStdin>>(child.stdin.take());
            }
        }
        for number in 0..self.running.len() {
            let Some(mut child) = self.running[number].take() else {
                continue;
            };
            let status = loop {
                match child.try_wait()? {
                    Some(status) => break Some(status),
                    None if asked.elapsed() > ENDS_WITHIN => break None,
                    None => thread::sleep(Duration::from_millis(20)),
                }
            };
            self.end(&mut child);
            match status {
                Some(status) if status.success() => {}
                Some(status) => return Err(self.ended_by_itself(number, status)),
                None => {
                    let text = format!("worker {number} hangs: it did not end in {ENDS_WITHIN:?}");
                    return Err(text.into());
                }
            }
        }
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for number in 0..self.running.len() {
            if let Some(mut child) = self.running[number].take() {
                self.end(&mut child);
            }
        }
    }
}

/// A shell that kills the workers, even stopped ones, when this process is gone: then its standard
/// input ends.
pub(crate) struct Watcher(Child);

const WATCH: &str = r#"
trap '' HUP INT TERM
pids=
while read -r what pid; do
  case $what in
    +) pids="$pids $pid" ;;
    -) rest=
       for one in $pids; do [ "$one" = "$pid" ] || rest="$rest $one"; done
       pids=$rest ;;
  esac
done
[ -z "$pids" ] || kill -9 $pids
"#;

impl Watcher {
    pub(crate) fn start() -> Result<Self, Failure> {
        let child = Command::new("sh")
            .args(["-c", WATCH, "dlock-torture-watcher"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Watcher(child))
    }

    pub(crate) fn send(&mut self, what: char, child: &Child) {
        if let Some(stdin) = &mut self.0.stdin {
            // If the watcher was killed, the workers still end when their own standard input ends.
            let _ = stdin.write_all(format!("{what} {}\n", child.id()).as_bytes());
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
