//! Law 7: a batch has the same effect as its extends one by one, however long it is.

use std::time::Duration;

use dlock_core::Extension;

use crate::case::{Case, Law, Sample, check, now};
use crate::client::{Holding, described};
use crate::threads::in_lanes;
use crate::{Subject, Verdict};

/// Longer than the round numbers at which a store is likely to cut a batch.
const MOST: usize = 1100;
/// Longer than the most usual limits, for slow stores.
const LEAST: usize = 70;
/// The time for the calls of the case, one after the other.
const TIME: Duration = Duration::from_secs(8);

/// In a long batch every lease is extended, the last like the first, or its answer is an error.
pub fn a_long_batch_extends_each_of_its_leases(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    let fits = TIME.as_nanos() / case.latency().as_nanos().max(1);
    let count = usize::try_from(fits).unwrap_or(MOST).clamp(LEAST, MOST);
    case.sampled("a lease of a batch that was extended in time", || {
    let clients: Vec<_> = (0..count).map(|_| case.client(&case.key())).collect();
    let leases = in_lanes(case.lanes(), &clients, |_, client| {
        client.take(case.long(), "nobody had claimed the key").lease
    });
    let brief = case.short();
    let calls: Vec<_> = clients
        .iter()
        .zip(&leases)
        .map(|(client, lease)| (client.next_call(lease), brief))
        .collect();
    let sent = now();
    let answers = subject.first().extend_many(&calls);
    let received = now();
    check!(
        case,
        answers.len() == count,
        "a batch of {count} leases got {} answers",
        answers.len()
    );
    // The batch shortens the leases: one that was not extended is held for half an hour.
    let mut extended = Vec::new();
    for ((client, lease), answer) in clients.iter().zip(&leases).zip(answers) {
        match answer {
            Ok(Extension::Extended(grant)) => {
                let lease = lease.renewed(grant);
                let holding = Holding {
                    lease,
                    sent,
                    received,
                };
                extended.push((client, holding));
            }
            Ok(Extension::Lost) => check!(
                case,
                false,
                "the lease had half an hour left, but in a batch of {count} its extend was \
                 answered `Lost`"
            ),
            // A store that makes the calls one by one may not finish all of them in time.
            Err(error) => check!(
                case,
                error.is_transient(),
                "in a batch of {count} an extend failed: {}",
                described(&error)
            ),
        }
    }
    // It may come to its end before it is sent.
    let Some((_, last)) = extended.last() else {
        return Sample::TooSlow;
    };
    case.sleep_until(last.free_from(&case));
    in_lanes(case.lanes(), &extended, |place, (client, _)| {
        let since = format!(
            "a batch of {count} was extended to {brief:?}, this lease as its {}th, and that time \
             had passed",
            place + 1
        );
        case.client(client.key()).take(case.long(), &since);
    });
    Sample::Judged
    });
    Verdict::Kept
}
