//! The suite that every store passes, through every way to a real server.

// The servers are started by means that only Unix has.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::OnceLock;
use std::time::Duration;

use dlock_redis::RedisDatastore;
use dlock_testkit::servers::RedisServer;
use dlock_testkit::{Subject, conformance};

/// A busy machine answers slowly, and is not what is tested here.
const CALL: Duration = Duration::from_secs(10);
/// The smallest that work, with the prefix of the suite's keys.
const RIGHTS: &str = "resetchannels -@all ~dlock* ~{dlock*}:* \
                      +eval +evalsha +time +get +set +incrby +pexpire +pttl +del +exists \
                      &dlock:wake:* +subscribe +publish \
                      +zadd +zrem +zrange +zscore +zcard +hget +hset +hdel +hlen +hgetall";

/// The server that all cases share: each has keys of its own.
fn server() -> &'static RedisServer {
    static SERVER: OnceLock<RedisServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        RedisServer::builder()
            .tls()
            .user("app", "pw", RIGHTS)
            .start()
    })
}

fn open(url: &str) -> RedisDatastore {
    RedisDatastore::builder(url)
        .unwrap()
        .call_timeout(CALL)
        .connect_timeout(CALL)
        .build()
}

/// The store at `url`. The keys that a foreign client writes stay for the server's life, which is short.
fn subject(url: String) -> Subject {
    let place = url.clone();
    Subject::new(move || open(&url))
        .at(place)
        .foreign_written_by(|_, key| {
            server().command(["RPUSH", key, "not a lock"]);
        })
}

conformance!(
    tcp,
    || subject(server().url()),
    reopen = |url: &str| open(url)
);
conformance!(
    unix_socket,
    || subject(server().unix_url()),
    reopen = |url: &str| open(url)
);
conformance!(
    tls,
    || subject(format!(
        "{}?ca={}",
        server().tls_url(),
        server().ca_file().display()
    )),
    reopen = |url: &str| open(url)
);
conformance!(
    acl_user,
    || subject(server().url_of("app", "pw")),
    reopen = |url: &str| open(url)
);
