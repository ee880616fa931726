//! How many round trips each call takes, as the guide says.

use dlock_core::Datastore;
use dlock_test_servers::faults::Proxy;

use crate::support::{LONG, call, claim, extended, held, key, ours, server, store_at, take};

#[test]
fn each_call_takes_the_round_trips_that_the_guide_says() {
    let proxy = Proxy::to(server().address());
    let store = store_at(&format!("etcd://{}", proxy.address()));
    let warm = take(&store, &key("warm"), LONG);
    ours(store.release(&call(&warm, 1)));
    let trips = |call: &mut dyn FnMut()| {
        proxy.reset_counts();
        call();
        proxy.counts().round_trips
    };
    let key = key("costs");
    let mut lease = None;
    let acquired = trips(&mut || lease = Some(take(&store, &key, LONG)));
    let lease = lease.unwrap();
    let refused = trips(&mut || {
        held(store.acquire(&claim(&key), LONG));
    });
    let renewed = trips(&mut || {
        extended(store.extend(&call(&lease, 1), LONG));
    });
    let released = trips(&mut || ours(store.release(&call(&lease, 2))));
    assert_eq!((acquired, refused, renewed, released), (3, 2, 3, 2));
}
