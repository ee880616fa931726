//! The smallest rights that work, and what must never be shown.

use std::thread;
use std::time::Duration;

use dlock_core::{Datastore, ErrorKind, Lock};
use dlock_redis::{ConnectionManager, RedisDatastore};
use dlock_test_servers::{RedisServer, Reply};

use crate::scripted::micros_now;
use crate::support::*;

/// As the documentation gives them: for locks, and for queues besides.
const KEYS: &str = "resetchannels -@all ~dlock:* ~{dlock:*}:*";
const COMMANDS: [&str; 11] = [
    "+eval",
    "+evalsha",
    "+time",
    "+get",
    "+set",
    "+incr",
    "+incrby",
    "+pexpire",
    "+pexpiretime",
    "+pttl",
    "+del",
];
/// Without it claims cost the server more.
const FASTER: &str = "+pexpiretime";
const CHANNELS: &str = "&dlock:wake:*";
const QUEUE_COMMANDS: [&str; 13] = [
    "+exists",
    "+subscribe",
    "+publish",
    "+zadd",
    "+zrem",
    "+zrange",
    "+zscore",
    "+zcard",
    "+hget",
    "+hset",
    "+hdel",
    "+hlen",
    "+hgetall",
];

/// How often a waiting process heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);

fn rules(commands: &[&str]) -> String {
    format!("{KEYS} {CHANNELS} {}", commands.join(" "))
}

fn all_commands() -> Vec<&'static str> {
    COMMANDS.into_iter().chain(QUEUE_COMMANDS).collect()
}

/// Everything that the store does, on a server that knows no script.
fn do_everything(store: &RedisDatastore) -> Result<(), dlock_core::DatastoreError> {
    for _ in 0..2 {
        // The next token is one of another millisecond.
        thread::sleep(Duration::from_millis(5));
        let claim = claim(KEY);
        let lease = dlock_core::Lease::new(claim.clone(), granted_or(store.acquire(&claim, TTL)?));
        drop(store.acquire(&claim, TTL * 2)?);
        refused(Ok(store.acquire(&crate::support::claim(KEY), TTL)?));
        drop(store.extend(&call(&lease, 2), TTL * 3)?);
        drop(store.extend(&call(&lease, 1), TTL)?);
        for answer in store.extend_many(&[(call(&lease, 3), TTL)]) {
            drop(answer?);
        }
        let _ = store.release(&call(&lease, 4))?;
        store.abandon(&claim)?;
    }
    Ok(())
}

fn granted_or(attempt: dlock_core::AcquireOutcome) -> dlock_core::Grant {
    granted(Ok(attempt))
}

#[test]
fn the_documented_rights_are_enough() {
    let documented = [
        &format!("{KEYS} {}", COMMANDS.join(" ")),
        &format!("{CHANNELS} {}", QUEUE_COMMANDS.join(" ")),
    ];
    for page in [
        include_str!("../../src/lib.rs"),
        include_str!("../../README.md"),
    ] {
        for line in documented {
            assert!(page.contains(line), "{line}");
        }
    }
    let server = RedisServer::builder()
        .user("app", "pw", &rules(&all_commands()))
        .start();
    do_everything(&patient(&server.url_of("app", "pw"))).unwrap();
    wait_for_locks(&server);
    assert_eq!(denied(&server), Reply::List(Vec::new()));
}

/// Everything that waiters do, theirs and what others do for them, once under a user with these
/// rights.
fn wait_for_locks(server: &RedisServer) {
    let url = server.url_of("app", "pw");
    let (holder, waiter) = (Lock::new(patient(&url), "import"), patient(&url));
    let holding = holder.try_acquire();
    // A process that died long ago, with a waiter before ours, and more that left none.
    let process = |n: u32| format!("{n:016x}");
    let dead = format!("{:032x}{}", 7, process(0));
    server.command(["ZADD", QUEUE, "1", &dead]);
    for n in 0..40 {
        server.command(["HSET", HEARTBEATS, &process(n), "1 1 somebody"]);
    }
    thread::scope(|scope| {
        let waiting = scope.spawn(|| Lock::new(waiter, "import").acquire_within(HEARTBEAT * 8));
        thread::sleep(HEARTBEAT * 4);
        drop(holding);
        // Without some of the rights it fails; that is not the question.
        drop(waiting.join().unwrap());
    });
}

/// What the server refused for want of a right.
fn denied(server: &RedisServer) -> Reply {
    server.command(["ACL", "LOG"])
}

#[test]
fn each_of_the_documented_rights_is_needed_by_waiters() {
    for some in QUEUE_COMMANDS.chunks(5) {
        thread::scope(|scope| {
            for missing in some {
                scope.spawn(|| is_needed_by_waiters(missing));
            }
        });
    }
}

fn is_needed_by_waiters(missing: &str) {
    let mut fewer = all_commands();
    fewer.retain(|right| *right != missing);
    let server = RedisServer::builder()
        .user("app", "pw", &rules(&fewer))
        .start();
    wait_for_locks(&server);
    let denied = format!("{:?}", denied(&server));
    let command = missing.trim_start_matches('+');
    assert!(denied.contains(command), "{missing}: {denied}");
}

#[test]
fn who_may_not_subscribe_polls_and_who_may_not_publish_releases() {
    let server = RedisServer::builder()
        .user("app", "pw", &format!("{KEYS} {}", COMMANDS.join(" ")))
        .start();
    let url = server.url_of("app", "pw");
    let lock = Lock::new(patient(&url), "import");
    let guard = lock.try_acquire().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| Lock::new(patient(&url), "import").acquire_within(LONG));
        thread::sleep(Duration::from_millis(300));
        assert_eq!(server.keys(), [KEY, FENCE], "no queue");
        guard.release().unwrap();
        waiting.join().unwrap().unwrap().release().unwrap();
    });
    let everything_but_channels = rules(&all_commands()).replace(CHANNELS, "");
    let server = RedisServer::builder()
        .user("app", "pw", &everything_but_channels)
        .start();
    let holder = Lock::new(patient(&server.url_of("app", "pw")), "import");
    let guard = holder.try_acquire().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| Lock::new(store(&server), "import").acquire_within(LONG));
        until("somebody waits", || {
            server.keys().contains(&QUEUE.to_owned())
        });
        guard.release().unwrap();
        // Handed over by the release, and found by the waiter's next look.
        waiting.join().unwrap().unwrap().release().unwrap();
    });
}

#[test]
fn each_of_the_documented_rights_is_needed() {
    for missing in COMMANDS {
        let fewer: Vec<_> = COMMANDS
            .into_iter()
            .filter(|right| *right != missing)
            .collect();
        let server = RedisServer::builder()
            .user("app", "pw", &rules(&fewer))
            .start();
        let done = do_everything(&patient(&server.url_of("app", "pw")));
        if missing == FASTER {
            done.unwrap();
            continue;
        }
        let error = done.expect_err(missing);
        assert_eq!(error.kind(), ErrorKind::Refused, "{missing}: {error:?}");
    }
}

/// What a fence holds before a claim that needs a right which others do not.
enum Fenced {
    /// Nothing.
    Not,
    /// The token of the last grant.
    ByGrant,
    /// The token of a clock that was set back by an hour since.
    Ahead,
    /// The same, kept for a minute more.
    AheadForAMinute,
}

impl Fenced {
    fn prepare(&self, server: &RedisServer) {
        let ahead = (micros_now() + 3_600_000_000).to_string();
        match self {
            Fenced::Not => {}
            Fenced::ByGrant => {
                let other = store(server);
                assert!(released(&other, &acquired(&other, &claim(KEY))));
                // A token of a new millisecond is an increment.
                thread::sleep(Duration::from_millis(5));
            }
            Fenced::Ahead => drop(server.command(["SET", FENCE, &ahead])),
            Fenced::AheadForAMinute => drop(server.command(["SET", FENCE, &ahead, "EX", "60"])),
        }
    }
}

#[test]
fn a_claim_that_lacks_a_right_leaves_no_lock_behind() {
    let day = Duration::from_secs(86_400);
    for (missing, fenced, keep) in [
        (&["+incr"][..], Fenced::ByGrant, None),
        (&["+incrby"], Fenced::ByGrant, None),
        (&["+time"], Fenced::Not, None),
        (&["+time", "+pexpiretime"], Fenced::ByGrant, None),
        (&["+pexpire"], Fenced::ByGrant, Some(day)),
        (&["+pexpire"], Fenced::AheadForAMinute, None),
        (&["+pttl"], Fenced::Ahead, None),
    ] {
        let server = RedisServer::builder()
            .user("app", "pw", &rules(&COMMANDS))
            .start();
        fenced.prepare(&server);
        let builder = RedisDatastore::builder(&server.url_of("app", "pw")).unwrap();
        let builder = builder.call_timeout(LONG).connect_timeout(LONG);
        let builder = match keep {
            Some(time) => builder.fence_keep(time).unwrap(),
            None => builder,
        };
        let store = builder.build();
        // A connection cannot be opened without the right to TIME.
        warm(&store);
        for right in missing {
            server.command(["ACL", "SETUSER", "app", &right.replace('+', "-")]);
        }
        let error = store.acquire(&claim(KEY), TTL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{missing:?}: {error:?}");
        assert!(!error.may_have_executed(), "{missing:?}: {error:?}");
        let left: &[&str] = match fenced {
            Fenced::Not => &[],
            _ => &[FENCE],
        };
        let keys = server.keys().into_iter().filter(|key| key.contains(KEY));
        assert_eq!(keys.collect::<Vec<_>>(), left, "{missing:?}");
    }
}

/// What is granted and then taken back, since somebody waits, must not stay.
#[test]
fn a_claim_that_lacks_the_right_to_delete_ends_at_once_where_somebody_waits() {
    let fewer: Vec<_> = all_commands()
        .into_iter()
        .filter(|right| *right != "+del")
        .collect();
    let server = RedisServer::builder()
        .user("app", "pw", &rules(&fewer))
        .start();
    server.command(["SET", FENCE, "17 +"]);
    let error = patient(&server.url_of("app", "pw"))
        .acquire(&claim(KEY), TTL)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    until("it has ended", || !server.keys().contains(&KEY.to_owned()));
}

#[test]
fn a_key_that_the_user_may_not_touch_is_refused() {
    let server = RedisServer::builder()
        .user("app", "pw", &rules(&COMMANDS))
        .start();
    let store = patient(&server.url_of("app", "pw"));
    let error = store.acquire(&claim("other:import"), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(!error.may_have_executed());
    assert!(server.keys().is_empty());
}

#[test]
fn a_login_that_fails_is_refused_and_shows_no_password() {
    let server = RedisServer::builder().password("r1ght-s3cret").start();
    let host = server.address();
    for url in [
        format!("redis://{host}/"),
        format!("redis://:wr0ng-s3cret@{host}/"),
        format!("redis://nobody:wr0ng-s3cret@{host}/"),
    ] {
        let error = patient(&url).acquire(&claim(KEY), TTL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{url}");
        assert!(!error.may_have_executed());
        assert!(
            !whole_text(&error).contains("s3cret"),
            "{}",
            whole_text(&error)
        );
    }
}

#[test]
fn a_password_for_a_server_without_one_is_refused_in_the_servers_words() {
    let server = RedisServer::start();
    let host = server.address();
    for (url, words) in [
        (format!("redis://:s3cret@{host}/"), "without any password"),
        (format!("redis://app:s3cret@{host}/"), "WRONGPASS invalid"),
    ] {
        let error = patient(&url).acquire(&claim(KEY), TTL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{url}");
        let text = whole_text(&error);
        assert!(text.contains(words) && !text.contains("s3cret"), "{text}");
    }
}

#[test]
fn no_password_is_shown_by_debug_or_by_any_error() {
    let mut server = RedisServer::builder().password("s3cret").start();
    let url = server.url();
    assert!(url.contains("s3cret"));
    let builder = RedisDatastore::builder(&url).unwrap();
    let manager = ConnectionManager::new(&url).unwrap();
    let shown = format!("{builder:?} {manager:?} {:?}", builder.clone().build());
    assert!(!shown.contains("s3cret"), "{shown}");

    let store = patient(&url);
    warm(&store);
    let lock = Lock::new(store.clone(), "import");
    assert!(!format!("{lock:?}").contains("s3cret"));
    server.kill();
    let error = store.acquire(&claim(KEY), TTL).unwrap_err();
    assert!(
        !whole_text(&error).contains("s3cret"),
        "{}",
        whole_text(&error)
    );
    assert!(
        !lock
            .try_acquire()
            .unwrap_err()
            .to_string()
            .contains("s3cret")
    );
}

#[test]
fn a_server_that_repeats_the_arguments_does_not_make_us_show_them() {
    let server = RedisServer::builder()
        .config("rename-command AUTH", "\"\"")
        .config("rename-command EVALSHA", "\"\"")
        .start();
    let host = server.address();
    let error = patient(&format!("redis://app:s3cret@{host}/"))
        .acquire(&claim(KEY), TTL)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        !whole_text(&error).contains("s3cret"),
        "{}",
        whole_text(&error)
    );

    let claim = claim(KEY);
    let error = patient(&server.url()).acquire(&claim, TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let token = claim.owner().to_string();
    assert!(
        !whole_text(&error).contains(&token),
        "{}",
        whole_text(&error)
    );
}

#[test]
fn the_owner_token_is_in_no_error_and_no_answer() {
    let (server, proxy, store) = warm_behind_proxy();
    let claim = claim_within(KEY, Duration::from_millis(200));
    let token = claim.owner().to_string();
    proxy.replies(dlock_test_servers::faults::Fault::Hold);
    let error = store.acquire(&claim, TTL).unwrap_err();
    assert!(!whole_text(&error).contains(&token));
    drop(server);
    proxy.heal();
    let error = store.acquire(&crate::support::claim(KEY), TTL).unwrap_err();
    assert!(!whole_text(&error).contains(&token));
}
