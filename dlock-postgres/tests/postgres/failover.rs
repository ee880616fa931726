//! A primary and its standby.

use std::thread;
use std::time::Duration;

use dlock_core::{Datastore, DatastoreError, ErrorKind};
use dlock_postgres::PostgresDatastore;
use dlock_test_servers::PostgresServer;

use crate::support::{
    LONG, TTL, acquired, acquired_for, call, claim, claim_within, fence_of, granted, patient,
    refused, until, with_schema,
};

fn primary_and_standby() -> (PostgresServer, PostgresServer) {
    let primary = with_schema(PostgresServer::start());
    let standby = primary.standby();
    (primary, standby)
}

/// A store that knows both, the standby first.
fn store_of_both(primary: &PostgresServer, standby: &PostgresServer) -> PostgresDatastore {
    let (standby, primary) = (standby.address(), primary.address());
    patient(&format!(
        "postgres://postgres@{standby},{primary}/postgres?target_session_attrs=read-write"
    ))
}

fn replicated(primary: &PostgresServer, standby: &PostgresServer) {
    let position = primary.sql("SELECT pg_current_wal_lsn()");
    let has_it = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
    until("the standby has everything", || standby.sql(&has_it) == "t");
}

#[test]
fn a_standby_alone_is_refused() {
    let (_primary, standby) = primary_and_standby();
    let store = patient(&standby.url());
    let error = store.acquire(&claim("dlock:x"), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(!error.may_have_executed());
    assert!(error.to_string().contains("standby"), "{error}");
}

#[test]
fn a_promoted_standby_is_found_keeps_what_it_has_and_raises_tokens() {
    let (mut primary, standby) = primary_and_standby();
    let store = store_of_both(&primary, &standby);
    // Longer than all of this takes on a busy machine.
    let kept = acquired_for(&store, "dlock:kept", Duration::from_secs(600));
    replicated(&primary, &standby);
    // This grant the standby will not have.
    standby.sql("ALTER SYSTEM SET primary_conninfo = ''");
    standby.sql("SELECT pg_reload_conf()");
    until("the standby is cut off", || {
        primary.sql("SELECT count(*) FROM pg_stat_replication") == "0"
    });
    let lost = acquired(&store, "dlock:lost");
    primary.kill();
    standby.promote();

    refused(store.acquire(&claim("dlock:kept"), TTL));
    let extension = store.extend(&call(&kept, 1), TTL).unwrap();
    assert!(matches!(extension, dlock_core::Extension::Extended(_)));
    let extension = store.extend(&call(&lost, 1), TTL).unwrap();
    assert!(matches!(extension, dlock_core::Extension::Lost));
    let next = granted(store.acquire(&claim("dlock:lost"), TTL));
    assert!(next.fence.unwrap().get() > fence_of(&lost));
}

#[test]
fn a_claim_whose_synchronous_standby_is_gone_may_have_been_carried_out() {
    let primary = with_schema(PostgresServer::start());
    let store = patient(&primary.url());
    // The connection is open before commits begin to hang.
    acquired(&store, "dlock:warm");
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    primary.sql("SELECT pg_reload_conf()");
    // One process of the server reads the setting for all commits, sooner or later.
    let mut probes = Vec::new();
    until("commits wait", || {
        let mut probe = primary.session();
        probe.send("SELECT txid_current(); CREATE TEMPORARY TABLE probe ()");
        probes.push(probe);
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        primary.sql(waiting) != "0"
    });
    let impatient = claim_within("dlock:x", Duration::from_secs(1));
    let error = store.acquire(&impatient, TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.may_have_executed(), "{error}");

    // ALTER SYSTEM writes no WAL, so it does not wait.
    primary.sql("ALTER SYSTEM RESET synchronous_standby_names");
    primary.sql("SELECT pg_reload_conf()");
    let given_up = claim("dlock:x").owned_by(impatient.owner());
    until("the claim was carried out", || {
        store
            .inspect()
            .unwrap()
            .holder("dlock:x")
            .unwrap()
            .is_some()
    });
    store.abandon(&given_up).unwrap();
    acquired(&store, "dlock:x");
}

/// Makes a call while somebody ends, by this function, the waits of commits for a standby that is
/// gone.
pub(crate) fn while_waits_are_ended<T: Send>(
    primary: &PostgresServer,
    by: &str,
    call: impl FnOnce() -> T + Send,
) -> T {
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    primary.sql("SELECT pg_reload_conf()");
    until("commits wait", || {
        primary.sql("SHOW synchronous_standby_names") == "nobody"
    });
    let ends = format!(
        "SELECT count({by}(pid)) FROM pg_stat_activity \
         WHERE wait_event = 'SyncRep' AND application_name = 'dlock'"
    );
    let done = thread::scope(|scope| {
        let calls = scope.spawn(call);
        until("the call ends", || {
            primary.sql(&ends);
            calls.is_finished()
        });
        calls.join().unwrap()
    });
    primary.sql("ALTER SYSTEM RESET synchronous_standby_names");
    primary.sql("SELECT pg_reload_conf()");
    until("commits do not wait", || {
        primary.sql("SHOW synchronous_standby_names").is_empty()
    });
    done
}

/// It may have been carried out, and a standby that takes over may lack it.
#[track_caller]
pub(crate) fn is_unconfirmed<T>(outcome: Result<T, DatastoreError>) {
    let error = outcome.err().expect("no standby has confirmed it");
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.may_have_executed(), "{error}");
}

#[test]
fn what_no_standby_has_confirmed_is_not_believed_if_the_wait_for_it_is_ended() {
    let primary = with_schema(PostgresServer::start());
    let store = patient(&primary.url());
    for by in ["pg_cancel_backend", "pg_terminate_backend"] {
        let new = claim(&format!("dlock:{by}"));
        is_unconfirmed(while_waits_are_ended(&primary, by, || {
            store.acquire(&new, TTL)
        }));
        store.abandon(&new).unwrap();

        let lease = acquired(&store, "dlock:x");
        is_unconfirmed(while_waits_are_ended(&primary, by, || {
            store.extend(&call(&lease, 1), TTL)
        }));
        is_unconfirmed(while_waits_are_ended(&primary, by, || {
            store.release(&call(&lease, 2))
        }));
        let again = claim("dlock:x");
        is_unconfirmed(while_waits_are_ended(&primary, by, || {
            store.acquire(&again, TTL)
        }));
        // The same claim is granted when a standby, or nobody, has to confirm it.
        granted(store.acquire(&again, TTL));
        let abandoned = while_waits_are_ended(&primary, by, || store.abandon(&again));
        is_unconfirmed(abandoned);
    }
}

#[test]
fn a_restarted_server_keeps_its_locks() {
    let mut server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    let lease = acquired(&store, "dlock:x");
    server.restart();
    refused(store.acquire(&claim("dlock:x"), TTL));
    assert!(store.release(&call(&lease, 1)).is_ok());
    let next = acquired(&store, "dlock:x");
    assert!(fence_of(&next) > fence_of(&lease));
}

#[test]
fn a_server_that_does_not_answer_is_unreachable_and_nothing_was_done() {
    let mut server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    server.kill();
    let error = store.acquire(&claim("dlock:x"), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(!error.may_have_executed());
}
