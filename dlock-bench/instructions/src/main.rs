//! Counts the instructions of a pair of acquire and release in the process that locks, and fails if
//! there are more than the limit.
//!
//! A time differs from machine to machine and from hour to hour. This count is the same within a
//! hundredth on a quiet machine, and a busy machine can only add to it, so a count over its limit
//! is taken again. It leaves out the work of system calls, which take most of the time of a pair on
//! a server.
//!
//! usage: `dlock-bench-instructions [FOLDER]`. The folder keeps the files for `callgrind_annotate`.

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;
use std::{env, fs};

use dlock_core::{Lock, MemoryDatastore, Store, aio};
use dlock_file::FileDatastore;
use dlock_memcache::MemcacheDatastore;
use dlock_redis::RedisDatastore;
use tokio::runtime::Builder;

type Failure = Box<dyn std::error::Error>;

/// The number of pairs that are counted: the longer run minus the shorter one.
const PAIRS: u64 = 1000;
/// The pairs of the shorter run. Work that happens only once is in both runs.
const FIRST: u64 = 200;
/// How often a count over its limit is repeated. A busy machine splits reads of a socket, which
/// adds up to a twentieth.
const TRIES: u32 = 4;
/// A fresh memcached grants nothing for its first seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The stores, and the most instructions of a pair: a little above the counted number, since
/// compilers differ. Lower them when a pair becomes cheaper.
const LIMITS: [(&str, u64); 6] = [
    ("memory", 6_080),
    ("file", 123_200),
    ("redis", 11_700),
    ("memcached", 10_600),
    ("memory-async", 8_650),
    ("redis-async", 22_600),
];
/// The end of the names of stores in the async form, on a runtime of one thread.
const ASYNC: &str = "-async";

fn main() -> Result<ExitCode, Failure> {
    let words: Vec<String> = env::args().skip(1).collect();
    match &words[..] {
        [] => count(tempfile::tempdir()?.path()),
        [folder] => count(Path::new(folder)),
        [store, place, pairs] => {
            run(store, place, pairs.parse()?)?;
            Ok(ExitCode::SUCCESS)
        }
        _ => Err("usage: dlock-bench-instructions [FOLDER]".into()),
    }
}

/// Counts and prints all stores. Returns whether all are within their limits.
fn count(folder: &Path) -> Result<ExitCode, Failure> {
    fs::create_dir_all(folder)?;
    let mut within = true;
    println!("| a pair | instructions | at most |\n| --- | --- | --- |");
    for (store, most) in LIMITS {
        let place = tempfile::tempdir()?;
        let (url, _server) = served(store, place.path())?;
        // Wait until the server grants, so that every count begins in the same state.
        run(store, &url, 1)?;
        let mut each = u64::MAX;
        for _ in 0..TRIES {
            let few = instructions(folder, store, &url, FIRST)?;
            let many = instructions(folder, store, &url, FIRST + PAIRS)?;
            each = each.min(many.saturating_sub(few) / PAIRS);
            if each <= most {
                break;
            }
        }
        println!("| {store} | {each} | {most} |");
        if each == 0 || each > most {
            eprintln!(
                "{store}: {each} instructions a pair, but at most {most} are allowed: find the cause, or raise the limit and say why"
            );
            within = false;
        }
    }
    Ok(if within {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The instructions that valgrind counts in a process that makes `pairs` pairs.
fn instructions(folder: &Path, store: &str, url: &str, pairs: u64) -> Result<u64, Failure> {
    let out = folder.join(format!("{store}.{pairs}"));
    let ran = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env::current_exe()?)
        .args([store, url, &pairs.to_string()])
        .status();
    let ran =
        ran.map_err(|error| format!("valgrind: {error}; scripts/need valgrind installs it"))?;
    if !ran.success() {
        return Err(format!("valgrind: {ran}").into());
    }
    let text = fs::read_to_string(out)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total
        .ok_or("no totals in what callgrind wrote")?
        .trim()
        .parse()?)
}

/// Acquires and releases `pairs` times, on one thread.
fn run(store: &str, place: &str, pairs: u64) -> Result<(), Failure> {
    if let Some(store) = store.strip_suffix(ASYNC) {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(run_async(store, place, pairs));
    }
    let store: Store = match store {
        "memory" => MemoryDatastore::new().into(),
        "file" => FileDatastore::open(place)?.into(),
        "redis" => RedisDatastore::open(place)?.into(),
        "memcached" => MemcacheDatastore::open(place)?.into(),
        other => return Err(format!("no store is called {other:?}").into()),
    };
    let lock = Lock::new(store, "counted");
    for _ in 0..pairs {
        lock.acquire_within(PATIENCE)?.release()?;
    }
    Ok(())
}

/// The same in the async form, in one task.
async fn run_async(store: &str, place: &str, pairs: u64) -> Result<(), Failure> {
    let store: aio::Store = match store {
        "memory" => MemoryDatastore::new().into(),
        "redis" => RedisDatastore::open(place)?.into(),
        other => return Err(format!("no async store is called {other:?}").into()),
    };
    let lock = aio::Lock::new(store, "counted");
    for _ in 0..pairs {
        lock.acquire_within(PATIENCE).await?.release().await?;
    }
    Ok(())
}

/// The URL of the store, and its server if it needs one, on a socket in `folder`.
fn served(store: &str, folder: &Path) -> Result<(String, Option<Server>), Failure> {
    let socket = folder.join("socket");
    let (scheme, mut command) = match store.trim_end_matches(ASYNC) {
        "redis" => {
            let mut command = Command::new("redis-server");
            command.args(["--port", "0", "--save", "", "--unixsocket"]);
            ("unix", command)
        }
        "memcached" => {
            let mut command = Command::new("memcached");
            command.args(["-u", "root", "-s"]);
            ("memcache+unix", command)
        }
        _ => return Ok((folder.display().to_string(), None)),
    };
    command
        .arg(&socket)
        .current_dir(folder)
        .stdout(Stdio::null());
    let started = command.spawn();
    let started = started.map_err(|error| {
        let name = command.get_program().display().to_string();
        format!("{name}: {error}; scripts/test installs it")
    })?;
    let url = format!("{scheme}://{}", socket.display());
    Ok((url, Some(Server(started))))
}

/// A server that ends when this is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
