//! Calls that wait for a row, beside others.

use std::time::Duration;

use dlock_core::aio::{AsyncDatastore, Lock, Store};
use dlock_core::{AcquireOutcome, Datastore, Lease, Signal};
use dlock_postgres::PostgresDatastore;
use dlock_test_servers::PostgresServer;
use tokio::runtime::Builder;

use crate::failover::{is_unconfirmed, while_waits_are_ended};
use crate::support::{
    LONG, RowLock, TTL, acquired, call, claim, granted, patient, refused, released, until,
    with_schema,
};

/// How many connections wait for a lock in the database.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";

/// How many locks are held.
const HELD: &str = "SELECT count(*) FROM dlock.locks WHERE owner IS NOT NULL";

async fn acquires_and_releases(store: &PostgresDatastore, key: &str) {
    let claim = claim(key);
    let grant = granted(AsyncDatastore::acquire(store, &claim, TTL).await);
    let lease = Lease::new(claim, grant);
    let done = AsyncDatastore::release(store, &call(&lease, 1)).await;
    assert_eq!(done.unwrap(), dlock_core::ReleaseOutcome::Released);
}

/// A server with a free lock whose row is locked.
fn with_locked_row() -> (PostgresServer, PostgresDatastore, RowLock) {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    let lease = acquired(&store, "dlock:x");
    assert!(released(&store, &lease));
    let row = RowLock::on(&server, "dlock:x");
    (server, store, row)
}

#[test]
fn a_claim_that_waits_for_a_locked_row_holds_up_no_other_lock() {
    let (server, store, row) = with_locked_row();
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    runtime.block_on(async {
        let blocked = tokio::spawn({
            let store = store.clone();
            async move { AsyncDatastore::acquire(&store, &claim("dlock:x"), TTL).await }
        });
        while server.sql(WAITING) == "0" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..3 {
            acquires_and_releases(&store, "dlock:y").await;
        }
        assert!(!blocked.is_finished());
        drop(row);
        granted(blocked.await.unwrap());
    });
}

#[test]
fn the_connection_of_a_call_whose_future_was_dropped_holds_up_no_other_lock() {
    let (server, store, row) = with_locked_row();
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    let given_up = claim("dlock:x");
    runtime.block_on(async {
        let claims = AsyncDatastore::acquire(&store, &given_up, TTL);
        let waits = async {
            while server.sql(WAITING) == "0" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            claimed = claims => panic!("its row is locked: {claimed:?}"),
            () = waits => {}
        }
        tokio::time::timeout(LONG, acquires_and_releases(&store, "dlock:y"))
            .await
            .unwrap();
        assert_eq!(server.sql(WAITING), "1", "it still waits at the server");
        drop(row);
        // The claim that nobody waits for wins, and is undone. An abandon that comes before the end
        // of its call may get the row before it.
        let held = async {
            while server.sql(HELD) != "1" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, held).await.unwrap();
        AsyncDatastore::abandon(&store, &claim("dlock:x").owned_by(given_up.owner()))
            .await
            .unwrap();
    });
    until("the key is free", || {
        let outcome = Datastore::acquire(&store, &claim("dlock:x"), TTL);
        matches!(outcome, Ok(AcquireOutcome::Granted(_)))
    });
}

#[test]
fn a_waiter_that_gives_up_leaves_its_queue_though_the_row_of_another_key_is_locked() {
    let server = with_schema(PostgresServer::start());
    let store = PostgresDatastore::builder(&server.url())
        .unwrap()
        .call_timeout(Duration::from_secs(4))
        .connect_timeout(LONG)
        .build();
    let holder = patient(&server.url());
    acquired(&holder, "dlock:x");
    acquired(&holder, "dlock:y");
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    runtime.block_on(async {
        let mut watches = Vec::new();
        for key in ["dlock:x", "dlock:x", "dlock:y"] {
            let waiter = claim(key).with_deadline(claim(key).not_after());
            let watch = AsyncDatastore::watch(&store, &waiter, &Signal::new()).await;
            watches.push(watch.unwrap());
            refused(AsyncDatastore::acquire(&store, &waiter, TTL).await);
        }
        let waiting = "SELECT count(*) FROM dlock.waiters";
        assert_eq!(server.sql(waiting), "3");
        let row = RowLock::on(&server, "dlock:x");
        watches.into_iter().for_each(drop);
        let left = "SELECT count(*) FROM dlock.waiters WHERE key = 'dlock:y'";
        until("the one of the other key has left", || {
            server.sql(left) == "0"
        });
        drop(row);
    });
}

#[test]
fn a_release_does_not_wait_for_the_row_of_another_key_whose_waiters_gave_up() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    let holder = patient(&server.url());
    acquired(&holder, "dlock:x");
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    runtime.block_on(async {
        let held = claim("dlock:y");
        let grant = granted(AsyncDatastore::acquire(&store, &held, TTL).await);
        let mut watches = Vec::new();
        for key in ["dlock:x", "dlock:x", "dlock:y"] {
            let waiter = claim(key).with_deadline(claim(key).not_after());
            let watch = AsyncDatastore::watch(&store, &waiter, &Signal::new()).await;
            watches.push(watch.unwrap());
            refused(AsyncDatastore::acquire(&store, &waiter, TTL).await);
        }
        let row = RowLock::on(&server, "dlock:x");
        watches.into_iter().for_each(drop);
        // It waits until the waiter of its own key is off the queue.
        let lease = Lease::new(held, grant);
        let done = AsyncDatastore::release(&store, &call(&lease, 1)).await;
        assert_eq!(done.unwrap(), dlock_core::ReleaseOutcome::Released);
        drop(row);
        let left = "SELECT count(*) FROM dlock.waiters";
        until("the others have left too", || server.sql(left) == "0");
    });
}

#[test]
fn what_no_standby_has_confirmed_is_not_believed_if_the_wait_for_it_is_ended() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    let new = claim("dlock:x");
    is_unconfirmed(while_waits_are_ended(&server, "pg_cancel_backend", || {
        runtime.block_on(AsyncDatastore::acquire(&store, &new, TTL))
    }));
    granted(runtime.block_on(AsyncDatastore::acquire(&store, &new, TTL)));
}

#[test]
fn guards_that_are_dropped_together_do_not_wait_for_the_row_of_one_of_them() {
    let server = with_schema(PostgresServer::start());
    let store = Store::new(patient(&server.url()));
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    runtime.block_on(async {
        let mut guards = Vec::new();
        for id in ["x", "y", "z"] {
            guards.push(Lock::new(&store, id).acquire().await.unwrap());
        }
        let row = RowLock::on(&server, "dlock:x");
        guards.into_iter().for_each(drop);
        until("the others are released", || server.sql(HELD) == "1");
        drop(row);
        store.settled().await;
        assert_eq!(server.sql(HELD), "0");
    });
}
