//! What the memory store does with its waiters.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::thread;
use std::time::Duration;

use dlock_core::{
    Attempt, Claim, Clock, Datastore as _, FakeClock, Inspect as _, Lease, Lock, LockOptions,
    MemoryDatastore, Released, Signal, Store,
};
use support::{Flaky, eventually};

const KEY: &str = "dlock:job";
const SECOND: Duration = Duration::from_secs(1);

struct World {
    fake: FakeClock,
    clock: Clock,
    memory: MemoryDatastore,
}

impl World {
    fn new() -> Self {
        let fake = FakeClock::new();
        let clock = fake.clock();
        World {
            memory: MemoryDatastore::with_clock(clock.clone()),
            fake,
            clock,
        }
    }

    fn claim(&self) -> Claim {
        Claim::new(KEY, &self.clock, SECOND * 86_400).unwrap()
    }

    fn hold(&self) -> Lease {
        let claim = self.claim();
        let Attempt::Granted(grant) = self.memory.acquire(&claim, SECOND * 30).unwrap() else {
            panic!("the key was free");
        };
        Lease::new(claim, grant).for_call(1, dlock_core::Time::MAX)
    }

    fn is_granted(&self, claim: &Claim) -> bool {
        matches!(
            self.memory.acquire(claim, SECOND * 30).unwrap(),
            Attempt::Granted(_)
        )
    }
}

#[test]
fn who_leaves_the_queue_hands_on_what_it_was_handed() {
    let world = World::new();
    let lease = world.hold();
    let watch = world.memory.watch(&world.claim(), &Signal::new()).unwrap();
    assert_eq!(world.memory.release(&lease).unwrap(), Released::Ours);
    drop(watch);
    assert!(world.is_granted(&world.claim()));
}

#[test]
fn a_waiter_that_gave_up_after_it_missed_its_turn_bars_nobody() {
    let world = World::new();
    let lease = world.hold();
    let watch = world.memory.watch(&world.claim(), &Signal::new()).unwrap();
    assert_eq!(world.memory.release(&lease).unwrap(), Released::Ours);
    world.fake.advance(SECOND * 2);
    drop(watch);
    assert!(world.is_granted(&world.claim()));
}

#[test]
fn a_waiter_that_missed_its_turn_queues_again_behind_the_others() {
    let world = World::new();
    let lease = world.hold();
    let (late, other) = (world.claim(), world.claim());
    let (signal_late, signal_other) = (Signal::new(), Signal::new());
    let _late = world.memory.watch(&late, &signal_late).unwrap();
    let _other = world.memory.watch(&other, &signal_other).unwrap();
    assert_eq!(world.memory.release(&lease).unwrap(), Released::Ours);
    assert!(signal_late.take());
    world.fake.advance(SECOND * 2);
    assert!(!world.is_granted(&late), "the other is first now");
    assert!(signal_other.take() && world.is_granted(&other));
    let lease = Lease::new(other.clone(), dlock_core::Grant::new(SECOND));
    assert_eq!(world.memory.release(&lease).unwrap(), Released::Ours);
    assert!(signal_late.take(), "and the late one is woken in its turn");
}

#[test]
fn the_next_waiter_is_woken_when_a_late_one_goes() {
    let world = World::new();
    let lease = world.hold();
    let (first, second) = (Signal::new(), Signal::new());
    let watch = world.memory.watch(&world.claim(), &first).unwrap();
    let _watch = world.memory.watch(&world.claim(), &second).unwrap();
    assert_eq!(world.memory.release(&lease).unwrap(), Released::Ours);
    world.fake.advance(SECOND * 2);
    drop(watch);
    assert!(second.take(), "the key is free and nobody tells the next");
}

#[test]
fn a_repeated_claim_never_shortens_the_lease() {
    let world = World::new();
    let claim = world.claim();
    assert!(matches!(
        world.memory.acquire(&claim, SECOND * 30),
        Ok(Attempt::Granted(_))
    ));
    assert!(matches!(
        world.memory.acquire(&claim, SECOND),
        Ok(Attempt::Granted(_))
    ));
    let left = world.memory.holder(KEY).unwrap().unwrap().expires_in();
    assert_eq!(left, Some(SECOND * 30));
}

#[test]
fn leases_that_ended_and_that_nobody_asks_for_are_forgotten() {
    let world = World::new();
    for number in 0..10_000 {
        let claim = Claim::new(format!("dlock:{number}"), &world.clock, SECOND * 86_400).unwrap();
        assert!(matches!(
            world.memory.acquire(&claim, SECOND),
            Ok(Attempt::Granted(_))
        ));
        world.fake.advance(SECOND);
    }
    assert!(world.memory.len() <= 2048, "{} records", world.memory.len());
}

#[test]
fn a_waiter_learns_when_min_hold_shortens_the_lease() {
    let store = Store::from(MemoryDatastore::new());
    let options = LockOptions::default().with_min_hold(SECOND * 2);
    let lock = Lock::with_options(&store, "job", options).unwrap();
    let guard = lock.try_acquire().unwrap();
    let waiter = thread::spawn({
        let lock = lock.clone();
        // Less than the 30 s that the holder's lease lasts at first.
        move || lock.acquire_within(SECOND * 20).map(drop)
    });
    thread::sleep(SECOND / 2);
    guard.release().unwrap();
    waiter.join().unwrap().expect("free after two seconds");
}

#[test]
fn a_waiter_is_woken_by_the_release_and_not_by_the_end_of_the_lease() {
    let store = Flaky::new();
    let lock = Lock::new(store.clone(), "job");
    let guard = lock.try_acquire().unwrap();
    let waiter = thread::spawn({
        let lock = lock.clone();
        move || lock.acquire_within(SECOND * 25).map(drop)
    });
    eventually("waiting", || store.acquires.count() >= 3);
    guard.release().unwrap();
    waiter
        .join()
        .unwrap()
        .expect("woken before the 30 s of the lease are over");
}
