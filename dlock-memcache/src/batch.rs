//! Extending many leases with one round trip.

use std::time::Duration;

use dlock_core::{Clock, DatastoreError, ErrorKind, Extension, Lease, Time};
use dlock_net::{Pool, call_deadline, may_have_executed};

use crate::ConnectionManager;
use crate::holding::{self, extended, push_extend};
use crate::protocol::Connection;
use crate::reply::Stored;

/// How many extends go out at once: their requests and answers fit into the buffers of both ends.
pub(crate) const BATCH: usize = 256;

const BROKEN: &str = "the connection broke in the middle of a batch";

type Answer = Result<Extension, DatastoreError>;

/// Extends the leases on the dedicated connection, by the earliest end of their calls.
pub(crate) fn extend(
    pool: &Pool<ConnectionManager>,
    leases: &[(Lease, Duration)],
    timeout: Duration,
) -> Vec<Answer> {
    let ends: Vec<Time> = leases
        .iter()
        .map(|(lease, _)| call_deadline(lease.claim(), timeout))
        .collect();
    let now = Clock::BOOTTIME.now();
    // A call that has ended already must not end those of the others.
    let Some(deadline) = ends.iter().copied().filter(|end| *end > now).min() else {
        return leases.iter().map(|_| Err(too_late())).collect();
    };
    let in_time: Vec<usize> = (0..leases.len()).filter(|at| ends[*at] > now).collect();
    let mut again = false;
    let sent = pool.call_dedicated(deadline, |link| {
        let answers = extend_on(link, leases, &in_time, again);
        again |= answers
            .as_ref()
            .is_err_and(DatastoreError::may_have_executed);
        answers
    });
    let mut answers: Vec<Answer> = leases.iter().map(|_| Err(too_late())).collect();
    match sent {
        Ok(answered) => {
            for (at, answer) in in_time.into_iter().zip(answered) {
                answers[at] = answer;
            }
        }
        Err(error) => {
            let shared = source_text(&error);
            for at in in_time {
                answers[at] = Err(same(&error, &shared));
            }
        }
    }
    answers
}

/// One answer for each of `which`, in their order.
fn extend_on(
    link: &mut Connection,
    leases: &[(Lease, Duration)],
    which: &[usize],
    again: bool,
) -> Result<Vec<Answer>, DatastoreError> {
    let mut requests = Vec::new();
    let mut sent = Vec::with_capacity(which.len());
    for (place, at) in which.iter().enumerate() {
        let (lease, ttl) = &leases[*at];
        if let Some(kept) = push_extend(&mut requests, link, lease, *ttl) {
            sent.push((place, kept));
        }
    }
    let stored = link.replace_many(&requests, sent.len())?;
    let mut answers: Vec<Option<Answer>> = which.iter().map(|_| None).collect();
    let answered = stored.len();
    for ((place, kept), stored) in sent.iter().zip(stored) {
        let (lease, _) = &leases[which[*place]];
        answers[*place] = match stored {
            Ok(Stored::Done(cas)) => Some(Ok(extended(link, lease, cas, *kept, lease.fence()))),
            Ok(Stored::NotFound) => Some(Ok(Extension::Lost)),
            // Somebody else's, or ours under another number: it needs a look.
            Ok(Stored::Other) => None,
            Err(error) => Some(Err(error)),
        };
    }
    // Where the connection broke in the middle: what was sent may have been done, what needs a look was not.
    let broken = answered < sent.len();
    for (place, _) in &sent[answered..] {
        answers[*place] = Some(Err(DatastoreError::maybe_executed(
            ErrorKind::Unreachable,
            BROKEN,
        )));
    }
    Ok(which
        .iter()
        .zip(answers)
        .map(|(at, answer)| {
            let (lease, ttl) = &leases[*at];
            answer.unwrap_or_else(|| {
                if broken {
                    return Err(DatastoreError::not_executed(ErrorKind::Unreachable, BROKEN));
                }
                holding::extend(link, lease, *ttl, again)
            })
        })
        .collect())
}

fn too_late() -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Timeout, "the call had ended before it was sent")
}

/// An error like `error` for another lease of the batch; errors cannot be cloned.
fn same(error: &DatastoreError, text: &str) -> DatastoreError {
    let copy = DatastoreError::not_executed(error.kind(), text);
    if error.may_have_executed() {
        may_have_executed(copy)
    } else {
        copy
    }
}

fn source_text(error: &DatastoreError) -> String {
    std::error::Error::source(error).map_or_else(String::new, ToString::to_string)
}
