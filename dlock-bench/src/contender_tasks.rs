//! One of several processes that contend for a lock, as [`contender`](crate::contender) is, with
//! tasks of one runtime instead of threads. It speaks the same lines, but for `pairs`.

use std::io::{self, BufRead as _, Write as _};
use std::time::Duration;

use dlock_core::LockOptions;
use dlock_core::aio::{Lock, Store};
use dlock_redis::RedisDatastore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::sleep;

use crate::Failure;
use crate::contender::now;
use crate::tasks::Kind;

/// `contend-tasks URL ID TASKS TTL_MILLIS RUNTIME`: carries out commands until the standard input
/// ends.
pub(crate) fn contend(words: &[String]) -> Result<(), Failure> {
    let [url, id, tasks, ttl, kind] = words else {
        return Err("a contender is started by dlock-bench itself".into());
    };
    let runtime = Kind::of_name(kind)?.build()?;
    let store = Store::new(RedisDatastore::open(url)?);
    let options = LockOptions::builder().ttl(Duration::from_millis(ttl.parse()?));
    let lock = Lock::with_options(&store, id, options)?;
    let tasks = 0..tasks.parse::<usize>()?;
    let commands: Vec<_> = tasks
        .map(|number| {
            let (send, holds) = unbounded_channel();
            let lock = lock.clone();
            runtime.spawn(async move {
                if let Err(error) = take_turns(number, &lock, holds).await {
                    write_line(&format!("failed {number} {error}"));
                }
            });
            send
        })
        .collect();
    // The standard input blocks, so it is read on a thread of its own.
    std::thread::spawn(move || {
        let read = || -> Result<(), Failure> {
            for line in io::stdin().lock().lines() {
                let line = line?;
                let mut words = line.split(' ').skip(1);
                let mut number = || words.next().unwrap_or_default().parse::<u64>();
                let (task, millis) = (usize::try_from(number()?)?, number()?);
                commands[task].send(Duration::from_millis(millis))?;
            }
            Ok(())
        };
        if let Err(error) = read() {
            write_line(&format!("failed 0 {error}"));
        }
        // End even if tasks still wait.
        std::process::exit(0);
    });
    write_line("ready");
    runtime.block_on(std::future::pending())
}

async fn take_turns(
    number: usize,
    lock: &Lock,
    mut holds: UnboundedReceiver<Duration>,
) -> Result<(), Failure> {
    let mut released = None;
    while let Some(hold) = holds.recv().await {
        if let Some(at) = released {
            write_line(&format!("released {number} {at}"));
        }
        let guard = lock.acquire().await?;
        write_line(&format!("granted {number} {}", now()));
        sleep(hold).await;
        guard.release().await?;
        released = Some(now());
    }
    Ok(())
}

fn write_line(line: &str) {
    // If the reader is gone, the standard input ends too, which ends this process.
    let _ = writeln!(io::stdout().lock(), "{line}");
}
