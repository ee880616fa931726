//! The promises of the store on a healthy server.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;
use dlock_core::{AcquireOutcome, Datastore, ErrorKind, Extension, Lease};
use dlock_memcache::{ConnectionManager, MemcacheDatastore, r2d2};
use dlock_test_servers::MemcachedServer;
use dlock_test_servers::faults::Proxy;

#[test]
fn acquire_extend_and_release_are_one_command_and_one_round_trip_each() {
    let server = may_grant(MemcachedServer::start());
    let proxy = Proxy::to(server.address());
    let store = store_at(&format!("memcache://{}", proxy.address()));
    let warm = take(&store, &key("warm"), LONG);
    ours(store.release(&warm));

    let commands = || {
        let stats = server.stats();
        [
            "cmd_set",
            "cmd_get",
            "delete_hits",
            "delete_misses",
            "cmd_touch",
        ]
        .map(|stat| stats[stat].parse::<u64>().unwrap())
    };
    let key = key("counted");
    proxy.reset_counts();
    let before = commands();
    let lease = take(&store, &key, LONG);
    assert_eq!(proxy.counts().round_trips, 1, "acquire");
    let lease = lease.renewed(extended(store.extend(&lease, LONG)));
    assert_eq!(proxy.counts().round_trips, 2, "extend");
    ours(store.release(&lease));
    assert_eq!(proxy.counts().round_trips, 3, "release");
    let after = commands();
    let sent: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    assert_eq!(sent, [2, 0, 1, 0, 0], "two stores and one delete");
    assert_eq!(proxy.counts().connections, 0, "the warm one was used");
}

#[test]
fn a_batch_is_one_round_trip() {
    let server = server();
    let proxy = Proxy::to(server.address());
    let store = store_at(&format!("memcache://{}", proxy.address()));
    let leases: Vec<(Lease, Duration)> = (0..100)
        .map(|n| (take(&store, &key(&format!("batch-{n}")), LONG), LONG))
        .collect();
    // The first use of the connection for renewals.
    let _ = store.extend_many(&leases[..1]);
    let leases: Vec<_> = leases
        .iter()
        .map(|(lease, ttl)| (call(lease, 2), *ttl))
        .collect();
    proxy.reset_counts();
    let answers = store.extend_many(&leases[1..]);
    assert_eq!(proxy.counts().round_trips, 1);
    assert_eq!(answers.len(), 99);
    for answer in answers {
        extended(answer);
    }
}

#[test]
fn a_large_batch_is_answered_lease_by_lease() {
    let store = store(server());
    let leases: Vec<Lease> = (0..600)
        .map(|n| take(&store, &key(&format!("large-{n}")), LONG))
        .collect();
    // Each has the whole time of a call from now on.
    let mut leases: Vec<_> = leases.iter().map(|lease| (call(lease, 1), LONG)).collect();
    // Late copies of an older call and of the last one.
    for (n, sequence) in [(30, 4), (40, 5)] {
        let lease = &leases[n].0;
        let newer = lease.renewed(extended(store.extend(&call(lease, 5), LONG)));
        leases[n] = (call(&newer, sequence), Duration::from_secs(5));
    }
    // One lease is gone, one has another number, and one call comes too late.
    ours(store.release(&leases[10].0));
    extended(store.extend(&call(&leases[20].0, 5), LONG));
    leases[20].0 = call(&leases[20].0, 6);
    leases[300].0 = leases[300].0.for_call(1, dlock_core::Time::ZERO);
    let answers = store.extend_many(&leases);
    assert_eq!(answers.len(), 600);
    for (n, answer) in answers.into_iter().enumerate() {
        match n {
            10 => lost(answer),
            300 => {
                let error = answer.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Timeout);
                assert!(!error.may_have_executed());
            }
            30 | 40 => assert!(extended(answer).ttl > LONG / 2, "the longer time stands"),
            _ => assert_eq!(extended(answer).ttl, LONG, "{n}"),
        }
    }
}

#[test]
fn dlock_and_a_client_that_uses_plain_add_exclude_each_other() {
    let server = server();
    let store = store(server);

    let theirs = key("theirs");
    assert_eq!(foreign_add(server, &theirs, "1", 60), "STORED");
    let refused = held(store.acquire(&claim(&theirs), LONG));
    assert_eq!(
        refused.to_string().split(',').next(),
        Some("held by an unknown holder")
    );
    let left = refused.expires_in().unwrap();
    assert!(
        left > Duration::from_secs(50) && left <= Duration::from_secs(60),
        "{left:?}"
    );
    assert_eq!(
        value(server, &theirs).as_deref(),
        Some("1"),
        "it was left alone"
    );

    let ours_ = key("ours");
    let lease = take(&store, &ours_, LONG);
    assert_eq!(foreign_add(server, &ours_, "1", 60), "NOT_STORED");
    ours(store.release(&lease));
    assert_eq!(foreign_add(server, &ours_, "1", 60), "STORED");
}

#[test]
fn a_lock_of_another_client_that_does_not_expire_stays_held() {
    let server = server();
    let key = key("for-ever");
    assert_eq!(
        foreign_add(server, &key, "some text of theirs", 0),
        "STORED"
    );
    let refused = held(store(server).acquire(&claim(&key), LONG));
    assert_eq!(refused.expires_in(), None);
    assert_eq!(refused.holder(), None);
}

#[test]
fn a_huge_value_of_another_client_is_held_and_not_read_for_ever() {
    let server = server();
    let store = store(server);
    let key = key("huge");
    assert_eq!(
        foreign_add(server, &key, &"x".repeat(900_000), 60),
        "STORED"
    );
    for _ in 0..3 {
        assert_eq!(held(store.acquire(&claim(&key), LONG)).holder(), None);
    }
}

#[test]
fn a_refusal_says_who_holds_the_lock() {
    let store = store(server());
    let key = key("who");
    let lease = take(&store, &key, LONG);
    let refused = held(store.acquire(&claim(&key), LONG));
    assert!(refused.holder().unwrap().is_this_process());
    assert_eq!(refused.fence(), lease.fence());
    // The same holds after an extend, which writes the token into the record.
    let lease = lease.renewed(extended(store.extend(&lease, LONG)));
    let refused = held(store.acquire(&claim(&key), LONG));
    assert_eq!(refused.fence(), lease.fence());
    assert!(refused.expires_in().unwrap() >= LONG);
}

#[test]
fn a_repeated_claim_keeps_its_token_across_extends() {
    let store = store(server());
    let key = key("repeated");
    let claim = claim(&key);
    let first = granted(store.acquire(&claim, Duration::from_secs(5)));
    let second = granted(store.acquire(&again(&claim), LONG));
    assert_eq!(fence(&first), fence(&second));
    assert!(second.ttl >= LONG);
    // The repeat has stored the record again, with another CAS number, so the token is now in the
    // record.
    let third = granted(store.acquire(&again(&claim), LONG));
    assert_eq!(fence(&first), fence(&third));
    let lease = call(&Lease::new(claim.clone(), second), 3);
    let third = extended(store.extend(&lease, Duration::from_secs(60)));
    assert_eq!(fence(&first), fence(&third));
    let fourth = granted(store.acquire(&again(&claim), Duration::from_secs(30)));
    assert_eq!(fence(&first), fence(&fourth));
    assert!(
        fourth.ttl > Duration::from_secs(50),
        "it had more: {:?}",
        fourth.ttl
    );
    // The repeat keeps the order of calls.
    let lease = Lease::new(claim, fourth);
    let late = extended(store.extend(&call(&lease, 3), LONG));
    assert!(late.ttl <= Duration::from_secs(62), "{:?}", late.ttl);
}

#[test]
fn an_extend_by_an_older_grant_adopts_the_number_of_the_record() {
    let store = store(server());
    let lease = take(&store, &key("older"), LONG);
    // As if this answer were lost: the caller continues with the older grant.
    extended(store.extend(&call(&lease, 1), LONG));
    let grant = extended(store.extend(&call(&lease, 2), Duration::from_secs(60)));
    assert_eq!(grant.ttl, Duration::from_secs(60));
    assert_eq!(grant.fence, lease.fence());
    ours(store.release(&lease));
}

#[test]
fn a_late_copy_of_an_older_extend_changes_nothing() {
    let store = store(server());
    let key = key("late");
    let lease = take(&store, &key, LONG);
    let longer = lease.renewed(extended(store.extend(&call(&lease, 5), LONG)));
    for late in [
        store.extend(&call(&lease, 4), Duration::from_secs(5)),
        store.extend(&call(&longer, 5), Duration::from_secs(5)),
        store.extend(&call(&longer, 0), Duration::from_secs(5)),
    ] {
        let said = extended(late).ttl;
        assert!(
            said <= LONG && said > LONG - Duration::from_secs(60),
            "{said:?}"
        );
    }
    let left = held(store.acquire(&claim(&key), LONG))
        .expires_in()
        .unwrap();
    assert!(left > LONG - Duration::from_secs(60), "{left:?}");
}

#[test]
fn nobody_elses_lock_is_extended_released_or_confirmed() {
    let store = store(server());
    let key = key("stranger");
    let first = take(&store, &key, LONG);
    ours(store.release(&first));
    let second = take(&store, &key, LONG);
    assert!(second.fence() > first.fence());
    lost(store.extend(&call(&first, 9), LONG));
    lost(store.confirm(&call(&first, 9)));
    not_ours(store.release(&call(&first, 9)));
    extended(store.extend(&call(&second, 2), LONG));
}

#[test]
fn a_time_is_kept_at_least_as_long_as_it_was_granted() {
    let server = server();
    let ttls = [1000, 1001, 1400, 1999];
    let confirmed = AtomicUsize::new(0);
    thread::scope(|scope| {
        let confirmed = &confirmed;
        for round in 0..8 {
            for millis in ttls {
                scope.spawn(move || {
                    let ttl = Duration::from_millis(millis);
                    let store = store(server);
                    let key = key(&format!("kept-{round}-{millis}"));
                    // Claim at different moments of the server's second.
                    thread::sleep(Duration::from_millis(round * 125 + millis % 7));
                    let start = Instant::now();
                    let first = take(&store, &key, ttl);
                    // A server that stands still at this moment keeps it for less, and says so.
                    thread::sleep(store.characteristics().confirm_after.unwrap());
                    let asked = Instant::now();
                    let kept = match store.confirm(&first).unwrap() {
                        Extension::Extended(grant) => asked + grant.ttl - start,
                        Extension::Lost => Duration::ZERO,
                    };
                    let in_full = kept + Duration::from_millis(10) >= ttl;
                    confirmed.fetch_add(usize::from(in_full), Ordering::Relaxed);
                    let kept = if in_full { ttl } else { kept };
                    let end = start + Duration::from_secs(20);
                    loop {
                        let answer = store.acquire(&claim(&key), ttl);
                        let passed = start.elapsed();
                        match answer.unwrap() {
                            AcquireOutcome::Held(_) => {
                                assert!(Instant::now() < end, "never free");
                                thread::sleep(Duration::from_millis(20));
                            }
                            AcquireOutcome::Granted(second) => {
                                assert!(passed >= kept, "{kept:?} was gone after {passed:?}");
                                assert!(fence(&second) > first.fence().unwrap());
                                return;
                            }
                        }
                    }
                });
            }
        }
    });
    let confirmed = confirmed.into_inner();
    assert!(confirmed > 16, "{confirmed} of 32 were confirmed in full");
}

#[test]
fn a_thousand_leases_of_a_second_are_all_kept_for_a_second() {
    let server = server();
    let store = store(server);
    let ttl = Duration::from_secs(1);
    let look = |key: &str, since: Instant, stood_still: Duration| {
        // As late as possible, with a moment for the answer. By the time for which the server stood
        // still before, it may keep the key too short.
        let late = Duration::from_millis(970).saturating_sub(stood_still);
        thread::sleep(late.saturating_sub(since.elapsed()));
        let there = value(server, key).is_some();
        // A read that came too late proves nothing.
        since.elapsed() < ttl - stood_still.min(ttl) && !there
    };
    let (looked, hear) = std::sync::mpsc::channel::<(String, Instant, Duration)>();
    let (gone, seen) = thread::scope(|scope| {
        let looks = scope.spawn(move || {
            hear.into_iter()
                .fold((0, 0), |(gone, seen), (key, since, stood_still)| {
                    (gone + u32::from(look(&key, since, stood_still)), seen + 1)
                })
        });
        let pause = Duration::from_millis(3);
        // The longest time of one round in the last second, and when it was.
        let (mut last, mut longest) = (Instant::now(), (Duration::ZERO, Instant::now()));
        for n in 0..1000 {
            let key = key(&format!("second-{n}"));
            take(&store, &key, ttl);
            let now = Instant::now();
            let round = (now - last).saturating_sub(pause * 5);
            if round >= longest.0 || now - longest.1 > ttl {
                longest = (round, now);
            }
            last = now;
            looked.send((key, now, longest.0)).unwrap();
            thread::sleep(pause);
        }
        drop(looked);
        looks.join().unwrap()
    });
    assert_eq!((gone, seen), (0, 1000), "gone too early, looked at");
}

#[test]
fn times_that_the_server_would_take_for_something_else_are_refused() {
    let store = store(server());
    let key = key("times");
    let day = Duration::from_secs(86_400);
    for ttl in [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_micros(999),
        Duration::from_millis(999),
        30 * day - Duration::from_secs(1),
        30 * day,
        30 * day + Duration::from_secs(1),
        Duration::from_secs(1 << 32),
        Duration::MAX,
    ] {
        let error = store.acquire(&claim(&key), ttl).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{ttl:?}");
        assert!(!error.may_have_executed());
    }
    let longest = store.characteristics().ttl_max;
    assert_eq!(longest, 30 * day - Duration::from_secs(2));
    let lease = take(&store, &key, longest);
    let left = held(store.acquire(&claim(&key), LONG))
        .expires_in()
        .unwrap();
    assert!(left > 29 * day, "{left:?}");
    let error = store.extend(&lease, Duration::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    ours(store.release(&lease));
}

#[test]
fn a_name_cannot_inject_a_command() {
    let server = server();
    let store = store(server);
    let kept = take(&store, &key("kept"), LONG);
    for name in [
        "x\r\nflush_all",
        "x 0 60 1\r\n1",
        "x\0",
        "x y",
        "",
        "ключ",
        &"x".repeat(251),
    ] {
        let error = store.acquire(&claim(name), LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name:?}");
        assert!(!error.may_have_executed());
    }
    extended(store.extend(&kept, LONG));
}

#[test]
fn confirm_tells_what_the_server_keeps() {
    let store = store(server());
    let lease = take(&store, &key("confirmed"), Duration::from_secs(100));
    thread::sleep(Duration::from_millis(50));
    let grant = extended(store.confirm(&lease));
    // The server was on time, so the whole lease is confirmed, less the time since.
    assert!(
        grant.ttl <= Duration::from_millis(99_950),
        "{:?}",
        grant.ttl
    );
    assert!(grant.ttl > Duration::from_secs(80), "{:?}", grant.ttl);
    assert_eq!(grant.fence, lease.fence());
    extended(store.extend(&lease.renewed(grant), LONG));
    ours(store.release(&lease));
    lost(store.confirm(&lease));
}

#[test]
fn a_pool_of_the_callers_own_is_used() {
    let pool = r2d2::Pool::builder()
        .max_size(1)
        .min_idle(Some(0))
        .build_unchecked(ConnectionManager::new(&server().url()).unwrap());
    let store = MemcacheDatastore::from_pool(pool.clone()).with_call_timeout(CALL);
    let lease = take(&store, &key("own-pool"), LONG);
    assert!(pool.get().unwrap().is_open());
    ours(store.release(&lease));
}

#[cfg(unix)]
#[test]
fn a_unix_socket_is_used() {
    let folder = std::env::temp_dir().join(key("socket").replace(':', "-"));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("s");
    let socket = path.to_str().unwrap();
    // With a Unix socket the server listens on no port, so the usual helper cannot wait for it.
    let binary = std::env::var("DLOCK_MEMCACHED").unwrap_or("memcached".to_owned());
    let server = std::process::Command::new(binary)
        .args(["-u", "root", "-s", socket])
        .spawn();
    let mut server = server.expect("memcached runs; install it with: apt-get install memcached");
    let store = store_at(&format!("memcache+unix://{socket}"));
    let key = key("unix");
    let start = Instant::now();
    let lease = loop {
        let claim = claim(&key);
        match store.acquire(&claim, LONG) {
            Ok(AcquireOutcome::Granted(grant)) => break Lease::new(claim, grant),
            other => assert!(start.elapsed() < Duration::from_secs(20), "{other:?}"),
        }
        thread::sleep(Duration::from_millis(50));
    };
    let released = store.release(&call(&lease, 1));
    server.kill().unwrap();
    server.wait().unwrap();
    let _ = std::fs::remove_dir_all(&folder);
    ours(released);
}

#[test]
fn an_operator_sees_the_holder_and_breaks_exactly_that_lease() {
    let server = server();
    let store = store(server);
    let key = key("broken");
    let inspect = store.inspect().unwrap();
    assert!(inspect.holder(&key).unwrap().is_none());
    let first = take(&store, &key, LONG);
    let seen = inspect.holder(&key).unwrap().unwrap();
    assert!(seen.holder().unwrap().is_this_process());
    ours(inspect.break_lease(&key, seen.fence().unwrap()));
    lost(store.extend(&first, LONG));
    let second = take(&store, &key, LONG);
    not_ours(inspect.break_lease(&key, seen.fence().unwrap()));
    extended(store.extend(&second, LONG));
    // The record of another client is shown but not broken.
    let theirs = crate::support::key("theirs");
    assert_eq!(foreign_add(server, &theirs, "1", 60), "STORED");
    assert!(inspect.holder(&theirs).unwrap().unwrap().holder().is_none());
    not_ours(inspect.break_lease(&theirs, seen.fence().unwrap()));
}
