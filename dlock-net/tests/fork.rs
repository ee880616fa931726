//! A forked child leaves its parent's connections alone.
#![cfg(unix)]

mod support;

use std::time::Duration;

use support::{Behaviour, LinesManager, Shared, pool, serve};

const LONG: Duration = Duration::from_secs(20);

/// Runs `child` in a forked process; whether it returned true.
#[allow(unsafe_code)]
fn in_child(child: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs `child` and leaves by `_exit`, without unwinding into the parent's test harness. glibc and the
    // BSDs make the allocator usable in the child of a process with threads.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0, "fork");
        if pid == 0 {
            let kept = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            libc::_exit(i32::from(!matches!(kept, Ok(true))));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
    }
}

#[test]
fn a_forked_child_opens_connections_of_its_own_and_leaves_the_parents_alone() {
    let server = serve(Behaviour::Echo);
    let pool = pool(&server, 2);
    assert_eq!(pool.ask(LONG, "a").unwrap(), "a");
    assert_eq!(pool.ask_dedicated(LONG, "b").unwrap(), "b");
    assert_eq!(server.connections(), 2);

    assert!(in_child(|| {
        pool.ask(LONG, "c").is_ok_and(|answer| answer == "c")
            && pool
                .ask_dedicated(LONG, "d")
                .is_ok_and(|answer| answer == "d")
    }));

    // The child's own two; the parent goes on with what it had.
    assert_eq!(server.connections(), 4);
    assert_eq!(pool.ask(LONG, "e").unwrap(), "e");
    assert_eq!(pool.ask_dedicated(LONG, "f").unwrap(), "f");
    assert_eq!(server.connections(), 4);
}

#[test]
fn a_forked_child_can_drop_the_pool() {
    let server = serve(Behaviour::Echo);
    let mut pool = Some(pool(&server, 2));
    assert_eq!(pool.as_ref().unwrap().ask(LONG, "a").unwrap(), "a");
    assert!(in_child(|| pool.take().is_some()));
    assert_eq!(pool.as_ref().unwrap().ask(LONG, "b").unwrap(), "b");
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_forked_child_of_a_callers_pool_works_once_the_pool_was_used() {
    let server = serve(Behaviour::Echo);
    let own = r2d2::Pool::builder()
        .max_size(2)
        .min_idle(Some(0))
        .build_unchecked(LinesManager(server.endpoint()));
    let pool = Shared(dlock_net::Pool::from_r2d2(own));
    assert!(in_child(|| {
        // Nobody in the child can make a place, and nobody has told the pool how to connect: an error, not a hang, and not one that
        // a waiter waits out.
        pool.ask(LONG, "a")
            .is_err_and(|error| !error.may_have_executed() && !error.is_transient())
    }));
    assert_eq!(pool.ask(LONG, "b").unwrap(), "b");
    assert!(in_child(|| pool.ask(LONG, "c").is_ok()));
}
