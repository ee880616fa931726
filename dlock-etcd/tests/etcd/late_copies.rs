//! Requests that arrive late, when what they were sent for is over.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use dlock_core::Datastore;
use dlock_test_servers::EtcdServer;
use serde_json::json;

use crate::gate::{Fate, Gate, Switch, takes};
use crate::support::{
    LONG, again, call, claim, claim_within, eventually, granted, held, key, leases, ours, read,
    store, store_at, take,
};

/// The time of a call that is not answered.
const SHORT: Duration = Duration::from_secs(3);

/// A request that is late.
#[derive(Clone, Default)]
struct Late {
    holds: Switch,
    is_held: Switch,
    goes_on: Switch,
}

impl Late {
    /// Holds the first request that comes here, until it is let go.
    fn holds(&self) {
        if self.holds.take() {
            self.is_held.set(true);
            while !self.goes_on.is_on() {
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// A claim asks for a lease, and is not answered; it asks again, is granted one, and what takes the
/// key with it is not answered.
#[test]
fn late_copies_of_an_abandoned_claim_that_arrive_in_another_order_take_nothing() {
    let server = EtcdServer::start();
    let [grant, takes_key] = [(); 2].map(|()| Late::default());
    let gate = {
        let (grant, takes_key) = (grant.clone(), takes_key.clone());
        Gate::to(&server, move |request| {
            if request.path == "lease/grant" {
                grant.holds();
            }
            if takes(request) {
                takes_key.holds();
            }
            Fate::Passes
        })
    };
    let (store, key) = (store_at(&gate.url()), key("two-late"));
    let claim = claim_within(&key, SHORT);
    for late in [&grant, &takes_key] {
        late.holds.set(true);
        let end = dlock_core::Clock::BOOTTIME.now().saturating_add(SHORT);
        let error = store.acquire(&claim.clone().with_not_after(end), LONG);
        assert!(error.unwrap_err().may_have_executed() || !takes_key.is_held.is_on());
        assert!(late.is_held.is_on());
    }
    store.abandon(&again(&claim)).unwrap();
    for (late, left) in [(&grant, 1), (&takes_key, 0)] {
        late.goes_on.set(true);
        eventually("it is carried out", || {
            (gate.under_way() == left).then_some(())
        });
    }
    assert_eq!(read(&server, &key), None, "nothing would release it");
}

#[test]
fn a_request_to_end_a_lease_that_is_late_does_not_end_a_later_grant_of_the_same_claim() {
    const TTL: Duration = Duration::from_secs(2);
    let server = EtcdServer::start();
    let (other, key) = (store(&server), key("late-revoke"));
    let [races, is_held, goes_on, is_over] = [(); 4].map(|()| Switch::default());
    races.set(true);
    let taken = Arc::new(Mutex::new(None));
    let gate = {
        let (races, is_held, goes_on) = (races.clone(), is_held.clone(), goes_on.clone());
        let (is_over, taken) = (is_over.clone(), Arc::clone(&taken));
        let (other, key) = (other.clone(), key.clone());
        Gate::to(&server, move |request| {
            if takes(request) && races.take() {
                // Somebody is quicker.
                *taken.lock().unwrap() = Some(take(&other, &key, LONG));
            }
            if request.path == "lease/revoke" && !is_held.is_on() {
                is_held.set(true);
                while !goes_on.is_on() {
                    thread::sleep(Duration::from_millis(10));
                }
                is_over.set(true);
            }
            Fate::Passes
        })
    };
    let store = store_at(&gate.url());
    // It waits for the end of its lease to the end.
    let late = claim_within(&key, Duration::from_secs(5));
    let _ = store.acquire(&late, TTL);
    assert!(
        is_held.is_on(),
        "the lease of the claim that lost is to end"
    );
    let lease = taken.lock().unwrap().take().unwrap();
    ours(other.release(&call(&lease, 1)));
    eventually("the lease has ended by itself", || {
        leases(&server).is_empty().then_some(())
    });
    let grant = granted(store.acquire(&again(&late), LONG));
    goes_on.set(true);
    eventually("the late request arrives", || is_over.is_on().then_some(()));
    thread::sleep(Duration::from_millis(500));
    let refusal = held(other.acquire(&claim(&key), LONG));
    assert_eq!(refusal.fence(), grant.fence);
}

/// As before, while the ends of many other leases are not answered.
#[test]
fn a_late_end_of_a_lease_ends_no_later_grant_however_many_others_there_are() {
    let server = EtcdServer::start();
    let (other, key) = (store(&server), key("late-revoke"));
    let revoke = Late::default();
    revoke.holds.set(true);
    // For the claim in question first, and then for the others.
    let races = Switch::default();
    races.set(true);
    let is_silent = Switch::default();
    let gate = {
        let (revoke, races, is_silent) = (revoke.clone(), races.clone(), is_silent.clone());
        Gate::to(&server, move |request| {
            if request.path == "lease/revoke" {
                revoke.holds();
                if is_silent.is_on() {
                    let text = "etcdserver: request timed out";
                    return Fate::Answered(503, json!({"error": text, "code": 14}));
                }
            }
            match takes(request) && races.is_on() {
                // Somebody was quicker, and is gone.
                true => Fate::Answered(200, json!({"header": {"revision": "1"}})),
                false => Fate::Passes,
            }
        })
    };
    let store = store_at(&gate.url());
    let first = claim_within(&key, SHORT);
    let _ = store.acquire(&first, LONG);
    assert!(revoke.is_held.is_on());
    is_silent.set(true);
    for number in 0..60 {
        // It tries five times.
        let error = store.acquire(&claim(&format!("{key}-{number}")), LONG);
        assert!(error.is_err());
    }
    is_silent.set(false);
    races.set(false);
    for number in leases(&server) {
        crate::support::ask(&server, "/v3/lease/revoke", &json!({"ID": number}));
    }
    let grant = granted(store.acquire(&again(&first), LONG));
    revoke.goes_on.set(true);
    eventually("it is carried out", || {
        (gate.under_way() == 0).then_some(())
    });
    let refusal = held(other.acquire(&claim(&key), LONG));
    assert_eq!(refusal.fence(), grant.fence);
}
