//! What a holder, a waiter and a guarded resource see when the primary of a set fails.

use std::time::Duration;

use dlock_core::{Datastore, ErrorKind, Extension, Lock};
use dlock_redis::{RedisDatastore, ServerError};
use dlock_test_servers::SentinelSet;
use dlock_test_servers::faults::{Fault, Proxy};

use crate::both_forms::callers;
use crate::support::*;

/// An impostor is one for longer than any test takes.
pub(crate) const FOR_LONG: Duration = Duration::from_secs(3600);

pub(crate) fn set() -> SentinelSet {
    SentinelSet::builder()
        .down_after(Duration::from_millis(700))
        .start()
}

/// A store that gives a busy machine time, and less for a connection.
fn patient_for(url: &str, connect: Duration) -> RedisDatastore {
    let builder = RedisDatastore::builder(url).unwrap();
    builder.call_timeout(LONG).connect_timeout(connect).build()
}

pub(crate) fn keys(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|at| format!("dlock:{name}-{at}")).collect()
}

/// Until all replicas have what was written so far.
pub(crate) fn replicated(set: &SentinelSet, primary: usize) {
    set.wait_for_replicas(primary, set.nodes() - 1);
}

#[test]
fn a_replicated_lock_outlives_its_primary_and_keeps_others_out() {
    let mut set = set();
    let holders = callers(|| patient(&set.url()));
    let others = callers(|| patient(&set.url()));
    let keys = keys("replicated", holders.len());
    let leases: Vec<_> = holders
        .iter()
        .zip(&keys)
        .map(|(holder, key)| holder.acquired(&claim(key)))
        .collect();
    others.iter().for_each(|other| {
        refused(other.acquire(&claim(&keys[0])));
    });
    replicated(&set, 0);

    set.node_mut(0).kill();
    let new = set.wait_for_another(0);
    for (at, lease) in leases.iter().enumerate() {
        refused(others[at].acquire(&claim(&keys[at])));
        assert!(holders[at].extended(lease, 1), "it is still the holder's");
        assert!(holders[at].released(lease));
        let next = others[at].acquired(&claim(&keys[at]));
        assert!(fence_of(&next) > fence_of(lease), "tokens rise");
    }
    assert!(evalshas(set.node(new)) > 0);
}

#[test]
fn a_lock_that_reached_no_replica_is_lost_with_its_primary_and_only_its_token_protects() {
    let mut set = set();
    let holders = callers(|| patient(&set.url()));
    let others = callers(|| patient(&set.url()));
    let keys = keys("unreplicated", holders.len());
    holders.iter().for_each(|holder| {
        assert!(holder.released(&holder.acquired(&claim("dlock:warm"))));
    });
    replicated(&set, 0);
    set.cut_replicas(0);
    let leases: Vec<_> = holders
        .iter()
        .zip(&keys)
        .map(|(holder, key)| holder.acquired(&claim(key)))
        .collect();
    set.node_mut(0).kill();
    set.resume_replicas(0);
    set.wait_for_another(0);
    for (at, lease) in leases.iter().enumerate() {
        let second = others[at].acquired(&claim(&keys[at]));
        assert!(
            fence_of(&second) > fence_of(lease),
            "a guarded resource that has seen the second holder refuses the first"
        );
        assert!(!holders[at].extended(lease, 1), "the first learns of it");
        assert!(!holders[at].released(lease));
        assert!(others[at].released(&second), "the second keeps its lock");
    }
}

#[test]
fn replicas_that_were_only_stopped_have_what_was_written_meanwhile() {
    let mut set = set();
    let holder = patient(&set.url());
    warm(&holder);
    replicated(&set, 0);
    set.node(1).pause();
    set.node(2).pause();
    let lease = acquired(&holder, &claim(KEY));
    set.node_mut(0).kill();
    set.resume_replicas(0);
    set.wait_for_another(0);
    refused(patient(&set.url()).acquire(&claim(KEY), TTL));
    assert!(extend(&holder, &lease, 1, TTL).is_some());
}

#[test]
fn a_primary_that_came_back_empty_calls_itself_one_and_is_not_asked() {
    let mut set = set();
    let holders = callers(|| patient(&set.url()));
    let keys = keys("impostor", holders.len());
    let leases: Vec<_> = holders
        .iter()
        .zip(&keys)
        .map(|(holder, key)| holder.acquired(&claim(key)))
        .collect();
    replicated(&set, 0);
    set.node_mut(0).kill();
    set.wait_for_another(0);
    set.impostors_last(FOR_LONG);
    set.node_mut(0).restart_empty();

    // A role is no proof: a client that asks this server itself gets the lock a second time.
    assert!(set.is_primary(0));
    let by_role = store(set.node(0));
    let second = acquired(&by_role, &claim(&keys[0]));
    assert!(fence_of(&second) > fence_of(&leases[0]));

    let others = callers(|| patient(&set.url()));
    for (at, lease) in leases.iter().enumerate() {
        refused(others[at].acquire(&claim(&keys[at])));
        assert!(holders[at].extended(lease, 1));
    }
}

#[test]
fn connections_to_a_primary_that_was_replaced_while_it_stood_still_are_left_at_once() {
    let set = set();
    let holders = callers(|| patient(&set.url()));
    let keys = keys("stopped", holders.len());
    let leases: Vec<_> = holders
        .iter()
        .zip(&keys)
        .map(|(holder, key)| holder.acquired(&claim(key)))
        .collect();
    replicated(&set, 0);
    set.impostors_last(FOR_LONG);
    set.node(0).pause();
    let new = set.wait_for_another(0);
    set.node(0).resume();
    assert!(set.is_primary(0), "it does not know yet");
    set.node(0).command(["SCRIPT", "FLUSH"]);

    // Nobody has called meanwhile, so the connections are whole. A sentinel named the new one.
    for (at, lease) in leases.iter().enumerate() {
        let mut sequence = 0;
        until("the lease is extended at the new primary", || {
            sequence += 1;
            assert!(holders[at].extended(lease, sequence));
            let record = set.node(new).command(["GET", &keys[at]]).text().unwrap();
            // Behind the owner token stands the number of the last extend.
            record[33..].starts_with(&format!("{sequence} "))
        });
        let calls = set.node(0).calls();
        assert!(holders[at].extended(lease, sequence + 1));
        assert_eq!(
            calls.get("evalsha"),
            set.node(0).calls().get("evalsha"),
            "the old one is asked no more"
        );
    }
}

#[test]
fn with_min_replicas_a_replaced_primary_refuses_from_the_first_call_on() {
    let set = SentinelSet::builder()
        .down_after(Duration::from_millis(700))
        .config("min-replicas-to-write", "1")
        .start();
    let url = set.url();
    let holder = patient(&url);
    let lease = acquired(&holder, &claim(KEY));
    replicated(&set, 0);
    set.impostors_last(FOR_LONG);
    set.node(0).pause();
    set.wait_for_another(0);
    set.node(0).resume();
    let by_role = store(set.node(0));
    until("it knows that its replicas are gone", || {
        let attempt = by_role.acquire(&claim("dlock:other"), TTL);
        matches!(attempt, Err(error) if error.kind() == ErrorKind::Refused)
    });
    assert!(extend(&holder, &lease, 1, TTL).is_some());
}

#[test]
fn with_min_replicas_a_primary_without_replicas_refuses_releases_too() {
    let set = SentinelSet::builder()
        .config("min-replicas-to-write", "1")
        .start();
    let holder = patient(&set.url());
    let lease = acquired(&holder, &claim(KEY));
    let alone = store(set.node(0));
    set.cut_replicas(0);
    until("it knows", || {
        let error = alone.extend(&call(&lease, 1), TTL);
        matches!(error, Err(error) if error.kind() == ErrorKind::Refused)
    });
    for refused in [
        alone.acquire(&claim("dlock:other"), TTL).map(drop),
        alone.release(&call(&lease, 2)).map(drop),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(!error.may_have_executed());
        let source = std::error::Error::source(&error).unwrap();
        let source = source.downcast_ref::<ServerError>().unwrap();
        assert_eq!(source.code(), "NOREPLICAS");
    }
    set.resume_replicas(0);
    set.wait_for_replicas(0, 2);
    until("its replicas are back", || {
        alone.release(&call(&lease, 2)).is_ok()
    });
}

#[test]
fn a_waiter_goes_on_waiting_at_the_new_primary_and_is_woken_there() {
    let mut set = set();
    let url = set.url();
    let holder = Lock::new(patient(&url), "import");
    let guard = holder.acquire().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let waiter = Lock::new(patient(&url), "import");
            waiter.acquire_within(LONG * 3).unwrap().release().unwrap();
        });
        until("it is queued", || {
            set.node(0).command(["ZCARD", QUEUE]).integer() == Some(1)
        });
        replicated(&set, 0);
        set.node_mut(0).kill();
        let new = set.wait_for_another(0);
        assert!(!waiter.is_finished());
        until("it is queued at the new primary, and listens there", || {
            let clients = set.node(new).command(["CLIENT", "LIST", "TYPE", "pubsub"]);
            set.node(new).command(["ZCARD", QUEUE]).integer() == Some(1)
                && clients.text().unwrap().contains("cmd=subscribe")
        });
        assert!(guard.is_valid());
        guard.release().unwrap();
        waiter.join().unwrap();
    });
}

#[test]
fn the_sentinels_are_asked_in_turn_and_the_one_that_answers_comes_first() {
    let set = SentinelSet::builder().replicas(1).sentinels(1).start();
    let silent = Proxy::to(set.sentinel(0).address());
    let answering = Proxy::to(set.sentinel(0).address());
    silent.replies(Fault::Hold);
    // The first refuses, the second accepts and does not answer.
    let hosts = format!("127.0.0.1:1,{},{}", silent.address(), answering.address());
    let url = format!("redis+sentinel://{hosts}/{}", set.service());
    for caller in callers(|| patient_for(&url, Duration::from_secs(9))) {
        let lease = caller.acquired(&claim(KEY));
        set.node(0).command(["CLIENT", "KILL", "TYPE", "normal"]);
        let (before, of_answering) = (silent.counts(), answering.counts());
        assert!(caller.extended(&lease, 1));
        assert!(answering.counts().connections > of_answering.connections);
        assert_eq!(silent.counts().connections, before.connections);
        assert!(caller.released(&lease));
    }
}

#[test]
fn a_sentinel_may_have_an_ipv6_address() {
    let set = SentinelSet::builder().replicas(1).sentinels(1).start();
    let address = forwarded("[::1]:0", set.sentinel(0).address());
    let url = format!("redis+sentinel://{address}/{}", set.service());
    assert!(url.starts_with("redis+sentinel://[::1]:"), "{url}");
    for caller in callers(|| patient(&url)) {
        assert!(caller.released(&caller.acquired(&claim(KEY))));
    }
}

#[test]
fn a_call_ends_in_time_whatever_the_sentinels_do() {
    let set = SentinelSet::builder().replicas(1).start();
    let store = patient(&set.url());
    for at in 0..3 {
        set.sentinel(at).pause();
    }
    let soon = Duration::from_millis(300);
    for caller in callers(|| store.clone()) {
        let start = std::time::Instant::now();
        let error = caller.acquire(&claim_within(KEY, soon)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_have_executed());
        assert!(start.elapsed() < LONG / 2);
    }
    for at in 0..3 {
        set.sentinel(at).resume();
    }
    assert!(released(&store, &acquired(&store, &claim(KEY))));
}

#[test]
fn a_name_that_no_sentinel_knows_is_a_mistake_and_no_outage() {
    let set = SentinelSet::builder().replicas(1).sentinels(1).start();
    let url = set.url().replace("/locks", "/lokcs");
    for caller in callers(|| patient(&url)) {
        let error = caller.acquire(&claim(KEY)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(whole_text(&error).contains("`lokcs`"), "{error:?}");
        assert!(!error.is_transient());
    }
}

#[test]
fn nodes_and_sentinels_have_logins_of_their_own_and_no_error_shows_them() {
    let set = SentinelSet::builder()
        .replicas(1)
        .sentinels(1)
        .password("node-s3cret")
        .sentinel_password("watch-s3cret")
        .start();
    let url = set.url();
    for caller in callers(|| patient(&url)) {
        assert!(caller.released(&caller.acquired(&claim(KEY))));
    }
    let bare = url.split('?').next().unwrap();
    let with_builder = RedisDatastore::builder(bare)
        .unwrap()
        .sentinel_login(None, "watch-s3cret")
        .unwrap()
        .build();
    assert!(released(
        &with_builder,
        &acquired(&with_builder, &claim(KEY))
    ));

    for wrong in [
        url.replace("watch-", "no-"),
        url.replace("node-", "no-"),
        bare.to_owned(),
    ] {
        let error = patient(&wrong).acquire(&claim(KEY), TTL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        let text = whole_text(&error);
        assert!(!text.contains("s3cret"), "{text}");
        assert!(
            text.contains("WRONGPASS") || text.contains("NOAUTH"),
            "{text}"
        );
    }
    RedisDatastore::builder("redis://h")
        .unwrap()
        .sentinel_login(None, "x")
        .unwrap_err();
}

#[cfg(feature = "tls")]
#[test]
fn sentinels_and_nodes_speak_tls() {
    let set = SentinelSet::builder()
        .replicas(1)
        .sentinels(1)
        .tls()
        .start();
    let ca = set.node(0).ca_file();
    let url = format!("{}?ca={}", set.tls_url(), ca.display());
    for caller in callers(|| patient(&url)) {
        let lease = caller.acquired(&claim(KEY));
        assert!(matches!(
            caller.extend(&lease, 1).unwrap(),
            Extension::Extended(_)
        ));
        assert!(caller.released(&lease));
    }
    let untrusted = patient(&set.tls_url()).acquire(&claim(KEY), TTL);
    assert_eq!(untrusted.unwrap_err().kind(), ErrorKind::Untrusted);
}
