//! The threads that keep the leases of a store.
//!
//! The timing thread keeps deadlines and declares loss. It does no I/O, and of user code it runs
//! only the wakers of tasks, which must not block. The renewal worker makes the calls, the most
//! urgent first. A server that hangs holds up the renewals of its own store and no other. Callbacks
//! and events run on the threads of [`Delivery`].

#[cfg(feature = "tokio")]
mod alarm;
mod timing;
pub mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
#[cfg(feature = "tokio")]
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
#[cfg(feature = "tokio")]
use std::task::Poll;
use std::time::Duration;
use std::{io, thread};

use crate::contract::lease::Lease;
use crate::engine::callback::Callbacks;
use crate::engine::delivery::Delivery;
use crate::engine::held_lease::HeldLease;
use crate::engine::io::Handle;
use crate::engine::ticket::Ticket;
use crate::time::clock::Clock;
use crate::time::fake::Enlisted;
use crate::time::instant::Time;
use crate::time::signal::Signal;

#[cfg(feature = "tokio")]
pub use alarm::Alarm;
#[cfg(feature = "tokio")]
use alarm::Alarms;

/// Keeps the leases of one store in one process. Its threads start with the first lease and end
/// with the store.
pub struct Keeper(Arc<Inner>);

struct Inner {
    clock: Clock,
    state: Mutex<State>,
    /// Wakes the timing thread.
    timing: Signal,
    /// Wakes the worker.
    work: Signal,
    delivery: Delivery,
}

#[derive(Default)]
struct State {
    delivery_started: bool,
    timing_started: bool,
    worker_started: bool,
    stopped: bool,
    last_ticket: Ticket,
    kept: BTreeMap<Ticket, Kept>,
    /// When to look at which lease; in step with `kept`.
    agenda: BTreeSet<(Time, Ticket)>,
    #[cfg(feature = "tokio")]
    alarms: Alarms,
    /// When the timing thread looks next without being woken.
    next_look: Option<Time>,
    extends: Jobs,
    confirms: Jobs,
    /// Whether it is the turn of the confirmations.
    confirm_next: bool,
    /// What nobody believes in any more and may still be in the store.
    leftovers: VecDeque<Leftover>,
    /// How many leases of each time to live are renewed.
    renewed: BTreeMap<Duration, usize>,
}

/// Calls to make, by the end of the lease: the soonest first.
type Jobs = BTreeMap<(Time, Ticket), Arc<HeldLease>>;

struct Kept {
    lease: Weak<HeldLease>,
    look_at: Time,
    renewed_for: Option<Duration>,
}

/// A lease that was lost and may have been extended after.
struct Leftover {
    /// In use until it was tried.
    store: Handle,
    held: Arc<HeldLease>,
    /// Taken from the guard; `None` while the guard has it.
    lease: Option<Lease>,
}

impl Keeper {
    pub fn new(clock: &Clock) -> Self {
        Keeper(Arc::new(Inner::new(clock)))
    }

    /// A keeper that starts no threads: the model runs their code itself.
    #[cfg(dlock_model)]
    pub fn without_threads(clock: &Clock) -> Self {
        let keeper = Self::new(clock);
        let mut state = keeper.0.state();
        (state.delivery_started, state.timing_started) = (true, true);
        state.worker_started = true;
        drop(state);
        keeper
    }

    /// What the timing thread does when it is woken.
    #[cfg(dlock_model)]
    pub fn look(&self) {
        let _ = timing::look(&self.0);
    }

    /// When the timing thread is to look next.
    #[cfg(dlock_model)]
    pub fn next_look(&self) -> Time {
        let state = self.0.state();
        state.agenda.first().map_or(Time::MAX, |(at, _)| *at)
    }

    /// Keeps `lease` until [`forget`](Self::forget), or until nobody else refers to it. The first
    /// time `start_worker` starts what makes the calls.
    ///
    /// # Errors
    ///
    /// When the threads cannot be started.
    pub fn keep(
        &self,
        lease: &Arc<HeldLease>,
        observed: bool,
        start_worker: impl FnOnce(Keeper) -> io::Result<()>,
    ) -> io::Result<Ticket> {
        let mut state = self.0.state();
        if !state.worker_started {
            self.0.start_timing(&mut state, observed)?;
            start_worker(Keeper(Arc::clone(&self.0)))?;
            state.worker_started = true;
        }
        let ticket = state.last_ticket.next();
        state.last_ticket = ticket;
        let kept = Kept {
            lease: Arc::downgrade(lease),
            look_at: lease.next_look(),
            renewed_for: lease.renewed_for(),
        };
        self.0.note(&mut state, ticket, kept.look_at);
        if let Some(ttl) = kept.renewed_for {
            *state.renewed.entry(ttl).or_default() += 1;
        }
        state.kept.insert(ticket, kept);
        Ok(ticket)
    }

    #[cfg(test)]
    pub fn has_started(&self) -> bool {
        self.0.state().timing_started
    }

    /// Keeps the lease no longer.
    pub fn forget(&self, ticket: Ticket) {
        self.0.state().forget(ticket);
    }

    /// Releases in the background what may be left of a lost lease that the guard has let go.
    pub fn clean_up(&self, store: Handle, held: &Arc<HeldLease>, lease: Lease) {
        self.0.state().leftovers.push_back(Leftover {
            store,
            held: Arc::clone(held),
            lease: Some(lease),
        });
        self.0.work.notify();
    }

    /// Calls them on other threads, now or as soon as there is one to be had.
    pub fn call(&self, callbacks: Callbacks) {
        self.0.delivery.deliver(callbacks);
        // In a forked child nothing was started for the guards that it inherits.
        let mut state = self.0.state();
        let _ = self.0.start_delivery(&mut state, false);
    }

    /// Registers the worker with the clock, before it starts.
    pub(crate) fn enlist(&self) -> Enlisted {
        self.0.clock.enlist()
    }

    /// Starts the threads that keep the time and run callbacks, before there is a lease.
    ///
    /// # Errors
    ///
    /// When they cannot be started.
    pub fn start(&self, observed: bool) -> io::Result<()> {
        self.0.start_timing(&mut self.0.state(), observed)
    }

    /// Sleeps until there may be work for the worker.
    pub fn wait_for_work(&self) {
        self.0.clock.sleep_until_realtime(&self.0.work, Time::MAX);
    }

    /// The same for a worker that is a task.
    #[cfg(feature = "tokio")]
    pub async fn work_comes(&self) {
        let work = &self.0.work;
        let asleep = self.0.clock.renewal_sleeps(work);
        poll_fn(|context| match work.is_notified_or_wakes(context.waker()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        // As a thread does: not before it counts as awake.
        drop(asleep);
        work.take();
    }

    /// Ends the threads.
    pub fn stop(&self) {
        self.0.state().stopped = true;
        self.0.timing.notify();
        self.0.work.notify();
        self.0.delivery.stop();
    }
}

impl State {
    fn forget(&mut self, ticket: Ticket) {
        let Some(kept) = self.kept.remove(&ticket) else {
            return;
        };
        self.agenda.remove(&(kept.look_at, ticket));
        self.renewed_no_more(kept.renewed_for);
    }

    fn renewed_no_more(&mut self, ttl: Option<Duration>) {
        /// How many times to live may stay listed unused, which spares an allocation for each
        /// lease.
        const UNUSED: usize = 64;
        if let Some(count) = ttl.and_then(|ttl| self.renewed.get_mut(&ttl)) {
            *count -= 1;
            if self.renewed.len() > UNUSED {
                self.renewed.retain(|_, count| *count > 0);
            }
        }
    }

    /// The shortest time to live that is renewed.
    fn shortest(&self) -> Option<Duration> {
        let mut used = self.renewed.iter().filter(|(_, count)| **count > 0);
        used.next().map(|(ttl, _)| *ttl)
    }
}

impl Inner {
    fn new(clock: &Clock) -> Self {
        Inner {
            clock: clock.clone(),
            state: Mutex::default(),
            timing: Signal::new(),
            work: Signal::new(),
            delivery: Delivery::new(),
        }
    }

    fn start_timing(self: &Arc<Self>, state: &mut State, observed: bool) -> io::Result<()> {
        self.start_delivery(state, observed)?;
        if !state.timing_started {
            let (inner, enlisted) = (Arc::clone(self), self.clock.enlist());
            let thread = thread::Builder::new().name("dlock-timing".to_owned());
            thread.spawn(move || enlisted.run(|| timing::run(&inner)))?;
            state.timing_started = true;
        }
        Ok(())
    }

    /// Under the lock of the state, so that each thread is started once.
    fn start_delivery(&self, state: &mut State, observed: bool) -> io::Result<()> {
        if !state.delivery_started || observed {
            self.delivery.start(observed)?;
            state.delivery_started = true;
        }
        Ok(())
    }

    /// Sets when the timing thread looks at a lease next.
    fn look_at(&self, state: &mut State, ticket: Ticket, at: Time) {
        let Some(kept) = state.kept.get_mut(&ticket) else {
            return;
        };
        state.agenda.remove(&(kept.look_at, ticket));
        kept.look_at = at;
        self.note(state, ticket, at);
    }

    /// Puts a lease on the agenda.
    fn note(&self, state: &mut State, ticket: Ticket, at: Time) {
        state.agenda.insert((at, ticket));
        self.look_by(state, at);
    }

    /// Wakes the timing thread if it would sleep too long.
    fn look_by(&self, state: &State, at: Time) {
        if state.next_look.is_some_and(|next| at < next) {
            self.timing.notify();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
