//! The contract between core and a store.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::contract::characteristics::Characteristics;
use crate::contract::claim::Claim;
use crate::contract::error::DatastoreError;
use crate::contract::inspect::Inspect;
use crate::contract::lease::Lease;
use crate::contract::outcome::{AcquireOutcome, Extension, ReleaseOutcome};
use crate::time::clock::Clock;
use crate::time::signal::Signal;

/// A store of locks: a server, a folder, a table.
///
/// A store implements three methods; the others have defaults that suit a simple store. Each method
/// documents its contract as numbered laws. `dlock-testkit` tests these laws, by number, against
/// any implementation.
///
/// For all methods:
///
/// - **Independent (law 2).** Keys MUST NOT affect each other, whatever their text. Keys are
///   compared byte by byte.
/// - **Bounded (law 9).** Every call MUST return by its `not_after`, with a typed error if it
///   cannot answer, whatever the server does. That covers waiting for a connection, connecting,
///   sending and the *whole* reply; only name resolution is excepted. A call that hangs MUST NOT
///   delay other calls, unless the store declares a
///   [`single_writer`](Characteristics::single_writer).
/// - **Clean (law 10).** Keys, connections and threads MUST NOT leak.
/// - An error MUST say whether the call may have been carried out:
///   [`DatastoreError::not_executed`], [`DatastoreError::maybe_executed`].
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
///     fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
///         let (fences, records) = &mut *self.0.lock().unwrap();
///         let now = claim.clock().now();
///         let end = now.saturating_add(ttl);
///         if let Some((owner, until, fence, _, holder)) = records.get_mut(claim.key()).filter(|r| r.1 > now) {
///             if *owner != claim.owner() {
///                 let held = HeldBy::new().with_expires_in(now.until(*until)).with_fence(*fence);
///                 return Ok(AcquireOutcome::Held(held.with_holder_text(holder)));
///             }
///             *until = end.max(*until);
///             return Ok(AcquireOutcome::granted(ttl, *fence));
///         }
///         *fences += 1;
///         let fence = FencingToken::new(*fences);
///         records.insert(claim.key().into(), (claim.owner(), end, fence, 0, claim.holder().into()));
///         Ok(AcquireOutcome::granted(ttl, fence))
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
///     fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
///         let records = &mut self.0.lock().unwrap().1;
///         let ours = records.get(lease.key()).is_some_and(|r| r.0 == lease.owner() && r.1 > lease.clock().now());
///         if ours {
///             records.remove(lease.key());
///         }
///         Ok(ReleaseOutcome::from(ours))
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
    /// - **Atomic (law 1).** Of any number of concurrent claims on a free key exactly one MUST be
    ///   granted (to a claimant or to a queued waiter).
    /// - **Held (law 3).** A refused claim MUST change nothing: not the holder, not its expiry.
    /// - **Idempotent (law 5).** The same claim repeated while it holds the key MUST be granted
    ///   again with the same fencing token. The repeat MUST last for at least `ttl` from this call
    ///   and never less than what was left, or else the grant MUST state the true remaining time.
    ///   (If this handle received no answer to the first claim, the token MAY be a higher one:
    ///   nobody has received the first.) A repeat MUST NOT change the stored holder: a late copy of
    ///   a claim may arrive after an extend that described the holder anew.
    /// - **Expiry (law 6).** The key MUST stay the owner's for the granted time, and MUST become
    ///   free by itself at most [`granularity`](Characteristics::granularity) after it.
    /// - **Fencing (law 8).** A new grant's token MUST be greater than every earlier one of that
    ///   key, within the declared scope.
    /// - **Clean (law 10).** A failed, timed-out or abandoned acquire MUST leave nothing behind.
    ///   Where the store declares that it cannot refuse late calls, it may leave the key taken for
    ///   at most one `ttl`.
    /// - A key that holds something that no lock client wrote MUST give an error of kind
    ///   [`ForeignKey`](crate::ErrorKind::ForeignKey), and MUST NOT be overwritten.
    ///
    /// # Errors
    ///
    /// Any error of the store.
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError>;

    /// Sets the remaining time of the lease to `ttl` from now, and stores [`Lease::holder`].
    ///
    /// To be correct:
    ///
    /// - **Own (law 4).** It MUST act only if the lease's owner holds the key.
    /// - **Idempotent (law 5).** An older grant of the same claim MUST still work.
    /// - **Extend (law 7).** It MUST replace the remaining time, never add to it. It MUST NOT
    ///   revive a lease that expired, was released or was taken, however long the call waited
    ///   inside the store before it ran. A call whose [`sequence`](Lease::sequence) is not higher
    ///   than the highest that the store received for this owner MUST change nothing and be
    ///   answered with the true remaining time.
    ///
    /// # Errors
    ///
    /// Any error of the store.
    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError>;

    /// Frees the key.
    ///
    /// To be correct:
    ///
    /// - **Own (law 4).** It MUST act only if the lease's owner holds the key.
    /// - **Idempotent (law 5).** A repeat MUST be harmless, even when somebody else holds the key
    ///   by then. An older grant of the same claim MUST still work.
    ///
    /// # Errors
    ///
    /// Any error of the store.
    fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError>;

    /// What the store can and cannot do. Core asks once, when it creates the
    /// [`Store`](crate::Store).
    fn characteristics(&self) -> Characteristics {
        Characteristics::default()
    }

    /// The clock of this process on which the datastore counts leases, if it has a clock of its
    /// own; `None` if it counts on the clock of a server or on the clock of the claims.
    ///
    /// A [`Store`](crate::Store) uses the same, and refuses another one.
    fn own_clock(&self) -> Option<&Clock> {
        None
    }

    /// Makes sure that a claim that may have been carried out holds nothing.
    ///
    /// Core calls it once at the end of a failed acquisition, when the
    /// [`not_after`](Claim::not_after) of the last call whose answer was lost has passed. The claim
    /// that is passed here has a new `not_after`, for this call. The default implementation claims
    /// for the shortest time and releases the grant.
    ///
    /// # Errors
    ///
    /// Any error of the store. The key may then stay taken until the claim's time to live is over.
    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        match self.acquire(claim, self.characteristics().ttl_min)? {
            AcquireOutcome::Granted(grant) => self
                .release(&Lease::new(claim.clone(), grant))
                .map(|_: ReleaseOutcome| ()),
            AcquireOutcome::Held(_) => Ok(()),
        }
    }

    /// Asks the store to notify `signal` when it is worth claiming again; `None` if the store
    /// cannot.
    ///
    /// A notification is a hint, never a grant. The waiter claims again right after this call
    /// returns, so it does not miss a key that became free in between. Dropping the [`Watch`] ends
    /// it.
    ///
    /// A store that [declares](Characteristics::wakes) wake-ups keeps a queue:
    ///
    /// - A waiter that is refused after this call MUST be served before claimants that come later,
    ///   whether those wait or only try. A waiter that does not claim the lock that it was handed
    ///   may lose its place.
    /// - A waiter that gives up, is stopped or dies, before or during its turn, MUST NOT keep the
    ///   key from the next waiter for longer than a moment.
    /// - The next waiter MUST also be woken when the lease ends by itself, and at the new end if an
    ///   extend has shortened the lease.
    ///
    /// # Errors
    ///
    /// Any error of the store. The waiter then polls.
    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        let _ = (claim, signal);
        Ok(None)
    }

    /// Extends many leases, of one key or of many. The answers are in the order of the leases.
    ///
    /// # Errors
    ///
    /// Each answer has its own error.
    fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        leases
            .iter()
            .map(|(lease, ttl)| self.extend(lease, *ttl))
            .collect()
    }

    /// Reads back how long the store really keeps the lease. Core calls it
    /// [`confirm_after`](Characteristics::confirm_after) each grant and extend.
    ///
    /// The grant in the answer counts from this call. If it ends earlier than the lease did so far,
    /// core shortens the lease and extends at once. So a store that counts in whole seconds answers
    /// less only when it is sure.
    ///
    /// # Errors
    ///
    /// Any error of the store.
    fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        Ok(Extension::Extended(lease.grant().clone()))
    }

    /// Reads back many leases, of one key or of many. The answers are in the order of the leases.
    /// Core passes at most [`confirm_batch`](Characteristics::confirm_batch) leases, those that end
    /// soonest first.
    ///
    /// # Errors
    ///
    /// Each answer has its own error.
    fn confirm_many(&self, leases: &[Lease]) -> Vec<Result<Extension, DatastoreError>> {
        leases.iter().map(|lease| self.confirm(lease)).collect()
    }

    /// The store's view for operators; `None` if it has none.
    fn inspect(&self) -> Option<&dyn Inspect> {
        None
    }
}

/// A waiter's subscription to a key. Dropping it ends the subscription.
#[must_use = "dropping it ends the watch"]
pub struct Watch(Option<Box<dyn FnOnce(Leaving) + Send>>);

impl Watch {
    /// A watch that ends by a call to `end`.
    pub fn new(end: impl FnOnce() + Send + 'static) -> Self {
        Self::leaving(move |leaving| {
            end();
            drop(leaving);
        })
    }

    /// A watch that ends by a call to `end`, and whose end goes on after that call: on another
    /// thread, or until a server has answered. It has ended when the [`Leaving`] is dropped.
    pub fn leaving(end: impl FnOnce(Leaving) + Send + 'static) -> Self {
        Watch(Some(Box::new(end)))
    }

    /// Ends the watch. For a watch around another one, which passes its own `leaving` on.
    pub fn end(mut self, leaving: Leaving) {
        self.end_with(leaving);
    }

    fn end_with(&mut self, leaving: Leaving) {
        if let Some(end) = self.0.take() {
            end(leaving);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end_with(Leaving::default());
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// The end of a [`Watch`] that goes on until this is dropped. The async form counts it:
/// `aio::Store::settled` waits for it, and so does the next acquire of the same lock, for at most
/// one call.
#[derive(Default)]
pub struct Leaving(
    #[expect(dead_code, reason = "it is kept until it is dropped")] Option<Box<dyn Any + Send>>,
);

#[cfg(feature = "tokio")]
impl Leaving {
    pub(crate) fn counted_by(counted: impl Any + Send) -> Self {
        Leaving(Some(Box::new(counted)))
    }
}

impl std::fmt::Debug for Leaving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaving").finish_non_exhaustive()
    }
}

/// Forwards every method. The lint fails if a new method with a default is forgotten: a wrapper
/// that falls back to the default would silently lose wake-ups.
macro_rules! forward {
    ($($type:ty),+) => {$(
        #[deny(clippy::missing_trait_methods)]
        impl<D: Datastore + ?Sized> Datastore for $type {
            fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
                (**self).acquire(claim, ttl)
            }
            fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
                (**self).extend(lease, ttl)
            }
            fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
                (**self).release(lease)
            }
            fn characteristics(&self) -> Characteristics {
                (**self).characteristics()
            }
            fn own_clock(&self) -> Option<&Clock> {
                (**self).own_clock()
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
            fn confirm_many(&self, leases: &[Lease]) -> Vec<Result<Extension, DatastoreError>> {
                (**self).confirm_many(leases)
            }
            fn inspect(&self) -> Option<&dyn Inspect> {
                (**self).inspect()
            }
        }
    )+};
}

forward!(&D, Box<D>, Arc<D>);
