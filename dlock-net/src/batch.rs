//! Makes many calls in one round trip.

use std::time::Duration;

use dlock_core::{Clock, DatastoreError, ErrorKind, Time};

use crate::{Earlier, Pool, PoolManager};

/// A batch has at least this much time if any of its calls has.
const PATIENCE: Duration = Duration::from_millis(250);

/// Makes the calls on the pool's dedicated connection, with one round trip for every `most` of
/// them. Returns the answers in the order of the calls.
///
/// `end` returns the end of a call on [`Clock::BOOTTIME`], or why it cannot be made. `run` receives
/// those calls of one trip that have time left, and returns answers in their order, as far as they
/// arrived. It may be called again, as in [`Pool::call`]. If the trip fails, each of its calls
/// fails with that error.
pub fn in_batches<M: PoolManager, C, T>(
    pool: &Pool<M>,
    calls: &[C],
    most: usize,
    end: impl Fn(&C) -> Result<Time, DatastoreError>,
    mut run: impl FnMut(
        &mut M::Link,
        &[&C],
        Earlier,
    ) -> Result<Vec<Result<T, DatastoreError>>, DatastoreError>,
) -> Vec<Result<T, DatastoreError>> {
    let mut all = Vec::with_capacity(calls.len());
    for batch in calls.chunks(most.max(1)) {
        let planned = Planned::of(batch.iter().map(&end), || Clock::BOOTTIME.now());
        let in_time: Vec<&C> = planned.in_time().iter().map(|at| &batch[*at]).collect();
        let answered = match in_time.is_empty() {
            true => Ok(Vec::new()),
            false => pool.call_dedicated(planned.deadline(), |link, earlier| {
                run(link, &in_time, earlier)
            }),
        };
        all.extend(planned.answered(answered));
    }
    all
}

/// The plan of a batch before it is sent.
pub struct Planned<T> {
    /// The calls that have time left.
    in_time: Vec<usize>,
    /// The end of their round trip.
    deadline: Time,
    /// The errors of the other calls.
    answers: Vec<Option<Result<T, DatastoreError>>>,
}

impl<T> Planned<T> {
    /// The batch ends with its earliest call. But a call that is nearly over must not make the
    /// others fail, and one that is over must not be sent.
    pub fn of(
        ends: impl Iterator<Item = Result<Time, DatastoreError>>,
        now: impl FnOnce() -> Time,
    ) -> Self {
        let ends: Vec<_> = ends.collect();
        // Not before: an end is often counted from the moment in which it is asked for.
        let now = now();
        let (mut in_time, mut answers) = (Vec::new(), Vec::new());
        let (mut soonest, mut last) = (Time::MAX, now);
        for (at, end) in ends.into_iter().enumerate() {
            answers.push(match end {
                Ok(end) if end > now => {
                    in_time.push(at);
                    (soonest, last) = (soonest.min(end), last.max(end));
                    None
                }
                Ok(_) => Some(Err(too_late())),
                Err(error) => Some(Err(error)),
            });
        }
        let deadline = soonest.max(now.saturating_add(PATIENCE)).min(last);
        Planned {
            in_time,
            deadline,
            answers,
        }
    }

    /// The places of the calls that have time left, and are to be made.
    pub fn in_time(&self) -> &[usize] {
        &self.in_time
    }

    /// When their round trip ends.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// All answers in the order of the calls, with those of the calls that were made, as far as
    /// answers came. If the trip failed, that is the answer to each of them.
    pub fn answered(
        mut self,
        answered: Result<Vec<Result<T, DatastoreError>>, DatastoreError>,
    ) -> Vec<Result<T, DatastoreError>> {
        fill(&mut self.answers, &self.in_time, answered);
        let answers = self.answers.into_iter();
        answers
            .map(|answer| answer.unwrap_or_else(no_answer))
            .collect()
    }
}

/// Assigns the answers of a trip to its calls.
fn fill<T>(
    answers: &mut [Option<Result<T, DatastoreError>>],
    places: &[usize],
    answered: Result<Vec<Result<T, DatastoreError>>, DatastoreError>,
) {
    match answered {
        Ok(answered) => {
            for (at, answer) in places.iter().zip(answered) {
                answers[*at] = Some(answer);
            }
        }
        Err(error) => {
            for at in places {
                answers[*at] = Some(Err(error.clone()));
            }
        }
    }
}

fn too_late() -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Timeout, "the call had ended before it was sent")
}

/// The connection broke in the middle of the answers.
fn no_answer<T>() -> Result<T, DatastoreError> {
    Err(DatastoreError::maybe_executed(
        ErrorKind::Unreachable,
        "the connection broke after the request was sent",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const NOW: Time = Time::from_nanos(1_000_000_000);

    fn planned(ends: &[u64]) -> Planned<()> {
        let at = |millis: &u64| Ok(NOW.saturating_add(Duration::from_millis(*millis)));
        Planned::of(ends.iter().map(at), || NOW)
    }

    #[test]
    fn a_batch_ends_with_the_soonest_of_its_leases_but_for_those_that_are_nearly_over() {
        let end = |ends: &[u64]| NOW.until(planned(ends).deadline).as_millis();
        assert_eq!(end(&[2000, 1500, 1900]), 1500);
        assert_eq!(end(&[2000, 1]), 250);
        assert_eq!(end(&[100, 1]), 100, "never after the last of them");
        assert_eq!(end(&[2000, 0, 1500]), 1500, "whatever is over already");
        assert_eq!(end(&[]), 0);
    }

    #[test]
    fn a_call_that_is_over_or_cannot_be_made_is_not_sent_and_says_so() {
        let planned = planned(&[0, 2000, 1]);
        assert_eq!(planned.in_time, [1, 2]);
        let over = planned.answers[0].as_ref().unwrap().as_ref().unwrap_err();
        assert_eq!(over.kind(), ErrorKind::Timeout);
        assert!(!over.may_have_executed());
        assert!(planned.answers[1..].iter().all(Option::is_none));

        let invalid = || Err(DatastoreError::not_executed(ErrorKind::Invalid, "no key"));
        let planned = Planned::<()>::of([invalid()].into_iter(), || NOW);
        assert!(planned.in_time.is_empty());
        let error = planned.answers[0].as_ref().unwrap().as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_call_without_time_is_over_though_its_end_is_counted_from_when_it_is_asked_for() {
        let clock = Cell::new(NOW);
        let read = || {
            clock.set(clock.get().saturating_add(Duration::from_nanos(1)));
            clock.get()
        };
        let planned = Planned::<()>::of((0..3).map(|_| Ok(read())), read);
        assert!(planned.in_time.is_empty());
    }

    #[test]
    fn each_answer_comes_to_its_call_and_a_failed_trip_is_that_of_each() {
        let mut answers = [None, None, None, None];
        fill(&mut answers, &[1, 3], Ok(vec![Ok(7)]));
        let kept = answers.map(|answer| answer.map(Result::unwrap));
        assert_eq!(kept, [None, Some(7), None, None]);

        let mut answers: [Option<Result<u8, _>>; 3] = [None, None, None];
        let broken = DatastoreError::maybe_executed(ErrorKind::Unreachable, "cut");
        fill(&mut answers, &[0, 2], Err(broken));
        assert!(answers[1].is_none());
        for at in [0, 2] {
            let error = answers[at].as_ref().unwrap().as_ref().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unreachable);
            assert!(error.may_have_executed());
        }
    }
}
