//! The same over the connections of the async form.

use dlock_core::aio::AsyncDatastore;
use dlock_core::{Lease, ReleaseOutcome};
use tokio::runtime::Builder;

use crate::prepared::{COUNTS, FORGETS, where_waiting};
use crate::support::{TTL, call, claim, granted, patient};

#[test]
fn calls_go_on_without_prepared_statements_if_the_server_forgets_them() {
    let server = where_waiting(FORGETS);
    let store = patient(&server.url());
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let waiting = || async {
            let inspect = AsyncDatastore::inspect(&store).unwrap();
            inspect.waiting("dlock:x").await.unwrap()
        };
        for seen in [7, 7] {
            let claim = claim("dlock:x");
            let grant = granted(AsyncDatastore::acquire(&store, &claim, TTL).await);
            let lease = Lease::new(claim, grant);
            let done = AsyncDatastore::release(&store, &call(&lease, 1)).await;
            assert_eq!(done.unwrap(), ReleaseOutcome::Released);
            assert_eq!(waiting().await, seen);
        }
        server.sql(COUNTS);
        assert_eq!(waiting().await, 0);
    });
}
