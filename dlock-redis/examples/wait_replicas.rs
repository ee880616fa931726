//! Measures what `wait_replicas` costs: a primary and two replicas on this machine, pairs of
//! acquire and release, with no replica waited for, with one and with both. The three take turns,
//! so their ratio holds on a machine whose speed changes.

#![allow(clippy::print_stdout, reason = "it prints its figures")]

#[cfg(unix)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::time::{Duration, Instant};

    use dlock_core::Lock;
    use dlock_redis::RedisDatastore;
    use dlock_test_servers::SentinelSet;

    const ROUNDS: usize = 3000;

    let set = SentinelSet::builder().replicas(2).sentinels(0).start();
    let url = set.node(0).url();
    let mut locks = Vec::new();
    for replicas in [0, 1, 2] {
        // Long limits, for a machine that does other things as well.
        let mut builder = RedisDatastore::builder(&url)?.call_timeout(Duration::from_secs(30));
        if replicas > 0 {
            builder = builder.wait_replicas(replicas, Duration::from_secs(10))?;
        }
        locks.push(Lock::new(builder.build(), format!("wait-{replicas}")));
    }
    let mut taken = vec![Vec::with_capacity(ROUNDS); locks.len()];
    for _ in 0..ROUNDS {
        for (lock, taken) in locks.iter().zip(&mut taken) {
            let start = Instant::now();
            lock.try_acquire()?.release()?;
            taken.push(start.elapsed());
        }
    }
    let median = |taken: &mut Vec<Duration>, part: usize| {
        taken.sort_unstable();
        taken[taken.len() * part / 100].as_secs_f64() * 1e6
    };
    let plain = median(&mut taken[0], 50);
    println!("| replicas waited for | pair, median | against none | 99 of 100 within |");
    println!("| --- | --- | --- | --- |");
    for (replicas, taken) in taken.iter_mut().enumerate() {
        let (half, most) = (median(taken, 50), median(taken, 99));
        let ratio = half / plain;
        println!("| {replicas} | {half:.0} µs | {ratio:.2} | {most:.0} µs |");
    }
    Ok(())
}

#[cfg(not(unix))]
fn main() {}
