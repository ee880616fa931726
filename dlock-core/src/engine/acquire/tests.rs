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
