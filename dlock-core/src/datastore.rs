//! The contract between core and a store.

use std::sync::Arc;
use std::time::Duration;

use crate::{
    Attempt, Characteristics, Claim, DatastoreError, Extension, FencingToken, Held, Lease,
    Released, Signal,
};

/// A place that keeps locks: a server, a folder, a table.
///
/// Three methods make a store; the others have defaults that are right for a simple one. What they must hold stands beside each
/// method. `dlock-testkit` tests these sentences, by number, against any implementation.
///
/// For all methods:
///
/// - **Independent (law 2).** Keys MUST NOT influence each other, whatever their text. Keys are compared byte by byte.
/// - **Bounded (law 9).** Every call MUST return by its `not_after` (name resolution excepted), with a typed error if it
///   cannot answer, whatever the server does: that covers waiting for a connection, connecting, sending and the *whole* reply.
///   A call that hangs MUST NOT hold up other calls, or the store declares a [`single_writer`](Characteristics::single_writer).
/// - **Clean (law 10).** Nothing may leak: keys, connections, threads.
/// - An error MUST say whether the call may have been carried out: [`DatastoreError::not_executed`], [`DatastoreError::maybe_executed`].
///
/// # A store in 40 lines
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::Mutex;
/// use std::time::Duration;
/// use dlock_core::*;
///
/// #[derive(Default)]
/// struct Toy(Mutex<(u64, HashMap<String, (OwnerToken, Time, FencingToken, u64, String)>)>);
///
/// impl Datastore for Toy {
///     fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<Attempt, DatastoreError> {
///         let (fences, records) = &mut *self.0.lock().unwrap();
///         let now = claim.clock().now();
///         let end = now.saturating_add(ttl);
///         if let Some((owner, until, fence, _, holder)) = records.get_mut(claim.key()).filter(|r| r.1 > now) {
///             if *owner != claim.owner() {
///                 let held = Held::new().with_expires_in(now.until(*until)).with_fence(*fence);
///                 return Ok(Attempt::Held(held.with_holder_text(holder)));
///             }
///             *until = end.max(*until);
///             return Ok(Attempt::granted(ttl, *fence));
///         }
///         *fences += 1;
///         let fence = FencingToken::new(*fences);
///         records.insert(claim.key().into(), (claim.owner(), end, fence, 0, claim.holder().into()));
///         Ok(Attempt::granted(ttl, fence))
///     }
///
///     fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
///         let records = &mut self.0.lock().unwrap().1;
///         let now = lease.clock().now();
///         Ok(match records.get_mut(lease.key()).filter(|r| r.0 == lease.owner() && r.1 > now) {
///             None => Extension::Lost,
///             Some((_, until, _, seen, _)) if lease.sequence() <= *seen => lease.extended(now.until(*until)),
///             Some((_, until, _, seen, holder)) => {
///                 (*until, *seen, *holder) = (now.saturating_add(ttl), lease.sequence(), lease.holder().into());
///                 lease.extended(ttl)
///             }
///         })
///     }
///
///     fn release(&self, lease: &Lease) -> Result<Released, DatastoreError> {
///         let records = &mut self.0.lock().unwrap().1;
///         let ours = records.get(lease.key()).is_some_and(|r| r.0 == lease.owner() && r.1 > lease.clock().now());
///         if ours {
///             records.remove(lease.key());
///         }
///         Ok(Released::from(ours))
///     }
/// }
///
/// let lock = Lock::new(Toy::default(), "hourly-import");
/// assert_eq!(lock.locked(|_| 42).unwrap(), 42);
/// ```
pub trait Datastore: Send + Sync {
    /// Claims `claim.key()` for `claim.owner()` for `ttl`.
    ///
    /// To be correct:
    ///
    /// - **Atomic (law 1).** Of any number of concurrent claims on a free key exactly one MUST be granted (to a claimant or to a
    ///   queued waiter).
    /// - **Held (law 3).** A refused claim MUST change nothing: not the holder, not its expiry.
    /// - **Idempotent (law 5).** The same claim repeated while it holds MUST be granted again, with the same fencing token and at least
    ///   `ttl` from this call, never less than it had; or the grant says the true remaining time. It MUST leave the stored holder as it is: a late
    ///   copy of a claim may come after an extend that described the holder anew.
    /// - **Expiry (law 6).** The key MUST stay the owner's for the granted time, and MUST be free for anyone at most
    ///   [`granularity`](Characteristics::granularity) after it, without anybody's help.
    /// - **Fencing (law 8).** A new grant's token MUST be greater than every earlier one of that key, within the declared scope.
    /// - **Clean (law 10).** A failed, timed-out or abandoned acquire MUST leave nothing behind, or at most one `ttl` where the store
    ///   declares that it cannot refuse late calls.
    /// - A key that holds something which no lock client wrote MUST be an error of kind
    ///   [`ForeignKey`](crate::ErrorKind::ForeignKey), and MUST NOT be overwritten.
    ///
    /// # Errors
    ///
    /// Whatever the store fails with.
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<Attempt, DatastoreError>;

    /// Gives the lease `ttl` from now, instead of what it had left, and stores [`Lease::holder`].
    ///
    /// To be correct:
    ///
    /// - **Own (law 4).** It MUST act only if the lease's owner holds the key.
    /// - **Idempotent (law 5).** An older grant of the same claim MUST still work.
    /// - **Extend (law 7).** It MUST replace the remaining time, never add to it, and MUST NOT revive a lease that expired, was
    ///   released or was taken, however long the call waited inside the store before it ran. A [`sequence`](Lease::sequence) not higher than the
    ///   highest that the store saw for this owner MUST change nothing and be answered with the true remaining time.
    ///
    /// # Errors
    ///
    /// Whatever the store fails with.
    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError>;

    /// Frees the key.
    ///
    /// To be correct:
    ///
    /// - **Own (law 4).** It MUST act only if the lease's owner holds the key.
    /// - **Idempotent (law 5).** Repeated it MUST be harmless, also when somebody else holds the key by then; an older grant of
    ///   the same claim MUST still work.
    ///
    /// # Errors
    ///
    /// Whatever the store fails with.
    fn release(&self, lease: &Lease) -> Result<Released, DatastoreError>;

    /// What the store can and cannot do. Asked once, when a [`Store`](crate::Store) is made of it.
    fn characteristics(&self) -> Characteristics {
        Characteristics::default()
    }

    /// Makes sure that a claim which may have been carried out holds nothing.
    ///
    /// Core calls it once at the end of an acquisition that failed, after the [`not_after`](Claim::not_after) of the last call whose answer was lost has
    /// passed; the claim that is given here has a new one, for this call. The default claims for the shortest time and releases what it
    /// is granted.
    ///
    /// # Errors
    ///
    /// Whatever the store fails with; then the key may stay held until the claim's time to live is over.
    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        match self.acquire(claim, self.characteristics().ttl_min)? {
            Attempt::Granted(grant) => self
                .release(&Lease::new(claim.clone(), grant))
                .map(|_: Released| ()),
            Attempt::Held(_) => Ok(()),
        }
    }

    /// Asks to have `signal` notified when it is worth to claim again; `None` if the store cannot.
    ///
    /// A notification is a hint, never a grant. The waiter claims again right after this call returned, so a key that
    /// became free in between is not missed. Dropping the [`Watch`] ends the interest.
    ///
    /// A store that [declares](Characteristics::wakes) wake-ups keeps a queue:
    ///
    /// - Who was refused after this call MUST be served before those who come later, whether they wait or only try; a waiter that
    ///   does not come for what it was handed may lose its place.
    /// - A waiter that gave up, was stopped or died, before its turn or in it, MUST NOT keep the key from the next one for longer than a moment.
    /// - The next one MUST be woken as well when the lease ends by itself, and by then if an extend made it shorter.
    ///
    /// # Errors
    ///
    /// Whatever the store fails with; the waiter polls then.
    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        let _ = (claim, signal);
        Ok(None)
    }

    /// Extends many leases of possibly many keys; the answers are in the order of the leases.
    ///
    /// # Errors
    ///
    /// Each answer has its own.
    fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        leases
            .iter()
            .map(|(lease, ttl)| self.extend(lease, *ttl))
            .collect()
    }

    /// Reads back how long the store really keeps the lease; called
    /// [`confirm_after`](Characteristics::confirm_after) each grant and extend.
    ///
    /// The grant that is answered counts from this call. If it ends before the lease did so far, core shortens the lease and extends
    /// at once: so a store that counts in whole seconds answers less only when it is sure.
    ///
    /// # Errors
    ///
    /// Whatever the store fails with.
    fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        Ok(Extension::Extended(lease.grant().clone()))
    }

    /// The store as one that can be looked into, for operators; `None` if it cannot.
    fn inspect(&self) -> Option<&dyn Inspect> {
        None
    }
}

/// A store that operators can look into.
pub trait Inspect: Send + Sync {
    /// Who holds `key` at the moment; `None` if nobody does. Stale when it is read: never decide on it.
    ///
    /// # Errors
    ///
    /// Whatever the store fails with.
    fn holder(&self, key: &str) -> Result<Option<Held>, DatastoreError>;

    /// Takes the lock from the holder that has the fencing token `fence`, and from no other. The holder learns of it at its next
    /// extend; until then it believes that it holds.
    ///
    /// # Errors
    ///
    /// Whatever the store fails with.
    fn break_lease(&self, key: &str, fence: FencingToken) -> Result<Released, DatastoreError>;
}

/// A waiter's interest in a key; dropping it ends the interest.
#[must_use = "dropping it ends the interest"]
pub struct Watch(Option<Box<dyn FnOnce() + Send>>);

impl Watch {
    /// An interest that `end` ends.
    pub fn new(end: impl FnOnce() + Send + 'static) -> Self {
        Watch(Some(Box::new(end)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// Passes every method on. The lint sees to it that a new method with a default is not forgotten: a wrapper that falls back to
/// it would lose wake-ups without a word.
macro_rules! forward {
    ($($type:ty),+) => {$(
        #[deny(clippy::missing_trait_methods)]
        impl<D: Datastore + ?Sized> Datastore for $type {
            fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<Attempt, DatastoreError> {
                (**self).acquire(claim, ttl)
            }
            fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
                (**self).extend(lease, ttl)
            }
            fn release(&self, lease: &Lease) -> Result<Released, DatastoreError> {
                (**self).release(lease)
            }
            fn characteristics(&self) -> Characteristics {
                (**self).characteristics()
            }
            fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
                (**self).abandon(claim)
            }
            fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
                (**self).watch(claim, signal)
            }
            fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
                (**self).extend_many(leases)
            }
            fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
                (**self).confirm(lease)
            }
            fn inspect(&self) -> Option<&dyn Inspect> {
                (**self).inspect()
            }
        }
    )+};
}

forward!(&D, Box<D>, Arc<D>);
