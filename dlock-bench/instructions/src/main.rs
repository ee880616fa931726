//! Counts the instructions that a pair of acquire and release takes in the process that locks, and fails if there are more than there were.
//!
//! A clock says something else on each machine and at each hour; this count is the same within a hundredth, however busy the machine is. It
//! leaves out what the system does in its calls, which is most of the time of a pair on a server.
//!
//! usage: `dlock-bench-instructions [FOLDER]`; in the folder it leaves what `callgrind_annotate` shows.

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;
use std::{env, fs};

use dlock_core::{Lock, MemoryDatastore, Store};
use dlock_file::FileDatastore;
use dlock_memcache::MemcacheDatastore;
use dlock_redis::RedisDatastore;

type Failure = Box<dyn std::error::Error>;

/// What is counted: the instructions of so many pairs more.
const PAIRS: u64 = 1000;
/// Pairs of the shorter run: all that happens once is in both.
const FIRST: u64 = 200;
/// A fresh memcached grants nothing for its first seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The stores, and the instructions that a pair may take: a little above what was counted, as compilers differ. Whoever makes a pair cheaper lowers them.
const LIMITS: [(&str, u64); 4] = [
    ("memory", 6_700),
    ("file", 132_000),
    ("redis", 12_900),
    ("memcached", 12_100),
];

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

/// Counts them all and says so; whether all are within their limits.
fn count(folder: &Path) -> Result<ExitCode, Failure> {
    fs::create_dir_all(folder)?;
    let mut within = true;
    println!("| a pair | instructions | at most |\n| --- | --- | --- |");
    for (store, most) in LIMITS {
        let place = tempfile::tempdir()?;
        let (url, _server) = served(store, place.path())?;
        // Until the server grants, so that what is counted begins the same way each time.
        run(store, &url, 1)?;
        let few = instructions(folder, store, &url, FIRST)?;
        let many = instructions(folder, store, &url, FIRST + PAIRS)?;
        let each = many.saturating_sub(few) / PAIRS;
        println!("| {store} | {each} | {most} |");
        if each == 0 || each > most {
            eprintln!(
                "{store}: {each} instructions a pair, at most {most}: find out what makes it dearer, or raise the limit and say why"
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

/// What valgrind counts in a process that does so many pairs.
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

/// Acquires and releases so often, on one thread.
fn run(store: &str, place: &str, pairs: u64) -> Result<(), Failure> {
    let store: Store = match store {
        "memory" => MemoryDatastore::new().into(),
        "file" => FileDatastore::open(place)?.into(),
        "redis" => RedisDatastore::connect(place)?.into(),
        "memcached" => MemcacheDatastore::connect(place)?.into(),
        other => return Err(format!("no store is called {other:?}").into()),
    };
    let lock = Lock::new(store, "counted");
    for _ in 0..pairs {
        lock.acquire_within(PATIENCE)?.release()?;
    }
    Ok(())
}

/// Where the store keeps its locks, and the server that does, on a socket in `folder`.
fn served(store: &str, folder: &Path) -> Result<(String, Option<Server>), Failure> {
    let socket = folder.join("socket");
    let (scheme, mut command) = match store {
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

/// A server that ends with it.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
