//! What an operator sees and does at night, on each kind of store.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Output};

use dlock_test_servers::faults::Proxy;
use dlock_test_servers::{EtcdServer, MemcachedServer, PostgresServer, RedisServer};
use serde_json::Value;

use crate::support::{
    self, Place, await_end_of, code, dlock, kill_child, output, spawn, status_of, stderr,
    wait_until,
};

/// The stores that a command can reach, and what must stay until the test is over.
struct Stores {
    place: Place,
    redis: RedisServer,
    memcached: MemcachedServer,
    etcd: EtcdServer,
    postgres: PostgresServer,
}

impl Stores {
    fn start() -> Self {
        let postgres = PostgresServer::start();
        postgres.sql(dlock_postgres::MIGRATION);
        let stores = Stores {
            postgres,
            place: Place::new(),
            redis: RedisServer::start(),
            memcached: MemcachedServer::start(),
            etcd: EtcdServer::start(),
        };
        // memcached grants nothing in its first two seconds.
        assert_eq!(run(&stores.memcached.url(), &["first"]), 0);
        stores
    }

    fn urls(&self) -> [String; 5] {
        [
            self.place.store(),
            self.redis.url(),
            self.memcached.url(),
            self.etcd.url(),
            self.postgres.url(),
        ]
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// `dlock <verb and arguments> --store URL`.
fn ask(url: &str, arguments: &str) -> Output {
    let arguments = arguments.split_whitespace();
    output(dlock().args(arguments).args(["--store", url]))
}

/// `dlock run <arguments> --store URL`, with a command that succeeds. Returns the exit code. It
/// waits, as a server on a busy machine may not answer in the time of one try.
fn run(url: &str, arguments: &[&str]) -> i32 {
    let mut command = dlock();
    command.args(["run", "--store", url, "--wait", "60s"]);
    code(&output(command.args(arguments).args(["--", "true"])))
}

/// What the verb prints as JSON: a list.
fn json(url: &str, arguments: &str) -> Vec<Value> {
    let shown = ask(url, &format!("{arguments} --json"));
    assert_eq!((code(&shown), stderr(&shown)), (0, String::new()));
    serde_json::from_slice(&shown.stdout).unwrap()
}

/// A command under the lock `name`, which holds it until it is killed.
fn held(place: &Place, url: &str, name: &str, more: &str) -> Child {
    let mut command = dlock();
    let file = format!("pid-{}-{name}", url.split(':').next().unwrap());
    command
        .args(["run", "--store", url, "--ttl", "6s", "--wait", "60s"])
        .args(more.split_whitespace())
        .args([
            name,
            "--",
            "sh",
            "-c",
            &format!("echo $$ >{file}; exec sleep 60"),
        ])
        .current_dir(place.path(""));
    let child = spawn(&mut command);
    place.await_pid(&file);
    child
}

fn ended(mut child: Child) {
    kill_child(&child, rustix::process::Signal::TERM);
    status_of(&mut child);
}

#[test]
fn status_shows_who_holds_a_lock_and_exits_with_0_either_way() {
    let stores = Stores::start();
    for url in stores.urls() {
        let free = ask(&url, "status job");
        assert_eq!(code(&free), 0, "{}", stderr(&free));
        assert!(
            stdout(&free).starts_with("job: free (key dlock:job in "),
            "{}",
            stdout(&free)
        );
        assert!(
            stdout(&free).contains("tries to acquire it"),
            "{}",
            stdout(&free)
        );

        let holder = held(&stores.place, &url, "job", "--label nightly");
        let shown = stdout(&ask(&url, "status job other"));
        let by = format!(" pid {} (nightly) since ", holder.id());
        assert!(
            shown.starts_with("job: held by ") && shown.contains(&by),
            "{shown}"
        );
        assert!(shown.contains(" s more, token "), "{shown}");
        assert!(shown.contains("\nother: free"), "{shown}");

        let entries = json(&url, "status job other");
        assert_eq!(entries[0]["name"], "job");
        assert_eq!(entries[0]["state"], "held");
        assert_eq!(entries[0]["holder"]["pid"], holder.id());
        assert_eq!(entries[0]["holder"]["label"], "nightly");
        assert!(entries[0]["token"].as_u64().unwrap() > 0);
        assert!(entries[0]["expires_in_ms"].as_u64().unwrap() <= 10_000);
        let counts = !url.starts_with("memcache");
        assert_eq!(entries[0]["waiting"].as_u64(), counts.then_some(0));
        assert_eq!(entries[1]["state"], "free");
        assert!(entries[1]["holder"].is_null() && entries[1]["token"].is_null());
        ended(holder);
    }
}

#[test]
fn status_counts_who_waits() {
    let stores = Stores::start();
    for url in [stores.place.store(), stores.redis.url(), stores.etcd.url()] {
        let holder = held(&stores.place, &url, "job", "");
        let mut waiter = run_after(&url, "job", "true");
        wait_until("the waiter in the queue", || {
            (json(&url, "status job")[0]["waiting"] == 1).then_some(())
        });
        assert!(stdout(&ask(&url, "status job")).contains(", 1 waiting (key"));
        ended(holder);
        assert!(status_of(&mut waiter).success());
    }
}

fn run_after(url: &str, name: &str, script: &str) -> Child {
    let mut command = dlock();
    command.args([
        "run", "--store", url, "--wait", "60s", name, "--", "sh", "-c", script,
    ]);
    spawn(&mut command)
}

#[test]
fn a_lock_that_its_minimum_hold_time_keeps_is_shown_as_kept() {
    let stores = Stores::start();
    for url in stores.urls() {
        assert_eq!(run(&url, &["--min-hold", "60s", "job"]), 0);
        assert_eq!(json(&url, "status job")[0]["state"], "kept");
        let shown = stdout(&ask(&url, "status job"));
        assert!(
            shown.contains("job: kept until ") && shown.contains("whose work is over"),
            "{shown}"
        );
    }
}

#[test]
fn list_has_all_locks_that_are_held_and_the_jobs_that_are_done() {
    let stores = Stores::start();
    let [file, redis, _, etcd, postgres] = stores.urls();
    for url in [file, redis, etcd, postgres] {
        let none = ask(&url, "list");
        assert_eq!(code(&none), 0, "{}", stderr(&none));
        assert!(stdout(&none).starts_with("No key that starts with dlock: is held in "));

        let holders = ["import-a", "import-b", "report"].map(|n| held(&stores.place, &url, n, ""));
        assert_eq!(run(&url, &["--once", "12 h", "done"]), 0);
        let name = |entry: &Value| entry["name"].as_str().unwrap().to_owned();
        let names: Vec<_> = json(&url, "list import").iter().map(name).collect();
        assert_eq!(names, ["import-a", "import-b"]);
        let all = json(&url, "list");
        let names: Vec<_> = all.iter().map(name).collect();
        assert_eq!(names, ["done", "import-a", "import-b", "report"]);
        assert_eq!(
            (&all[0]["state"], &all[0]["job"]),
            (&"done".into(), &"12 h".into())
        );
        let shown = stdout(&ask(&url, "list"));
        assert!(shown.contains("done: job 12 h: done by "), "{shown}");
        assert!(shown.contains("\nreport: held by "), "{shown}");
        assert_eq!(json(&url, "list --prefix other").len(), 0);
        holders.into_iter().for_each(ended);
    }
    let refused = ask(&stores.memcached.url(), "list");
    assert_eq!(code(&refused), 69);
    assert!(
        stderr(&refused).contains("memcached cannot list its keys"),
        "{}",
        stderr(&refused)
    );
}

/// The night's work: a job hangs, its lease is broken, its command is ended, and the waiter runs.
#[test]
fn a_broken_lock_goes_to_the_waiter_and_its_holder_is_ended() {
    let stores = Stores::start();
    for url in stores.urls() {
        let holder = held(&stores.place, &url, "job", "");
        let file = format!("pid-{}-job", url.split(':').next().unwrap());
        let command = stores.place.await_pid(&file);
        let token = json(&url, "status job")[0]["token"].as_u64().unwrap();

        let wrong = ask(&url, &format!("break job --token {}", token + 1));
        assert_eq!(code(&wrong), 75, "{}", stderr(&wrong));
        let said = stderr(&wrong);
        assert!(said.contains("nothing was freed: it is held by "), "{said}");
        assert!(said.contains(&format!("token {token}")), "{said}");
        assert_eq!(json(&url, "status job")[0]["token"], token);

        let waiter = run_after(&url, "job", "echo $DLOCK_FENCING_TOKEN");
        let broken = ask(&url, &format!("break job --token {token}"));
        assert_eq!(code(&broken), 0, "{}", stderr(&broken));
        assert!(
            stdout(&broken)
                .starts_with(&format!("freed job, which was held with the token {token}"))
        );
        let waited = support::ended(waiter);
        assert!(waited.status.success(), "{}", stderr(&waited));
        let next: u64 = stdout(&waited).trim().parse().unwrap();
        assert!(next > token);

        let lost = support::ended(holder);
        assert_eq!(code(&lost), 70, "{}", stderr(&lost));
        await_end_of(command);

        let again = ask(&url, &format!("break job --token {token}"));
        assert_eq!(code(&again), 75);
        assert!(
            stderr(&again).contains("nobody holds it"),
            "{}",
            stderr(&again)
        );
    }
}

#[test]
fn a_job_that_was_forgotten_runs_again_and_no_other() {
    let stores = Stores::start();
    for url in stores.urls() {
        let run = |job: &str| run(&url, &["--once", job, "job"]);
        assert_eq!([run("mon"), run("tue"), run("mon")], [0, 0, 75]);
        assert_eq!(
            json(&url, "status job --once mon")[0]["job"]["state"],
            "done"
        );
        let shown = stdout(&ask(&url, "status job --once mon"));
        assert!(shown.contains("job: job mon: done by "), "{shown}");

        let forgot = ask(&url, "forget job --once mon");
        assert_eq!(code(&forgot), 0, "{}", stderr(&forgot));
        assert_eq!(
            stdout(&forgot),
            "forgot that job mon of job was done; it can run again\n"
        );
        let again = ask(&url, "forget job --once mon");
        assert_eq!(code(&again), 75);
        assert!(
            stderr(&again).contains("is not marked as done; nothing"),
            "{}",
            stderr(&again)
        );
        assert_eq!([run("tue"), run("mon")], [75, 0]);
    }
}

#[test]
fn a_job_that_runs_is_not_forgotten() {
    let stores = Stores::start();
    for url in stores.urls() {
        let holder = held(&stores.place, &url, "job", "--once mon");
        let refused = ask(&url, "forget job --once mon");
        assert_eq!(code(&refused), 75);
        let said = stderr(&refused);
        assert!(
            said.contains("job mon of job is not done: its mark is held by "),
            "{said}"
        );
        let shown = stdout(&ask(&url, "status job --once mon"));
        assert!(
            shown.contains("job: job mon: not done: begun and held by "),
            "{shown}"
        );
        ended(holder);
    }
}

#[test]
fn key_shows_the_key_and_whether_the_plain_name_is_excluded() {
    let stores = Stores::start();
    let [file, redis, memcached, etcd, postgres] = stores.urls();
    let shown = stdout(&ask(&redis, "key job"));
    assert_eq!(
        shown,
        "dlock:job\nA client that locks this key by SET with NX excludes dlock, and dlock excludes it.\n"
    );
    assert!(stdout(&ask(&memcached, "key job")).contains("by add excludes dlock"));
    assert!(stdout(&ask(&postgres, "key job")).contains("dlock.check"));
    assert!(stdout(&ask(&file, "key job")).starts_with("dlock:job\nNo client"));
    assert!(stdout(&ask(&etcd, "key job")).starts_with("dlock:job\nOnly dlock"));
    let odd = output(dlock().args(["key", "a b", "--prefix", "app", "--store", &redis]));
    let said = stdout(&odd);
    assert!(
        said.starts_with("app:a%20b\n") && said.contains("does not exclude dlock"),
        "{said}"
    );
}

#[test]
fn a_store_that_cannot_be_reached_gives_69() {
    for verb in [
        "status job",
        "list",
        "break job --token 1",
        "forget job --once x",
    ] {
        let failed = ask("redis://user:secret@127.0.0.1:1/", verb);
        let said = stderr(&failed);
        assert_eq!(code(&failed), 69, "{verb}: {said}");
        assert!(
            said.starts_with("dlock: cannot ") && !said.contains("secret"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    for wrong in [
        "status",
        "break job",
        "break job --token x",
        "forget job",
        "key",
    ] {
        let failed = output(dlock().args(wrong.split(' ')));
        assert_eq!(code(&failed), 64, "{wrong}: {}", stderr(&failed));
        assert_eq!(stderr(&failed).lines().count(), 1, "{}", stderr(&failed));
    }
}

/// What stands in front of the pages is a pipe that is not read: it takes only some of them.
#[test]
fn list_prints_each_page_before_it_asks_for_the_next() {
    const KEYS: u64 = 3000;
    let server = RedisServer::start();
    let script = "for i = 1, 3000 do redis.call('SET', 'dlock:job-' .. i, 'taken') end";
    server.command(["EVAL", script, "0"]);
    let proxy = Proxy::to(server.address());
    let url = format!("redis://{}/", proxy.address());
    for arguments in [&["list"][..], &["list", "--json"]] {
        let before = proxy.counts().round_trips;
        let mut child = spawn(dlock().args(arguments).args(["--store", &url]));
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        out.read_line(&mut text).unwrap();
        // It asks once for each key.
        let asked = proxy.counts().round_trips - before;
        assert!(asked < KEYS, "{asked}");
        out.read_to_string(&mut text).unwrap();
        assert!(status_of(&mut child).success());
        let lines = |words: &str| text.matches(words).count() as u64;
        match arguments.len() {
            1 => assert_eq!(lines("\njob-") + u64::from(text.starts_with("job-")), KEYS),
            _ => {
                let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
                assert_eq!(entries.len() as u64, KEYS);
            }
        }
    }
    // A reader that goes away ends it.
    let mut child = spawn(dlock().args(["list", "--store", &url]));
    drop(child.stdout.take());
    assert!(status_of(&mut child).success());
    assert!(json(&url, "list no-such").is_empty());
}
