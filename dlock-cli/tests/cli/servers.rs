//! Stores on servers that are down, stopped, of another protocol, or want a password.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::support::{
    Place, await_handler, code, dlock, ended, output, runs, spawn, status_of, stderr,
};
use dlock_test_servers::{RedisCluster, RedisServer, SentinelSet};

fn run(store: &str, arguments: &[&str], script: &str) -> Command {
    let mut command = dlock();
    command
        .args(["run", "--store", store])
        .args(arguments)
        .args(["--", "sh", "-c", script]);
    command
}

/// Asserts that the store could not be used, and that the message names it without a password.
fn unusable(output: &Output, place: &str) -> String {
    let said = stderr(output);
    assert_eq!(code(output), 69, "{said}");
    let expected = format!("dlock: cannot lock job in {place}");
    assert!(said.starts_with(&expected), "{said}");
    assert!(said.contains("the command was not started"), "{said}");
    assert!(!said.contains("secret"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

/// A port on which no server listens, and that the system gives to none by itself.
const UNUSED_PORT: u16 = 1;

#[test]
fn a_server_that_is_not_there_gives_69() {
    for scheme in ["redis", "memcache", "etcd"] {
        let url = format!("{scheme}://127.0.0.1:{UNUSED_PORT}");
        unusable(&output(&mut run(&url, &["job"], "true")), &url);
        let quiet = output(&mut run(
            &url,
            &["--unreachable-exit-code", "0", "job"],
            "true",
        ));
        assert_eq!((code(&quiet), stderr(&quiet)), (0, String::new()));
    }
}

#[test]
fn passwords_are_not_shown() {
    let server = RedisServer::builder().password("right").start();
    let address = server.address();
    let url = format!("redis://:secret@{address}/");
    unusable(
        &output(&mut run(&url, &["job"], "true")),
        &format!("redis://***@{address}/"),
    );

    let url = format!("redis://user:secret@127.0.0.1:{UNUSED_PORT}/0?pass=secret");
    let refused = output(&mut run(&url, &["job"], "true"));
    assert!(!stderr(&refused).contains("secret"), "{}", stderr(&refused));

    let url = format!("redis://:right@{address}/");
    assert_eq!(code(&output(&mut run(&url, &["job"], "true"))), 0);
}

#[test]
fn a_server_that_speaks_something_else_gives_69() {
    for (scheme, answer) in [
        ("redis", "HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("redis", "\x00\x01\u{1b}[2Jgarbage"),
        ("memcache", "HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("memcache", "ERROR\r\n"),
        ("etcd", "HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("etcd", "\x00\x01\u{1b}[2Jgarbage"),
        (
            "etcd",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot \u{1b}here",
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let said = unusable(&output(&mut run(&url, &["job"], "true")), &url);
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }
}

#[test]
fn the_wait_for_a_server_that_does_not_answer_ends() {
    let server = RedisServer::start();
    server.pause();
    let start = Instant::now();
    unusable(
        &output(&mut run(&server.url(), &["job"], "true")),
        "redis://",
    );
    assert!(start.elapsed() < Duration::from_secs(20));
    server.resume();
}

#[test]
fn a_wait_outlasts_a_restart_of_the_server() {
    let mut server = RedisServer::start();
    server.kill();
    let mut waiter = run(&server.url(), &["--wait", "30s", "job"], "true")
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    server.start_again();
    assert_eq!(status_of(&mut waiter).code(), Some(0));
}

#[test]
fn a_command_is_ended_when_its_server_is_gone() {
    let place = Place::new();
    let mut server = RedisServer::start();
    let arguments = ["--ttl", "9s", "job"];
    let script = "trap '' TERM; echo $$ >pid; while :; do sleep 0.02; done";
    let child = spawn(run(&server.url(), &arguments, script).current_dir(place.path("")));
    let pid = place.await_pid("pid");
    server.kill();
    let output = ended(child);
    assert_eq!(code(&output), 70, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("could not be renewed"),
        "{}",
        stderr(&output)
    );
    assert!(!runs(pid));
}

#[test]
fn a_key_that_holds_something_else_is_left_alone() {
    let server = RedisServer::start();
    server.command(["RPUSH", "dlock:job", "precious"]);
    let said = unusable(
        &output(&mut run(&server.url(), &["job"], "true")),
        "redis://",
    );
    assert!(said.contains("no lock client wrote"), "{said}");
    assert_eq!(server.command(["LLEN", "dlock:job"]).integer(), Some(1));

    server.command(["SET", "dlock:plain", "somebody", "NX", "PX", "60000"]);
    let refused = output(&mut run(&server.url(), &["plain"], "true"));
    assert_eq!(code(&refused), 75);
    assert!(stderr(&refused).contains("(key dlock:plain in redis://"));
    let said = stderr(&refused);
    assert!(
        said.contains("plain is held by an unknown holder, at most "),
        "{said}"
    );
}

#[test]
fn a_lock_that_does_not_expire_is_reported_with_how_to_free_it() {
    let server = RedisServer::start();
    server.command(["SET", "dlock:job", "somebody", "NX"]);
    let refused = output(&mut run(&server.url(), &["job"], "true"));
    let said = stderr(&refused);
    assert_eq!(code(&refused), 75, "{said}");
    assert!(
        said.contains("job is held by an unknown holder, and does not expire"),
        "{said}"
    );
    assert!(
        said.contains("delete the key dlock:job in redis://127.0.0.1:"),
        "{said}"
    );
}

/// The unanswered call ends later, at its own deadline. The signal does not wait for that.
#[test]
fn a_signal_ends_a_wait_at_once_though_the_server_hangs() {
    for (arguments, job) in [
        (&["--wait", "forever", "job"] as &[&str], "the wait"),
        (&["job"], "the one try"),
        (
            &["--wait", "forever", "--once", "j", "job"],
            "the wait for a job",
        ),
    ] {
        let server = RedisServer::start();
        server.pause();
        // The machine may be busy, so take the fastest of several runs.
        let fastest = (0..5).filter_map(|_| {
            let place = Place::new();
            let spawned = Instant::now();
            let child =
                spawn(run(&server.url(), arguments, "touch ran").current_dir(place.path("")));
            await_handler(&child, rustix::process::Signal::TERM);
            std::thread::sleep(Duration::from_millis(300));
            let start = Instant::now();
            crate::support::kill_child(&child, rustix::process::Signal::TERM);
            let output = ended(child);
            let took = start.elapsed();
            assert!(!place.path("ran").exists());
            // One try ends by itself, a second after its start.
            let was_over = job == "the one try" && start - spawned > Duration::from_millis(900);
            if was_over && code(&output) == 69 {
                return None;
            }
            assert_eq!(code(&output), 128 + 15, "{job}: {}", stderr(&output));
            Some(took)
        });
        let fastest = fastest.min().expect("one signal comes in time");
        assert!(
            fastest < Duration::from_secs(1),
            "{job} ended after {fastest:?}"
        );
        server.resume();
        // An entry in the queue or a lease that was left behind ends by itself.
        let next = output(&mut run(&server.url(), &["--wait", "40s", "job"], "true"));
        assert_eq!(code(&next), 0, "{}", stderr(&next));
    }
}

#[test]
fn a_lock_is_kept_in_the_primary_that_sentinels_name_and_on_its_replicas() {
    let set = SentinelSet::builder()
        .replicas(1)
        .sentinels(1)
        .password("secret")
        .start();
    let url = format!("{}?wait_replicas=1&wait_within=600ms", set.url());
    let held = "redis-cli -s \"$SOCKET\" --no-auth-warning -a secret get dlock:job";
    let mut command = run(&url, &["--wait", "40s", "job"], held);
    // That of the replica.
    command.env("SOCKET", set.node(1).socket());
    let ran = output(&mut command);
    let record = String::from_utf8_lossy(&ran.stdout);
    assert_eq!(code(&ran), 0, "{}", stderr(&ran));
    assert!(record.len() > 32, "the replica has it: {record}");

    let unknown = url.replace("/locks", "/lokcs");
    let failed = output(&mut run(&unknown, &["job"], "true"));
    let said = stderr(&failed);
    assert_eq!(code(&failed), 64, "a mistake in the URL: {said}");
    assert!(
        said.contains("`lokcs`") && !said.contains("secret"),
        "{said}"
    );
}

#[test]
fn a_url_that_is_wrong_gives_64() {
    for url in [
        "redis://",
        "redis://host:port/",
        "redis://host/database",
        "redis+sentinel://host,host2",
        "redis://host/0?wait_replicas=0",
        "memcache://",
        "memcache://host:1:2",
        "etcd://",
        "etcd://host/path",
        "etcds://host?ca=/no/such/file",
        "etcds://host?cert=/path/to/client.crt",
        "postgres://host/database",
        "postgres://app@host/?sslmode=allow",
        "postgres://app@host/?sslrootcert=/no/such/file",
        "http://host/",
        "redis:secret",
    ] {
        let run = output(&mut run(url, &["job"], "true"));
        let said = stderr(&run);
        assert_eq!(code(&run), 64, "{url}: {said}");
        assert!(
            said.starts_with("dlock: ") && said.lines().count() == 1,
            "{said}"
        );
    }
}

#[cfg(feature = "tls")]
#[test]
fn stores_over_tls_are_stores() {
    use dlock_test_servers::{EtcdServer, PostgresServer, TlsCertificate};

    let etcd = EtcdServer::start_requiring_certificates();
    let (certificate, key) = (etcd.client_certificate_file(), etcd.client_key_file());
    let etcd_url = format!("{}?ca={}", etcd.tls_url(), etcd.ca_file().display());
    let identity = format!("&cert={}&key={}", certificate.display(), key.display());
    let postgres = PostgresServer::start_with_tls(TlsCertificate::Signed);
    postgres.sql(dlock_postgres::MIGRATION);
    let ca = postgres.ca_file();
    let postgres_url = format!("{}?sslrootcert={}", postgres.url(), ca.display());
    for url in [&format!("{etcd_url}{identity}"), &postgres_url] {
        let script = r#"test "$DLOCK_FENCING_TOKEN" -gt 0"#;
        let ran = output(&mut run(url, &["job"], script));
        assert_eq!((code(&ran), stderr(&ran)), (0, String::new()), "{url}");
    }
    // One who is not believed, and one who does not believe us.
    let foreign = format!(
        "{}?sslrootcert={}",
        postgres.url(),
        etcd.ca_file().display()
    );
    let shown = format!("postgres://***@{}/***?***", postgres.address());
    let said = unusable(&output(&mut run(&foreign, &["job"], "true")), &shown);
    assert!(said.contains("?sslrootcert="), "{said}");
    let failed = output(&mut run(&etcd_url, &["job"], "true"));
    let said = stderr(&failed);
    assert_eq!(code(&failed), 64, "a part of the URL is missing: {said}");
    assert!(said.contains("?cert="), "{said}");
}

#[test]
fn a_time_that_the_store_cannot_keep_gives_64() {
    for (scheme, ttl) in [
        ("redis", "9999d"),
        ("memcache", "10ms"),
        ("memcache", "31d"),
        ("etcd", "1s"),
    ] {
        let url = format!("{scheme}://127.0.0.1:1");
        let run = output(&mut run(&url, &["--ttl", ttl, "job"], "true"));
        assert_eq!(code(&run), 64, "{scheme} {ttl}: {}", stderr(&run));
        assert!(stderr(&run).contains("ttl"), "{}", stderr(&run));
    }
}

#[test]
fn a_cluster_is_a_store() {
    let cluster = RedisCluster::builder().password("secret").start();
    for name in ["one", "two", "three", "four"] {
        let script = r#"test "$DLOCK_FENCING_TOKEN" -gt 0"#;
        let ran = output(&mut run(&cluster.url(), &[name], script));
        assert_eq!((code(&ran), stderr(&ran)), (0, String::new()));
    }
    let wrong = cluster.url().replacen("secret", "secret-not", 1);
    let shown = wrong.replacen(":secret-not@", "***@", 1);
    unusable(&output(&mut run(&wrong, &["job"], "true")), &shown);
    let other = format!("{}/1", cluster.url());
    let refused = output(&mut run(&other, &["job"], "true"));
    assert!(
        stderr(&refused).contains("database 0 alone"),
        "{}",
        stderr(&refused)
    );
}
