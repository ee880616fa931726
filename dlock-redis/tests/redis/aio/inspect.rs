//! What operators see in async code, over the connection that the calls share.

use dlock_core::aio::{AsyncDatastore, AsyncInspect, Lock};
use dlock_core::{FencingToken, Inspect, ReleaseOutcome};

use super::*;
use crate::queue::waiting;

#[test]
fn a_look_in_async_code_shows_the_holder_and_shares_the_connection() {
    for runtime in runtimes() {
        let server = RedisServer::start();
        let store = store(&server);
        runtime.block_on(async {
            let inspect: &dyn AsyncInspect = AsyncDatastore::inspect(&store).unwrap();
            assert!(inspect.holder(KEY).await.unwrap().is_none());
            assert!(server.keys().is_empty());
            let lease = acquired(&store, &claim(KEY)).await;
            let held = inspect.holder(KEY).await.unwrap().unwrap();
            assert_eq!(held.fence(), lease.fence());
            assert!(held.expires_in().is_some_and(|left| left <= TTL));
            assert!(released(&store, &lease).await);
            assert!(inspect.holder(KEY).await.unwrap().is_none());

            server.command(["SET", KEY, "somebody else's"]);
            let held = inspect.holder(KEY).await.unwrap().unwrap();
            assert!(held.holder().is_none() && held.fence().is_none());
            // One for the calls and that of the test.
            until("the server knows no other client", || {
                let clients = format!("{:?}", server.command(["CLIENT", "LIST"]));
                clients.matches("id=").count() == 2
            })
            .await;
        });
    }
}

#[test]
fn both_forms_find_the_same_dangers() {
    let server = RedisServer::builder().config("appendonly", "yes").start();
    let store = store(&server);
    for runtime in runtimes() {
        let asked = || {
            let inspect: &dyn AsyncInspect = AsyncDatastore::inspect(&store).unwrap();
            let found = runtime.block_on(inspect.findings()).unwrap();
            assert_eq!(found, Inspect::findings(&store).unwrap());
            found
        };
        server.config_set("maxmemory-policy", "noeviction");
        assert_eq!(asked(), []);
        server.config_set("maxmemory-policy", "allkeys-lru");
        let found = asked();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].what.ends_with(" is allkeys-lru"), "{found:?}");
    }
}

#[test]
fn a_lease_that_is_broken_in_async_code_goes_to_the_next_waiter() {
    for runtime in runtimes() {
        let server = RedisServer::start();
        let (operator, holder) = (store(&server), Lock::new(store(&server), "import"));
        runtime.block_on(async {
            let guard = holder.acquire().await.unwrap();
            let token = guard.fencing_token().unwrap();
            let mut waits = Lock::new(store(&server), "import").acquire_within(LONG);
            tokio::select! {
                _ = &mut waits => panic!("the lock is held"),
                () = until("it waits", || waiting(&server) == 1) => {}
            }
            let broken = async |token| {
                let inspect: &dyn AsyncInspect = &operator;
                inspect.break_lease(KEY, token).await.unwrap()
            };
            let next = FencingToken::new(token.get() + 1);
            assert_eq!(broken(next).await, ReleaseOutcome::NotHeld);
            assert_eq!(broken(token).await, ReleaseOutcome::Released);
            let won = waits.await.unwrap();
            assert!(won.fencing_token() > Some(token));
            assert_eq!(broken(token).await, ReleaseOutcome::NotHeld);
            won.release().await.unwrap();
            drop(guard);
        });
    }
}
