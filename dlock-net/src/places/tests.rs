use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;

use super::*;
use crate::{Link, deadline_in};
use dlock_core::DatastoreError;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(20);

/// Opens connections that count themselves.
#[derive(Clone, Default)]
struct Opener(Arc<AtomicUsize>);

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Connect for Opener {
    type Link = Open;

    fn connect(&self, _: Time) -> Result<Open, DatastoreError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Open(Arc::clone(&self.0)))
    }
}

impl Link for Open {
    fn set_deadline(&mut self, _: Time) {}
    fn is_usable(&mut self) -> bool {
        true
    }
}

impl Opener {
    fn open(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn places(usual: u32, settings: PoolSettings) -> (Opener, Arc<Places<Opener>>) {
    let places = Places::new(usual, usual * 2, &settings);
    (Opener::default(), Arc::new(places))
}

fn taken<'a>(
    opener: &Opener,
    places: &'a Places<Opener>,
    urgency: Urgency,
) -> Option<Place<'a, Opener>> {
    let mut place = places.take(urgency, deadline_in(SHORT))?;
    let lazy = place.lazy(opener);
    lazy.call(deadline_in(LONG), |_, _| Ok(())).unwrap();
    Some(place)
}

/// A thread that waits for a place, and sends its name when it has one.
fn waiter(
    places: &Arc<Places<Opener>>,
    urgency: Urgency,
    name: u32,
    turns: &mpsc::Sender<u32>,
) -> JoinHandle<()> {
    let waiting = |places: &Places<Opener>| {
        let state = places.state();
        state.urgent.len() + state.usual.len()
    };
    let before = waiting(places);
    let (shared, turns) = (Arc::clone(places), turns.clone());
    let thread = thread::spawn(move || {
        let place = shared.take(urgency, deadline_in(LONG)).unwrap();
        turns.send(name).unwrap();
        drop(place);
    });
    while waiting(places) == before {
        thread::sleep(Duration::from_millis(1));
    }
    thread
}

fn order(turns: &Receiver<u32>, count: usize) -> Vec<u32> {
    (0..count)
        .map(|_| turns.recv_timeout(LONG).unwrap())
        .collect()
}

#[test]
fn urgent_calls_come_before_usual_ones_and_each_kind_in_order() {
    let (opener, places) = places(1, PoolSettings::default());
    let first = taken(&opener, &places, Urgency::Usual).unwrap();
    let second = taken(&opener, &places, Urgency::Urgent).unwrap();
    let (send, turns) = mpsc::channel();
    let waiters = [
        (1, Urgency::Usual),
        (2, Urgency::Usual),
        (3, Urgency::Urgent),
        (4, Urgency::Urgent),
    ];
    let threads = waiters.map(|(name, urgency)| waiter(&places, urgency, name, &send));
    drop(first);
    assert_eq!(order(&turns, 2), [3, 4], "on the one place that is free");
    drop(second);
    assert_eq!(order(&turns, 2), [1, 2]);
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(places.state().used, 0);
}

#[test]
fn usual_calls_leave_room_for_urgent_ones() {
    let (opener, places) = places(2, PoolSettings::default());
    let usual: Vec<_> = (0..2)
        .map(|_| taken(&opener, &places, Urgency::Usual).unwrap())
        .collect();
    assert!(taken(&opener, &places, Urgency::Usual).is_none());
    let urgent: Vec<_> = (0..2)
        .map(|_| taken(&opener, &places, Urgency::Urgent).unwrap())
        .collect();
    assert!(taken(&opener, &places, Urgency::Urgent).is_none());
    drop(usual);
    // Urgent calls count as well: there are never more connections than places.
    assert!(taken(&opener, &places, Urgency::Usual).is_none());
    drop(urgent);
    assert_eq!(
        opener.open(),
        2,
        "the connections of urgent calls are closed"
    );
    assert!(taken(&opener, &places, Urgency::Usual).is_some());
    assert_eq!(places.state().used, 0);
}

#[test]
fn a_waiter_that_gives_up_leaves_the_queue() {
    let (opener, places) = places(1, PoolSettings::default());
    let place = taken(&opener, &places, Urgency::Usual).unwrap();
    assert!(taken(&opener, &places, Urgency::Usual).is_none());
    assert!(places.state().usual.is_empty());
    drop(place);
    assert!(taken(&opener, &places, Urgency::Usual).is_some());
}

#[test]
fn connections_that_are_unused_for_too_long_are_closed_by_the_next_call() {
    let settings = PoolSettings::default().with_idle_timeout(Some(Duration::from_secs(1)));
    let (opener, places) = places(3, settings);
    let all: Vec<_> = (0..3)
        .map(|_| taken(&opener, &places, Urgency::Usual).unwrap())
        .collect();
    drop(all);
    assert_eq!(opener.open(), 3);
    thread::sleep(Duration::from_millis(1100));
    let place = places.take(Urgency::Usual, deadline_in(LONG)).unwrap();
    assert_eq!(opener.open(), 0);
    drop(place);
}

#[test]
fn a_connection_that_is_too_old_is_closed_though_it_is_used() {
    let settings = PoolSettings::default().with_max_lifetime(Some(Duration::from_millis(100)));
    let (opener, places) = places(3, settings);
    let place = taken(&opener, &places, Urgency::Usual).unwrap();
    thread::sleep(Duration::from_millis(150));
    drop(place);
    assert_eq!(opener.open(), 0);
}
