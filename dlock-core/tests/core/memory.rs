//! Leases and waiters of the store in memory. The testkit tests the laws of every store.

use std::thread;
use std::time::Duration;

use crate::support::{Flaky, eventually};
use dlock_core::{
    AcquireOutcome, Claim, Clock, Datastore as _, ErrorKind, Extension, FakeClock, Fencing,
    FencingToken, Grant, HeldBy, Holder, Inspect as _, Lease, Lock, LockOptions, MemoryDatastore,
    Reach, ReleaseOutcome, Signal, Store, Time,
};

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
        let AcquireOutcome::Granted(grant) = self.memory.acquire(&claim, SECOND * 30).unwrap()
        else {
            panic!("the key was free");
        };
        Lease::new(claim, grant).for_call(1, Time::MAX)
    }

    fn holder(&self) -> HeldBy {
        self.memory.holder(KEY).unwrap().expect("held")
    }

    /// The remaining time of the lease after an extend to `ttl` with the number `sequence`.
    fn extend(&self, lease: &Lease, sequence: u64, ttl: Duration) -> Duration {
        let call = lease.for_call(sequence, Time::MAX);
        let Extension::Extended(grant) = self.memory.extend(&call, ttl).unwrap() else {
            panic!("lost");
        };
        assert_eq!(grant.fence, lease.fence());
        assert_eq!(self.holder().expires_in(), Some(grant.ttl));
        grant.ttl
    }

    fn is_granted(&self, claim: &Claim) -> bool {
        matches!(
            self.memory.acquire(claim, SECOND * 30).unwrap(),
            AcquireOutcome::Granted(_)
        )
    }
}

#[test]
fn a_lease_ends_at_its_end_and_not_before() {
    let world = World::new();
    let lease = world.hold();
    assert!(!world.memory.is_empty() && world.memory.len() == 1);
    let instant = Duration::from_nanos(1);
    world.fake.advance(SECOND * 30 - instant);
    assert!(!world.is_granted(&world.claim()));
    assert_eq!(world.holder().expires_in(), Some(instant));
    world.fake.advance(instant);
    assert_eq!(world.memory.holder(KEY).unwrap(), None);
    assert!(world.memory.is_empty());
    let later = world.memory.extend(&lease, SECOND).unwrap();
    assert!(matches!(later, Extension::Lost));
    assert_eq!(
        world.memory.release(&lease).unwrap(),
        ReleaseOutcome::NotHeld
    );
}

#[test]
fn the_holder_is_shown_as_its_last_call_described_it() {
    let world = World::new();
    let lease = world.hold();
    let shown = world.holder();
    assert_eq!(shown.fence(), lease.fence());
    assert_eq!(shown.expires_in(), Some(SECOND * 30));
    assert!(shown.holder().is_some_and(Holder::is_this_process));
    let text = "dlock1 web-3 4121 00000000000000aa 1764000271000 running";
    world.extend(&lease.with_holder(text), 2, SECOND);
    let shown = world.holder();
    assert_eq!(shown.holder().map(Holder::to_text).as_deref(), Some(text));
}

#[test]
fn an_extend_replaces_the_time_and_an_older_one_changes_nothing() {
    let world = World::new();
    let lease = world.hold();
    assert_eq!(world.extend(&lease, 2, SECOND * 60), SECOND * 60);
    assert_eq!(world.extend(&lease, 2, SECOND * 10), SECOND * 60);
    assert_eq!(world.extend(&lease, 1, SECOND * 10), SECOND * 60);
    assert_eq!(world.extend(&lease, 3, SECOND * 10), SECOND * 10);
}

#[test]
fn nobody_but_the_owner_extends_or_releases() {
    let world = World::new();
    let lease = world.hold();
    let other = Lease::new(world.claim(), lease.grant().clone()).for_call(9, Time::MAX);
    let extension = world.memory.extend(&other, SECOND).unwrap();
    assert!(matches!(extension, Extension::Lost));
    assert_eq!(
        world.memory.release(&other).unwrap(),
        ReleaseOutcome::NotHeld
    );
    assert_eq!(world.holder().expires_in(), Some(SECOND * 30));
    assert_eq!(
        world.memory.release(&lease).unwrap(),
        ReleaseOutcome::Released
    );
    assert_eq!(world.memory.holder(KEY).unwrap(), None);
}

#[test]
fn a_late_call_and_a_too_short_time_change_nothing() {
    let world = World::new();
    let lease = world.hold();
    let late = lease.for_call(9, world.clock.now());
    let errors = [
        world.memory.acquire(late.claim(), SECOND).map(drop),
        world.memory.extend(&late, SECOND).map(drop),
        world.memory.release(&late).map(drop),
    ];
    for error in errors {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Stale);
    }
    let short = Duration::from_nanos(1);
    let errors = [
        world.memory.acquire(&world.claim(), short).map(drop),
        world.memory.extend(&lease, short).map(drop),
    ];
    for error in errors {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(world.holder().expires_in(), Some(SECOND * 30));
}

#[test]
fn only_the_present_token_breaks_a_lease() {
    let world = World::new();
    let lease = world.hold();
    let fence = lease.fence().unwrap();
    let other = FencingToken::new(fence.get() + 1);
    assert_eq!(
        world.memory.break_lease(KEY, other).unwrap(),
        ReleaseOutcome::NotHeld
    );
    assert_eq!(world.holder().fence(), Some(fence));
    assert_eq!(
        world.memory.break_lease(KEY, fence).unwrap(),
        ReleaseOutcome::Released
    );
    assert!(world.memory.is_empty());
    assert_eq!(
        world.memory.break_lease(KEY, fence).unwrap(),
        ReleaseOutcome::NotHeld
    );
}

#[test]
fn a_release_hands_the_key_to_the_first_waiter_for_a_second() {
    let world = World::new();
    let lease = world.hold();
    let (waiter, signal) = (world.claim(), Signal::new());
    let _watch = world.memory.watch(&waiter, &signal).unwrap();
    assert!(!signal.take());
    assert_eq!(
        world.memory.release(&lease).unwrap(),
        ReleaseOutcome::Released
    );
    assert!(signal.take());
    assert!(world.holder().fence() > lease.fence());
    assert_eq!(world.holder().expires_in(), Some(SECOND));
    assert!(world.is_granted(&waiter));
    assert_eq!(world.holder().expires_in(), Some(SECOND * 30));
    // The holder no longer waits.
    let lease = Lease::new(waiter, Grant::new(SECOND));
    assert_eq!(
        world.memory.release(&lease).unwrap(),
        ReleaseOutcome::Released
    );
    assert!(world.memory.is_empty() && !signal.take());
}

#[test]
fn a_waiter_that_was_handed_the_key_holds_it_for_no_longer_than_it_asked() {
    let world = World::new();
    let lease = world.hold();
    let (waiter, next, signal) = (world.claim(), world.claim(), Signal::new());
    let _watch = world.memory.watch(&waiter, &Signal::new()).unwrap();
    let _next = world.memory.watch(&next, &signal).unwrap();
    assert_eq!(
        world.memory.release(&lease).unwrap(),
        ReleaseOutcome::Released
    );
    let brief = SECOND / 4;
    let asks = |ttl| match world.memory.acquire(&waiter, ttl).unwrap() {
        AcquireOutcome::Granted(grant) => grant.ttl,
        AcquireOutcome::Held(held) => panic!("{held}"),
    };
    assert_eq!(asks(brief), brief);
    assert_eq!(world.holder().expires_in(), Some(brief));
    // The next waiter may have learned of the end of the hand-over, which is later.
    assert!(signal.take());
    // From now on a repeat takes nothing away.
    assert_eq!(asks(brief / 2), brief);
    assert_eq!(world.holder().expires_in(), Some(brief));
}

#[test]
fn a_waiter_that_left_the_queue_is_handed_nothing() {
    let world = World::new();
    let lease = world.hold();
    let (left, stays) = (Signal::new(), Signal::new());
    let watch = world.memory.watch(&world.claim(), &left).unwrap();
    let _watch = world.memory.watch(&world.claim(), &stays).unwrap();
    drop(watch);
    assert!(!world.is_granted(&world.claim()), "the holder stays");
    assert_eq!(
        world.memory.release(&lease).unwrap(),
        ReleaseOutcome::Released
    );
    assert!(!left.take() && stays.take());
}

#[test]
fn only_an_extend_that_shortens_wakes_the_waiters() {
    let world = World::new();
    let lease = world.hold();
    let signals = [Signal::new(), Signal::new()];
    let _watches = signals
        .each_ref()
        .map(|signal| world.memory.watch(&world.claim(), signal).unwrap());
    for (sequence, seconds, wakes) in [(2, 30, false), (3, 60, false), (4, 59, true)] {
        world.extend(&lease, sequence, SECOND * seconds);
        assert_eq!(signals.each_ref().map(Signal::take), [wakes; 2]);
    }
}

#[test]
fn the_sweep_takes_neither_a_lease_nor_the_turn_of_a_waiter() {
    let world = World::new();
    let lease = world.hold();
    let (waiter, signal) = (world.claim(), Signal::new());
    let _watch = world.memory.watch(&waiter, &signal).unwrap();
    assert_eq!(
        world.memory.release(&lease).unwrap(),
        ReleaseOutcome::Released
    );
    assert!(signal.take(), "handed over, and it does not come");
    let long = Claim::new("dlock:long", &world.clock, SECOND * 86_400).unwrap();
    let granted = world.memory.acquire(&long, SECOND * 86_400);
    assert!(matches!(granted, Ok(AcquireOutcome::Granted(_))));
    for number in 0..10_000 {
        let claim = Claim::new(format!("dlock:{number}"), &world.clock, SECOND * 86_400).unwrap();
        let granted = world.memory.acquire(&claim, SECOND);
        assert!(matches!(granted, Ok(AcquireOutcome::Granted(_))));
        world.fake.advance(SECOND);
    }
    assert!(world.memory.holder("dlock:long").unwrap().is_some());
    assert!(!world.is_granted(&world.claim()) && signal.take());
}

#[test]
fn a_waiter_that_claims_by_itself_in_its_turn_is_not_woken() {
    let world = World::new();
    let _lease = world.hold();
    let (waiter, signal) = (world.claim(), Signal::new());
    let _watch = world.memory.watch(&waiter, &signal).unwrap();
    world.fake.advance(SECOND * 30);
    assert!(world.is_granted(&waiter) && !signal.take());
}

#[test]
fn after_many_keys_expired_leases_are_removed_again() {
    let world = World::new();
    let claim_many = |prefix: &str| {
        for number in 0..3000 {
            let key = format!("dlock:{prefix}-{number}");
            let claim = Claim::new(key, &world.clock, SECOND * 86_400).unwrap();
            let granted = world.memory.acquire(&claim, SECOND);
            assert!(matches!(granted, Ok(AcquireOutcome::Granted(_))));
        }
        world.fake.advance(SECOND * 2);
    };
    for prefix in ["a", "b", "c", "d", "e", "f"] {
        claim_many(prefix);
    }
    assert!(world.memory.len() <= 9000, "{} records", world.memory.len());
}

#[test]
fn the_store_declares_what_these_tests_show() {
    let memory = MemoryDatastore::new();
    let says = memory.characteristics();
    assert!(says.wakes && says.refuses_late_calls && !says.single_writer);
    assert_eq!(says.reach, Reach::Process);
    assert!(matches!(says.fencing, Fencing::Rising(_)));
    assert!(says.batch >= 10_000, "one lock for all");
    assert!(memory.inspect().is_some());
}

#[test]
fn a_waiter_that_leaves_the_queue_passes_on_the_lock_that_it_was_handed() {
    let world = World::new();
    let lease = world.hold();
    let watch = world.memory.watch(&world.claim(), &Signal::new()).unwrap();
    assert_eq!(
        world.memory.release(&lease).unwrap(),
        ReleaseOutcome::Released
    );
    drop(watch);
    assert!(world.is_granted(&world.claim()));
}

#[test]
fn a_waiter_that_gives_up_after_it_missed_its_turn_blocks_nobody() {
    let world = World::new();
    let lease = world.hold();
    let watch = world.memory.watch(&world.claim(), &Signal::new()).unwrap();
    assert_eq!(
        world.memory.release(&lease).unwrap(),
        ReleaseOutcome::Released
    );
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
    assert_eq!(
        world.memory.release(&lease).unwrap(),
        ReleaseOutcome::Released
    );
    assert!(signal_late.take());
    world.fake.advance(SECOND * 2);
    assert!(!world.is_granted(&late), "the other is first now");
    assert!(signal_other.take() && world.is_granted(&other));
    let lease = Lease::new(other.clone(), Grant::new(SECOND));
    assert_eq!(
        world.memory.release(&lease).unwrap(),
        ReleaseOutcome::Released
    );
    assert!(signal_late.take(), "and the late one is woken in its turn");
}

#[test]
fn the_next_waiter_is_woken_when_a_late_one_leaves() {
    let world = World::new();
    let lease = world.hold();
    let (first, second) = (Signal::new(), Signal::new());
    let watch = world.memory.watch(&world.claim(), &first).unwrap();
    let _watch = world.memory.watch(&world.claim(), &second).unwrap();
    assert_eq!(
        world.memory.release(&lease).unwrap(),
        ReleaseOutcome::Released
    );
    world.fake.advance(SECOND * 2);
    drop(watch);
    assert!(
        second.take(),
        "the key is free, so the next waiter must be woken"
    );
}

#[test]
fn a_repeated_claim_never_shortens_the_lease() {
    let world = World::new();
    let claim = world.claim();
    assert!(matches!(
        world.memory.acquire(&claim, SECOND * 30),
        Ok(AcquireOutcome::Granted(_))
    ));
    assert!(matches!(
        world.memory.acquire(&claim, SECOND),
        Ok(AcquireOutcome::Granted(_))
    ));
    let left = world.memory.holder(KEY).unwrap().unwrap().expires_in();
    assert_eq!(left, Some(SECOND * 30));
}

#[test]
fn expired_leases_of_unused_keys_are_removed() {
    let world = World::new();
    for number in 0..10_000 {
        let claim = Claim::new(format!("dlock:{number}"), &world.clock, SECOND * 86_400).unwrap();
        assert!(matches!(
            world.memory.acquire(&claim, SECOND),
            Ok(AcquireOutcome::Granted(_))
        ));
        world.fake.advance(SECOND);
    }
    assert!(world.memory.len() <= 2048, "{} records", world.memory.len());
}

#[test]
fn a_waiter_learns_when_min_hold_shortens_the_lease() {
    let store = Store::from(MemoryDatastore::new());
    let options = LockOptions::builder().min_hold(SECOND * 2);
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
