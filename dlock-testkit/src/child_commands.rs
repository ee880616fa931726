//! The commands that a second process carries out on the store.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use dlock_core::{
    AcquireError, AcquireOutcome, Extension, Lease, OnceOutcome, ReleaseError, ReleaseOutcome, Wait,
};

use crate::Subject;
use crate::case::{Case, Law};
use crate::client::Client;
use crate::form::{LockGuard, Store};
use crate::waiter::Waiter;

/// Carries out the commands of standard input, one on each line, until it ends. Passes an answer
/// for each to `say`.
pub(crate) fn serve(subject: &Subject, say: &mut dyn FnMut(&str)) {
    let case = Case::new(subject, Law::Declared);
    let mut worker = Worker {
        case: &case,
        store: Store::new(subject.first()),
        clients: HashMap::new(),
        guards: HashMap::new(),
        waiters: Vec::new(),
    };
    say("ready");
    for order in io::stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = order.split(' ').collect();
        say(&worker.does(&words));
    }
}

struct Worker<'c> {
    case: &'c Case<'c>,
    store: Store,
    clients: HashMap<String, (Client<'c>, Option<Lease>)>,
    guards: HashMap<String, (LockGuard, Arc<AtomicU32>)>,
    waiters: Vec<Waiter>,
}

impl Worker<'_> {
    fn does(&mut self, words: &[&str]) -> String {
        match *words {
            ["claim", key, ttl] => self.claim(key, millis(ttl)),
            ["extend", key, ttl] => self.extend(key, millis(ttl)),
            ["release", key] => self.release(key),
            ["lock", id, ttl, renew] => self.lock(id, millis(ttl), renew == "renewed"),
            ["valid", id] => self.guards[id].0.is_valid().to_string(),
            ["losses", id] => self.guards[id].1.load(Ordering::SeqCst).to_string(),
            ["unlock", id] => self.unlock(id),
            ["turns", id, turns, marker] => {
                self.turns(id, millis(turns).as_millis(), Path::new(marker))
            }
            ["wait", id, within] => {
                let wait = Wait::within(millis(within));
                let handle = self.case.subject.first();
                let waiter = Waiter::start(self.case, &handle, id, wait);
                self.waiters.push(waiter);
                "waits".to_owned()
            }
            ["served"] => self.served(),
            ["once", id, ttl, job, end] => self.once(id, millis(ttl), job, end),
            ["leaks"] => crate::leaks::counted(self.case),
            _ => format!("error no such command: {words:?}"),
        }
    }

    fn claim(&mut self, key: &str, ttl: Duration) -> String {
        let case = self.case;
        let (client, lease) = self
            .clients
            .entry(key.to_owned())
            .or_insert_with(|| (case.client(key), None));
        match client.ask(ttl).value {
            AcquireOutcome::Granted(grant) => {
                let fence = grant.fence.map_or(0, dlock_core::FencingToken::get);
                *lease = Some(Lease::new(client.claim(), grant));
                format!("granted {fence}")
            }
            AcquireOutcome::Held(held) => {
                let pid = held.holder().map_or(0, dlock_core::Holder::pid);
                format!("held {pid}")
            }
        }
    }

    fn extend(&mut self, key: &str, ttl: Duration) -> String {
        let Some((client, Some(lease))) = self.clients.get(key) else {
            return "error no lease".to_owned();
        };
        match client.extend(lease, ttl).value {
            Extension::Extended(_) => "extended".to_owned(),
            Extension::Lost => "lost".to_owned(),
        }
    }

    fn release(&mut self, key: &str) -> String {
        let Some((client, Some(lease))) = self.clients.get(key) else {
            return "error no lease".to_owned();
        };
        match client.release(lease).value {
            ReleaseOutcome::Released => "ours".to_owned(),
            ReleaseOutcome::NotHeld => "not ours".to_owned(),
        }
    }

    fn lock(&mut self, id: &str, ttl: Duration, renewed: bool) -> String {
        let lock = self
            .case
            .lock(&self.store, id, |options| options.ttl(ttl).renew(renewed));
        match self.case.tried(&lock) {
            Ok(guard) => {
                let losses = Arc::new(AtomicU32::new(0));
                let counted = Arc::clone(&losses);
                guard.on_lost(move || {
                    counted.fetch_add(1, Ordering::SeqCst);
                });
                let fence = guard
                    .fencing_token()
                    .map_or(0, dlock_core::FencingToken::get);
                self.guards.insert(id.to_owned(), (guard, losses));
                format!("granted {fence}")
            }
            Err(AcquireError::Held(held)) => format!("held {held}"),
            Err(error) => format!("error {error:?}"),
        }
    }

    fn unlock(&mut self, id: &str) -> String {
        let Some((guard, _)) = self.guards.remove(id) else {
            return "error no guard".to_owned();
        };
        match guard.release() {
            Ok(()) => "released".to_owned(),
            Err(ReleaseError::Lost) => "lost".to_owned(),
            Err(error) => format!("error {error:?}"),
        }
    }

    /// Acquires the lock `turns` times. While it is held, no other process may have created the
    /// marker file.
    fn turns(&self, id: &str, turns: u128, marker: &Path) -> String {
        // If an overloaded store does not answer a release, everyone waits for this long.
        let ttl = self.case.live(Duration::from_secs(60));
        let lock = self.case.lock(&self.store, id, |options| options.ttl(ttl));
        for turn in 0..turns {
            let guard = match lock.acquire_within(Duration::from_secs(300)) {
                Ok(guard) => guard,
                Err(error) => return format!("error in turn {turn}: {error:?}"),
            };
            if let Err(error) = OpenOptions::new().write(true).create_new(true).open(marker) {
                return format!("overlap in turn {turn}: {error}");
            }
            // Long enough for the others to acquire the lock meanwhile, if they can.
            thread::sleep(Duration::from_millis(5));
            if let Err(error) = fs::remove_file(marker) {
                return format!("overlap in turn {turn}: {error}");
            }
            if let Err(ReleaseError::Lost) = guard.release() {
                return format!("overlap in turn {turn}: the lease was lost");
            }
        }
        "done".to_owned()
    }

    /// The times at which the waiters were served.
    fn served(&mut self) -> String {
        let mut answer = "served".to_owned();
        for waiter in self.waiters.drain(..) {
            match waiter.end() {
                Ok(served) => answer.push_str(&format!(" {}", served.as_nanos())),
                Err(error) => return format!("error {error}"),
            }
        }
        answer
    }

    fn once(&self, id: &str, ttl: Duration, job: &str, end: &str) -> String {
        let lock = self.case.lock(&self.store, id, |options| options.ttl(ttl));
        let outcome = lock.once(job, self.case.long(), |_| match end {
            "well" => Ok(()),
            // No guard is dropped, like in a crash.
            "crash" => std::process::exit(1),
            reason => Err(reason.to_owned()),
        });
        match outcome {
            Ok(Ok(OnceOutcome::Ran(()))) => "ran".to_owned(),
            Ok(Ok(OnceOutcome::RanUnmarked(()))) => "ran unmarked".to_owned(),
            Ok(Ok(OnceOutcome::AlreadyDone { .. })) => "already done".to_owned(),
            Ok(Err(reason)) => format!("failed {reason}"),
            Err(AcquireError::Held(held)) => format!("held {held}"),
            Err(error) => format!("error {error:?}"),
        }
    }
}

/// Parses a number of milliseconds.
fn millis(word: &str) -> Duration {
    Duration::from_millis(word.parse().unwrap_or(0))
}
