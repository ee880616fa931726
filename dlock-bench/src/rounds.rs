//! Lets subjects take turns: what is compared is measured in the same seconds, so that a slow
//! machine slows down all of it.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::series::{Series, Turn};

/// A subject of a measurement, which runs in turns.
pub(crate) trait Subject {
    /// Its name in the table.
    fn name(&self) -> &str;

    /// Runs for about this long.
    fn turn(&mut self, lasts: Duration) -> Result<Turn, Failure>;
}

/// One operation on one thread.
pub(crate) type Operation = Box<dyn FnMut() -> Result<(), Failure> + Send>;

/// One operation for each thread.
pub(crate) struct Threads {
    name: String,
    operations: Vec<Operation>,
    /// The number of operations between two readings of the clock.
    batch: u32,
}

impl Threads {
    pub(crate) fn new(name: impl Into<String>, operations: Vec<Operation>) -> Self {
        Threads {
            name: name.into(),
            operations,
            batch: 1,
        }
    }

    /// Reads the clock only after `of` operations, for operations that take hardly longer than a
    /// reading.
    pub(crate) fn in_batches(mut self, of: u32) -> Self {
        self.batch = of;
        self
    }
}

impl Subject for Threads {
    fn name(&self) -> &str {
        &self.name
    }

    fn turn(&mut self, lasts: Duration) -> Result<Turn, Failure> {
        let batch = self.batch;
        if let [operation] = &mut self.operations[..] {
            return repeat(operation, lasts, batch);
        }
        let together = Barrier::new(self.operations.len());
        let turns: Vec<_> = thread::scope(|scope| {
            let start = |operation| {
                scope.spawn(|| {
                    together.wait();
                    repeat(operation, lasts, batch)
                })
            };
            let running: Vec<_> = self.operations.iter_mut().map(start).collect();
            let ended = running.into_iter().map(thread::ScopedJoinHandle::join);
            ended
                .map(|turn| turn.unwrap_or_else(|_| Err("a thread panicked".into())))
                .collect()
        });
        let mut all = Turn::default();
        for turn in turns {
            let turn = turn?;
            all.times.extend(turn.times);
            all.operations += turn.operations;
            all.elapsed = all.elapsed.max(turn.elapsed);
        }
        Ok(all)
    }
}

fn repeat(operation: &mut Operation, lasts: Duration, batch: u32) -> Result<Turn, Failure> {
    let start = Instant::now();
    let mut turn = Turn::default();
    while turn.elapsed < lasts {
        for _ in 0..batch {
            operation()?;
        }
        // The end of one operation is the beginning of the next: one reading of the clock each.
        let elapsed = start.elapsed();
        turn.times.push(nanos((elapsed - turn.elapsed) / batch));
        turn.operations += u64::from(batch);
        turn.elapsed = elapsed;
    }
    Ok(turn)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Lets the subjects take turns. The first turn of each does not count.
pub(crate) fn interleaved(
    subjects: &mut [Box<dyn Subject + '_>],
    rounds: usize,
    lasts: Duration,
) -> Result<Vec<Series>, Failure> {
    let named = |name: &str| Series {
        name: name.to_owned(),
        turns: Vec::with_capacity(rounds),
    };
    let mut series: Vec<Series> = subjects.iter().map(|one| named(one.name())).collect();
    for subject in subjects.iter_mut() {
        subject.turn(lasts / 2)?;
    }
    for round in 0..rounds {
        for place in 0..subjects.len() {
            // Another subject begins each round, so that no subject always follows the same one.
            let at = (place + round) % subjects.len();
            series[at].turns.push(subjects[at].turn(lasts)?);
        }
    }
    Ok(series)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    struct Recorded<'a>(&'a str, &'a RefCell<String>);

    impl Subject for Recorded<'_> {
        fn name(&self) -> &str {
            self.0
        }

        fn turn(&mut self, _: Duration) -> Result<Turn, Failure> {
            self.1.borrow_mut().push_str(self.0);
            Ok(Turn::default())
        }
    }

    #[test]
    fn each_has_its_turn_in_each_round_and_another_one_begins() {
        let order = RefCell::new(String::new());
        let mut subjects =
            ["a", "b", "c"].map(|name| Box::new(Recorded(name, &order)) as Box<dyn Subject + '_>);
        let series = interleaved(&mut subjects, 3, Duration::ZERO).unwrap();
        assert_eq!(
            *order.borrow(),
            "abcabcbcacab",
            "the first three do not count"
        );
        assert!(series.iter().all(|series| series.turns.len() == 3));
    }

    #[test]
    fn operations_in_batches_are_counted_one_by_one() {
        let nothing: Operation = Box::new(|| Ok(()));
        let mut threads = Threads::new("nothing", vec![nothing]).in_batches(10);
        let turn = threads.turn(Duration::from_millis(1)).unwrap();
        assert_eq!(turn.operations, turn.times.len() as u64 * 10);
        assert!(turn.times.iter().sum::<u64>() * 10 <= nanos(turn.elapsed));
    }
}
