//! The job of a `dlock run`, and the start of a command with limited resources.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::Time;
use dlock_history::JobRecord;
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, kill_process, prlimit};

use crate::Failure;
use crate::launch::{Limit, LimitKind};
use crate::random::Random;
use crate::sabotage::Sabotage;

/// The line that a job writes to standard error when it is done.
pub(crate) const DONE: &str = "done";

/// `job ACTOR STORE TTL ASKED HOLDS SEED [SABOTAGE]`, in milliseconds and nanoseconds. Its standard
/// output is its history and its standard input the guarded resource, since it may run as a user
/// that can open neither.
pub(crate) fn run(words: &[String]) -> Result<(), Failure> {
    let [_, store, ttl, asked, holds, seed, sabotage @ ..] = words else {
        return Err("a job is started by dlock-torture itself".into());
    };
    let ttl = Duration::from_millis(ttl.parse()?);
    let holds = Duration::from_millis(holds.parse()?);
    let mut random = Random::new(seed.parse()?, &[]);
    let history = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut resource = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let token = env::var("DLOCK_FENCING_TOKEN")?.parse()?;
    let (key, asked) = (env::var("DLOCK_KEY")?, Time::from_nanos(asked.parse()?));
    let start = Instant::now();
    let mut record = JobRecord::begin(history, store, &key, (token, ttl), asked);
    while start.elapsed() < holds {
        match random.percent(30) {
            true => {
                record.write(&mut resource)?;
            }
            false => record.runs(),
        }
        thread::sleep(random.millis(5..20));
    }
    record.runs();
    eprintln!("{DONE}");
    if sabotage.first().map(String::as_str) == Some(Sabotage::NeverEnds.name())
        && let Some(dlock) = getppid()
    {
        kill_process(dlock, Signal::STOP)?;
    }
    Ok(())
}

/// `limited KIND AT PROGRAM ARGUMENTS…`: sets the limit and executes the program.
pub(crate) fn limited(words: &[String]) -> Result<(), Failure> {
    let [kind, at, program, arguments @ ..] = words else {
        return Err("limited KIND AT PROGRAM".into());
    };
    let (kind, at) = (kind.parse()?, at.parse()?);
    Limit { kind, at }.set(None)?;
    Err(Command::new(program).args(arguments).exec().into())
}

/// `fill KIND PROCESS`: limits a process to what it uses now. The process may have ended.
pub(crate) fn fill(words: &[String]) -> Result<(), Failure> {
    let [kind, process] = words else {
        return Err("fill KIND PROCESS".into());
    };
    let (kind, process) = (kind.parse()?, Pid::from_raw(process.parse()?));
    let process = process.ok_or("no process")?;
    let at = match kind {
        LimitKind::Processes => 1,
        LimitKind::Files => 3,
        LimitKind::Memory => {
            let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero()));
            let status = status.unwrap_or_default();
            let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
            let size = size.and_then(|size| size.split_whitespace().next());
            // There is no size if the process has ended.
            size.map_or(Ok(0), str::parse::<u64>)? * 1024
        }
    };
    match (Limit { kind, at }).set(Some(process)) {
        Err(error) if error.raw_os_error() != Some(Errno::SRCH.raw_os_error()) => Err(error.into()),
        _ => Ok(()),
    }
}

impl FromStr for LimitKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        LimitKind::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("`{text}` is not a limit"))
    }
}

impl LimitKind {
    pub(crate) const ALL: [LimitKind; 3] =
        [LimitKind::Processes, LimitKind::Memory, LimitKind::Files];

    pub(crate) fn name(self) -> &'static str {
        match self {
            LimitKind::Processes => "processes",
            LimitKind::Memory => "memory",
            LimitKind::Files => "files",
        }
    }
}

impl Limit {
    /// Sets the limit for a process, by default for this one.
    pub(crate) fn set(self, process: Option<Pid>) -> io::Result<()> {
        let resource = match self.kind {
            LimitKind::Processes => Resource::Nproc,
            LimitKind::Memory => Resource::As,
            LimitKind::Files => Resource::Nofile,
        };
        let limit = Rlimit {
            current: Some(self.at),
            maximum: Some(self.at),
        };
        prlimit(process, resource, limit)?;
        Ok(())
    }
}
