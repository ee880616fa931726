//! A process with threads that wait for one lock, hold it for a moment, and wait again.

use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dlock_core::{Cancel, Lock, LockOptions, Wait};
use dlock_history::Recorder;

use crate::Failure;
use crate::backend::{Backend, PREFIX};
use crate::random::Random;

/// The pause after an error of the store.
const PAUSE: Duration = Duration::from_millis(20);

/// `waiter BACKEND URL HISTORIES ACTOR SEED NAME THREADS TTL HOLDS`, times in milliseconds.
pub(crate) fn run(words: &[String]) -> Result<(), Failure> {
    let [backend, url, folder, actor, seed, name, threads, ttl, holds] = words else {
        return Err("a waiter is started by dlock-torture itself".into());
    };
    let backend: Backend = backend.parse()?;
    let mut random = Random::new(seed.parse()?, &[]);
    let store = backend.open(url, &mut random)?;
    let recorder = Recorder::create(Path::new(folder), actor, backend.name(), store)?;
    let millis = |text: &str| Ok::<_, Failure>(Duration::from_millis(text.parse()?));
    let (ttl, holds) = (millis(ttl)?, millis(holds)?);
    let threads: usize = threads.parse()?;
    let options = LockOptions::builder().key_prefix(PREFIX).ttl(ttl);
    let lock = Lock::with_options(recorder.store(), name.as_str(), options)?;
    let (stop, cancel) = (AtomicBool::new(false), Cancel::new());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let wait = Wait::forever().cancelled_by(&cancel);
                while !stop.load(Ordering::SeqCst) {
                    match recorder.acquire(&lock, &wait) {
                        Ok(mut holding) => {
                            thread::sleep(holds);
                            holding.look();
                            // The history has the outcome.
                            let _ = holding.release();
                        }
                        Err(_) => thread::sleep(PAUSE),
                    }
                }
            });
        }
        // The standard input ends when the parent process closes it or is gone.
        let _ = io::stdin().read(&mut [0]);
        stop.store(true, Ordering::SeqCst);
        cancel.cancel();
    });
    Ok(())
}
