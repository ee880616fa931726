//! Nothing stays behind. One test, since it counts what the whole process has.
#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use support::{Behaviour, pool, serve};

const LONG: Duration = Duration::from_secs(20);

fn count(what: &str) -> usize {
    fs::read_dir(format!("/proc/self/{what}")).map_or(0, Iterator::count)
}

#[test]
fn the_threads_and_connections_of_a_pool_end_with_it() {
    let server = serve(Behaviour::Echo);
    let first = pool(&server, 2);
    assert_eq!(first.ask(LONG, "a").unwrap(), "a");
    drop(first);
    let own_threads = || {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        tasks
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .filter(|name| name.starts_with("dlock-pool"))
            .count()
    };
    for _ in 0..20 {
        let pool = pool(&server, 2);
        assert_eq!(pool.ask(LONG, "a").unwrap(), "a");
        assert_eq!(pool.ask_dedicated(LONG, "a").unwrap(), "a");
        assert!(own_threads() >= 1);
    }
    server.cut_all();
    // The server's side of a connection, a file and a thread of this process too, ends a moment later.
    let start = Instant::now();
    while own_threads() > 0 || count("fd") > 16 {
        let left = (own_threads(), count("fd"));
        assert!(start.elapsed() < LONG, "threads and files left: {left:?}");
        thread::sleep(Duration::from_millis(10));
    }
}
