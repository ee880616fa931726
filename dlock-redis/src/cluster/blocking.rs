//! Calls to a cluster that block.

use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use dlock_core::{Clock, DatastoreError, Time};
use dlock_net::{Earlier, lost_reply};

use super::map::Node;
use super::walk::Walk;
use super::{Cluster, slot};
use crate::connection::Connection;
use crate::operations::{Answer, Call};
use crate::server::By;

/// How many calls are sent in one trip.
const BATCH: usize = 256;
/// The condition variable's clock stops while the machine sleeps; that of deadlines does not.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

impl Cluster {
    /// One call, and whether an earlier try of it may have been carried out as well.
    ///
    /// # Errors
    ///
    /// That of the last try, with what is known of all.
    pub(crate) fn call(
        self: &Arc<Self>,
        deadline: Time,
        call: Call<'_>,
    ) -> Result<(Answer, bool), DatastoreError> {
        let here = self.here();
        let slot = slot::of(call.key());
        let mut walk = Walk::new(call);
        loop {
            let found = here.find(slot, &walk, deadline);
            let node = found.as_ref().ok().map(|node| node.endpoint.clone());
            let answered = found.and_then(|node| node.call(deadline, &walk));
            let pause = match answered {
                Ok(answer) => return Ok(answer),
                Err(error) => here.after(&mut walk, error, node.as_ref(), deadline)?,
            };
            sleep(pause, deadline);
        }
    }

    /// The nodes that have slots.
    ///
    /// # Errors
    ///
    /// Not executed: they are not known by `deadline`.
    pub(crate) fn primaries(
        self: &Arc<Self>,
        deadline: Time,
    ) -> Result<Vec<Arc<Node>>, DatastoreError> {
        let here = self.here();
        here.find(0, &Walk::new(Call::Asking), deadline)?;
        Ok(here.map().primaries())
    }

    /// Many calls: those to one node in one trip, the nodes side by side. All end by one deadline,
    /// so that no node that hangs holds back what the others have answered for longer. The answers
    /// are in the order of the calls.
    pub(crate) fn call_all(
        self: &Arc<Self>,
        deadline: Time,
        calls: &[Call<'_>],
        by: By,
    ) -> Vec<Result<Answer, DatastoreError>> {
        let here = self.here();
        let mut walks: Vec<_> = calls.iter().map(|call| Walk::new(*call)).collect();
        let mut results: Vec<Option<_>> = calls.iter().map(|_| None).collect();
        loop {
            let open: Vec<_> = (0..calls.len())
                .filter(|at| results[*at].is_none())
                .collect();
            if open.is_empty() {
                return results.into_iter().flatten().collect();
            }
            let mut trips: Vec<Trip> = Vec::new();
            let mut outcomes = Vec::new();
            for at in open {
                match here.find(slot::of(calls[at].key()), &walks[at], deadline) {
                    Ok(node) => Trip::add(&mut trips, node, walks[at].asks().is_some(), at),
                    Err(error) => outcomes.push((at, None, Err(error))),
                }
            }
            outcomes.extend(take_trips(trips, deadline, &walks, by));
            let mut pause = None;
            for (at, node, outcome) in outcomes {
                let walk = &mut walks[at];
                let node = node.as_ref().map(|node: &Arc<Node>| &node.endpoint);
                let repeated = outcome.map_err(|error| here.after(walk, error, node, deadline));
                match repeated {
                    Ok(answer) => results[at] = Some(Ok(answer)),
                    Err(Ok(until)) => pause = pause.max(until),
                    Err(Err(error)) => results[at] = Some(Err(error)),
                }
            }
            sleep(pause, deadline);
        }
    }

    /// The node to which a call goes next. The first call waits for the map.
    fn find(
        self: &Arc<Self>,
        slot: u16,
        walk: &Walk<'_>,
        deadline: Time,
    ) -> Result<Arc<Node>, DatastoreError> {
        loop {
            if let Some(node) = self.target(slot, walk)? {
                return Ok(node);
            }
            if let Some(error) = self.why_no_map() {
                return Err(error);
            }
            let refresh = self.refreshing();
            let left = Clock::BOOTTIME.now().until(deadline);
            if refresh.is_under_way && left.is_zero() {
                return Err(refresh.no_map_in_time());
            }
            let _ = self
                .refreshed
                .wait_timeout_while(refresh, left.min(LONGEST_SLEEP), |refresh| {
                    refresh.is_under_way
                })
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Node {
    fn call(&self, deadline: Time, walk: &Walk<'_>) -> Result<(Answer, bool), DatastoreError> {
        let (call, earlier) = (walk.call(), walk.earlier());
        match walk.asks() {
            None => self.server.call(deadline, call, earlier),
            Some(_) => self
                .server
                .call_by(deadline, call, earlier, Connection::call_asking),
        }
    }
}

/// What goes to one node together.
struct Trip {
    node: Arc<Node>,
    /// Whether the slots are being moved there.
    asking: bool,
    which: Vec<usize>,
}

type Outcome = (usize, Option<Arc<Node>>, Result<Answer, DatastoreError>);

impl Trip {
    fn add(trips: &mut Vec<Trip>, node: Arc<Node>, asking: bool, at: usize) {
        let same = |trip: &&mut Trip| Arc::ptr_eq(&trip.node, &node) && trip.asking == asking;
        match trips.iter_mut().find(same) {
            Some(trip) => trip.which.push(at),
            None => trips.push(Trip {
                node,
                asking,
                which: vec![at],
            }),
        }
    }

    fn take(&self, deadline: Time, walks: &[Walk<'_>], by: By) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(self.which.len());
        for batch in self.which.chunks(BATCH) {
            let sent: Vec<_> = batch.iter().map(|at| walks[*at].call()).collect();
            let replicas = self.node.server.replicas;
            let make = |connection: &mut Connection, _: Earlier| match self.asking {
                false => connection.call_many(&sent, replicas),
                // There are few of them: a slot is moved in no time.
                true => {
                    let answers = sent
                        .iter()
                        .map(|call| connection.call_asking(*call, replicas));
                    Ok(answers.collect())
                }
            };
            let mut answered = self.node.server.call_many(deadline, by, make);
            // As far as they arrived.
            let mut answers = answered.as_mut().map(|answers| answers.drain(..));
            outcomes.extend(batch.iter().map(|at| {
                let answer = match &mut answers {
                    Ok(answers) => answers.next().unwrap_or_else(|| Err(lost_reply())),
                    Err(error) => Err(error.clone()),
                };
                (*at, Some(Arc::clone(&self.node)), answer)
            }));
        }
        outcomes
    }
}

/// Takes the trips side by side, the last one on this thread.
fn take_trips(mut trips: Vec<Trip>, deadline: Time, walks: &[Walk<'_>], by: By) -> Vec<Outcome> {
    let Some(own) = trips.pop() else {
        return Vec::new();
    };
    thread::scope(|scope| {
        let mut outcomes = Vec::new();
        let mut others = Vec::new();
        for trip in &trips {
            let thread = thread::Builder::new().name("dlock-node".to_owned());
            match thread.spawn_scoped(scope, || trip.take(deadline, walks, by)) {
                Ok(other) => others.push(other),
                // One after the other then.
                Err(_) => outcomes.extend(trip.take(deadline, walks, by)),
            }
        }
        outcomes.extend(own.take(deadline, walks, by));
        for other in others {
            match other.join() {
                Ok(taken) => outcomes.extend(taken),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcomes
    })
}

fn sleep(until: Option<Time>, deadline: Time) {
    if let Some(until) = until {
        thread::sleep(Clock::BOOTTIME.now().until(until.min(deadline)));
    }
}
