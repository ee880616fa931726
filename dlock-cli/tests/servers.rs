//! Stores that are servers, when they are down, stopped, strange, or want a password.

#![allow(clippy::unwrap_used)]
#![cfg(all(feature = "redis", feature = "memcache"))]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::{Place, code, dlock, output, runs, spawn, stderr};
use dlock_testkit::servers::RedisServer;

fn run(store: &str, arguments: &[&str], script: &str) -> Command {
    let mut command = dlock();
    command
        .args(["run", "--store", store])
        .args(arguments)
        .args(["--", "sh", "-c", script]);
    command
}

/// Asserts that the store could not be used, and that the message tells which and shows no password.
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

/// A port where nobody listens.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_server_that_is_not_there_gives_69() {
    let port = free_port();
    for scheme in ["redis", "memcache"] {
        let url = format!("{scheme}://127.0.0.1:{port}");
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
        &format!("redis://{address}/"),
    );

    let port = free_port();
    let url = format!("redis://user:secret@127.0.0.1:{port}/0?pass=secret");
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
fn a_server_that_does_not_answer_is_not_waited_for_without_end() {
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
    assert_eq!(waiter.wait().unwrap().code(), Some(0));
}

#[test]
fn a_command_is_ended_when_its_server_is_gone() {
    let place = Place::new();
    let mut server = RedisServer::start();
    let arguments = ["--ttl", "2s", "job"];
    let script = "trap '' TERM; echo $$ >pid; while :; do sleep 0.02; done";
    let child = spawn(run(&server.url(), &arguments, script).current_dir(place.path("")));
    let pid = place.await_pid("pid");
    server.kill();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 70, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("could not be renewed"),
        "{}",
        stderr(&output)
    );
    assert!(!runs(pid));
}

#[test]
fn a_key_that_something_else_sits_on_is_left_alone() {
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
    let said = stderr(&refused);
    assert!(
        said.contains("plain is held by an unknown holder, at most "),
        "{said}"
    );
}

#[test]
fn a_url_that_is_wrong_gives_64() {
    for url in [
        "redis://",
        "redis://host:port/",
        "redis://host/database",
        "memcache://",
        "memcache://host:1:2",
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

#[test]
fn a_time_that_the_store_cannot_keep_gives_64() {
    for (scheme, ttl) in [
        ("redis", "9999d"),
        ("memcache", "10ms"),
        ("memcache", "31d"),
    ] {
        let url = format!("{scheme}://127.0.0.1:1");
        let run = output(&mut run(&url, &["--ttl", ttl, "job"], "true"));
        assert_eq!(code(&run), 64, "{scheme} {ttl}: {}", stderr(&run));
        assert!(stderr(&run).contains("ttl"), "{}", stderr(&run));
    }
}
