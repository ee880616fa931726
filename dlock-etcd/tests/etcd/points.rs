//! What goes wrong with one request of a call, and what the call makes of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use dlock_core::{Datastore, ErrorKind, Extension, Signal, Time};
use dlock_test_servers::EtcdServer;
use serde_json::json;

use crate::gate::{Fate, Gate, Request};
use crate::queue::granted_when_woken;
use crate::support::{
    LONG, again, ask, base64, call, claim, claim_within, eventually, extended, granted, held, key,
    leases, ours, places, read, server, store, store_at, take,
};
use crate::users::{server_with_users, store_of};

/// Whether the request would take a key.
fn takes(request: &Request) -> bool {
    request.path == "kv/txn" && request.body["compare"][0]["target"] == "CREATE"
}

/// Whether the request would put a waiter into the queue.
fn enters(request: &Request) -> bool {
    let puts = !request.body["success"][0]["request_put"].is_null();
    request.path == "kv/txn" && puts && request.body["compare"].is_null()
}

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

#[test]
fn a_claim_that_is_refused_for_lack_of_space_after_it_was_carried_out_leaves_nothing() {
    let server = EtcdServer::start();
    let gate = Gate::to(&server, |request| match takes(request) {
        // The server finds out that it is full when it has written.
        true => {
            let text = "etcdserver: mvcc: database space exceeded";
            Fate::Replaced(429, json!({"error": text, "message": text, "code": 8}))
        }
        false => Fate::Passes,
    });
    let (store, key) = (store_at(&gate.url()), key("full"));
    let error = store.acquire(&claim(&key), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    if !error.may_have_executed() {
        assert_eq!(read(&server, &key), None, "{error}");
        assert!(leases(&server).is_empty());
    }
}

#[test]
fn a_claim_without_the_right_to_write_leaves_no_lease() {
    let server = server_with_users();
    let token = |user: &str, password: &str| {
        let login = json!({"name": user, "password": password}).to_string();
        let answer = server.post("/v3/auth/authenticate", &login);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        answer["token"].as_str().unwrap().to_owned()
    };
    let root = token("root", "r00t");
    let permission = json!({
        "permType": "READ", "key": base64("dlock:"),
        "range_end": base64("dlock;"),
    });
    for (path, body) in [
        ("user/add", json!({"name": "reader", "password": "s3cret"})),
        ("role/add", json!({"name": "reads"})),
        ("role/grant", json!({"name": "reads", "perm": permission})),
        ("user/grant", json!({"user": "reader", "role": "reads"})),
    ] {
        let answer = server.post_as(&root, &format!("/v3/auth/{path}"), &body.to_string());
        assert!(!answer.contains("error"), "{path}: {answer}");
    }
    let store = store_of("reader:s3cret", &server);
    let reader = claim(&key("reads"));
    for _ in 0..4 {
        let error = store.acquire(&again(&reader), LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(!error.may_have_executed());
    }
    let leases = server.post_as(&token("root", "r00t"), "/v3/lease/leases", "{}");
    assert!(!leases.contains("ID"), "{leases}");
}

#[test]
fn a_waiter_whose_way_into_the_queue_was_cut_keeps_the_place_that_it_gets_then() {
    let server = EtcdServer::start();
    let cuts = Switch::default();
    let gate = {
        let cuts = cuts.clone();
        Gate::to(&server, move |request| {
            match enters(request) && cuts.take() {
                true => Fate::Cut,
                false => Fate::Passes,
            }
        })
    };
    let (direct, waits, key) = (store(&server), store_at(&gate.url()), key("cut"));
    let lease = take(&direct, &key, LONG);
    // A connection that was used before is replaced when it breaks.
    held(waits.acquire(&claim(&key), LONG));
    let signal = Signal::new();
    let waiter = claim(&key).with_deadline(Time::MAX);
    let watch = waits.watch(&waiter, &signal).unwrap().unwrap();
    cuts.set(true);
    let _ = waits.acquire(&waiter, LONG);
    held(waits.acquire(&again(&waiter), LONG));
    assert!(!cuts.is_on());
    let place = places(&server, &key);
    assert_eq!(place.len(), 1);
    // Longer than it takes to look for places that nobody waits at.
    thread::sleep(Duration::from_secs(12));
    assert_eq!(places(&server, &key), place);
    ours(direct.release(&call(&lease, 1)));
    let lease = granted_when_woken(&waits, &waiter, &signal);
    drop(watch);
    ours(waits.release(&call(&lease, 1)));
}

#[test]
fn a_waiter_whose_first_claim_finds_no_lease_for_its_place_is_woken_when_there_is_one() {
    let server = EtcdServer::start();
    let [looks, grants_none, first_is_over] = [(); 3].map(|()| Switch::default());
    let gate = {
        let (looks, grants_none) = (looks.clone(), grants_none.clone());
        let first_is_over = first_is_over.clone();
        Gate::to(&server, move |request| {
            if request.path == "kv/txn" && looks.take() {
                while !first_is_over.is_on() {
                    thread::sleep(Duration::from_millis(10));
                }
            }
            match request.path == "lease/grant" && grants_none.is_on() {
                true => {
                    // The process knows by now that its lease has ended.
                    first_is_over.set(true);
                    Fate::Cut
                }
                false => Fate::Passes,
            }
        })
    };
    let (direct, waits, key) = (store(&server), store_at(&gate.url()), key("lease"));
    let lease = take(&direct, &key, LONG);
    let before = leases(&server);
    let signal = Signal::new();
    let waiter = claim(&key).with_deadline(Time::MAX);
    let watch = waits.watch(&waiter, &signal).unwrap().unwrap();
    looks.set(true);
    grants_none.set(true);
    let own = leases(&server);
    let own = own.iter().find(|lease| !before.contains(lease)).unwrap();
    let answer = ask(&server, "/v3/lease/revoke", &json!({"ID": own}));
    assert!(answer.get("error").is_none(), "{answer}");
    held(waits.acquire(&waiter, LONG));
    assert!(
        places(&server, &key).is_empty(),
        "there was no lease for it"
    );
    grants_none.set(false);
    eventually("the waiter is woken", || signal.take().then_some(()));
    held(waits.acquire(&again(&waiter), LONG));
    assert_eq!(places(&server, &key).len(), 1);
    ours(direct.release(&call(&lease, 1)));
    let lease = granted_when_woken(&waits, &waiter, &signal);
    drop(watch);
    ours(waits.release(&call(&lease, 1)));
}

#[test]
fn a_node_of_another_cluster_is_refused_though_it_tells_only_users_who_it_is() {
    let (one, other) = (server_with_users(), server_with_users());
    let cut = Switch::default();
    let hides = |server: &EtcdServer, cut: Switch| {
        Gate::to(server, move |request| {
            let hidden = request.path == "maintenance/status" && !request.has_login;
            let text = "etcdserver: user name is empty";
            match (cut.is_on(), hidden) {
                (true, _) => Fate::Cut,
                (_, true) => {
                    Fate::Answered(400, json!({"error": text, "message": text, "code": 3}))
                }
                _ => Fate::Passes,
            }
        })
    };
    let (first, second) = (hides(&one, cut.clone()), hides(&other, Switch::default()));
    let url = format!(
        "etcd://app:s3cret%2F%40@{},{}",
        first.address(),
        second.address()
    );
    let (store, key) = (store_at(&url), key("two"));
    take(&store, &key, LONG);
    cut.set(true);
    let error = store.acquire(&claim(&key), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("another cluster"), "{error}");
}
