//! A pool leaves no threads or files behind.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Behaviour, is_alone, pool, serve};

const LONG: Duration = Duration::from_secs(20);

fn count(what: &str) -> usize {
    fs::read_dir(format!("/proc/self/{what}")).map_or(0, Iterator::count)
}

#[test]
fn a_pool_needs_no_thread_and_its_connections_end_with_it() {
    // The test counts the threads and files of the whole process.
    if !is_alone("threads::a_pool_needs_no_thread_and_its_connections_end_with_it") {
        return;
    }
    let server = serve(Behaviour::Echo);
    let first = pool(&server, 2);
    assert_eq!(first.ask(LONG, "a").unwrap(), "a");
    drop(first);
    let own_threads = || {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        tasks
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .filter(|name| name.starts_with("dlock") || name.starts_with("r2d2"))
            .count()
    };
    for _ in 0..20 {
        let pool = pool(&server, 2);
        assert_eq!(pool.ask(LONG, "a").unwrap(), "a");
        assert_eq!(pool.ask_dedicated(LONG, "a").unwrap(), "a");
        assert_eq!(own_threads(), 0);
    }
    server.cut_all();
    // The server runs in this process too, and its side of a connection, with a file and a thread,
    // ends a moment later.
    let start = Instant::now();
    while own_threads() > 0 || count("fd") > 16 {
        let left = (own_threads(), count("fd"));
        assert!(start.elapsed() < LONG, "threads and files left: {left:?}");
        thread::sleep(Duration::from_millis(10));
    }
}
