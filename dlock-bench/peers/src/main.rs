//! Other libraries as contenders for a lock, started by `dlock-bench`.
//!
//! usage: `dlock-bench-peers rslock URL KEY THREADS TTL_MILLIS`

#[path = "../../src/contender.rs"]
mod contender;

use std::sync::Arc;
use std::time::Duration;

use contender::{Contender, Failure, contend};
use tokio::runtime::{Builder, Runtime};

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [peer, url, key, threads, ttl] = &words[..] else {
        return Err("usage: dlock-bench-peers rslock URL KEY THREADS TTL_MILLIS".into());
    };
    if peer != "rslock" {
        return Err(format!("no peer is called {peer:?}").into());
    }
    let ttl = Duration::from_millis(ttl.parse()?);
    let contenders = (0..threads.parse()?).map(|_| Rslock::new(url, key, ttl));
    let boxed = |one: Result<_, _>| one.map(|one| Box::new(one) as Box<dyn Contender>);
    contend(contenders.map(boxed).collect::<Result<_, Failure>>()?)
}

/// [`rslock`] over one server. Each thread has its own connection and event loop, so that no other thread must be woken for it: the
/// quickest that it can be.
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
