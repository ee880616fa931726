//! The suite that every store passes, through every way to a real server.

use std::sync::OnceLock;
use std::time::Duration;

use dlock_redis::RedisDatastore;
use dlock_test_servers::RedisServer;
use dlock_testkit::{Subject, conformance};

/// A busy machine answers slowly, and is not what is tested here.
const CALL: Duration = Duration::from_secs(10);
/// The smallest that work on any server, with the prefix of the suite's keys.
pub(crate) const RIGHTS: &str = "resetchannels -@all ~dlock* ~{dlock*}:* \
                      +eval +evalsha +time +get +set +incr +incrby +pexpire +pttl +del +exists \
                      &dlock:wake:* +subscribe +publish \
                      +zadd +zrem +zrange +zscore +zcard +hget +hset +hdel +hlen +hgetall +scan";

/// The server that all cases share: each has keys of its own.
pub(crate) fn server() -> &'static RedisServer {
    static SERVER: OnceLock<RedisServer> = OnceLock::new();
    SERVER.get_or_init(|| RedisServer::builder().user("app", "pw", RIGHTS).start())
}

/// The same for the cases over TLS, which not every server is built with.
fn tls_server() -> &'static RedisServer {
    static SERVER: OnceLock<RedisServer> = OnceLock::new();
    SERVER.get_or_init(|| RedisServer::builder().tls().start())
}

pub(crate) fn open(url: &str) -> RedisDatastore {
    RedisDatastore::builder(url)
        .unwrap()
        .call_timeout(CALL)
        .connect_timeout(CALL)
        .build()
}

/// The store at `url`. The keys that a foreign client writes stay for the server's life, which is
/// short.
fn subject(url: String) -> Subject {
    subject_on(server, url)
}

fn subject_on(server: fn() -> &'static RedisServer, url: String) -> Subject {
    let place = url.clone();
    Subject::new(move || open(&url))
        .at(place)
        .foreign_written_by(move |_, key| {
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
    || {
        let server = tls_server();
        let (url, ca) = (server.tls_url(), server.ca_file());
        subject_on(tls_server, format!("{url}?ca={}", ca.display()))
    },
    reopen = |url: &str| open(url)
);
conformance!(
    acl_user,
    || subject(server().url_of("app", "pw")),
    reopen = |url: &str| open(url)
);
