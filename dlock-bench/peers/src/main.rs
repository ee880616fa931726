//! Other libraries as contenders for a lock, started by `dlock-bench`.
//!
//! usage: `dlock-bench-peers rslock URL KEY THREADS TTL_MILLIS`, or
//! `dlock-bench-peers rslock-tasks URL RUNTIME TASKS TTL_MILLIS`

#[path = "../../src/contender.rs"]
mod contender;
mod serve;
#[path = "../../src/tasks.rs"]
mod tasks;

use std::sync::Arc;
use std::time::Duration;

use contender::{Contender, Failure, contend};
use tasks::{Kind, Pair};
use tokio::runtime::{Builder, Runtime};

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [peer, url, name, count, ttl] = &words[..] else {
        return Err("usage: dlock-bench-peers PEER URL KEY|RUNTIME COUNT TTL_MILLIS".into());
    };
    let (count, ttl) = (count.parse()?, Duration::from_millis(ttl.parse()?));
    match &**peer {
        "rslock" => {
            let contenders = (0..count).map(|_| Rslock::new(url, name, ttl));
            let boxed = |one: Result<_, _>| one.map(|one| Box::new(one) as Box<dyn Contender>);
            contend(contenders.map(boxed).collect::<Result<_, Failure>>()?)
        }
        "rslock-tasks" => {
            let runtime = Kind::of_name(name)?.build()?;
            serve::until_the_input_ends(&runtime, &rslock_pair(url, count, ttl), count)
        }
        _ => Err(format!("no peer is called {peer:?}").into()),
    }
}

/// A pair by a task, each on a key of its own. All share the one connection of a manager.
fn rslock_pair(url: &str, tasks: usize, ttl: Duration) -> Pair {
    let manager = rslock::LockManager::new(vec![url]);
    let keys: Arc<Vec<String>> =
        Arc::new((0..tasks).map(|task| format!("rslock:{task}")).collect());
    Arc::new(move |task| {
        let (manager, keys) = (manager.clone(), Arc::clone(&keys));
        Box::pin(async move {
            manager
                .acquire(keys[task].as_bytes(), ttl)
                .await?
                .release()
                .await;
            Ok(())
        })
    })
}

/// [`rslock`] over one server. Each thread has its own connection and event loop, so that no other
/// thread must be woken: this is the fastest way to use it.
struct Rslock {
    runtime: Runtime,
    manager: rslock::LockManager,
    key: Arc<str>,
    ttl: Duration,
    held: Option<rslock::LockGuard>,
}

impl Rslock {
    fn new(url: &str, key: &str, ttl: Duration) -> Result<Self, Failure> {
        Ok(Rslock {
            runtime: Builder::new_current_thread().enable_all().build()?,
            manager: rslock::LockManager::new(vec![url]),
            key: key.into(),
            ttl,
            held: None,
        })
    }
}

impl Contender for Rslock {
    fn acquire(&mut self) -> Result<(), Failure> {
        let acquired = self.manager.acquire(self.key.as_bytes(), self.ttl);
        self.held = Some(self.runtime.block_on(acquired)?);
        Ok(())
    }

    fn release(&mut self) -> Result<(), Failure> {
        if let Some(held) = self.held.take() {
            self.runtime.block_on(held.release());
        }
        Ok(())
    }
}
