//! Slots that move while their locks are held, claimed and waited for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use dlock_core::{Clock, FencingToken, Lock, Store};

use super::*;
use crate::queue::SOON;

/// A key whose slot is being moved. There is one at a time: nodes of which two take over a slot at
/// the same moment may never agree on who has them.
struct Moving {
    _alone: MutexGuard<'static, ()>,
    key: String,
    slot: u16,
    from: usize,
    to: usize,
}

impl Moving {
    /// Nothing moves yet.
    fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let key = own_key();
        let (slot, from) = (whole().slot_of(&key), whole().owner_of(&key));
        let to = (from + 1) % 3;
        Moving {
            _alone: alone,
            key,
            slot,
            from,
            to,
        }
    }

    fn begin(&self) {
        whole().begin_migration(self.slot, self.to);
    }

    fn move_key(&self, key: &str) {
        whole().move_keys(self.from, self.to, &[key]);
    }

    fn fence(&self) -> String {
        format!("{{{}}}:fence", self.key)
    }

    fn finish(&self) {
        whole().finish_migration(self.slot, self.to);
    }
}

/// A claim that ends soon, as those of a lock that only tries: it is refused, or the slot cannot be
/// used for now.
fn fails_for_now(store: &Form, key: &str) {
    let short = claim_within(key, Duration::from_millis(200));
    match store.acquire(&short, TTL) {
        Ok(AcquireOutcome::Held(_)) => {}
        Ok(AcquireOutcome::Granted(grant)) => panic!("a second grant: {grant:?}"),
        Err(error) => assert!(error.is_transient(), "{error}"),
    }
}

/// Extends the lease to less than a second, and then for longer. Returns whether both were done
/// before it was over: on a busy machine they may not be.
fn is_extended_near_its_end(store: &Form, lease: &Lease, sequence: u64) -> bool {
    let (start, soon) = (Instant::now(), Duration::from_millis(900));
    assert!(extends(store, lease, sequence, soon), "near its end");
    let is_extended = extends(store, lease, sequence + 1, TTL);
    assert!(is_extended || start.elapsed() >= soon, "it was not over");
    is_extended
}

#[test]
fn a_lock_is_extended_and_released_before_its_slot_has_moved() {
    for open in forms() {
        let (store, other) = (open(whole()), open(whole()));
        let (moving, lease) = loop {
            let moving = Moving::new();
            let lease = acquired(&store, &claim(&moving.key));
            moving.begin();
            assert!(extends(&store, &lease, 1, TTL));
            if is_extended_near_its_end(&store, &lease, 2) {
                break (moving, lease);
            }
            moving.finish();
        };
        // The lock and its fence are both there, so it is answered.
        refused(tries(&other, &moving.key));
        assert!(releases(&store, &lease));
        assert!(!exists(whole(), moving.from, &moving.key));
        assert!(!releases(&store, &lease), "it is released");
        moving.finish();
        let next = acquired(&other, &claim(&moving.key));
        assert!(fence_of(&next) > fence_of(&lease), "the fence has moved");
        assert!(releases(&other, &next));
    }
}

#[test]
fn a_lock_that_has_moved_is_extended_and_released_before_its_slot_is_settled() {
    for open in forms() {
        let (store, other) = (open(whole()), open(whole()));
        let (moving, lease) = loop {
            let moving = Moving::new();
            let lease = acquired(&store, &claim(&moving.key));
            moving.begin();
            moving.move_key(&moving.key);
            assert!(extends(&store, &lease, 1, TTL), "the fence has not moved");
            fails_for_now(&other, &moving.key);
            moving.move_key(&moving.fence());
            if is_extended_near_its_end(&store, &lease, 2) {
                break (moving, lease);
            }
            moving.finish();
        };
        fails_for_now(&other, &moving.key);
        assert!(errors(whole(), moving.from, "ASK") > 0);
        assert!(releases(&store, &lease));
        moving.finish();
        assert!(!exists(whole(), moving.to, &moving.key));
        let next = acquired(&other, &claim(&moving.key));
        assert!(fence_of(&next) > fence_of(&lease));
        assert!(releases(&other, &next));
    }
}

#[test]
fn a_lease_is_broken_before_its_slot_has_moved() {
    for open in forms() {
        let (store, operator) = (open(whole()), open(whole()));
        let moving = Moving::new();
        let lease = acquired(&store, &claim(&moving.key));
        moving.begin();
        let operator = operator.inspect().unwrap();
        let token = FencingToken::new(fence_of(&lease));
        let broken = operator.break_lease(&moving.key, token).unwrap();
        assert_eq!(broken, ReleaseOutcome::Released);
        assert!(!exists(whole(), moving.from, &moving.key));
        moving.finish();
    }
}

#[test]
fn a_lock_that_is_held_while_its_slot_moves_excludes_others_at_the_new_owner() {
    for open in forms() {
        let (store, other) = (open(whole()), open(whole()));
        let moving = Moving::new();
        let lease = acquired(&store, &claim(&moving.key));
        refused(tries(&other, &moving.key));
        moving.begin();
        moving.finish();
        refused(tries(&other, &moving.key));
        assert!(extends(&store, &lease, 1, TTL));
        assert!(releases(&store, &lease));
        let next = acquired(&other, &claim(&moving.key));
        assert!(fence_of(&next) > fence_of(&lease));
        assert!(releases(&other, &next));
    }
}

#[test]
fn a_claim_is_granted_when_the_slot_is_settled() {
    for open in forms() {
        let store = open(whole());
        let moving = Moving::new();
        let before = acquired(&store, &claim(&moving.key));
        assert!(releases(&store, &before));
        let refusals =
            || errors(whole(), moving.from, "TRYAGAIN") + errors(whole(), moving.from, "ASK");
        let before_it = refusals();
        moving.begin();
        thread::scope(|scope| {
            let claiming = scope.spawn(|| acquired(&store, &claim(&moving.key)));
            until("the claim was refused for now", || refusals() > before_it);
            moving.finish();
            let lease = claiming.join().unwrap();
            assert!(fence_of(&lease) > fence_of(&before));
            assert!(exists(whole(), moving.to, &moving.key));
            assert!(releases(&store, &lease));
        });
    }
}

#[test]
fn a_waiter_gets_its_turn_at_the_new_owner() {
    for open in forms() {
        let (holder, waits) = (open(whole()), Store::new(open(whole())));
        let moving = Moving::new();
        let name = moving.key.strip_prefix("dlock:").unwrap();
        let lease = acquired(&holder, &claim(&moving.key));
        let queue = format!("{{{}}}:queue", moving.key);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| Lock::new(&waits, name).acquire_within(LONG * 2));
            until("it waits", || exists(whole(), moving.from, &queue));
            moving.begin();
            moving.move_key(&moving.key);
            moving.finish();
            assert!(extends(&holder, &lease, 1, TTL));
            assert!(!waiting.is_finished());
            assert!(releases(&holder, &lease));
            let won = waiting.join().unwrap().unwrap();
            assert!(won.fencing_token().unwrap().get() > fence_of(&lease));
            won.release().unwrap();
        });
        until("nothing is left of the queue", || {
            !exists(whole(), moving.to, &queue)
        });
    }
}

#[test]
fn a_release_that_somebody_waits_for_hands_over_when_the_slot_is_settled() {
    for open in forms() {
        let (holder, waits) = (open(whole()), Store::new(open(whole())));
        let moving = Moving::new();
        let name = moving.key.strip_prefix("dlock:").unwrap();
        let lease = acquired(&holder, &claim(&moving.key));
        let queue = format!("{{{}}}:queue", moving.key);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| Lock::new(&waits, name).acquire_within(LONG * 2));
            until("it waits", || exists(whole(), moving.from, &queue));
            moving.begin();
            moving.move_key(&queue);
            let short = lease.for_call(1, Clock::BOOTTIME.now().saturating_add(SOON / 10));
            let error = holder.release(&short).unwrap_err();
            assert!(error.is_transient(), "it takes the queue: {error}");
            assert!(
                exists(whole(), moving.from, &moving.key),
                "nothing was done"
            );
            let releasing = scope.spawn(|| releases(&holder, &lease));
            moving.finish();
            assert!(releasing.join().unwrap());
            waiting.join().unwrap().unwrap().release().unwrap();
        });
    }
}

#[test]
fn a_slot_that_has_moved_is_found_by_one_redirection_on_the_same_connection() {
    for open in forms() {
        let store = open(whole());
        let moving = Moving::new();
        let first = acquired(&store, &claim(&moving.key));
        moving.begin();
        moving.finish();
        let before = errors(whole(), moving.from, "MOVED");
        assert!(extends(&store, &first, 1, TTL));
        let once = errors(whole(), moving.from, "MOVED");
        assert!(once > before);
        let clients = |node: usize| {
            let clients = whole()
                .node(node)
                .command(["CLIENT", "LIST", "TYPE", "NORMAL"]);
            clients.text().unwrap().matches("cmd=evalsha").count()
        };
        assert!(clients(moving.from) > 0, "the redirection closes nothing");
        for sequence in 2..5 {
            assert!(extends(&store, &first, sequence, TTL));
        }
        assert!(releases(&store, &first));
    }
}

#[test]
fn many_leases_are_extended_on_all_nodes_while_the_slot_of_one_moves() {
    for open in forms() {
        let store = open(whole());
        let moving = Moving::new();
        let mut leases: Vec<_> = (0..30)
            .map(|_| acquired(&store, &claim(&own_key())))
            .collect();
        leases.push(acquired(&store, &claim(&moving.key)));
        let lost = acquired(&store, &claim(&own_key()));
        assert!(releases(&store, &lost));
        leases.push(lost);
        moving.begin();
        moving.move_key(&moving.key);
        let calls: Vec<_> = leases.iter().map(|lease| (call(lease, 5), TTL)).collect();
        let extended: Vec<_> = store
            .extend_many(&calls)
            .into_iter()
            .map(|extension| matches!(extension.unwrap(), Extension::Extended(_)))
            .collect();
        let mut expected = vec![true; 31];
        expected.push(false);
        assert_eq!(extended, expected);
        moving.finish();
        let again: Vec<_> = leases.iter().map(|lease| (call(lease, 6), TTL)).collect();
        assert!(store.extend_many(&again).iter().all(Result::is_ok));
        for lease in &leases[..31] {
            assert!(releases(&store, lease));
        }
    }
}

/// Ends the threads of a test, also if it fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Threads take turns under one lock while its slot goes from node to node.
#[test]
fn holders_never_overlap_and_tokens_rise_while_a_slot_moves_on_and_on() {
    for open in forms() {
        let moving = Moving::new();
        let name = moving.key.strip_prefix("dlock:").unwrap();
        let inside = Mutex::new(0);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let store = Store::new(open(whole()));
                    let lock = Lock::new(&store, name);
                    while !is_over.load(Ordering::Relaxed) {
                        let guard = lock.acquire_within(LONG).unwrap();
                        let mut last = inside.try_lock().expect("one at a time");
                        let token = guard.fencing_token().unwrap().get();
                        assert!(token > *last);
                        *last = token;
                        drop(last);
                        guard.release().unwrap();
                    }
                });
            }
            let _stop = Stop(&is_over);
            for at in 0..12 {
                let to = (moving.from + 1 + at) % 3;
                whole().begin_migration(moving.slot, to);
                whole().finish_migration(moving.slot, to);
            }
        });
        assert!(*inside.lock().unwrap() > 0);
    }
}
