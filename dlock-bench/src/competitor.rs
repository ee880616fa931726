//! The libraries that are compared: dlock on its stores, and its peers.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dlock_core::{Lock, LockGuard, LockOptions, Store};
use dlock_etcd::EtcdDatastore;
use dlock_file::FileDatastore;
use dlock_memcache::MemcacheDatastore;
use dlock_postgres::PostgresDatastore;
use dlock_redis::RedisDatastore;

use crate::Failure;
use crate::contender::{self, Contender};
use crate::options::Options;
use crate::tasks::Kind;

/// A library, and how to start a process that contends with it.
#[derive(Debug, Clone)]
pub(crate) struct Competitor {
    /// The name in tables and charts.
    pub(crate) name: &'static str,
    program: PathBuf,
    word: &'static str,
    /// The runtime of its tasks, if it has tasks instead of threads.
    runtime: Option<Kind>,
    /// Whether it claims with a plain `SET`.
    pub(crate) plain: bool,
}

impl Competitor {
    /// dlock, for which this program starts itself.
    pub(crate) fn dlock(name: &'static str) -> Result<Self, Failure> {
        Ok(Competitor {
            name,
            program: env::current_exe()?,
            word: "contend",
            runtime: None,
            plain: false,
        })
    }

    /// dlock's async form, with tasks on a runtime of this kind.
    pub(crate) fn dlock_tasks(kind: Kind) -> Result<Self, Failure> {
        Ok(Competitor {
            name: match kind {
                Kind::CurrentThread => "tasks, one thread",
                Kind::TwoWorkers => "tasks, two worker threads",
            },
            program: env::current_exe()?,
            word: "contend-tasks",
            runtime: Some(kind),
            plain: false,
        })
    }

    /// rslock, which is built from the registry the first time; `None` without peers.
    pub(crate) fn rslock(options: &Options) -> Result<Option<Self>, Failure> {
        if !options.peers {
            return Ok(None);
        }
        Ok(Some(Competitor {
            name: "rslock",
            program: built_peers()?,
            word: "rslock",
            runtime: None,
            plain: true,
        }))
    }

    /// The command of a process with `threads` threads, or tasks, that contend for the lock
    /// `id`.
    pub(crate) fn command(&self, url: &str, id: &str, threads: usize, ttl: Duration) -> Command {
        let mut command = Command::new(&self.program);
        // All libraries use the same key.
        let name = match self.plain {
            true => format!("dlock:{id}"),
            false => id.to_owned(),
        };
        command
            .args([self.word, url, &name])
            .args([threads.to_string(), ttl.as_millis().to_string()])
            .args(self.runtime.map(Kind::name));
        command
    }

    /// The command of a process with `tasks` tasks on a runtime of this kind, each with a lock of
    /// its own, that makes pairs on command.
    pub(crate) fn tasks_command(
        &self,
        url: &str,
        kind: Kind,
        tasks: usize,
        ttl: Duration,
    ) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args([&format!("{}-tasks", self.word), url, kind.name()])
            .args([tasks.to_string(), ttl.as_millis().to_string()]);
        command
    }
}

/// Builds the program of the peers, beside this one.
fn built_peers() -> Result<PathBuf, Failure> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/Cargo.toml");
    let here = env::current_exe()?;
    let target = here.with_file_name("dlock-bench-peers");
    let built = Command::new("cargo")
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--manifest-path",
        ])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target)
        .status()?;
    match built.success() {
        true => Ok(target.join("release/dlock-bench-peers")),
        false => Err("the peers do not build; leave them out with --no-peers".into()),
    }
}

/// `contend URL ID THREADS TTL_MILLIS`: this program as a contender that uses dlock.
pub(crate) fn contend(words: &[String]) -> Result<(), Failure> {
    let [url, id, threads, ttl] = words else {
        return Err("a contender is started by dlock-bench itself".into());
    };
    let store = open(url)?;
    let options = LockOptions::builder().ttl(Duration::from_millis(ttl.parse()?));
    let lock = Lock::with_options(&store, id, options)?;
    let contender = |_| -> Box<dyn Contender> {
        Box::new(Dlock {
            lock: lock.clone(),
            held: None,
        })
    };
    contender::contend((0..threads.parse::<usize>()?).map(contender).collect())
}

pub(crate) fn open(url: &str) -> Result<Store, Failure> {
    Ok(match url.split_once(':') {
        Some(("redis", _)) => RedisDatastore::open(url)?.into(),
        Some(("memcache", _)) => MemcacheDatastore::open(url)?.into(),
        Some(("postgres", _)) => PostgresDatastore::open(url)?.into(),
        Some(("etcd", _)) => EtcdDatastore::open(url)?.into(),
        _ => FileDatastore::from_url(url)?.into(),
    })
}

struct Dlock {
    lock: Lock,
    held: Option<LockGuard>,
}

impl Contender for Dlock {
    fn acquire(&mut self) -> Result<(), Failure> {
        self.held = Some(self.lock.acquire()?);
        Ok(())
    }

    fn release(&mut self) -> Result<(), Failure> {
        if let Some(held) = self.held.take() {
            held.release()?;
        }
        Ok(())
    }
}
