//! `dlock doctor` finds what endangers locks, on servers and in folders that were set up wrongly on
//! purpose, and nothing on good ones.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::time::Duration;

use dlock_test_servers::{MemcachedServer, RedisBuilder, RedisCluster, RedisServer, SentinelSet};
use serde_json::Value;

use crate::rewriting_proxy::RewritingProxy;
use crate::support::{Place, code, dlock, output, stderr, wait_until};

fn doctor(url: &str) -> Command {
    let mut command = dlock();
    command.args(["doctor", "--store", url]);
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The exit code and what was found, each as `severity: what`. If a server did not answer in time,
/// which no test here is about, it is asked again.
fn found_by(command: &mut Command) -> (i32, Vec<String>) {
    command.arg("--json");
    let is_late = |(_, found): &(i32, Vec<String>)| {
        found
            .iter()
            .any(|what| what.contains("did not answer in time"))
    };
    let mut examined = (0..5).map(|_| found_once(command));
    let in_time = examined.find(|found| !is_late(found));
    in_time.expect("the server answers in time")
}

fn found_once(command: &mut Command) -> (i32, Vec<String>) {
    let shown = output(command);
    assert_eq!(stderr(&shown), "");
    let answer: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let findings = answer["findings"].as_array().unwrap().iter();
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let lines = findings.map(|finding| {
        assert!(!text(finding, "why").is_empty() && !text(finding, "remedy").is_empty());
        format!("{}: {}", text(finding, "severity"), text(finding, "what"))
    });
    (code(&shown), lines.collect())
}

fn found(url: &str) -> (i32, Vec<String>) {
    found_by(&mut doctor(url))
}

#[track_caller]
fn finds_nothing(url: &str) {
    assert_eq!(found(url), (0, Vec::new()));
    let shown = output(&mut doctor(url));
    let text = stdout(&shown);
    assert!(
        text.contains("nothing that endangers locks was found; it answers in "),
        "{text}"
    );
    assert!(!text.contains("not checked"), "{text}");
}

/// That this is found, and nothing else.
#[track_caller]
fn finds(url: &str, expected: i32, words: &[&str]) {
    assert_found(&found(url), expected, words);
}

#[track_caller]
fn assert_found((code, found): &(i32, Vec<String>), expected: i32, words: &[&str]) {
    assert_eq!(*code, expected, "{found:?}");
    assert_eq!(found.len(), words.len(), "{found:?}");
    for (found, words) in found.iter().zip(words) {
        assert!(
            found.contains(words),
            "{found:?} does not contain {words:?}"
        );
    }
}

fn good() -> RedisBuilder {
    RedisServer::builder().config("appendonly", "yes")
}

#[test]
fn nothing_is_found_on_a_good_redis() {
    finds_nothing(&good().start().url());
}

#[test]
fn nothing_is_found_on_a_good_set_with_sentinels() {
    let set = SentinelSet::builder()
        .config("appendonly", "yes")
        .config("min-replicas-to-write", "1")
        .start();
    finds_nothing(&set.url());
}

#[test]
fn nothing_is_found_on_a_good_cluster_and_each_node_is_looked_at() {
    let cluster = RedisCluster::builder().config("appendonly", "yes").start();
    finds_nothing(&cluster.url());
    cluster
        .node(2)
        .config_set("maxmemory-policy", "allkeys-random");
    finds(&cluster.url(), 1, &["is allkeys-random"]);
}

#[test]
fn nothing_is_found_on_a_good_memcached() {
    finds_nothing(&MemcachedServer::start().url());
}

#[test]
fn nothing_is_found_in_a_good_folder() {
    let place = Place::new();
    finds_nothing(&place.store());
}

#[test]
fn an_eviction_policy_is_found_and_is_worse_if_the_memory_is_limited() {
    let server = good().start();
    server.config_set("maxmemory-policy", "volatile-lru");
    finds(
        &server.url(),
        1,
        &["warning: maxmemory-policy of 127.0.0.1:"],
    );
    server.config_set("maxmemory", "100mb");
    finds(&server.url(), 2, &["is volatile-lru"]);
    let text = stdout(&output(&mut doctor(&server.url())));
    assert!(text.starts_with("danger: maxmemory-policy of "), "{text}");
    assert!(
        text.contains("\n  why: when its memory is short, "),
        "{text}"
    );
    assert!(
        text.contains("\n  do: CONFIG SET maxmemory-policy noeviction"),
        "{text}"
    );
    assert!(text.contains("dangers: 1, warnings: 0"), "{text}");
}

#[test]
fn a_redis_without_room_is_found() {
    let server = good().start();
    let used = server.command(["INFO", "memory"]).text().unwrap();
    let used = used
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    let used: u64 = used.unwrap().trim().parse().unwrap();
    // Less than it uses, so that it refuses claims.
    server.config_set("maxmemory", &(used / 2).to_string());
    finds(&server.url(), 2, &["says: OOM", "% of its maxmemory"]);
}

#[test]
fn a_redis_that_keeps_nothing_on_its_disk_is_found() {
    let server = RedisServer::start();
    finds(&server.url(), 2, &["keeps nothing on its disk"]);
    server.config_set("save", "60 1");
    finds(&server.url(), 1, &["keeps snapshots alone"]);
}

#[test]
fn a_redis_that_cannot_write_to_its_disk_is_found() {
    let server = good().start();
    // Nothing can be put in the place of a folder that is not empty.
    let folder = server.socket().parent().unwrap().join("dump.rdb");
    fs::create_dir_all(folder.join("full")).unwrap();
    server.command(["BGSAVE"]);
    wait_until("the failure", || {
        let info = server.command(["INFO", "persistence"]).text()?;
        info.contains("rdb_last_bgsave_status:err").then_some(())
    });
    finds(&server.url(), 2, &["could not write to its disk"]);
}

#[test]
fn replicas_without_a_minimum_are_found_unless_the_url_waits_for_them() {
    let set = SentinelSet::builder().config("appendonly", "yes").start();
    finds(
        &set.url(),
        2,
        &["has 2 replicas, and min-replicas-to-write is 0"],
    );
    // However long the replicas take to acknowledge.
    let waits = found(&format!("{}?wait_replicas=1&wait_within=600ms", set.url()));
    let is_about_it = |what: &String| what.contains("min-replicas-to-write");
    assert!(!waits.1.iter().any(is_about_it), "{waits:?}");
    let replica = set.node((set.primary() + 1) % set.nodes());
    let found = found(&replica.url());
    assert_eq!(found.0, 2);
    assert!(
        found.1.iter().any(|what| what.ends_with(" is a replica")),
        "{found:?}"
    );
}

#[test]
fn a_clock_that_is_off_is_found() {
    let server = good().clock_step().start();
    finds_nothing(&server.url());
    server.step_clock_forward(Duration::from_secs(90));
    let ahead = found(&server.url());
    assert_eq!(ahead.0, 1);
    assert!(ahead.1[0].contains("s ahead of ours"), "{ahead:?}");
    server.step_clock_back(Duration::from_secs(180));
    let behind = found(&server.url());
    assert!(behind.1[0].contains("s behind ours"), "{behind:?}");
    let server = MemcachedServer::start();
    let proxy = RewritingProxy::to(server.address(), "STAT time 1", "STAT time 2");
    finds(
        &format!("memcache://{}", proxy.address()),
        1,
        &["s ahead of ours"],
    );
}

#[test]
fn a_user_with_too_few_rights_is_found() {
    let locks = "resetchannels -@all ~dlock:* ~{dlock:*}:* +eval +evalsha +time +get +set +incr \
                 +incrby +pexpire +pexpiretime +pttl +del";
    let queues = "&dlock:wake:* +exists +subscribe +publish +zadd +zrem +zrange +zscore +zcard \
                  +hget +hset +hdel +hlen +hgetall";
    let server = good()
        .user("none", "pw", "-@all ~* +time")
        .user("locks", "pw", locks)
        .user("waits", "pw", &format!("{locks} {queues}"))
        .user(
            "doctor",
            "pw",
            &format!("{locks} {queues} +info +config|get"),
        )
        .start();
    let url = |user| server.url_of(user, "pw");
    let none = found(&url("none"));
    assert_eq!(none.0, 2);
    assert!(
        none.1[0].contains("could not be acquired") && none.1[0].contains("NOPERM"),
        "{none:?}"
    );
    finds(
        &url("locks"),
        1,
        &["may not call INFO", "may not subscribe"],
    );
    finds(&url("waits"), 1, &["may not call INFO"]);
    finds_nothing(&url("doctor"));
}

#[test]
fn a_server_that_is_too_old_is_found() {
    let server = good().start();
    let info = server.command(["INFO", "server"]).text().unwrap();
    let (now, old) = match info.contains("redis_version:7.") {
        true => ("redis_version:7.", "redis_version:5."),
        false => ("redis_version:6.", "redis_version:5."),
    };
    let proxy = RewritingProxy::to(server.address(), now, old);
    finds(
        &format!("redis://{}/", proxy.address()),
        2,
        &["is Redis 5."],
    );
    let server = MemcachedServer::start();
    let proxy = RewritingProxy::to(server.address(), "version 1.6.", "version 1.5.");
    finds(
        &format!("memcache://{}", proxy.address()),
        2,
        &["locks need 1.6 or newer"],
    );
}

#[test]
fn a_memcached_that_evicts_is_found() {
    let server = MemcachedServer::start_with(&["-m", "2"]);
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let value = "x".repeat(10_000);
    for number in 0..5_000 {
        let line = format!(
            "set key-{number} 0 0 {} noreply\r\n{value}\r\n",
            value.len()
        );
        stream.write_all(line.as_bytes()).unwrap();
    }
    wait_until("evictions", || {
        (server.stats()["evictions"] != "0").then_some(())
    });
    let found = found(&server.url());
    assert_eq!(found.0, 2);
    assert!(found.1[0].contains(" has evicted "), "{found:?}");
}

#[test]
fn a_memcached_without_cas_numbers_is_found() {
    let server = MemcachedServer::start_with(&["-C"]);
    finds(&server.url(), 2, &["start it without -C"]);
}

#[test]
fn a_server_that_is_gone_is_found() {
    finds("redis://127.0.0.1:1/", 2, &["the store cannot be reached"]);
    finds(
        "memcache://127.0.0.1:1/",
        2,
        &["the store cannot be reached"],
    );
}

/// The list of file systems that is compared has those of networks in it; this one is at hand.
#[test]
fn a_folder_on_a_file_system_that_keeps_no_locks_is_found() {
    let found = found("file:/proc");
    assert_eq!((found.0, found.1.len()), (2, 1), "{found:?}");
    assert!(found.1[0].contains("is on procfs"), "{found:?}");
}

#[test]
fn a_folder_that_others_may_write_is_found() {
    let place = Place::new();
    finds_nothing(&place.store());
    for (mode, code, words) in [
        (0o770, 1, "warning: the group of the folder may write in "),
        (0o777, 2, "danger: every user of this host may write in "),
    ] {
        fs::set_permissions(place.path("locks"), Permissions::from_mode(mode)).unwrap();
        finds(&place.store(), code, &[words]);
    }
    fs::set_permissions(place.path("locks"), Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(place.path(""), Permissions::from_mode(0o777)).unwrap();
    finds(
        &place.store(),
        2,
        &["every user of this host may write in "],
    );
}

#[test]
fn the_default_folder_is_found_if_others_may_write_in_it() {
    let place = Place::new();
    let folder = place.path("dlock");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    let found = found_by(doctor("file:").env("XDG_STATE_HOME", place.path("")));
    assert_found(&found, 2, &["others than its owner may write in it"]);
}

/// A small disk of its own, which only this command sees.
#[test]
fn a_full_disk_is_found() {
    let place = Place::new();
    fs::create_dir(place.path("disk")).unwrap();
    let script = "mount -t tmpfs -o size=2m,mode=700 none disk && mkdir -m 700 disk/locks && \
                  { \"$@\" >before; echo $? >code; head -c 4m /dev/zero >disk/file 2>/dev/null; \
                  exec \"$@\"; }";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_dlock")]);
    let folder = format!("file:{}", place.path("disk/locks").display());
    command.args(["doctor", "--store", &folder]);
    command
        .current_dir(place.path(""))
        .env("XDG_CONFIG_HOME", "/nonexistent");
    let (full, found) = found_by(&mut command);
    assert_eq!(place.read("code"), "0\n", "{}", place.read("before"));
    assert_eq!(full, 2, "{found:?}");
    let is_full = |what: &String| what.contains("the disk of ") && what.contains(" is full");
    assert!(found.iter().any(is_full), "{found:?}");
}

#[test]
fn a_wrong_command_line_or_url_is_no_finding() {
    let wrong = output(&mut doctor("nonsense://x"));
    assert_eq!((code(&wrong), stdout(&wrong)), (64, String::new()));
    let wrong = output(dlock().args(["doctor", "--no-such-option"]));
    assert_eq!(code(&wrong), 64);
}

/// What it leaves behind is what each lock leaves.
#[test]
fn its_own_lock_is_free_afterwards_and_a_second_doctor_does_not_disturb() {
    let server = good().start();
    let both = [doctor(&server.url()), doctor(&server.url())];
    let both = both.map(|mut command| crate::support::spawn(&mut command));
    for child in both {
        assert_eq!(code(&crate::support::ended(child)), 0);
    }
    assert_eq!(server.keys(), ["{dlock:dlock-doctor}:fence"]);
}
