//! The libraries that contend: dlock on its stores, and its peers.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dlock_core::{Lock, LockGuard, LockOptions, Store};
use dlock_file::FileDatastore;
use dlock_memcache::MemcacheDatastore;
use dlock_redis::RedisDatastore;

use crate::Failure;
use crate::contender::{self, Contender};
use crate::options::Options;

/// As a command line: `dlock` or the name of a peer.
#[derive(Debug, Clone)]
pub(crate) struct Rival {
    /// In tables and charts.
    pub(crate) name: &'static str,
    program: PathBuf,
    word: &'static str,
    /// Whether it claims by a plain `SET`.
    pub(crate) plain: bool,
}

impl Rival {
    /// dlock, which this program itself is.
    pub(crate) fn dlock(name: &'static str) -> Result<Self, Failure> {
        Ok(Rival {
            name,
            program: env::current_exe()?,
            word: "contend",
            plain: false,
        })
    }

    /// rslock, built from the registry the first time; `None` if peers are not wanted.
    pub(crate) fn rslock(options: &Options) -> Result<Option<Self>, Failure> {
        if !options.peers {
            return Ok(None);
        }
        Ok(Some(Rival {
            name: "rslock",
            program: built_peers()?,
            word: "rslock",
            plain: true,
        }))
    }

    /// A process of it, with so many threads that contend for the lock `id`.
    pub(crate) fn command(&self, url: &str, id: &str, threads: usize, ttl: Duration) -> Command {
        let mut command = Command::new(&self.program);
        // The same key for all.
        let name = match self.plain {
            true => format!("dlock:{id}"),
            false => id.to_owned(),
        };
        command
            .args([self.word, url, &name])
            .args([threads.to_string(), ttl.as_millis().to_string()]);
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
        false => Err("the peers do not build; without them: --no-peers".into()),
    }
}

/// `contend URL ID THREADS TTL_MILLIS`: this program as dlock's contender.
pub(crate) fn contend(words: &[String]) -> Result<(), Failure> {
    let [url, id, threads, ttl] = words else {
        return Err("a contender is started by dlock-bench itself".into());
    };
    let store = open(url)?;
    let options = LockOptions::default().with_ttl(Duration::from_millis(ttl.parse()?));
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
        Some(("redis", _)) => RedisDatastore::connect(url)?.into(),
        Some(("memcache", _)) => MemcacheDatastore::connect(url)?.into(),
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
