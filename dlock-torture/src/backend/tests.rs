use super::*;
use dlock_core::{AcquireError, ErrorKind, Lock, LockGuard, Store};

fn store(place: &Environment) -> Store {
    let store = place.backend.open(&place.url, &mut Random::new(1, &[]));
    Store::new(store.unwrap())
}

fn hold(store: &Store) -> LockGuard {
    let lock = Lock::new(store, "x");
    lock.acquire_within(Duration::from_secs(30)).unwrap()
}

#[test]
fn a_full_memcached_loses_its_locks() {
    let folder = tempfile::tempdir().unwrap();
    let place = Backend::Memcached.start(folder.path());
    let store = store(&place);
    let first = hold(&store);
    let Server::Memcached(server) = &place.server else {
        panic!("another server")
    };
    // The server's eviction thread may be late, and the server refuses writes meanwhile.
    let evicted = (0..20).find_map(|_| {
        evict_all(server.address()).unwrap();
        Lock::new(&store, "x").try_acquire().ok()
    });
    let second = evicted.expect("the lock is gone");
    assert!(second.fencing_token() > first.fencing_token());
}

#[test]
fn a_folder_loses_its_locks_with_its_records_and_answers_nothing_while_its_shards_are_held() {
    let folder = tempfile::tempdir().unwrap();
    let place = Backend::File.start(folder.path());
    let store = store(&place);
    let first = hold(&store);
    let locks = Path::new(&place.url);
    delete_records(locks).unwrap();
    let second = Lock::new(&store, "x").try_acquire().unwrap();
    assert!(second.fencing_token() > first.fencing_token());
    let shards = hold_shards(locks).unwrap();
    let refused = Lock::new(&store, "x").try_acquire();
    assert!(
        matches!(&refused, Err(AcquireError::Datastore(error)) if error.kind() == ErrorKind::Timeout),
        "{refused:?}"
    );
    drop(shards);
}

#[test]
fn a_killed_redis_forgets_nothing_that_it_answered() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = Backend::Redis.start(folder.path());
    let store = store(&place);
    let guard = hold(&store);
    let Server::Redis(server, _) = &mut place.server else {
        panic!("another server")
    };
    server.kill();
    server.start_again();
    assert!(Lock::new(&store, "x").try_acquire().is_err());
    guard.release().unwrap();
}

#[test]
fn a_clock_is_behind_from_a_step_back_until_it_has_caught_up() {
    let mut clock = WallClockShift::default();
    assert!(!clock.is_behind());
    clock.stepped(Duration::from_secs(60), true);
    assert!(!clock.is_behind());
    clock.stepped(Duration::from_secs(5), false);
    assert!(clock.is_behind());
    clock.stepped(Duration::from_secs(5), true);
    assert!(!clock.is_behind());
}
