//! A night on call: a job hangs, its lock is freed, the next server runs the job, and the guide
//! explains each message on the way.

use std::fs;
use std::process::{Child, Output};
use std::thread;

use dlock_test_servers::{MemcachedServer, RedisServer};
use serde_json::Value;

use crate::pages::page;
use crate::support::{Place, await_end_of, code, dlock, ended, output, spawn, stderr, wait_until};

/// The job of every server: `dlock run` with the figures in a file of that server.
fn job(place: &Place, url: &str, server: &str, more: &str, script: &str) -> Child {
    let mut command = dlock();
    command
        .args(["run", "--store", url, "--ttl", "6s", "--label", server])
        .arg("--metrics-file")
        .arg(place.path(&format!("{server}.prom")))
        .args(more.split_whitespace())
        .args(["payout", "--", "sh", "-c", script])
        .current_dir(place.path(""));
    spawn(&mut command)
}

/// `dlock <words> --store URL`, as the operator types it.
fn ask(url: &str, words: &str) -> Output {
    output(
        dlock()
            .args(words.split_whitespace())
            .args(["--store", url]),
    )
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What `status` says of the lock.
fn status(url: &str) -> Value {
    let shown = ask(url, "status payout --json");
    assert_eq!((code(&shown), stderr(&shown)), (0, String::new()));
    let mut entries: Vec<Value> = serde_json::from_slice(&shown.stdout).unwrap();
    entries.remove(0)
}

/// A figure of the file of this server, if it is there.
fn figure(place: &Place, server: &str, name: &str) -> Option<f64> {
    let text = place.read(&format!("{server}.prom"));
    let start = format!("dlock_run_last_{name}{{lock=\"payout\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&start))?;
    Some(value.parse().unwrap())
}

/// Checks that the message has these words, and that the page on troubleshooting explains them.
fn explained(message: &str, words: &str) {
    explained_by_one(message, &[words]);
}

/// Checks that the message has one of these texts, and that the page on troubleshooting explains
/// each of them.
fn explained_by_one(message: &str, texts: &[&str]) {
    let said = texts.iter().filter(|words| message.contains(**words));
    assert_eq!(said.count(), 1, "not one of {texts:?}: {message}");
    for words in texts {
        in_troubleshooting(words);
    }
}

/// Checks that the page on troubleshooting explains these words.
fn in_troubleshooting(words: &str) {
    let row = format!("| `{words}`");
    let page = page("docs/src/troubleshooting.md");
    assert!(
        page.lines().any(|line| line.starts_with(&row)),
        "the page on troubleshooting has no row {row}"
    );
}

/// The outage in one store.
fn night(url: &str) {
    let place = Place::new();
    let hanging = job(
        &place,
        url,
        "web-1",
        "--wait 120s", // memcached grants nothing in its first two seconds
        "echo $$ >pid; while :; do sleep 1; done",
    );
    let command = place.await_pid("pid");

    // The figures show a job that runs and does not end.
    wait_until("the figures of the start", || {
        figure(&place, "web-1", "start_time_seconds")
    });
    assert_eq!(figure(&place, "web-1", "success_time_seconds"), None);

    // Another server gives up, a third one waits.
    let refused = ended(job(&place, url, "web-2", "", "true"));
    assert_eq!(code(&refused), 75);
    explained(&stderr(&refused), "held by");
    let until_go = "echo >runs; while [ ! -e go ]; do sleep 0.05; done";
    let waiter = job(&place, url, "web-3", "--wait 120s", until_go);
    if !url.starts_with("memcache") {
        wait_until("the waiter", || (status(url)["waiting"] == 1).then_some(()));
    }

    // Who holds it?
    let shown = stdout(&ask(url, "status payout"));
    let by = format!(" pid {} (web-1) since ", hanging.id());
    assert!(shown.starts_with("payout: held by "), "{shown}");
    assert!(shown.contains(&by), "{shown}");
    let token = status(url)["token"].as_u64().unwrap();

    // A token that was mistyped frees nothing; the right one does.
    let wrong = ask(url, &format!("break payout --token {}", token + 1));
    assert_eq!(code(&wrong), 75);
    explained(&stderr(&wrong), "nothing was freed");
    assert_eq!(status(url)["token"], token);
    let broken = ask(url, &format!("break payout --token {token}"));
    assert_eq!((code(&broken), stderr(&broken)), (0, String::new()));
    assert!(
        stdout(&broken).starts_with("freed payout, "),
        "{}",
        stdout(&broken)
    );

    // The waiter runs the job. The job that hung is ended, and its figures show it.
    place.await_text("runs");
    let lost = ended(hanging);
    assert_eq!(code(&lost), 70);
    // The holder looks between the break and the next grant, or after both.
    let losses = [
        "was taken away before the lease ended",
        "was deleted before the lease ended",
    ];
    explained_by_one(&stderr(&lost), &losses);
    await_end_of(command);
    assert_eq!(figure(&place, "web-1", "exit_status"), Some(70.0));
    assert_eq!(figure(&place, "web-1", "success_time_seconds"), None);

    // The waiter's figures show its success, once it has ended.
    assert_eq!(figure(&place, "web-3", "success_time_seconds"), None);
    fs::write(place.path("go"), "").unwrap();
    let waited = ended(waiter);
    assert_eq!((code(&waited), stderr(&waited)), (0, String::new()));
    assert!(figure(&place, "web-3", "success_time_seconds").is_some());
    assert_eq!(figure(&place, "web-3", "exit_status"), Some(0.0));

    // A second try finds nothing to free.
    let again = ask(url, &format!("break payout --token {token}"));
    assert_eq!(code(&again), 75);
    explained(&stderr(&again), "nothing was freed");
    for message in [&refused, &wrong, &lost, &again].map(stderr) {
        assert_eq!(message.lines().count(), 1, "a message more: {message}");
    }
}

#[test]
fn a_job_that_hangs_at_night_is_found_freed_and_run_elsewhere_and_each_message_is_explained() {
    let folder = Place::new();
    let (redis, memcached) = (RedisServer::start(), MemcachedServer::start());
    thread::scope(|nights| {
        for url in [folder.store(), redis.url(), memcached.url()] {
            nights.spawn(move || night(&url));
        }
    });
}
