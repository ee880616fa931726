//! The renewal worker.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::{Inner, Jobs, Keeper, Leftover, Ticket};
use crate::engine::callback::Callbacks;
use crate::engine::held_lease::HeldLease;
use crate::engine::io::Io;
use crate::engine::lease_schedule::{After, Room};

use crate::contract::error::{DatastoreError, ErrorKind};
use crate::contract::lease::Lease;
use crate::contract::outcome::Extension;
use crate::observer::LockEvent;

/// Makes the calls that are due, until the keeper is stopped or the store has ended.
///
/// `store` gives the store while it is in use, `wait` waits until there may be work.
pub async fn run<S: Io, W: Future<Output = ()>>(
    keeper: &Keeper,
    store: impl Fn() -> Option<S>,
    wait: impl Fn() -> W,
) {
    let inner = &*keeper.0;
    loop {
        let Some(io) = store() else { return };
        let characteristics = io.characteristics();
        let most = (characteristics.batch, characteristics.confirm_batch);
        let Some((batch, room)) = next_batch(inner, most) else {
            if inner.state().stopped {
                return;
            }
            // Not across the sleep: the store ends with its last handle, which must not be this
            // one.
            drop(io);
            wait().await;
            continue;
        };
        let worker = Worker {
            inner,
            io: &io,
            room,
        };
        match batch {
            Batch::Extends(jobs) => worker.extend(&jobs).await,
            Batch::Confirms(jobs) => worker.confirm(&jobs).await,
            Batch::Leftover(leftover) => worker.clean_up(leftover).await,
        }
    }
}

enum Batch {
    Extends(Vec<Job>),
    Confirms(Vec<Job>),
    Leftover(Leftover),
}

type Job = (Ticket, Arc<HeldLease>);

/// The most urgent extends or confirmations, at most as many as the store takes at once. In turn,
/// so that neither kind starves the other. What was lost already comes after all that can still be
/// kept.
fn next_batch(inner: &Inner, most: (usize, usize)) -> Option<(Batch, Room)> {
    let mut state = inner.state();
    let room = Room::beside(state.shortest());
    let confirm = !state.confirms.is_empty() && (state.confirm_next || state.extends.is_empty());
    state.confirm_next = !confirm;
    let batch = if confirm {
        Batch::Confirms(most_urgent(&mut state.confirms, most.1))
    } else if !state.extends.is_empty() {
        Batch::Extends(most_urgent(&mut state.extends, most.0))
    } else {
        Batch::Leftover(state.leftovers.pop_front()?)
    };
    Some((batch, room))
}

fn most_urgent(jobs: &mut Jobs, most: usize) -> Vec<Job> {
    let next = || jobs.pop_first().map(|((_, ticket), lease)| (ticket, lease));
    std::iter::from_fn(next).take(most.max(1)).collect()
}

struct Worker<'a, S> {
    inner: &'a Inner,
    io: &'a S,
    /// How long a call may take that is not urgent.
    room: Room,
}

impl<S: Io> Worker<'_, S> {
    async fn extend(&self, jobs: &[Job]) {
        let mut sent_jobs = Vec::with_capacity(jobs.len());
        let mut calls: Vec<(Lease, Duration)> = Vec::with_capacity(jobs.len());
        for job in jobs {
            match job.1.send(self.room) {
                Some(call) => {
                    calls.push(call);
                    sent_jobs.push(job);
                }
                None => self.look_again(job),
            }
        }
        let sent = self.inner.clock.now();
        if calls.is_empty() {
            return;
        }
        let answers = guarded(self.io.extend_many(&calls))
            .await
            .unwrap_or_default();
        let mut answers = answers.into_iter();
        for (job, (_, ttl)) in sent_jobs.into_iter().zip(&calls) {
            let answer = answers.next().unwrap_or_else(no_answer);
            let (lease, mut callbacks) = (&job.1, Callbacks::default());
            let late = lease.renewal_lag(sent);
            let after = lease.extended(sent, *ttl, &answer, &mut callbacks);
            self.inner.delivery.deliver(callbacks);
            self.look_again(job);
            if after == After::Orphaned {
                // Nobody believes in it, so nobody else should wait for it.
                let (store, held) = (self.io.handle(), Arc::clone(lease));
                let orphan = Leftover {
                    store,
                    held,
                    lease: None,
                };
                self.inner.state().leftovers.push_back(orphan);
            }
            self.report(lease, late, answer, &after);
        }
    }

    async fn confirm(&self, jobs: &[Job]) {
        let mut sent_jobs = Vec::with_capacity(jobs.len());
        let mut calls = Vec::with_capacity(jobs.len());
        for job in jobs {
            match job.1.send_confirm(self.room) {
                Some(lease) => {
                    calls.push(lease);
                    sent_jobs.push(job);
                }
                None => self.look_again(job),
            }
        }
        let sent = self.inner.clock.now();
        if calls.is_empty() {
            return;
        }
        let answers = guarded(self.io.confirm_many(&calls))
            .await
            .unwrap_or_default();
        let mut answers = answers.into_iter();
        for job in sent_jobs {
            let answer = answers.next().unwrap_or_else(no_answer);
            let mut callbacks = Callbacks::default();
            let _: After = job.1.confirmed(sent, &answer, &mut callbacks);
            self.inner.delivery.deliver(callbacks);
            self.look_again(job);
        }
    }

    /// Tries to release it. If the store cannot be reached, neither can it for the others that
    /// wait: all of them end by themselves.
    async fn clean_up(&self, leftover: Leftover) {
        let Leftover { store, held, lease } = leftover;
        let Some(lease) = held.for_clean_up(lease.as_ref(), self.room) else {
            return;
        };
        let failed = !matches!(guarded(self.io.release(&lease)).await, Some(Ok(_)));
        let given_up = if failed {
            std::mem::take(&mut self.inner.state().leftovers)
        } else {
            VecDeque::new()
        };
        // Outside of the lock: the last handle to a store may be among them.
        drop((given_up, store, held));
    }

    fn look_again(&self, (ticket, lease): &Job) {
        let mut state = self.inner.state();
        self.inner.look_at(&mut state, *ticket, lease.next_look());
    }

    fn report(
        &self,
        lease: &HeldLease,
        late: Duration,
        answer: Result<Extension, DatastoreError>,
        after: &After,
    ) {
        let Some(observer) = self.io.observer() else {
            return;
        };
        let (observer, key) = (Arc::clone(observer), Arc::clone(lease.key()));
        let delivery = &self.inner.delivery;
        match (answer, after) {
            (Ok(_), After::Valid(remaining)) => {
                let remaining = *remaining;
                delivery.deliver_if_room(move || {
                    observer.on(&LockEvent::Renewed {
                        key: &key,
                        remaining,
                        late,
                    });
                });
            }
            (Err(error), After::Valid(_)) => delivery.deliver_if_room(move || {
                observer.on(&LockEvent::RenewalFailed {
                    key: &key,
                    error: &error,
                });
            }),
            _ => {}
        }
    }
}

/// Runs code that is not ours. If it panics, the other leases of the store must still be renewed.
async fn guarded<T>(call: impl Future<Output = T>) -> Option<T> {
    let mut call = pin!(call);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context)));
        polled.map_or(Poll::Ready(None), |poll| poll.map(Some))
    })
    .await
}

fn no_answer() -> Result<Extension, DatastoreError> {
    Err(DatastoreError::maybe_executed(
        ErrorKind::Protocol,
        "the store panicked or gave no answer",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::renewal::Keeper;
    use crate::lock::Lock;
    use crate::memory::MemoryDatastore;
    use crate::store::Store;
    use crate::time::instant::Time;

    /// The order of the jobs that wait, in which each `c` is a confirmation and each number a
    /// batch of at most two extends.
    fn order(extends: usize, confirms: usize) -> String {
        let store = Store::new(MemoryDatastore::new());
        let _guard = Lock::new(&store, "job").try_acquire().unwrap();
        let kept = &store.keeper().0.state().kept;
        let (ticket, kept) = kept.iter().next().unwrap();
        let lease = kept.lease.upgrade().unwrap();
        let jobs = |count: usize| {
            let number = |number| (Time::from_nanos(number), *ticket);
            let job = |at| (number(at), Arc::clone(&lease));
            (0..count as u64).map(job).collect::<Vec<_>>()
        };

        let keeper = Keeper::new(store.clock());
        keeper.0.state().extends.extend(jobs(extends));
        keeper.0.state().confirms.extend(jobs(confirms));
        let batches = std::iter::from_fn(|| next_batch(&keeper.0, (2, 1)));
        batches
            .map(|(batch, _)| match batch {
                Batch::Extends(jobs) => jobs.len().to_string(),
                Batch::Confirms(jobs) => "c".repeat(jobs.len()),
                Batch::Leftover(_) => "l".to_owned(),
            })
            .collect()
    }

    #[test]
    fn extends_and_confirmations_take_turns_until_none_is_left() {
        assert_eq!(order(5, 0), "221");
        assert_eq!(order(0, 3), "ccc");
        assert_eq!(order(5, 2), "2c2c1");
        assert_eq!(order(3, 4), "2c1ccc");
    }
}
