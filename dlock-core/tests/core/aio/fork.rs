//! Forked children of a process that holds async locks.

#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "there is no safe fork")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use dlock_core::aio::{AsyncDatastore, Lock, Store, Unblock};
use dlock_core::{
    AcquireError, AcquireOutcome, Claim, DatastoreError, ErrorKind, Extension, Holder, Inspect,
    Lease, LockOptions, MemoryDatastore, OnceOutcome, ReleaseError, ReleaseOutcome,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::support::{in_child, is_alone};

use super::support::{Events, How, Odd, TTL, block_on, eventually, nothing_is_left, poll_boxed};

/// A store in memory behind a socket: each call is a byte to a server and one back.
struct Remote {
    memory: MemoryDatastore,
    server: SocketAddr,
    connection: Mutex<Option<TcpStream>>,
    extends: Arc<AtomicUsize>,
}

impl Remote {
    fn new() -> Self {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        thread::spawn(move || {
            let (mut peer, mut byte) = (server.accept().unwrap().0, [0]);
            while peer.read_exact(&mut byte).is_ok() && peer.write_all(&byte).is_ok() {}
        });
        Remote {
            memory: MemoryDatastore::new(),
            server: address,
            connection: Mutex::default(),
            extends: Arc::default(),
        }
    }

    async fn ask(&self) {
        let mut connection = self.connection.lock().await;
        let connection = match &mut *connection {
            Some(connection) => connection,
            none => none.insert(TcpStream::connect(self.server).await.unwrap()),
        };
        connection.write_all(&[1]).await.unwrap();
        connection.read_exact(&mut [0]).await.unwrap();
    }
}

impl AsyncDatastore for Remote {
    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        self.ask().await;
        dlock_core::Datastore::acquire(&self.memory, claim, ttl)
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.ask().await;
        self.extends.fetch_add(1, Ordering::SeqCst);
        dlock_core::Datastore::extend(&self.memory, lease, ttl)
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        self.ask().await;
        dlock_core::Datastore::release(&self.memory, lease)
    }
}

/// The child drops all that it inherited, the socket of the store included. The parent shares with
/// it the kernel's list of sockets to wait for, and must go on to hear from its own.
#[test]
fn a_child_that_drops_the_store_does_not_disturb_its_parent() {
    if !is_alone("aio::fork::a_child_that_drops_the_store_does_not_disturb_its_parent") {
        return;
    }
    let remote = Remote::new();
    let extends = Arc::clone(&remote.extends);
    let store = Store::new(remote);
    let options = LockOptions::builder().ttl(TTL);
    let lock = Lock::with_options(&store, "job", options).unwrap();
    let guard = block_on(lock.try_acquire()).unwrap();
    let other = Lock::new(&store, "other");
    let other_guard = block_on(other.try_acquire()).unwrap();
    let mut waiter = Box::pin(other.acquire());
    for _ in 0..20 {
        assert!(poll_boxed(&mut waiter, 1).is_none());
        thread::sleep(Duration::from_millis(1));
    }

    // All that keeps the store in use goes with the child's copy of it.
    let (guards, waiters, handles) = (
        AssertUnwindSafe([guard, other_guard]),
        AssertUnwindSafe(waiter),
        (store, lock, other),
    );
    let mut inherited = Some((guards, waiters, handles));
    let well = in_child(|| {
        let (AssertUnwindSafe([guard, other]), waiter, handles) = inherited.take().unwrap();
        let is_lost = !guard.is_valid() && poll_boxed(&mut Box::pin(guard.lost()), 1).is_some();
        let ended = poll_boxed(&mut Box::pin(guard.release()), 1);
        let is_refused = matches!(ended, Some(Err(ReleaseError::Lost)));
        drop((other, waiter));
        drop(handles);
        is_lost && is_refused
    });
    assert!(
        well,
        "in the child the guard is lost, and all is dropped without harm"
    );

    let (AssertUnwindSafe([guard, other]), _, _) = inherited.as_ref().unwrap();
    let before = extends.load(Ordering::SeqCst);
    eventually("the parent renews", || {
        extends.load(Ordering::SeqCst) >= before + 4
    });
    assert!(guard.is_valid() && other.is_valid());
}

/// A child can acquire for itself, through a store that lets it.
#[test]
fn a_child_acquires_with_threads_of_its_own() {
    if !is_alone("aio::fork::a_child_acquires_with_threads_of_its_own") {
        return;
    }
    let store = Store::new(Unblock::new(MemoryDatastore::new()));
    let lock = Lock::new(&store, "job");
    block_on(block_on(lock.try_acquire()).unwrap().release()).unwrap();
    let well = in_child(|| {
        let Ok(guard) = block_on(lock.try_acquire()) else {
            return false;
        };
        let is_valid = guard.is_valid();
        drop(guard);
        block_on(store.settled());
        is_valid && block_on(lock.try_acquire()).is_ok()
    });
    assert!(well);
    drop(block_on(lock.try_acquire()).unwrap());
}

/// Whether a future was refused because another process made it, with a word on what to do.
fn is_refused(error: &AcquireError) -> bool {
    let AcquireError::Datastore(error) = error else {
        return false;
    };
    let is_clear = error.to_string().contains("acquire the lock anew");
    error.kind() == ErrorKind::Unsupported && !error.may_have_executed() && is_clear
}

/// A store each call of which suspends, with its observer.
fn suspending() -> (Odd, Store, Events) {
    let odd = Odd::new(How::Suspend).polled_by_caller(true);
    let events = Events::default();
    let store = Store::builder(odd.clone()).observer(events.observer());
    (odd, store.build(), events)
}

/// The flow of the future has the parent's owner token: if parent and child both went on with it,
/// both would hold the lock.
#[test]
fn a_child_that_polls_an_inherited_future_is_refused_and_its_parent_goes_on() {
    let name = "a_child_that_polls_an_inherited_future_is_refused_and_its_parent_goes_on";
    if !is_alone(&format!("aio::fork::{name}")) {
        return;
    }
    let (odd, store, events) = suspending();
    let lock = Lock::new(&store, "job");
    for times in 0..3 {
        let mut acquire = Box::pin(lock.acquire());
        assert!(poll_boxed(&mut acquire, times).is_none());
        let before = odd.calls.load(Ordering::SeqCst);
        let child = AssertUnwindSafe(&mut acquire);
        assert!(in_child(|| {
            let AssertUnwindSafe(acquire) = child;
            let refused = |polled| matches!(polled, Some(Err(error)) if is_refused(&error));
            let again = refused(poll_boxed(acquire, 1)) && refused(poll_boxed(acquire, 1));
            again && odd.calls.load(Ordering::SeqCst) == before
        }));

        let guard = block_on(acquire).unwrap();
        let mut release = Box::pin(guard.release());
        assert!(poll_boxed(&mut release, times).is_none());
        let before = odd.calls.load(Ordering::SeqCst);
        let child = AssertUnwindSafe(&mut release);
        assert!(in_child(|| {
            let AssertUnwindSafe(release) = child;
            let is_lost = matches!(poll_boxed(release, 1), Some(Err(ReleaseError::Lost)));
            is_lost && odd.calls.load(Ordering::SeqCst) == before
        }));
        block_on(release).unwrap();
    }
    nothing_is_left("after the children", &odd, &store, &events);
}

#[test]
fn a_child_never_begins_or_marks_a_job_that_its_parent_began() {
    if !is_alone("aio::fork::a_child_never_begins_or_marks_a_job_that_its_parent_began") {
        return;
    }
    let (odd, store, events) = suspending();
    let lock = Lock::new(&store, "job");
    let day = Duration::from_secs(86_400);
    let mut runs_at_fork = Vec::new();
    for times in 1.. {
        let runs = AtomicUsize::new(0);
        let import = async |_: &_| Ok::<_, ()>(runs.fetch_add(1, Ordering::SeqCst));
        let job = times.to_string();
        let mut once = Box::pin(lock.once(&job, day, import));
        if poll_boxed(&mut once, times).is_some() {
            break;
        }
        let (calls, ran) = (
            odd.calls.load(Ordering::SeqCst),
            runs.load(Ordering::SeqCst),
        );
        let mark = Inspect::holder(&odd.memory, &format!("dlock:job%once:{job}")).unwrap();
        let is_marked = mark.is_some_and(|mark| mark.holder().is_some_and(Holder::is_done));
        let child = AssertUnwindSafe(&mut once);
        let well = in_child(|| {
            let AssertUnwindSafe(once) = child;
            let is_as_it_should_be = match poll_boxed(once, 1) {
                Some(Err(error)) => ran == 0 && is_refused(&error),
                Some(Ok(Ok(OnceOutcome::RanUnmarked(_)))) => ran == 1,
                // The parent has learned of it before the fork.
                Some(Ok(Ok(OnceOutcome::Ran(_)))) => ran == 1 && is_marked,
                _ => false,
            };
            let did_nothing = odd.calls.load(Ordering::SeqCst) == calls;
            is_as_it_should_be && did_nothing && runs.load(Ordering::SeqCst) == ran
        });
        assert!(
            well,
            "polled {times} times, ran {ran} times, marked: {is_marked}"
        );
        runs_at_fork.push((ran, is_marked));
        assert_eq!(block_on(once).unwrap(), Ok(OnceOutcome::Ran(0)));
    }
    for moment in [(0, false), (1, false), (1, true)] {
        assert!(runs_at_fork.contains(&moment), "{runs_at_fork:?}");
    }
    nothing_is_left("after the children", &odd, &store, &events);
}
