//! What goes wrong with one request of a call, and what the call makes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dlock_core::{Datastore, Extension};
use serde_json::json;

use crate::gate::{Fate, Gate};
use crate::support::{LONG, call, extended, key, leases, ours, server, store, store_at, take};

/// A switch that a test and the gate share.
#[derive(Clone, Default)]
struct Switch(Arc<AtomicBool>);

impl Switch {
    fn set(&self, on: bool) {
        self.0.store(on, Ordering::SeqCst);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Switches it off, and returns whether it was on.
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

/// Before it has taken over the leases, a new leader of etcd 3.5 says of each that it lasts for the
/// longest time that it can write.
#[test]
fn a_new_leader_is_not_believed_that_a_lease_lasts_for_ever() {
    let is_new = Switch::default();
    let gate = {
        let is_new = is_new.clone();
        Gate::to(server(), move |request| {
            match request.path == "lease/timetolive" && is_new.is_on() {
                true => Fate::Changed(|mut answer| {
                    answer["TTL"] = json!("9223372036");
                    answer
                }),
                false => Fate::Passes,
            }
        })
    };
    let store = store_at(&gate.url());
    let lease = take(&store, &key("for-ever"), LONG);
    extended(store.extend(&call(&lease, 2), LONG));
    is_new.set(true);
    // An older call, which is to be answered with what is left.
    match store.extend(&call(&lease, 1), LONG) {
        Ok(Extension::Extended(grant)) => assert!(grant.ttl <= LONG, "{:?}", grant.ttl),
        Ok(Extension::Lost) => panic!("it is not lost"),
        Err(error) => assert!(
            error.is_transient() && !error.may_have_executed(),
            "{error}"
        ),
    }
    is_new.set(false);
    let grant = extended(store.extend(&call(&lease, 1), LONG));
    assert!(grant.ttl <= LONG);
    ours(store.release(&call(&lease, 3)));
}
