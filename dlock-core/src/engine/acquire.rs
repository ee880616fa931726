//! The acquire flow: carries out what an [`Acquisition`] decides.

use std::sync::Arc;
use std::time::Duration;

use crate::ProcessId;
use crate::acquire_error::AcquireError;
use crate::contract::claim::Claim;
use crate::contract::datastore::Watch;
use crate::contract::error::DatastoreError;
use crate::contract::grant::Grant;
use crate::contract::lease::Lease;
use crate::contract::outcome::AcquireOutcome;
use crate::engine::acquisition::{Acquisition, Action, Event, Granted, Plan};
use crate::engine::io::Io;
use crate::observer::LockEvent;
use crate::time::backoff::Backoff;
use crate::time::instant::Time;
use crate::time::signal::Signal;
use crate::time::wait::{CancelSubscriptions, Wait};
use crate::trace;

/// The lock to acquire, and how.
pub struct Request<'a> {
    /// The acquiring process.
    pub process: ProcessId,
    pub key: &'a Arc<str>,
    pub ttl: Duration,
    pub holder: Arc<str>,
    pub retry: Backoff,
    /// Whether the wait ends when the key holds the mark of a job that is done.
    pub until_done: bool,
}

/// An acquired lease, before it is renewed.
pub struct Won {
    pub process: ProcessId,
    pub lease: Lease,
    /// When the grant was received.
    pub granted: Time,
    pub valid_until: Time,
    /// The time until which a claim whose answer was lost may still be carried out, see
    /// [`outlive_lost_request`](crate::engine::release::outlive_lost_request).
    pub lost_request: Option<Time>,
}

/// Acquires, waiting until `deadline` if `wait` waits at all.
pub async fn acquire<S: Io>(
    io: &S,
    request: &Request<'_>,
    wait: &Wait,
    deadline: Time,
) -> Result<Won, AcquireError> {
    if wait.is_cancelled() {
        // A caller that is cancelled wants no lock, not even a free one.
        return Err(AcquireError::Cancelled);
    }
    let mut now = io.clock().now();
    let mut claimant = Claimant::new(io, request, wait, deadline, now)?;
    let plan = Plan {
        deadline,
        waits: wait.waits(),
        until_done: request.until_done,
        call_timeout: io.characteristics().call_timeout,
        retry: request.retry,
        seed: claimant.claim.owner().low_bits(),
    };
    let (mut acquisition, mut action) = Acquisition::start(plan, now);
    // The claimant has the arguments: the future would have room for them once more.
    loop {
        let event = match action {
            Action::Claim { not_after, fresh } => {
                if fresh {
                    claimant.leave().await;
                    claimant.claim = claimant.new_claim(now)?;
                }
                // The lease counts from `now`, which is before the call.
                claimant.claim.set_not_after(not_after);
                let ttl = claimant.request.ttl;
                let reply = io.acquire(&claimant.claim, ttl).await;
                claimant.answered(now, reply)
            }
            Action::Watch => claimant.watch().await,
            Action::Sleep { until, wakeable } => {
                if wakeable {
                    io.sleep(Some(claimant.signal()), until).await;
                } else {
                    // This claim has been given up: the store must not hand it the lock.
                    claimant.leave().await;
                    io.sleep(None, until).await;
                }
                Event::Woken
            }
            Action::Abandon => {
                // If that fails too, the claim holds the key for at most one time to live.
                let _ = io.abandon(&for_call(io, &claimant.claim)).await;
                Event::Undone
            }
            Action::Discard(grant) => {
                // If the release fails, the lease ends by itself.
                let lease = claimant.late_lease(grant);
                let _ = Box::pin(io.release(&lease)).await;
                Event::Undone
            }
            Action::Finish => break,
        };
        // Process an answer before a cancellation: it may be a grant, or leave something to clean
        // up.
        let event = if event.gives_way(claimant.wait.waits()) && claimant.is_cancelled() {
            Event::Cancelled
        } else {
            event
        };
        now = io.clock().now();
        action = acquisition.on(now, event);
    }
    claimant.leave().await;
    trace::record_attempts(claimant.attempts);
    let Granted {
        grant,
        valid_until,
        lost_request,
    } = acquisition.into_outcome()?;
    Ok(Won {
        process: claimant.request.process,
        lease: Lease::new(claimant.claim, grant),
        granted: now,
        valid_until,
        lost_request,
    })
}

/// The same claim for a call that starts now and may take the usual time of a call.
pub fn for_call<S: Io>(io: &S, claim: &Claim) -> Claim {
    let call_timeout = io.characteristics().call_timeout;
    claim
        .clone()
        .with_not_after(io.clock().now().saturating_add(call_timeout))
}

/// The caller's claim, and its watch if the store has queued it.
struct Claimant<'a, S: Io> {
    io: &'a S,
    request: &'a Request<'a>,
    wait: &'a Wait,
    deadline: Option<Time>,
    claim: Claim,
    /// Created when something may notify it, since most claims win at once.
    signal: Option<Signal>,
    /// Forwards a cancellation to `signal`.
    cancel: CancelSubscriptions,
    watch: Option<Watch>,
    reported: ReportedWait<'a, S>,
    attempts: u64,
}

impl<'a, S: Io> Claimant<'a, S> {
    fn new(
        io: &'a S,
        request: &'a Request<'a>,
        wait: &'a Wait,
        deadline: Time,
        now: Time,
    ) -> Result<Self, DatastoreError> {
        let deadline = wait.waits().then_some(deadline);
        Ok(Claimant {
            claim: new_claim(io, request, deadline, now)?,
            io,
            request,
            wait,
            deadline,
            signal: None,
            cancel: CancelSubscriptions::default(),
            watch: None,
            reported: ReportedWait {
                io,
                key: request.key,
                since: None,
            },
            attempts: 0,
        })
    }

    /// A claim with a fresh owner token.
    fn new_claim(&self, now: Time) -> Result<Claim, DatastoreError> {
        new_claim(self.io, self.request, self.deadline, now)
    }

    fn answered(&mut self, sent: Time, reply: Result<AcquireOutcome, DatastoreError>) -> Event {
        if let Ok(AcquireOutcome::Held(held)) = &reply {
            self.io.report(&LockEvent::Refused {
                key: self.request.key,
                held,
            });
            if self.deadline.is_some() {
                self.reported.begin();
            }
        }
        self.attempts += 1;
        Event::Answered { sent, reply }
    }

    async fn watch(&mut self) -> Event {
        let call = for_call(self.io, &self.claim);
        let not_after = call.not_after().min(self.deadline.unwrap_or(Time::MAX));
        let io = self.io;
        // If the store fails to watch, poll it.
        let watch = io
            .watch(&call.with_not_after(not_after), self.signal())
            .await;
        self.watch = watch.ok().flatten();
        Event::Watched(self.watch.is_some())
    }

    /// Ends the watch, if there is one.
    async fn leave(&mut self) {
        if let Some(watch) = self.watch.take() {
            self.io.leave(self.request.key, watch).await;
        }
    }

    fn signal(&mut self) -> &Signal {
        let (wait, subscription) = (self.wait, &mut self.cancel);
        self.signal.get_or_insert_with(|| {
            let signal = Signal::new();
            *subscription = wait.subscribe(&signal);
            signal
        })
    }

    /// The lease of a grant that came too late, for its release.
    fn late_lease(&self, grant: Grant) -> Lease {
        let lease = Lease::new(for_call(self.io, &self.claim), grant);
        lease.for_call(1, lease.not_after())
    }

    fn is_cancelled(&self) -> bool {
        self.wait.is_cancelled()
    }
}

/// A wait that the observer knows of; its end is reported however it ends.
struct ReportedWait<'a, S: Io> {
    io: &'a S,
    key: &'a str,
    since: Option<Time>,
}

impl<S: Io> ReportedWait<'_, S> {
    fn begin(&mut self) {
        if self.since.is_none() && self.io.observer().is_some() {
            self.since = Some(self.io.clock().now());
            self.io.report(&LockEvent::Waiting { key: self.key });
        }
    }
}

impl<S: Io> Drop for ReportedWait<'_, S> {
    fn drop(&mut self) {
        if let Some(since) = self.since {
            let (key, waited) = (self.key, since.until(self.io.clock().now()));
            self.io.report(&LockEvent::WaitEnded { key, waited });
        }
    }
}

fn new_claim<S: Io>(
    io: &S,
    request: &Request<'_>,
    deadline: Option<Time>,
    now: Time,
) -> Result<Claim, DatastoreError> {
    let not_after = now.saturating_add(io.characteristics().call_timeout);
    let (holder, key) = (Arc::clone(&request.holder), Arc::clone(request.key));
    let claim = Claim::by(io.owner_token()?, holder, key, io.clock(), not_after);
    Ok(match deadline {
        Some(deadline) => claim.with_deadline(deadline),
        None => claim,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::characteristics::Characteristics;
    use crate::contract::datastore::Datastore;
    use crate::contract::error::ErrorKind;
    use crate::contract::inspect::Inspect;
    use crate::contract::layer::{Layer, Layered};
    use crate::contract::outcome::ReleaseOutcome;
    use crate::engine::release::outlive_lost_request;
    use crate::memory::MemoryDatastore;
    use crate::options::LockOptions;
    use crate::store::{Store, at_once};
    use crate::time::clock::Clock;
    use crate::time::fake_clock::FakeClock;
    use proptest::prelude::Rng;
    use proptest::test_runner::{RngAlgorithm, TestRng};
    use std::sync::Mutex;

    const TTL: Duration = Duration::from_secs(3);
    const KEY: &str = "dlock:x";
    const CALL: Duration = Duration::from_millis(500);

    /// A network between the flow and a store. It loses requests and answers, refuses connections,
    /// is slow, and delivers requests late whose sender has given up.
    struct Network {
        /// Where late requests arrive.
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

        /// Lets `time` pass, and delivers the requests in flight at their time.
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
                if matches!(
                    self.store.acquire(&claim, TTL),
                    Ok(AcquireOutcome::Granted(_))
                ) {
                    *self.granted_late.lock().unwrap() += 1;
                }
            }
        }

        fn timed_out(&self, claim: &Claim) -> DatastoreError {
            self.pass(claim.time_left());
            DatastoreError::maybe_executed(ErrorKind::Timeout, "no answer")
        }
    }

    impl Layer for Network {
        fn acquire(
            &self,
            store: &dyn Datastore,
            claim: &Claim,
            ttl: Duration,
        ) -> Result<AcquireOutcome, DatastoreError> {
            let latency = Duration::from_millis(self.draw(20)).min(claim.time_left() / 2);
            self.pass(latency);
            match self.draw(10) {
                0 => Err(DatastoreError::not_executed(
                    ErrorKind::Unreachable,
                    "refused",
                )),
                1 => Err(self.timed_out(claim)), // the request is lost
                2 => {
                    let _lost = store.acquire(claim, ttl)?;
                    Err(self.timed_out(claim))
                }
                3 => {
                    // The connection breaks at once. The request arrives later, perhaps after its
                    // `not_after`.
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
                    let answer = store.acquire(claim, ttl);
                    // slow, perhaps slower than the lease
                    self.pass(Duration::from_millis(self.draw(4000)));
                    answer
                }
                _ => store.acquire(claim, ttl),
            }
        }

        fn characteristics(&self, store: &dyn Datastore) -> Characteristics {
            store.characteristics().with_call_timeout(CALL)
        }
    }

    /// A hundred thousand acquisitions in virtual time. A loser leaves nothing behind and returns
    /// in time; a winner's lease is in the store.
    #[test]
    fn whatever_the_network_does_a_loser_leaves_nothing_behind() {
        let fake = FakeClock::jumping();
        let clock = fake.clock();
        let memory = MemoryDatastore::with_clock(clock.clone());
        let network = Network {
            store: memory.clone(),
            fake: fake.clone(),
            random: Mutex::new(TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32])),
            in_flight: Mutex::default(),
            granted_late: Mutex::default(),
        };
        let layered = Arc::new(Layered::new(memory.clone(), network));
        let network = layered.layer();
        let store = Store::new(Arc::clone(&layered));
        let (mut won, mut held, mut failed) = (0, 0, 0);
        for _ in 0..100_000 {
            let other = (network.draw(4) == 0).then(|| hold(&memory, &clock, network.draw(2000)));
            let wait = Wait::within(Duration::from_millis(network.draw(3) * network.draw(1500)));
            let start = clock.now();
            let deadline = wait.deadline(start, CALL);
            let key = Arc::from(KEY);
            let retry = LockOptions::default().retry();
            let request = Request {
                process: ProcessId::current(),
                key: &key,
                ttl: TTL,
                holder: "".into(),
                retry,
                until_done: false,
            };
            match at_once(acquire(&store, &request, &wait, deadline)) {
                Ok(Won {
                    lease,
                    valid_until,
                    lost_request,
                    ..
                }) => {
                    won += 1;
                    assert!(valid_until > clock.now());
                    let record = memory
                        .holder(KEY)
                        .unwrap()
                        .expect("the winner's lease is in the store");
                    assert_eq!(record.fence(), lease.fence());
                    let lease = lease.for_call(1, Time::MAX);
                    let sent = clock.now();
                    assert_eq!(memory.release(&lease).unwrap(), ReleaseOutcome::Released);
                    // A lost copy of the claim may arrive before the answer to the release.
                    network.pass(Duration::from_millis(network.draw(700)));
                    at_once(outlive_lost_request(
                        &store,
                        lease.claim(),
                        lost_request,
                        sent,
                    ));
                }
                Err(error) => {
                    if error.is_held() {
                        held += 1;
                    } else {
                        failed += 1;
                    };
                    // The slow network answers up to four seconds after the end of a call. The flow
                    // cannot bound that.
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
            // What is still in flight arrives now.
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
        // The test must have covered all outcomes.
        assert!(
            won > 50_000 && held > 5_000 && failed > 5_000,
            "{won} {held} {failed}"
        );
        assert!(*network.granted_late.lock().unwrap() > 100);
    }

    fn hold(memory: &MemoryDatastore, clock: &Clock, millis: u64) -> Lease {
        let claim = Claim::new(KEY, clock, CALL).unwrap();
        let ttl = Duration::from_millis(10 + millis);
        let Ok(AcquireOutcome::Granted(grant)) = memory.acquire(&claim, ttl) else {
            panic!("the key was free")
        };
        Lease::new(claim, grant).for_call(1, Time::MAX)
    }
}
