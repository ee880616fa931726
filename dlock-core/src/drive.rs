//! Carries out what an [`Acquisition`] decides, on the calling thread.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use crate::acquisition::{Acquisition, Action, Event, Granted, Plan};
use crate::wait::Waking;
use crate::{
    AcquireError, Backoff, Claim, DatastoreError, Held, Lease, LockEvent, Signal, Store, Time,
    Wait, Watch,
};
use crate::{Attempt, Released};

/// What to acquire.
pub(crate) struct Request<'a> {
    /// The process that acquires. Asked for once: each time is a call to the system.
    pub(crate) pid: u32,
    pub(crate) key: &'a Arc<str>,
    pub(crate) ttl: Duration,
    pub(crate) holder: Arc<str>,
    pub(crate) retry: Backoff,
    /// Whether the mark of a job that was done ends the wait.
    pub(crate) until_done: bool,
}

/// What was acquired: a lease that is valid until then.
pub(crate) struct Won {
    pub(crate) pid: u32,
    pub(crate) lease: Lease,
    pub(crate) until: Time,
    /// Until when a lost copy of the claim may yet be carried out, see [`outlive_lost_request`].
    pub(crate) lost_request: Option<Time>,
}

/// After a release whose first try was sent at `sent`: waits for the end of a lost copy of the claim, and undoes what it may have done. Without
/// that it would take the key again for nobody, for one time to live.
pub(crate) fn outlive_lost_request(
    store: &Store,
    claim: &Claim,
    lost_request: Option<Time>,
    sent: Time,
) {
    // Where late calls are refused, nothing comes after the end. Elsewhere the store at least learns that the claim is given up.
    let refused = store.characteristics().refuses_late_calls;
    let Some(until) = lost_request.filter(|until| sent < *until || !refused) else {
        return;
    };
    store.clock().park(&Signal::new(), until);
    // If that fails too, the claim holds the key for one time to live at the most.
    let _ = store.abandon(&for_call(store, claim));
}

/// Waits until the end of a lost copy of a claim, if there is one.
pub(crate) fn await_lost_request(store: &Store, lost_request: Option<Time>) {
    if let Some(until) = lost_request {
        store.clock().park(&Signal::new(), until);
    }
}

/// The claim for one call that starts now.
fn for_call(store: &Store, claim: &Claim) -> Claim {
    let call_timeout = store.characteristics().call_timeout;
    claim
        .clone()
        .until(store.clock().now().saturating_add(call_timeout))
}

/// Acquires, waiting until `deadline` if `wait` waits at all.
pub(crate) fn acquire(
    store: &Store,
    request: &Request<'_>,
    wait: &Wait,
    deadline: Time,
) -> Result<Won, AcquireError> {
    let mut now = store.clock().now();
    let mut claimant = Claimant::new(store, request, wait, deadline, now)?;
    let plan = Plan {
        deadline,
        waits: wait.waits(),
        until_done: request.until_done,
        call_timeout: store.characteristics().call_timeout,
        retry: request.retry,
        seed: claimant.claim.owner().low_bits(),
    };
    let (mut acquisition, mut action) = Acquisition::start(plan, now);
    loop {
        let event = match action {
            Action::Claim { not_after, fresh } => claimant.claim(now, not_after, fresh)?,
            Action::Watch => claimant.watch(),
            Action::Sleep { until, wakeable } => claimant.sleep(until, wakeable),
            Action::Abandon => claimant.abandon(),
            Action::Discard(grant) => claimant.discard(grant),
            Action::Finish => break,
        };
        // An answer is taken in first: it may be a grant, or leave something to clean up.
        let interruptible = matches!(event, Event::Watched(_) | Event::Woken);
        let event = if interruptible && claimant.is_cancelled() {
            Event::Cancelled
        } else {
            event
        };
        now = store.clock().now();
        action = acquisition.on(now, event);
    }
    let Granted {
        grant,
        until,
        lost_request,
    } = acquisition.into_outcome()?;
    Ok(Won {
        pid: request.pid,
        lease: Lease::new(claimant.claim, grant),
        until,
        lost_request,
    })
}

/// The caller, as the store sees it.
struct Claimant<'a> {
    store: &'a Store,
    request: &'a Request<'a>,
    wait: &'a Wait,
    waits_until: Option<Time>,
    claim: Claim,
    /// Made when there is something that may wake it: most claims win at once.
    signal: OnceCell<Signal>,
    watch: Option<Watch>,
    _waking: Option<Waking>,
}

impl<'a> Claimant<'a> {
    fn new(
        store: &'a Store,
        request: &'a Request<'a>,
        wait: &'a Wait,
        deadline: Time,
        now: Time,
    ) -> Result<Self, DatastoreError> {
        let signal = OnceCell::new();
        let waits_until = wait.waits().then_some(deadline);
        Ok(Claimant {
            claim: new_claim(store, request, waits_until, now)?,
            _waking: wait
                .cancel()
                .map(|cancel| cancel.wake(signal.get_or_init(Signal::new))),
            watch: None,
            store,
            request,
            wait,
            waits_until,
            signal,
        })
    }

    /// Sends the claim. The lease counts from `sent`, which must not be later than that.
    fn claim(&mut self, sent: Time, not_after: Time, fresh: bool) -> Result<Event, DatastoreError> {
        if fresh {
            self.watch = None;
            self.claim = new_claim(self.store, self.request, self.waits_until, sent)?;
        }
        let claim = self.claim.clone().until(not_after);
        let reply = self.store.acquire(&claim, self.request.ttl);
        if let Ok(Attempt::Held(held)) = &reply {
            self.tell_refused(held);
        }
        Ok(Event::Answered { sent, reply })
    }

    fn tell_refused(&self, held: &Held) {
        self.store.tell(&LockEvent::Refused {
            key: self.request.key,
            held,
        });
    }

    fn watch(&mut self) -> Event {
        let call = self.call();
        let not_after = call.not_after().min(self.waits_until.unwrap_or(Time::MAX));
        // A store that fails to watch is polled.
        self.watch = self
            .store
            .watch(&call.until(not_after), self.signal())
            .ok()
            .flatten();
        Event::Watched(self.watch.is_some())
    }

    fn sleep(&mut self, until: Time, wakeable: bool) -> Event {
        if wakeable {
            self.store.clock().park(self.signal(), until);
        } else {
            // It is over for this claim: nobody shall hand it the lock.
            self.watch = None;
            self.store.clock().park(&Signal::new(), until);
        }
        Event::Woken
    }

    fn signal(&self) -> &Signal {
        self.signal.get_or_init(Signal::new)
    }

    fn abandon(&self) -> Event {
        // If that fails too, the claim holds the key for one time to live at the most.
        let _ = self.store.abandon(&self.call());
        Event::Undone
    }

    fn discard(&self, grant: crate::Grant) -> Event {
        let lease = Lease::new(self.call(), grant);
        // If that fails, the lease ends by itself.
        let _ = self
            .store
            .release(&lease.for_call(1, lease.not_after()))
            .map(|_: Released| ());
        Event::Undone
    }

    /// The claim for one call beside the claims proper.
    fn call(&self) -> Claim {
        let call_timeout = self.store.characteristics().call_timeout;
        self.claim
            .clone()
            .until(self.store.clock().now().saturating_add(call_timeout))
    }

    fn is_cancelled(&self) -> bool {
        self.wait.cancel().is_some_and(crate::Cancel::is_cancelled)
    }
}

fn new_claim(
    store: &Store,
    request: &Request<'_>,
    waits_until: Option<Time>,
    now: Time,
) -> Result<Claim, DatastoreError> {
    let not_after = now.saturating_add(store.characteristics().call_timeout);
    let (holder, key) = (Arc::clone(&request.holder), Arc::clone(request.key));
    let claim = Claim::by(holder, key, store.clock(), not_after)?;
    Ok(match waits_until {
        Some(until) => claim.waiting_until(until),
        None => claim,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Clock, Datastore, ErrorKind, Extension, FakeClock, Inspect, LockOptions, MemoryDatastore,
    };
    use proptest::prelude::Rng;
    use proptest::test_runner::{RngAlgorithm, TestRng};
    use std::sync::Mutex;

    const TTL: Duration = Duration::from_secs(3);
    const KEY: &str = "dlock:x";
    const CALL: Duration = Duration::from_millis(500);

    /// A network between the driver and a store: it loses requests, loses answers, refuses connections, is slow, and delivers requests
    /// that were given up on before their end.
    struct Network {
        store: MemoryDatastore,
        fake: FakeClock,
        random: Mutex<TestRng>,
        in_flight: Mutex<Vec<(Time, Claim)>>,
        granted_late: Mutex<u32>,
    }

    impl Network {
        fn draw(&self, below: u64) -> u64 {
            self.random.lock().unwrap().next_u64() % below
        }

        /// Lets time pass, and requests arrive at their time.
        fn pass(&self, time: Duration) {
            let clock = self.fake.clock();
            let end = clock.now().saturating_add(time);
            loop {
                let mut in_flight = self.in_flight.lock().unwrap();
                in_flight.sort_by_key(|(at, _)| *at);
                let next = in_flight.first().map_or(end, |(at, _)| *at);
                let arrived = (next <= end && !in_flight.is_empty()).then(|| in_flight.remove(0));
                drop(in_flight);
                self.fake.advance(clock.now().until(next.min(end)));
                let Some((_, claim)) = arrived else { return };
                if matches!(self.store.acquire(&claim, TTL), Ok(Attempt::Granted(_))) {
                    *self.granted_late.lock().unwrap() += 1;
                }
            }
        }

        fn timed_out(&self, claim: &Claim) -> DatastoreError {
            self.pass(claim.time_left());
            DatastoreError::maybe_executed(ErrorKind::Timeout, "no answer")
        }
    }

    impl Datastore for Network {
        fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<Attempt, DatastoreError> {
            let latency = Duration::from_millis(self.draw(20)).min(claim.time_left() / 2);
            self.pass(latency);
            match self.draw(10) {
                0 => Err(DatastoreError::not_executed(
                    ErrorKind::Unreachable,
                    "refused",
                )),
                1 => Err(self.timed_out(claim)), // the request is lost
                2 => {
                    let _lost = self.store.acquire(claim, ttl)?;
                    Err(self.timed_out(claim))
                }
                3 => {
                    // The connection breaks at once; the request arrives later, perhaps after its end.
                    let at = self
                        .fake
                        .clock()
                        .now()
                        .saturating_add(Duration::from_millis(self.draw(900)));
                    self.in_flight.lock().unwrap().push((at, claim.clone()));
                    Err(DatastoreError::maybe_executed(
                        ErrorKind::Unreachable,
                        "cut",
                    ))
                }
                4 => {
                    self.pass(claim.time_left() * 9 / 10);
                    let answer = self.store.acquire(claim, ttl);
                    self.pass(Duration::from_millis(self.draw(4000))); // slow, perhaps slower than the lease
                    answer
                }
                _ => self.store.acquire(claim, ttl),
            }
        }

        fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
            self.store.extend(lease, ttl)
        }

        fn release(&self, lease: &Lease) -> Result<Released, DatastoreError> {
            self.store.release(lease)
        }

        fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
            self.store.abandon(claim)
        }

        fn characteristics(&self) -> crate::Characteristics {
            self.store.characteristics().with_call_timeout(CALL)
        }
    }

    /// A hundred thousand acquisitions in virtual time. Whatever the network does, a loser leaves nothing behind and is not late, and a
    /// winner's lease is in the store.
    #[test]
    fn whatever_the_network_does_a_loser_leaves_nothing_behind() {
        let fake = FakeClock::jumping();
        let clock = fake.clock();
        let memory = MemoryDatastore::with_clock(clock.clone());
        let network = Arc::new(Network {
            store: memory.clone(),
            fake: fake.clone(),
            random: Mutex::new(TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32])),
            in_flight: Mutex::default(),
            granted_late: Mutex::default(),
        });
        let store = Store::builder(Arc::clone(&network))
            .clock(clock.clone())
            .build();
        let (mut won, mut held, mut failed) = (0, 0, 0);
        for _ in 0..100_000 {
            let other = (network.draw(4) == 0).then(|| hold(&memory, &clock, network.draw(2000)));
            let wait = Wait::within(Duration::from_millis(network.draw(3) * network.draw(1500)));
            let start = clock.now();
            let deadline = wait.deadline(start, CALL);
            let key = Arc::from(KEY);
            let retry = LockOptions::default().retry;
            let request = Request {
                pid: 1,
                key: &key,
                ttl: TTL,
                holder: "".into(),
                retry,
                until_done: false,
            };
            match acquire(&store, &request, &wait, deadline) {
                Ok(Won {
                    lease,
                    until,
                    lost_request,
                    ..
                }) => {
                    won += 1;
                    assert!(until > clock.now());
                    let seen = memory
                        .holder(KEY)
                        .unwrap()
                        .expect("the winner's lease is in the store");
                    assert_eq!(seen.fence(), lease.fence());
                    let lease = lease.for_call(1, Time::MAX);
                    let sent = clock.now();
                    assert_eq!(memory.release(&lease).unwrap(), Released::Ours);
                    // The answer takes a while, in which a lost copy may arrive.
                    network.pass(Duration::from_millis(network.draw(700)));
                    outlive_lost_request(&store, lease.claim(), lost_request, sent);
                }
                Err(error) => {
                    if error.is_held() {
                        held += 1;
                    } else {
                        failed += 1;
                    };
                    // The slow network answers up to four seconds after the end of a call: that is not the driver's to bound.
                    let late = deadline.until(clock.now());
                    assert!(late <= CALL * 2 + Duration::from_secs(4), "{late:?} late");
                    if other.is_none() {
                        assert_eq!(
                            memory.holder(KEY).unwrap(),
                            None,
                            "not cleaned up at once: {error}"
                        );
                    }
                }
            }
            // Whatever is still under way arrives now.
            network.pass(Duration::from_secs(1));
            if let Some(lease) = other {
                let _ = memory.release(&lease).unwrap();
            }
            assert_eq!(
                memory.holder(KEY).unwrap(),
                None,
                "left behind after {won} + {held} + {failed}"
            );
        }
        // Nothing of this is vacuous.
        assert!(
            won > 50_000 && held > 5_000 && failed > 5_000,
            "{won} {held} {failed}"
        );
        assert!(*network.granted_late.lock().unwrap() > 100);
    }

    fn hold(memory: &MemoryDatastore, clock: &Clock, millis: u64) -> Lease {
        let claim = Claim::new(KEY, clock, CALL).unwrap();
        let ttl = Duration::from_millis(10 + millis);
        let Ok(Attempt::Granted(grant)) = memory.acquire(&claim, ttl) else {
            panic!("the key was free")
        };
        Lease::new(claim, grant).for_call(1, Time::MAX)
    }
}
