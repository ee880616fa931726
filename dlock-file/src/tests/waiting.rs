//! Waiters queue and are woken, whatever fails or is damaged.

mod crash;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dlock_core::{
    AcquireOutcome, Claim, Clock, Datastore, Extension, HeldBy, Lease, Lock, ReleaseOutcome,
    Signal, Watch,
};
use rustix::io::Errno;

use super::{Scratch, TTL, acquire, claim, granted, later};
use crate::FileDatastore;
use crate::failpoint::Failpoint;
use crate::failpoint::testing::with_plan;
use crate::now::Clocks;
use crate::operations;
use crate::pipe::{self, Pipe};
use crate::record_path::{RecordPath, SHARDS};
use crate::sweep;

const KEY: &str = "x";
/// The key of the lock `x`.
const LOCK_KEY: &str = "dlock:x";

/// A claimant that waits.
struct Waiter {
    claim: Claim,
    signal: Signal,
    watch: Option<Watch>,
}

impl Waiter {
    /// A waiter that is not in the queue yet.
    fn new(store: &FileDatastore) -> Self {
        let claim = claim(KEY).with_deadline(later());
        let signal = Signal::new();
        let watch = store.watch(&claim, &signal).unwrap();
        Waiter {
            claim,
            signal,
            watch,
        }
    }

    /// A waiter in the queue.
    fn queued(store: &FileDatastore) -> Self {
        let waiter = Self::new(store);
        waiter.is_refused(store);
        waiter
    }

    #[track_caller]
    fn is_refused(&self, store: &FileDatastore) -> HeldBy {
        match store.acquire(&self.claim, TTL).unwrap() {
            AcquireOutcome::Held(held) => held,
            AcquireOutcome::Granted(grant) => panic!("{grant:?}"),
        }
    }

    #[track_caller]
    fn is_granted(&self, store: &FileDatastore) -> Lease {
        let grant = granted(store.acquire(&self.claim, TTL).unwrap());
        assert_eq!(grant.ttl, TTL);
        Lease::new(self.claim.clone(), grant)
    }

    #[track_caller]
    fn is_woken(&self) {
        assert!(Clock::BOOTTIME.sleep_until(&self.signal, later()));
    }
}

/// Shortens the lease to a moment, and waits for its end.
fn ends_early(store: &FileDatastore, lease: &Lease) {
    let moment = Duration::from_millis(10);
    let answer = store.extend(&lease.for_call(1, later()), moment).unwrap();
    assert!(matches!(answer, Extension::Extended(_)));
    std::thread::sleep(moment * 2);
}

/// The pipes in the folder.
fn pipes(scratch: &Scratch) -> Vec<String> {
    let files = fs::read_dir(scratch.0.path()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("wake-")).collect()
}

/// How many bytes of all queues count.
fn queue_length(scratch: &Scratch) -> u64 {
    let shards = (0..SHARDS).filter_map(|shard| fs::metadata(scratch.folder().shard(shard)).ok());
    shards.map(|found| found.len()).sum()
}

/// Sweeps, as two hours later. Then nothing of waiters is left.
#[track_caller]
fn nothing_is_left(scratch: &Scratch, case: &str) {
    let clocks = Clocks::of_this_boot().with_wall_ahead(7200);
    sweep::sweep(&scratch.folder(), &clocks, sweep::TIME, usize::MAX);
    assert_eq!(queue_length(scratch), 0, "{case}");
    assert_eq!(pipes(scratch), Vec::<String>::new(), "{case}");
}

#[test]
fn on_a_full_disk_a_waiter_polls() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, KEY, TTL);
    let waiter = Waiter::new(&store);
    for errno in [Errno::NOSPC, Errno::DQUOT, Errno::IO] {
        for step in [Failpoint::Queuing, Failpoint::LineWritten] {
            let held = failing_at(step, errno, || waiter.is_refused(&store));
            assert!(held.retry_in() <= Some(Duration::from_millis(100)));
            assert_eq!(queue_length(&scratch), 0);
        }
    }
    let held = waiter.is_refused(&store);
    assert!(held.retry_in() > Some(Duration::from_millis(100)));
    assert!(queue_length(&scratch) > 0);
    // On a full disk a key is handed over too.
    failing_at(Failpoint::SpareOpened, Errno::NOSPC, || {
        assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    });
    waiter.is_woken();
    let lease = waiter.is_granted(&store);
    assert_eq!(store.release(&lease).unwrap(), ReleaseOutcome::Released);
}

#[test]
fn on_a_full_disk_a_key_is_released_that_cannot_be_handed_over() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, KEY, TTL);
    let mut waiter = Waiter::new(&store);
    // The record of this waiter is longer than that of the holder.
    waiter.claim = waiter.claim.with_holder("h".repeat(512));
    waiter.is_refused(&store);
    failing_at(Failpoint::SpareOpened, Errno::NOSPC, || {
        assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    });
    // It was not taken off the queue, and nobody overtakes it.
    assert!(super::is_held(&store, KEY));
    waiter.is_granted(&store);
    assert_eq!(queue_length(&scratch), 0);
}

#[test]
fn where_no_pipe_can_be_made_a_waiter_polls_and_leaves_nothing() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for step in [Failpoint::PipeMade, Failpoint::PipeOpened] {
        let waiter = failing_at(step, Errno::MFILE, || Waiter::new(&store));
        assert!(waiter.watch.is_none(), "{step:?}");
        assert_eq!(pipes(&scratch), Vec::<String>::new(), "{step:?}");
    }
}

#[test]
fn a_failure_after_the_hand_over_is_none_of_the_release() {
    for step in [
        Failpoint::CrossingOut,
        Failpoint::QueueEmptied,
        Failpoint::Notifying,
    ] {
        for others in [1, 2] {
            let scratch = Scratch::new();
            let store = scratch.open();
            let ours = acquire(&store, KEY, TTL);
            let waiters: Vec<_> = (0..others).map(|_| Waiter::queued(&store)).collect();
            let released = failing_at(step, Errno::IO, || store.release(&ours));
            assert_eq!(released.unwrap(), ReleaseOutcome::Released, "{step:?}");
            for waiter in waiters {
                let lease = waiter.is_granted(&store);
                assert_eq!(store.release(&lease).unwrap(), ReleaseOutcome::Released);
            }
            nothing_is_left(&scratch, &format!("{step:?}"));
        }
    }
}

#[test]
fn a_process_without_descriptors_takes_nobody_off_the_queue() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, KEY, TTL);
    let waiters: Vec<_> = (0..2).map(|_| Waiter::queued(&store)).collect();
    let before = queue_length(&scratch);
    failing_at(Failpoint::ReadingQueue, Errno::MFILE, || {
        let other = Waiter::new(&store);
        let held = other.is_refused(&store);
        assert!(held.retry_in() <= Some(Duration::from_millis(100)));
        drop(other);
    });
    assert_eq!(queue_length(&scratch), before);
    failing_at(Failpoint::Probing, Errno::MFILE, || {
        assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    });
    for waiter in waiters {
        let lease = waiter.is_granted(&store);
        assert_eq!(store.release(&lease).unwrap(), ReleaseOutcome::Released);
    }
}

/// Runs `call` with a failure of the system at `step`.
fn failing_at<R>(step: Failpoint, errno: Errno, call: impl FnOnce() -> R) -> R {
    let plan = move |reached| match reached == step {
        true => Err(errno.into()),
        false => Ok(()),
    };
    with_plan(plan, call)
}

#[test]
fn a_key_whose_lease_is_over_goes_to_the_first_waiter_whoever_claims() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, KEY, TTL);
    let (first, second) = (Waiter::queued(&store), Waiter::queued(&store));
    ends_early(&store, &ours);
    first.is_woken();
    // Of the claimants that come now, none overtakes.
    second.is_refused(&store);
    assert!(super::is_held(&store, KEY));
    let lease = first.is_granted(&store);
    assert!(lease.fence() > ours.fence());
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::NotHeld);
    assert_eq!(store.release(&lease).unwrap(), ReleaseOutcome::Released);
    second.is_woken();
    second.is_granted(&store);
}

#[test]
fn a_waiter_that_was_handed_the_key_holds_it_for_no_longer_than_it_asked() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, KEY, TTL);
    let [first, second, third] = [(); 3].map(|()| Waiter::queued(&store));
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    first.is_woken();
    // It learns when the hand-over would end.
    second.is_woken();
    second.is_refused(&store);
    let brief = Duration::from_secs(5);
    let asks = |ttl| granted(store.acquire(&first.claim, ttl).unwrap());
    assert_eq!(asks(brief).ttl, brief);
    let left = second.is_refused(&store).expires_in().unwrap();
    assert!(left <= brief, "{left:?}");
    // And that the lease ends before.
    second.is_woken();
    // From now on a repeat takes nothing away.
    assert!(asks(brief / 5).ttl > brief / 5);
    drop((first, second, third));
    nothing_is_left(&scratch, "everybody has left");
}

#[test]
fn a_waiter_that_leaves_with_the_key_in_its_hand_passes_it_on() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, KEY, TTL);
    let waiters: Vec<_> = (0..3).map(|_| Waiter::queued(&store)).collect();
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    let [first, second, third] = waiters.try_into().ok().unwrap();
    first.is_woken();
    drop(first);
    second.is_woken();
    let lease = second.is_granted(&store);
    // A waiter whose wait ends with a grant keeps the key.
    drop(second);
    third.is_refused(&store);
    assert_eq!(store.release(&lease).unwrap(), ReleaseOutcome::Released);
    third.is_woken();
    drop(third);
    acquire(&store, KEY, TTL);
    assert_eq!(queue_length(&scratch), 0);
    assert_eq!(pipes(&scratch), Vec::<String>::new());
}

#[test]
fn waiters_of_other_keys_of_the_shard_are_not_in_the_way() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let shard = RecordPath::of(KEY).shard;
    let other = (0..)
        .map(|n| format!("other-{n}"))
        .find(|key| RecordPath::of(key).shard == shard)
        .unwrap();
    let (ours, others) = (acquire(&store, KEY, TTL), acquire(&store, &other, TTL));
    let waiter = Waiter::queued(&store);
    assert_eq!(store.release(&others).unwrap(), ReleaseOutcome::Released);
    let others = acquire(&store, &other, TTL);
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    waiter.is_woken();
    waiter.is_granted(&store);
    assert_eq!(store.release(&others).unwrap(), ReleaseOutcome::Released);
    assert_eq!(queue_length(&scratch), 0);
}

#[test]
fn a_queue_that_somebody_damaged_is_entered_again() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, KEY, TTL);
    let waiter = Waiter::queued(&store);
    let shard = RecordPath::of(KEY).shard;
    let (file, queue) = (scratch.folder().shard(shard), scratch.folder().queue(shard));
    let length = queue_length(&scratch);
    for wrong in [0, 1, length - 1, length + 1000, 1 << 40] {
        let file = fs::File::options().write(true).open(&file).unwrap();
        file.set_len(wrong).unwrap();
        waiter.is_refused(&store);
        assert!(queue_length(&scratch) >= length, "{wrong}");
    }
    for content in ["", "w \nw x y z\n\n-\n", "\u{fffd}\n"] {
        fs::write(&queue, content).unwrap();
        waiter.is_refused(&store);
    }
    fs::remove_file(&queue).unwrap();
    waiter.is_refused(&store);
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    waiter.is_woken();
    waiter.is_granted(&store);
    assert_eq!(queue_length(&scratch), 0);
}

#[test]
fn a_shard_file_with_a_second_name_is_not_changed_and_its_waiters_poll() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let file = scratch.folder().shard(RecordPath::of(KEY).shard);
    fs::write(&file, "somebody's").unwrap();
    fs::hard_link(&file, scratch.0.path().join("copy")).unwrap();
    let ours = acquire(&store, KEY, TTL);
    let waiter = Waiter::new(&store);
    let held = waiter.is_refused(&store);
    assert!(held.retry_in() <= Some(Duration::from_millis(100)));
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    waiter.is_granted(&store);
    assert_eq!(fs::read_to_string(&file).unwrap(), "somebody's");
}

#[test]
fn a_waiter_claims_again_when_its_turn_may_have_come() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, KEY, TTL);
    let waiters: Vec<_> = (0..25).map(|_| Waiter::queued(&store)).collect();
    let retry_in = |place: usize| waiters[place].is_refused(&store).retry_in().unwrap();
    assert_eq!(retry_in(0), Duration::from_secs(1));
    assert_eq!(retry_in(1), Duration::from_secs(2));
    assert_eq!(retry_in(24), Duration::from_secs(20));
    let lasts = |sequence, time| {
        let answer = store.extend(&ours.for_call(sequence, later()), time);
        assert!(matches!(answer.unwrap(), Extension::Extended(_)));
    };
    let short = Duration::from_secs(10);
    lasts(1, short);
    for place in [14, 24] {
        assert!(retry_in(place) <= short + Duration::from_millis(20) * 24);
    }
    let (short, start) = (Duration::from_millis(500), Instant::now());
    lasts(2, short);
    match store.acquire(&waiters[0].claim, TTL).unwrap() {
        AcquireOutcome::Held(held) => assert!(held.retry_in() <= Some(short)),
        // On a busy machine the lease may have ended by now.
        AcquireOutcome::Granted(_) => assert!(start.elapsed() >= short),
    }
}

#[test]
fn the_queue_and_the_pipes_of_the_living_are_not_swept() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, KEY, TTL);
    let waiter = Waiter::queued(&store);
    let length = queue_length(&scratch);
    let clocks = Clocks::of_this_boot().with_wall_ahead(7200);
    sweep::sweep(&scratch.folder(), &clocks, sweep::TIME, usize::MAX);
    assert_eq!(queue_length(&scratch), length);
    assert_eq!(pipes(&scratch).len(), 1);
    // A pipe that nobody reads is litter only when it is old.
    assert!(crash::died_in(&scratch, "wait", Failpoint::PipeOpened));
    let clocks = Clocks::of_this_boot();
    sweep::sweep(&scratch.folder(), &clocks, sweep::TIME, usize::MAX);
    assert_eq!(pipes(&scratch).len(), 2);
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    waiter.is_woken();
    drop(waiter);
    nothing_is_left(&scratch, "");
}

#[test]
fn a_thousand_waiters_are_served_in_the_order_of_their_coming() {
    let scratch = Scratch::new();
    let (store, other) = (scratch.open(), scratch.open());
    let mut lease = acquire(&store, KEY, TTL);
    let waiters: Vec<_> = (0..1000)
        .map(|number| Waiter::queued(if number % 2 == 0 { &store } else { &other }))
        .collect();
    for waiter in &waiters {
        assert_eq!(other.release(&lease).unwrap(), ReleaseOutcome::Released);
        waiter.is_woken();
        lease = waiter.is_granted(&store);
    }
    assert_eq!(store.release(&lease).unwrap(), ReleaseOutcome::Released);
    assert_eq!(queue_length(&scratch), 0);
}

/// A write into a pipe without a reader fails, and kills a process that does not ignore the signal.
#[test]
fn a_waiter_that_dies_as_it_is_notified_does_not_harm_the_notifier() {
    let scratch = Scratch::new();
    let folder = scratch.folder();
    let pipe = Pipe::make(&folder).unwrap();
    let name = pipe.name().to_owned();
    assert!(pipe::has_reader(&folder, &name));
    // The reader is gone, and its pipe is not deleted: it was killed.
    drop(pipe);
    pipe::write(&folder, &name, claim(KEY).owner()).unwrap();
    assert!(!pipe::has_reader(&folder, &name));
    let gone = pipe::write(&folder, &name, claim(KEY).owner()).unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
}

/// A claimant that does as an older version of dlock did: it knows no queue, and frees the key.
fn uses_as_before(store: &FileDatastore, key_is_free: &AtomicBool, times: u32) {
    let time_left = || super::CALL;
    for _ in 0..times {
        let claim = claim(LOCK_KEY);
        let lease = loop {
            let answer = store.transact(LOCK_KEY, time_left, |stored, now, _| {
                Ok(operations::acquire(stored, &claim, TTL, now).unwrap())
            });
            if let AcquireOutcome::Granted(grant) = answer.unwrap() {
                break Lease::new(claim, grant);
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        holds_alone(key_is_free);
        let answer = store.transact(LOCK_KEY, time_left, |stored, now, _| {
            Ok(operations::release(stored, lease.claim(), now))
        });
        assert_eq!(answer.unwrap(), ReleaseOutcome::Released);
    }
}

/// What a holder does.
fn holds_alone(key_is_free: &AtomicBool) {
    assert!(key_is_free.swap(false, Ordering::SeqCst), "two holders");
    std::thread::sleep(Duration::from_micros(200));
    key_is_free.store(true, Ordering::SeqCst);
}

#[test]
fn beside_an_older_version_there_is_one_holder_at_a_time_and_nobody_waits_for_ever() {
    let scratch = Scratch::new();
    let key_is_free = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| uses_as_before(&scratch.open(), &key_is_free, 30));
            scope.spawn(|| {
                let lock = Lock::new(scratch.open(), "x");
                assert_eq!(lock.key(), LOCK_KEY);
                for _ in 0..30 {
                    let guard = lock.acquire().unwrap();
                    holds_alone(&key_is_free);
                    guard.release().unwrap();
                }
            });
        }
    });
    nothing_is_left(&scratch, "");
}
