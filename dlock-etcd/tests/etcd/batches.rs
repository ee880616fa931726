//! Many leases that are extended at a time.

use std::thread;
use std::time::Duration;

use dlock_core::{Datastore, Lease};
use dlock_etcd::EtcdDatastore;
use dlock_test_servers::faults::{Fault, Proxy};

use crate::support::{LONG, call, extended, key, lost, ours, server, store_at, take};

const COUNT: usize = 20;

/// The leases, each ready for its call with this number.
fn calls(leases: &[Lease], sequence: u64) -> Vec<(Lease, Duration)> {
    let leases = leases.iter();
    leases.map(|lease| (call(lease, sequence), LONG)).collect()
}

fn leases(store: &EtcdDatastore) -> Vec<Lease> {
    (0..COUNT)
        .map(|number| take(store, &key(&format!("batch-{number}")), LONG))
        .collect()
}

#[test]
fn many_leases_are_extended_over_eight_connections_at_a_time() {
    let proxy = Proxy::to(server().address());
    let store = store_at(&format!("etcd://{}", proxy.address()));
    let leases = leases(&store);
    proxy.reset_counts();
    proxy.replies(Fault::Hold);
    thread::scope(|scope| {
        let extending = scope.spawn(|| store.extend_many(&calls(&leases, 1)));
        // One is open.
        proxy.wait_until(|counts| counts.connections == 7);
        proxy.heal();
        let extensions = extending.join().unwrap();
        assert_eq!(extensions.len(), COUNT);
        for extension in extensions {
            extended(extension);
        }
    });
}

#[test]
fn each_lease_of_a_batch_has_its_own_answer() {
    let store = store_at(&server().url());
    let leases = leases(&store);
    for lease in leases.iter().step_by(3) {
        ours(store.release(&call(lease, 1)));
    }
    let extensions = store.extend_many(&calls(&leases, 2));
    assert_eq!(extensions.len(), COUNT);
    for (number, extension) in extensions.into_iter().enumerate() {
        match number % 3 {
            0 => lost(extension),
            _ => drop(extended(extension)),
        }
    }
}
