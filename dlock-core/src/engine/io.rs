//! The interface between a flow and its surroundings.

use std::any::Any;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::ProcessId;
use crate::contract::characteristics::Characteristics;
use crate::contract::claim::{Claim, OwnerToken};
use crate::contract::datastore::Watch;
use crate::contract::error::DatastoreError;
use crate::contract::holder::Phase;
use crate::contract::lease::Lease;
use crate::contract::outcome::{AcquireOutcome, Extension, ReleaseOutcome};
use crate::engine::callback::Callbacks;
use crate::engine::held_lease::HeldLease;
use crate::engine::ticket::Ticket;
use crate::observer::{LockEvent, Observer};
use crate::time::clock::Clock;
use crate::time::instant::Time;
use crate::time::signal::Signal;

/// Keeps a store in use while it exists.
pub type Handle = Arc<dyn Any + Send + Sync>;

/// Everything that a flow does and learns: calls to a store, sleep, time, random numbers, this
/// process.
///
/// A flow is a plain `async fn` over this trait. It has no other input that differs from run to
/// run, so the same answers always lead to the same calls. The blocking API implements the trait
/// with futures that are ready at once.
pub trait Io: Send + Sync {
    fn clock(&self) -> &Clock;

    fn characteristics(&self) -> &Characteristics;

    /// The present process. A forked child is a different one.
    fn process(&self) -> ProcessId;

    /// A fresh owner token. Its bits also seed the jitter of the pauses.
    ///
    /// # Errors
    ///
    /// If the operating system has no random numbers.
    fn owner_token(&self) -> Result<OwnerToken, DatastoreError>;

    /// The text that describes this process as a holder from now on.
    fn holder_text(&self, process: ProcessId, label: Option<&str>, phase: Phase) -> String;

    fn observer(&self) -> Option<&Arc<dyn Observer>>;

    /// Reports an event to the observer, if there is one.
    fn report(&self, event: &LockEvent<'_>) {
        if let Some(observer) = self.observer() {
            observer.on(event);
        }
    }

    fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> impl Future<Output = Result<AcquireOutcome, DatastoreError>> + Send;

    fn extend(
        &self,
        lease: &Lease,
        ttl: Duration,
    ) -> impl Future<Output = Result<Extension, DatastoreError>> + Send;

    fn release(
        &self,
        lease: &Lease,
    ) -> impl Future<Output = Result<ReleaseOutcome, DatastoreError>> + Send;

    fn abandon(&self, claim: &Claim) -> impl Future<Output = Result<(), DatastoreError>> + Send;

    fn watch(
        &self,
        claim: &Claim,
        signal: &Signal,
    ) -> impl Future<Output = Result<Option<Watch>, DatastoreError>> + Send;

    fn extend_many(
        &self,
        leases: &[(Lease, Duration)],
    ) -> impl Future<Output = Vec<Result<Extension, DatastoreError>>> + Send;

    fn confirm_many(
        &self,
        leases: &[Lease],
    ) -> impl Future<Output = Vec<Result<Extension, DatastoreError>>> + Send;

    /// A handle that keeps the store in use until it is dropped.
    fn handle(&self) -> Handle;

    /// Ends a watch of this key. Dropping it would do the same, but nobody could count it, and the
    /// model could not see it.
    fn leave(&self, key: &Arc<str>, watch: Watch) -> impl Future<Output = ()> + Send;

    /// Sleeps until `until`, or until `wake` is notified if it is given.
    fn sleep(&self, wake: Option<&Signal>, until: Time) -> impl Future<Output = ()> + Send;

    /// From now on renews the lease, and declares its loss if renewals fail.
    ///
    /// # Errors
    ///
    /// If the threads that do this cannot be started.
    fn keep(&self, held: &Arc<HeldLease>) -> io::Result<Ticket>;

    /// Ends the renewal that [`keep`](Self::keep) began.
    fn forget(&self, process: ProcessId, ticket: Ticket);

    /// Releases in the background what may be left of a lost lease whose guard was dropped.
    fn clean_up(&self, held: &Arc<HeldLease>, lease: Lease);

    /// Calls the callbacks on other threads.
    fn call(&self, callbacks: Callbacks);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// The list in `clippy.toml` holds methods only, and `BOOTTIME` is a constant.
    #[test]
    fn no_flow_reads_the_system_clock_itself() {
        let engine = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine");
        let (mut folders, mut files) = (vec![engine], 0);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if !path.ends_with("io.rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    assert!(!text.contains("BOOTTIME"), "{}", path.display());
                    files += 1;
                }
            }
        }
        assert!(files > 8, "{files}");
    }
}
