//! Workers of a second kind: the real `dlock run` with a small job, and the faults of both.

use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dlock_core::{Clock, Time};
use dlock_history::{Harm, JobRecord, Recorder};
use dlock_test_servers::faults::{Fault, Proxy};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::Failure;
use crate::backend::{Backend, PREFIX, hold_shards};
use crate::ended::Ended;
use crate::launch::{Launch, Limit, LimitKind, Signals, Then};
use crate::programs::Programs;
use crate::random::Random;
use crate::sabotage::Sabotage;
use crate::verdict;
use crate::workers::Watcher;

/// The locks of commands.
pub(crate) const JOBS: [&str; 2] = ["job-a", "job-b"];
const TTL: Duration = Duration::from_secs(3);
/// A command hangs if it has not ended this long after the end of its wait and of its job.
const ENDS_WITHIN: Duration = Duration::from_secs(25);
/// The same after SIGTERM, which ends the wait.
const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// The faults of a command are over by then, unless the command misbehaves.
const BREAKS_FOR: Duration = Duration::from_secs(7);
/// The first user id of commands, if this process is root. Nothing else runs as these users.
const FIRST_USER: u32 = 0x4000_0000;
/// Reports the signals that the job inherits, and executes the job. It does not fork, since limits
/// may prevent that.
const SCRIPT: &str = r#"echo "job $$" >&2
while read -r line; do case $line in Sig[BI]*) echo "$line" >&2 ;; esac; done </proc/$$/status
"#;

/// The parameters of all commands of a round.
pub(crate) struct Commands<'a> {
    pub(crate) backend: Backend,
    /// The server; `None` for the folder.
    pub(crate) server: Option<SocketAddr>,
    /// The folder of locks, for the file store.
    pub(crate) locks: &'a Path,
    pub(crate) histories: &'a Path,
    pub(crate) resources: &'a Path,
    pub(crate) programs: &'a Programs,
    pub(crate) seed: u64,
    pub(crate) sabotage: Option<Sabotage>,
    /// The end of the faults.
    pub(crate) breaks_until: Time,
}

/// Runs commands one after the other, with a proxy of their own.
struct Commander<'a> {
    of: &'a Commands<'a>,
    number: u64,
    proxy: Option<Proxy>,
    /// The user of the commands; `None` for the user of this process.
    user: Option<u32>,
    watcher: Watcher,
}

impl Commands<'_> {
    /// Runs one command after the other until `stop` is set.
    pub(crate) fn run(&self, number: u64, stop: &AtomicBool) -> Result<(), Failure> {
        let user = FIRST_USER + process::id() * 64 + self.backend as u32 * 4;
        let user = user + u32::try_from(number)?;
        let mut commander = Commander {
            of: self,
            number,
            user: geteuid().is_root().then_some(user),
            proxy: self.server.map(Proxy::to),
            watcher: Watcher::start()?,
        };
        let mut launches = 0;
        while !stop.load(Ordering::SeqCst) {
            commander.launch(launches)?;
            launches += 1;
        }
        Ok(())
    }
}

/// A running command.
struct Running<'a> {
    launch: &'a Launch,
    record: &'a Recorder,
    child: Child,
    key: String,
    history: &'a Path,
    errors: &'a Path,
    asked: Time,
    began: Option<Time>,
    acted: Option<Time>,
    /// The locked shards of the folder, and the time when they are unlocked.
    shards: Option<(Vec<File>, Time)>,
}

impl Commander<'_> {
    fn launch(&mut self, count: u64) -> Result<(), Failure> {
        let commands = self.of;
        let mut random = Random::new(commands.seed, &[5, self.number, count]);
        let breaks = now().saturating_add(BREAKS_FOR) < commands.breaks_until;
        let launch = Launch::draw(&mut random, commands.backend, breaks);
        let id = random.pick(&JOBS);
        let actor = format!("command-{}-{count}", self.number);
        let record = Recorder::of_faults(commands.histories, &actor, commands.backend.name())?;
        let path = |suffix: &str| commands.histories.join(format!("{actor}.{suffix}"));
        let (history, errors) = (path("history"), path("stderr"));
        let asked = now();
        let child = self
            .command(&launch, (id, &actor), asked, random.next())?
            .stdin(resource(&commands.resources.join(id))?)
            .stdout(OpenOptions::new().append(true).open(&history)?)
            .stderr(File::create(&errors)?)
            .spawn()?;
        self.watcher.send('+', &child);
        let mut running = Running {
            launch: &launch,
            record: &record,
            child,
            key: format!("{PREFIX}:{id}"),
            history: &history,
            errors: &errors,
            asked,
            began: None,
            acted: None,
            shards: None,
        };
        let result = self.watch(&mut running);
        self.watcher.send('-', &running.child);
        if let Some(proxy) = &self.proxy {
            proxy.heal();
        }
        let ended = result?;
        let since = running.acted.unwrap_or(asked);
        if breaks {
            for fault in launch.faults() {
                record.fault(fault, Harm::None, since);
            }
        }
        let found = baseline(launch.signals.as_ref())?;
        verdict::judge(&verdict::Run {
            launch: &launch,
            record: &record,
            key: &running.key,
            asked,
            ended,
            history: &fs::read_to_string(&history)?,
            errors: &String::from_utf8_lossy(&fs::read(&errors)?),
            signals: &found,
        });
        thread::sleep(random.millis(20..200));
        Ok(())
    }

    /// The command line: the program that sets limits, dlock, and the job.
    fn command(
        &self,
        launch: &Launch,
        (id, actor): (&str, &str),
        asked: Time,
        seed: u64,
    ) -> Result<Command, Failure> {
        let programs = self.of.programs;
        let mut words: Vec<String> = Vec::new();
        let torture = programs.torture.display().to_string();
        if let Some(Limit { kind, at }) = launch.limit {
            words.extend([torture.clone(), "limited".into(), kind.name().into()]);
            words.push(at.to_string());
        }
        words.extend(with_signals(launch.signals.as_ref()));
        words.push(programs.dlock.display().to_string());
        words.extend(["run", "--prefix", PREFIX, "--store"].map(String::from));
        words.push(match &self.proxy {
            Some(proxy) => self.of.backend.url_at(&proxy.address().to_string()),
            None if self.of.backend == Backend::File => {
                self.of.backend.url_at(&self.of.locks.display().to_string())
            }
            None => self.of.locks.display().to_string(),
        });
        words.push(format!("--ttl={}ms", TTL.as_millis()));
        words.push(format!("--wait={}ms", launch.wait.as_millis()));
        words.extend([id, "--"].map(String::from));
        let sabotage = self.of.sabotage;
        words.extend(sabotage.into_iter().flat_map(Sabotage::before_the_job));
        let trap = if launch.ignores_sigterm {
            "trap '' TERM\n"
        } else {
            ""
        };
        let script = match launch.limit {
            // The shell needs a free descriptor for its redirection.
            Some(limit) if limit.kind == LimitKind::Files => "",
            _ => SCRIPT,
        };
        let script = format!("{script}{trap}exec \"$@\"\n");
        words.extend(["sh".into(), "-c".into(), script, "sh".into()]);
        words.extend([torture, "job".into(), actor.into()]);
        words.push(self.of.backend.name().into());
        words.push(TTL.as_millis().to_string());
        words.push(asked.as_nanos().to_string());
        words.push(launch.holds.as_millis().to_string());
        words.push(seed.to_string());
        words.extend(sabotage.map(|sabotage| sabotage.name().to_owned()));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_remove("DLOCK_STORE");
        as_user(&mut command, self.user);
        Ok(command)
    }

    /// Lowers a limit of the process to what it uses.
    fn fill(&self, kind: LimitKind, process: &Child) -> Result<(), Failure> {
        let process = process.id().to_string();
        let mut command = Command::new(&self.of.programs.torture);
        command.args(["fill", kind.name(), &process]);
        let output = as_user(&mut command, self.user).output()?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            return Err(format!("no limit can be set: {errors}").into());
        }
        Ok(())
    }

    /// Carries out the planned faults until the command has ended, or hangs and is killed.
    fn watch(&self, running: &mut Running<'_>) -> Result<Ended, Failure> {
        loop {
            if let Some(status) = running.child.try_wait()? {
                return Ok(Ended {
                    at: now(),
                    status: Ok(status),
                });
            }
            if let Some(hangs) = running.hangs() {
                running.child.kill()?;
                running.child.wait()?;
                return Ok(Ended {
                    at: now(),
                    status: Err(hangs),
                });
            }
            if running.acted.is_none() && running.is_time()? {
                self.act(running)?;
                running.acted = running.acted.or(Some(now()));
            }
            running.shards.take_if(|(_, until)| now() > *until);
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn act(&self, running: &mut Running<'_>) -> Result<(), Failure> {
        let process = Pid::from_child(&running.child);
        match running.launch.then {
            Then::Nothing => {}
            // The process is not reaped yet, so its id is not reused.
            Then::Terminate => drop(kill_process(process, Signal::TERM)),
            Then::KillCommand => {
                running.child.kill()?;
                let by = now().saturating_add(JobRecord::SLACK);
                running
                    .record
                    .doomed(&running.key, by, "its command was killed");
            }
            Then::KillJob => running.kill_job()?,
            Then::StoreDies { silent, fills } => {
                running.acted = Some(now());
                if let Some(kind) = fills {
                    self.fill(kind, &running.child)?;
                }
                match &self.proxy {
                    Some(proxy) if silent => proxy.requests(Fault::Hold),
                    Some(proxy) => {
                        proxy.refuse();
                        proxy.cut();
                    }
                    None => running.shards = Some((hold_shards(self.of.locks)?, Time::MAX)),
                }
                // Every renewal was sent before now.
                let over = now().saturating_add(TTL);
                let by = over.saturating_add(JobRecord::SLACK);
                if let Some((_, until)) = &mut running.shards {
                    *until = over;
                }
                running
                    .record
                    .doomed(&running.key, by, "its store was dead for a whole lease");
            }
        }
        Ok(())
    }
}

impl Running<'_> {
    /// Returns why the command should have ended long ago, if it should have.
    fn hangs(&self) -> Option<String> {
        let Launch { wait, holds, .. } = *self.launch;
        let now = now();
        if now > self.asked.saturating_add(wait + holds + ENDS_WITHIN) {
            return Some(format!(
                "did not end within {ENDS_WITHIN:?} of the end of its wait and its job"
            ));
        }
        let ends = self.launch.ends_by_sigterm();
        let asked_to_end = self.acted.filter(|_| ends)?;
        // A job that ignores SIGTERM may run to its end.
        (now > asked_to_end.saturating_add(holds + STOPS_WITHIN)).then(|| {
            format!("did not end within {STOPS_WITHIN:?} of SIGTERM and the end of its job")
        })
    }

    fn is_time(&mut self) -> Result<bool, Failure> {
        let from = match self.launch.then {
            Then::Nothing => return Ok(false),
            Then::Terminate => self.asked,
            _ => match self.began {
                Some(began) => began,
                None if fs::read_to_string(self.history)?.contains(" granted ") => {
                    *self.began.insert(now())
                }
                None => return Ok(false),
            },
        };
        Ok(now() >= from.saturating_add(self.launch.after))
    }

    fn kill_job(&self) -> Result<(), Failure> {
        let errors = fs::read_to_string(self.errors)?;
        let job = errors.lines().find_map(|line| line.strip_prefix("job "));
        let Some(job) = job.and_then(|job| Pid::from_raw(job.parse().ok()?)) else {
            return Ok(());
        };
        // If the job has just ended, its process id may already be reused.
        let line = fs::read(format!("/proc/{}/cmdline", job.as_raw_nonzero())).unwrap_or_default();
        let actor = self.history.file_stem().unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&*actor.to_string_lossy()) {
            let _ = kill_process(job, Signal::KILL);
        }
        Ok(())
    }
}

/// A program that runs as the user of the commands: root has no limit of processes, and may not be
/// allowed to limit other users' processes.
fn as_user(command: &mut Command, user: Option<u32>) -> &mut Command {
    match user {
        Some(user) => command.uid(user).gid(user),
        None => command,
    }
}

fn with_signals(signals: Option<&Signals>) -> Vec<String> {
    let Some(signals) = signals else {
        return Vec::new();
    };
    let how = if signals.blocked { "block" } else { "ignore" };
    vec!["env".into(), format!("--{how}-signal={}", signals.names)]
}

/// The signals that a program inherits if it is started in the same way without dlock.
fn baseline(signals: Option<&Signals>) -> Result<String, Failure> {
    let mut words = with_signals(signals);
    words.extend(["sh", "-c", SCRIPT].map(String::from));
    let output = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("env of coreutils is needed: {errors}").into());
    }
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn resource(path: &PathBuf) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    Ok(options.read(true).append(true).create(true).open(path)?)
}

fn now() -> Time {
    Clock::BOOTTIME.now()
}
