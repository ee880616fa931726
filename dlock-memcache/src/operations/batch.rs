//! Extending many leases, or reading how long they are kept, with one round trip.

use std::time::Duration;

use dlock_core::{DatastoreError, ErrorKind, Extension, Lease, at_once};
use dlock_net::{Earlier, Pool, call_deadline, in_batches};

use super::commands::{Commands, Stored};
use super::holding::{self, extended, prepared};
use crate::ConnectionManager;

/// How many extends go out at once: their requests and answers fit into the buffers of both ends.
pub(crate) const BATCH: usize = 256;

const BROKEN: &str = "the connection broke in the middle of a batch";

type Answer = Result<Extension, DatastoreError>;

/// Extends the leases on the dedicated connection.
pub(crate) fn extend(
    pool: &Pool<ConnectionManager>,
    leases: &[(Lease, Duration)],
    timeout: Duration,
) -> Vec<Answer> {
    let end = |(lease, _): &(Lease, Duration)| Ok(call_deadline(lease.claim(), timeout));
    in_batches(pool, leases, BATCH, end, |link, leases, earlier| {
        at_once(extend_many(link, leases, earlier))
    })
}

/// Reads for how long the server really keeps the leases, on the dedicated connection.
pub(crate) fn confirm(
    pool: &Pool<ConnectionManager>,
    leases: &[Lease],
    timeout: Duration,
) -> Vec<Answer> {
    let end = |lease: &Lease| Ok(call_deadline(lease.claim(), timeout));
    in_batches(pool, leases, BATCH, end, |link, leases, _| {
        at_once(holding::confirm_many(link, leases))
    })
}

/// One answer for each of `leases`, in their order.
pub async fn extend_many<C: Commands>(
    server: &mut C,
    leases: &[&(Lease, Duration)],
    earlier: Earlier,
) -> Result<Vec<Answer>, DatastoreError> {
    let (mut sent, mut replacements) = (Vec::with_capacity(leases.len()), Vec::new());
    for (at, (lease, ttl)) in leases.iter().enumerate() {
        if let Some((replacement, kept)) = prepared(server, lease, *ttl) {
            replacements.push(replacement);
            sent.push((at, kept));
        }
    }
    let stored = if replacements.is_empty() {
        Vec::new()
    } else {
        server.replace_many(&replacements).await?
    };
    let mut answers: Vec<Option<Answer>> = leases.iter().map(|_| None).collect();
    let answered = stored.len();
    for ((at, kept), stored) in sent.iter().zip(stored) {
        let (lease, _) = leases[*at];
        answers[*at] = match stored {
            Ok(Stored::Done(cas)) => Some(Ok(extended(server, lease, cas, *kept, lease.fence()))),
            Ok(Stored::NotFound) => Some(Ok(Extension::Lost)),
            // Somebody else's, or ours under another number: it must be read.
            Ok(Stored::Other) => None,
            Err(error) => Some(Err(error)),
        };
    }
    // Where the connection broke in the middle: what was sent may have been done, what must be
    // read was not.
    let is_broken = answered < sent.len();
    for (at, _) in &sent[answered..] {
        answers[*at] = Some(Err(DatastoreError::maybe_executed(
            ErrorKind::Unreachable,
            BROKEN,
        )));
    }
    let mut all = Vec::with_capacity(leases.len());
    for ((lease, ttl), answer) in leases.iter().zip(answers) {
        all.push(match answer {
            Some(answer) => answer,
            None if is_broken => Err(DatastoreError::not_executed(ErrorKind::Unreachable, BROKEN)),
            None => holding::extend(server, lease, *ttl, earlier).await,
        });
    }
    Ok(all)
}
