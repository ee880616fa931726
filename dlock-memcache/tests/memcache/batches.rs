//! Many leases in one trip.

use std::time::Duration;

use dlock_core::{AcquireOutcome, Claim, Clock, Datastore, Extension, Lease, ReleaseOutcome};
use dlock_memcache::MemcacheDatastore;
use dlock_test_servers::MemcachedServer;
use dlock_test_servers::faults::{Fault, Proxy};

const TTL: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(20);

fn claim(key: String) -> Claim {
    Claim::new(key, &Clock::BOOTTIME, CALL).expect("random numbers")
}

fn lease(store: &MemcacheDatastore, key: String) -> Lease {
    let claim = claim(key);
    match store.acquire(&claim, TTL).expect("a server") {
        AcquireOutcome::Granted(grant) => Lease::new(claim, grant),
        AcquireOutcome::Held(held) => panic!("{held:?}"),
    }
}

#[test]
fn many_leases_are_confirmed_in_one_trip_each_by_its_own_record() {
    let server = MemcachedServer::start();
    let proxy = Proxy::to(server.address());
    let url = format!("memcache://{}", proxy.address());
    let store = MemcacheDatastore::builder(&url).unwrap();
    let store = store.call_timeout(CALL).connect_timeout(CALL).build();
    let batch = store.characteristics().confirm_batch;
    let leases: Vec<_> = (0..batch + 10)
        .map(|n| lease(&store, format!("dlock:{n}")))
        .collect();
    // One is gone, one is somebody else's, one is too long to be a lock.
    for at in [3, 7] {
        assert_eq!(
            store.release(&leases[at]).unwrap(),
            ReleaseOutcome::Released
        );
    }
    let _other = lease(&store, "dlock:7".to_owned());
    let huge = "x".repeat(3000);
    server.command(&format!("set dlock:9 0 60 {}\r\n{huge}", huge.len()));
    let _ = store.confirm_many(&leases[..1]).remove(0).unwrap();
    proxy.reset_counts();

    let answers = store.confirm_many(&leases);

    let trips = proxy.counts().round_trips;
    assert!(trips < 10, "{trips} for {} leases", leases.len());
    assert_eq!(answers.len(), leases.len());
    for (at, answer) in answers.into_iter().enumerate() {
        match answer.unwrap() {
            Extension::Lost => assert!([3, 7, 9].contains(&at), "{at}"),
            Extension::Extended(grant) => {
                assert!(![3, 7, 9].contains(&at), "{at}");
                assert_eq!(grant.fence, leases[at].fence());
            }
        }
    }

    // Where the connection breaks nothing is said of what was not answered.
    proxy.replies_once(Fault::Cut { after: 600 });
    let answers = store.confirm_many(&leases[10..30]);
    assert!(answers[0].is_ok());
    let last = answers[19].as_ref().unwrap_err();
    assert!(last.is_transient() && !last.may_have_executed());
    let _ = store.confirm_many(&leases[10..30]).pop().unwrap().unwrap();
}
