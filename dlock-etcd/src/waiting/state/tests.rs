mod leases;
mod leaves;
mod runs;
mod watches;

use super::*;
use crate::operations::watching;

const KEY: &str = "dlock:a";
const NOW: Time = Time::from_nanos(1_000_000_000);

/// A state with a lease, and this number of waiters that have not claimed yet.
fn state(count: u64) -> (State, Vec<(OwnerToken, Signal)>) {
    let mut state = State::default();
    let run = state.start(NOW).unwrap();
    let waiters: Vec<_> = (1..=count)
        .map(|number| {
            let owner = OwnerToken::from_hex(&format!("{number:032x}")).unwrap();
            let signal = Signal::new();
            state.enter(owner, &signal);
            (owner, signal)
        })
        .collect();
    state.lease_granted(run, 7, NOW);
    assert!(state.take_woken().is_empty(), "nobody has claimed yet");
    (state, waiters)
}

fn place(number: i64) -> Arc<str> {
    crate::operations::queue::place(KEY, number, OwnerToken::from_hex(&"0".repeat(32)).unwrap())
}

/// Those of the places that are to be deleted since nobody waits at them.
fn strays(state: &mut State, places: Vec<String>) -> Vec<Arc<str>> {
    let known = state.leaves.len();
    state.swept(places);
    let strays = state.leaves.drain(known..);
    strays.map(|leave| leave.place).collect()
}

/// The waiter claims, is refused, and gets this place behind `watched`.
fn refused(state: &mut State, owner: OwnerToken, own: i64, watched: &str) {
    assert!(state.claims(owner, NOW.saturating_add(HEARTBEAT_EVERY)));
    state.enters(owner, place(own), NOW);
    state.waits_behind(owner, watched.into(), 100, NOW);
    state.answered(owner, false, NOW);
}

fn woken(state: &mut State) -> usize {
    let woken = state.take_woken();
    woken.iter().for_each(Signal::notify);
    woken.len()
}

fn later(seconds: u64) -> Time {
    NOW.saturating_add(Duration::from_secs(seconds))
}

/// What the thread of the first run has to do at that time; `None` if nothing.
fn work(state: &mut State, seconds: u64) -> Option<Work> {
    match state.next(1, later(seconds)) {
        Next::Work(work) => Some(work),
        Next::Sleep => None,
        Next::End(_) => panic!("the run is over"),
    }
}

/// The places that the thread has to delete at that time.
fn leaves(state: &mut State, seconds: u64) -> Vec<Arc<str>> {
    let leaves = work(state, seconds).map_or_else(Vec::new, |work| work.leaves);
    leaves.into_iter().map(|leave| leave.place).collect()
}

#[test]
fn one_watch_serves_all_that_wait_for_a_key_and_ends_when_nobody_does() {
    let (mut state, waiters) = state(2);
    for (at, (owner, _)) in (1..).zip(&waiters) {
        refused(&mut state, *owner, at, KEY);
    }
    assert_eq!(state.take_requests(1), [watching::create(1, KEY)]);
    state.deleted(1, 120, NOW);
    assert_eq!(woken(&mut state), 2);
    state.deleted(1, 130, NOW);
    assert_eq!(woken(&mut state), 0, "they have not claimed since");
    assert!(!state.has_requests());

    let Next::Work(work) = state.next(1, later(1)) else {
        panic!("a heartbeat is due")
    };
    assert_eq!(work.lease, Some(LeaseWork::KeepAlive(7)));
    assert_eq!(state.take_requests(1), [watching::cancel(1)]);
}

#[test]
fn a_deletion_that_was_reported_before_the_waiter_came_wakes_it_at_once() {
    let (mut state, waiters) = state(2);
    refused(&mut state, waiters[0].0, 1, KEY);
    state.deleted(1, 120, NOW);
    assert_eq!(woken(&mut state), 1);
    // It looked before that deletion.
    refused(&mut state, waiters[1].0, 2, KEY);
    assert_eq!(woken(&mut state), 1);
    state.waits_behind(waiters[1].0, KEY.into(), 121, NOW);
    assert_eq!(woken(&mut state), 0);
}

#[test]
fn a_place_of_this_process_needs_no_watch() {
    let (mut state, waiters) = state(3);
    refused(&mut state, waiters[0].0, 1, KEY);
    refused(&mut state, waiters[1].0, 2, &place(1));
    refused(&mut state, waiters[2].0, 3, &place(2));
    assert_eq!(state.take_requests(1).len(), 1, "that of the key");

    state.answered(waiters[0].0, true, NOW);
    assert_eq!(woken(&mut state), 1);
    assert!(waiters[1].1.take());
    assert_eq!(state.leave(waiters[0].0, NOW), None, "it has no place");
    assert_eq!(state.leave(waiters[1].0, NOW), Some(place(2)));
    assert!(woken(&mut state) > 0 && waiters[2].1.take());
}

#[test]
fn a_waiter_behind_a_place_that_is_gone_is_woken_by_the_key_too() {
    let (mut state, waiters) = state(1);
    let other = place(1);
    refused(&mut state, waiters[0].0, 2, &other);
    assert_eq!(state.take_requests(1), [watching::create(1, &other)]);
    state.deleted(1, 120, NOW);
    assert_eq!(woken(&mut state), 1);
    let requests = [watching::create(2, KEY), watching::cancel(1)];
    assert_eq!(state.take_requests(1), requests);
    // It looked before that.
    state.created(2, 120, NOW);
    assert_eq!(woken(&mut state), 1);
    state.deleted(2, 121, NOW);
    assert_eq!(woken(&mut state), 1);
}

#[test]
fn who_looked_before_a_watch_began_looks_again_and_who_looked_after_it_does_not() {
    let (mut state, waiters) = state(2);
    refused(&mut state, waiters[0].0, 1, KEY);
    state.created(1, 99, NOW);
    assert_eq!(woken(&mut state), 0, "it looked at that revision");
    // On a new connection.
    assert_eq!(state.all_requests(1), [watching::create(1, KEY)]);
    state.created(1, 100, NOW);
    assert_eq!(woken(&mut state), 1);
    // And one that comes to such a watch.
    refused(&mut state, waiters[1].0, 2, KEY);
    assert!(woken(&mut state) > 0 && waiters[1].1.take());
    state.waits_behind(waiters[1].0, KEY.into(), 101, NOW);
    state.answered(waiters[1].0, false, NOW);
    assert_eq!(woken(&mut state), 0);
}

#[test]
fn a_waiter_that_must_look_and_whose_turn_it_is_not_keeps_its_place_meanwhile() {
    let (mut state, waiters) = state(1);
    refused(&mut state, waiters[0].0, 1, KEY);
    state.created(1, 120, NOW);
    assert_eq!(woken(&mut state), 1);
    let mut keeps_at = |seconds| {
        let _ = state.next(1, later(seconds));
        state.place(waiters[0].0).is_some()
    };
    assert!(
        keeps_at(4) && keeps_at(29),
        "the holder may still hold the lock"
    );
    assert!(!keeps_at(32));
}

#[test]
fn who_claims_while_a_watch_begins_looks_again_only_if_the_claim_fails() {
    let (mut state, waiters) = state(1);
    let owner = waiters[0].0;
    refused(&mut state, owner, 1, KEY);
    for fails in [false, true] {
        assert!(state.claims(owner, later(2)));
        state.all_requests(1);
        state.created(1, 120, NOW);
        assert_eq!(woken(&mut state), 0, "it claims");
        if !fails {
            state.waits_behind(owner, KEY.into(), 121, NOW);
        }
        state.answered(owner, false, NOW);
        assert_eq!(woken(&mut state), usize::from(fails));
        state.waits_behind(owner, KEY.into(), 100, NOW);
        woken(&mut state);
    }
}

#[test]
fn a_new_connection_asks_for_all_watches_anew() {
    let (mut state, waiters) = state(2);
    refused(&mut state, waiters[0].0, 1, KEY);
    state.deleted(1, 120, NOW);
    refused(&mut state, waiters[1].0, 2, "dlock:b");
    woken(&mut state);
    state.watches_lost();
    assert_eq!(woken(&mut state), 1, "only one waits");
    let mut requests = state.all_requests(1);
    requests.sort();
    let mut all = [watching::create(1, KEY), watching::create(2, "dlock:b")];
    all.sort();
    assert_eq!(requests, all);
    assert!(!state.has_requests());
    state.compacted(2, NOW);
    assert_eq!(woken(&mut state), 1, "it must look");
    assert_eq!(state.all_requests(1).len(), 1);
}

#[test]
fn a_waiter_that_does_not_claim_in_its_turn_loses_its_place() {
    let (mut state, waiters) = state(2);
    for (at, (owner, _)) in (1..).zip(&waiters) {
        refused(&mut state, *owner, at, KEY);
    }
    state.deleted(1, 120, NOW);
    woken(&mut state);
    assert!(state.claims(waiters[0].0, later(20)));
    let Next::Work(work) = state.next(1, later(4)) else {
        panic!("a heartbeat is due")
    };
    let left: Vec<_> = work
        .leaves
        .iter()
        .map(|leave| leave.place.clone())
        .collect();
    assert_eq!(left, [place(2)]);
    assert_eq!(state.place(waiters[0].0), Some(place(1)), "it claims");
    assert_eq!(state.place(waiters[1].0), None);
}

#[test]
fn waiters_whose_lease_ended_are_woken_when_there_is_another() {
    let (mut state, waiters) = state(1);
    refused(&mut state, waiters[0].0, 1, KEY);
    assert!(!state.lease_ended(6, NOW), "that is not the lease");
    assert!(state.lease_ended(7, NOW));
    assert_eq!((state.place(waiters[0].0), woken(&mut state)), (None, 0));
    state.lease_granted(1, 8, NOW);
    assert_eq!(woken(&mut state), 1);
}

#[test]
fn places_that_nobody_waits_at_are_looked_for_as_long_as_a_claim_is_in_doubt() {
    let (mut state, waiters) = state(1);
    assert!(state.claims(waiters[0].0, later(2)));
    state.enters(waiters[0].0, place(1), NOW);
    // In the middle of the claim.
    assert_eq!(state.leave(waiters[0].0, NOW), Some(place(1)));
    let mut sweeps = |seconds| match state.next(1, later(seconds)) {
        Next::Work(work) => work.sweeps,
        _ => false,
    };
    assert_eq!([1, 2, 3].map(&mut sweeps), [true, true, false]);
}

#[test]
fn many_places_that_nobody_waits_at_are_deleted_a_batch_at_a_time_between_heartbeats() {
    let (mut state, waiters) = state(1);
    refused(&mut state, waiters[0].0, 1, KEY);
    let found = || (1..=250).map(|number| place(number).to_string()).collect();
    state.swept(found());
    // They are not found twice.
    state.swept(found());
    let mut deleted = Vec::new();
    for (seconds, is_alive) in [(10, true), (10, false), (11, true), (11, false)] {
        let Next::Work(work) = state.next(1, later(seconds)) else {
            panic!("there is something to do");
        };
        assert_eq!(work.lease.is_some(), is_alive);
        // Not before all of them are gone.
        assert_eq!(work.sweeps, deleted.len() == 249);
        deleted.extend(work.leaves.into_iter().map(|leave| leave.place));
    }
    assert_eq!(deleted, (2..=250).map(place).collect::<Vec<_>>());
}

#[test]
fn the_threads_end_with_the_lease_a_while_after_the_last_waiter() {
    let (mut state, waiters) = state(1);
    assert!(state.leave(waiters[0].0, NOW).is_none());
    assert!(matches!(state.next(1, later(1)), Next::Work(_)));
    assert!(matches!(state.next(1, later(1)), Next::Sleep));
    let Next::End(ended) = state.next(1, later(12)) else {
        panic!("nobody waits")
    };
    assert_eq!(ended.lease, Some(7));
    assert!(!state.is_running() && !state.runs(1));
    assert_eq!(state.start(later(13)), Some(2));
}

#[test]
fn a_claim_that_is_given_up_while_its_place_is_to_be_deleted_deletes_it_itself() {
    let (mut state, waiters) = state(1);
    let owner = waiters[0].0;
    refused(&mut state, owner, 1, KEY);
    let own = crate::operations::queue::place(KEY, 1, owner);
    state.enters(owner, own.clone(), NOW);
    assert_eq!(state.leave(owner, NOW), Some(own.clone()));
    assert_eq!(state.gives_up(owner, NOW), Some(own.clone()));
    assert_eq!(state.gives_up(owner, NOW), None);

    state.enter(owner, &Signal::new());
    state.enters(owner, own.clone(), NOW);
    assert_eq!(state.leave(owner, NOW), Some(own.clone()));
    state.left(&[own]);
    assert_eq!(state.gives_up(owner, NOW), None, "it is deleted");
}

#[test]
fn the_watcher_of_a_run_that_is_over_takes_nothing_from_the_next() {
    let (mut state, waiters) = state(1);
    assert!(state.leave(waiters[0].0, NOW).is_none());
    assert!(matches!(state.next(1, later(1)), Next::Work(_)));
    assert!(matches!(state.next(1, later(12)), Next::End(_)));
    assert_eq!(state.start(later(12)), Some(2));
    state.enter(waiters[0].0, &waiters[0].1);
    state.lease_granted(2, 8, later(12));
    refused(&mut state, waiters[0].0, 1, KEY);
    assert!(state.take_requests(1).is_empty() && state.all_requests(1).is_empty());
    assert_eq!(state.take_requests(2), [watching::create(1, KEY)]);
}
