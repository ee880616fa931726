//! Resolves a host's name to its addresses, by the deadline of the call.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use dlock_core::{Clock, ProcessId, Time};

use crate::Deadline;

/// The most lookups at a time. A lookup that hangs ends when the system gives up, after some 20
/// seconds.
const MAX_LOOKUPS: usize = 8;
/// How long an old answer may be used in place of one that does not come.
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// The share of a call's time that it waits for a new answer if it has an old one: one part in this
/// many.
const SHARE: u32 = 4;
/// The system's resolver needs some 70 KiB of stack, its plug-ins more.
const STACK: usize = 512 << 10;
/// The condition variable's clock stops while the machine is suspended; the clock of deadlines does
/// not.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Resolves the names of hosts.
///
/// The system's resolver takes no deadline: if the name servers do not answer, it takes 10 to 20
/// seconds. So a thread looks the name up, and a call leaves that thread behind at its deadline.
/// All callers share one lookup of a name, and there are at most eight lookups at a time. The last
/// good answer is kept for an hour. It is used if a new one does not come within a quarter of the
/// call's remaining time, or if the lookup fails.
///
/// An IP address needs no lookup and no thread. Clones share answers and lookups; a forked child
/// begins anew.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

struct Inner {
    lookup: Arc<Lookup>,
    pid: ProcessId,
    state: Mutex<State>,
    answered: Condvar,
    child: OnceLock<Resolver>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, Name>,
    running: usize,
}

#[derive(Default)]
struct Name {
    /// The number of lookups that were begun, and how many of them have ended.
    begun: u64,
    ended: u64,
    /// When the last lookup was begun.
    begun_at: Option<Time>,
    good: Option<(Time, Vec<SocketAddr>)>,
    /// Why the last lookup failed, if it did.
    failure: Option<(io::ErrorKind, String)>,
}

impl Resolver {
    /// Resolves names with `lookup`, for another resolver than the system's or for a test. The
    /// ports in its answers are replaced.
    pub fn new(
        lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self::over(Arc::new(lookup))
    }

    /// The system's resolver. The whole process shares it.
    pub fn system() -> Self {
        static SYSTEM: Mutex<Option<Resolver>> = Mutex::new(None);
        let ask = |name: &str| Ok((name, 0).to_socket_addrs()?.collect());
        // Do not wait: in a forked child the mutex may be locked for ever.
        match SYSTEM.try_lock() {
            Ok(mut system) => system.get_or_insert_with(|| Self::new(ask)).clone(),
            Err(_) => Self::new(ask),
        }
    }

    fn over(lookup: Arc<Lookup>) -> Self {
        Resolver(Arc::new(Inner {
            lookup,
            pid: ProcessId::current(),
            state: Mutex::default(),
            answered: Condvar::new(),
            child: OnceLock::new(),
        }))
    }

    /// The addresses of `host`, by `deadline`.
    pub(crate) fn resolve(
        &self,
        host: &str,
        port: u16,
        deadline: &Deadline,
    ) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![(address, port).into()]);
        }
        if host.contains(':') {
            // An IPv6 address with a zone: the system parses it without a lookup.
            return Ok((host, port).to_socket_addrs()?.collect());
        }
        let mut addresses = self.in_this_process().look_up(host, deadline)?;
        for address in &mut addresses {
            address.set_port(port);
        }
        Ok(addresses)
    }

    fn in_this_process(&self) -> &Self {
        if self.0.pid == ProcessId::current() {
            return self;
        }
        // The parent's threads do not exist in the child, and one of them may have held the mutex.
        self.0
            .child
            .get_or_init(|| Self::over(Arc::clone(&self.0.lookup)))
            .in_this_process()
    }

    fn look_up(&self, host: &str, deadline: &Deadline) -> io::Result<Vec<SocketAddr>> {
        let start = Clock::BOOTTIME.now();
        let mut state = self.0.state();
        let name = state.names.entry(host.to_owned()).or_default();
        if name.begun == name.ended
            && let Err(error) = self.begin(&mut state, host)
        {
            return state.kept(host, start).ok_or(error);
        }
        let kept = state.kept(host, start);
        let (lookup, begun_at) = state.names.get(host).map_or((0, start), |name| {
            (name.begun, name.begun_at.unwrap_or(start))
        });
        let end = match &kept {
            // If a lookup has hung for long already, further calls do not wait for it again.
            Some(_) => begun_at.saturating_add(deadline.left()? / SHARE),
            None => deadline.time(),
        };
        loop {
            if let Some(name) = state.names.get(host)
                && name.ended >= lookup
            {
                return match (&name.failure, kept) {
                    (None, _) => Ok(name.answer()),
                    (Some(_), Some(kept)) => Ok(kept),
                    (Some((kind, text)), None) => Err(io::Error::new(*kind, text.clone())),
                };
            }
            let left = Clock::BOOTTIME.now().until(end);
            if left.is_zero() {
                return kept.ok_or_else(|| {
                    let text = "the name of the host was not resolved in time";
                    io::Error::new(io::ErrorKind::TimedOut, text)
                });
            }
            (state, _) = self
                .0
                .answered
                .wait_timeout(state, left.min(LONGEST_SLEEP))
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Begins a lookup of `host`, which no other thread looks up now.
    fn begin(&self, state: &mut State, host: &str) -> io::Result<()> {
        if state.running >= MAX_LOOKUPS {
            return Err(io::Error::other(format!(
                "{MAX_LOOKUPS} other names are being resolved, without an answer so far"
            )));
        }
        let (resolver, owned) = (self.clone(), host.to_owned());
        thread::Builder::new()
            .name("dlock-resolver".to_owned())
            .stack_size(STACK)
            .spawn(move || resolver.run(&owned))
            .map_err(|error| {
                io::Error::other(format!(
                    "cannot start a thread to resolve the host's name: {error}"
                ))
            })?;
        state.running += 1;
        if let Some(name) = state.names.get_mut(host) {
            name.begun += 1;
            name.begun_at = Some(Clock::BOOTTIME.now());
        }
        Ok(())
    }

    /// One lookup, on a thread of its own.
    fn run(&self, host: &str) {
        // The lookup also ends if it panics, so that no caller waits for it for ever.
        let mut ended = Ended {
            resolver: self,
            host,
            answer: Err(io::Error::other("the resolver panicked")),
        };
        ended.answer = (self.0.lookup)(host);
    }
}

struct Ended<'a> {
    resolver: &'a Resolver,
    host: &'a str,
    answer: io::Result<Vec<SocketAddr>>,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut state = self.resolver.0.state();
        state.running -= 1;
        if let Some(name) = state.names.get_mut(self.host) {
            name.ended += 1;
            match &mut self.answer {
                Ok(addresses) if addresses.is_empty() => {
                    let text = "the host has no address".to_owned();
                    name.failure = Some((io::ErrorKind::NotFound, text));
                }
                Ok(addresses) => {
                    name.failure = None;
                    name.good = Some((Clock::BOOTTIME.now(), mem::take(addresses)));
                }
                Err(error) => name.failure = Some((error.kind(), error.to_string())),
            }
        }
        drop(state);
        self.resolver.0.answered.notify_all();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The last good answer, if it may still be used at `now`.
    fn kept(&self, host: &str, now: Time) -> Option<Vec<SocketAddr>> {
        let (came, addresses) = self.names.get(host)?.good.as_ref()?;
        (came.until(now) < KEPT_FOR).then(|| addresses.clone())
    }
}

impl Name {
    fn answer(&self) -> Vec<SocketAddr> {
        self.good
            .as_ref()
            .map_or_else(Vec::new, |(_, addresses)| addresses.clone())
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

#[cfg(test)]
mod tests;
