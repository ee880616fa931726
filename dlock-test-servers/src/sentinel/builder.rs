//! What a set is started with, and how it is started.

use std::time::Duration;

use super::{SentinelSet, USUAL_HELLO, set_hello};
use crate::{RedisBuilder, RedisServer, Reply};

pub(super) const SERVICE: &str = "locks";
/// While the sentinels get to know each other.
const HASTY_HELLO: Duration = Duration::from_millis(50);

/// How to start a [`SentinelSet`].
#[derive(Debug, Clone)]
pub struct SentinelBuilder {
    replicas: usize,
    sentinels: usize,
    down_after: Duration,
    pub(super) password: Option<String>,
    pub(super) sentinel_password: Option<String>,
    #[cfg(feature = "tls")]
    tls: bool,
    settings: Vec<(String, String)>,
}

impl Default for SentinelBuilder {
    fn default() -> Self {
        SentinelBuilder {
            replicas: 2,
            sentinels: 3,
            down_after: Duration::from_secs(1),
            password: None,
            sentinel_password: None,
            #[cfg(feature = "tls")]
            tls: false,
            settings: Vec::new(),
        }
    }
}

impl SentinelBuilder {
    /// With this many replicas. Default 2.
    #[must_use]
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self
    }

    /// With this many sentinels, of which a majority must agree. Default 3.
    #[must_use]
    pub fn sentinels(mut self, count: usize) -> Self {
        self.sentinels = count;
        self
    }

    /// With a failover after the primary was silent for this long. Default a second.
    #[must_use]
    pub fn down_after(mut self, time: Duration) -> Self {
        self.down_after = time;
        self
    }

    /// With a password for the default user of the nodes.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// With a password for the default user of the sentinels.
    #[must_use]
    pub fn sentinel_password(mut self, password: &str) -> Self {
        self.sentinel_password = Some(password.to_owned());
        self
    }

    /// With TLS between all of them, and with clients.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// With a line of the nodes' configuration files: `("min-replicas-to-write", "1")`.
    #[must_use]
    pub fn config(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the set, and waits until the replicas have what the primary has and the sentinels
    /// know each other.
    ///
    /// # Panics
    ///
    /// If one of them cannot be started.
    pub fn start(self) -> SentinelSet {
        let first = self.node(None).start();
        let mut nodes = vec![first];
        for _ in 0..self.replicas {
            let replica = self.node(nodes.first());
            nodes.push(replica.start());
        }
        let mut set = SentinelSet {
            nodes,
            sentinels: Vec::new(),
            options: self,
        };
        set.wait_for_replicas(0, set.options.replicas);
        set.sentinels = (0..set.options.sentinels)
            .map(|_| {
                set.options
                    .sentinel(&set.nodes[0], set.port_of(&set.nodes[0]))
            })
            .collect();
        for sentinel in &set.sentinels {
            set_hello(sentinel, HASTY_HELLO);
            // Since Redis 7. Otherwise a node that came back is looked at after ten seconds.
            sentinel.try_command(["SENTINEL", "DEBUG", "INFO-PERIOD", "200"]);
        }
        set.wait("the sentinels", || {
            set.sentinels.iter().all(|at| set.knows_all(at))
        });
        for sentinel in &set.sentinels {
            set_hello(sentinel, USUAL_HELLO);
        }
        set
    }

    /// A node that replicates `primary`.
    fn node(&self, primary: Option<&RedisServer>) -> RedisBuilder {
        let mut node = RedisServer::builder().config("repl-diskless-sync-delay", "0");
        if let Some(password) = &self.password {
            node = node.password(password).config("masterauth", password);
        }
        node = self.with_tls(node, primary);
        for (name, value) in &self.settings {
            node = node.config(name, value);
        }
        match primary {
            Some(primary) => {
                let port = primary.tls_address().map_or(primary.port(), |at| at.port());
                node.config("replicaof", &format!("127.0.0.1 {port}"))
            }
            None => node,
        }
    }

    fn sentinel(&self, primary: &RedisServer, port: u16) -> RedisServer {
        let of = |value: &dyn std::fmt::Display| format!("{SERVICE} {value}");
        let quorum = self.sentinels / 2 + 1;
        let millis = self.down_after.as_millis();
        let mut sentinel = self
            .with_tls(RedisServer::builder(), Some(primary))
            .config(
                "sentinel monitor",
                &of(&format!("127.0.0.1 {port} {quorum}")),
            )
            .config("sentinel down-after-milliseconds", &of(&millis))
            // After a vote that nobody won it takes twice this time to the next.
            .config("sentinel failover-timeout", &of(&millis.max(2000)));
        if let Some(password) = &self.password {
            sentinel = sentinel.config("sentinel auth-pass", &of(password));
        }
        if let Some(password) = &self.sentinel_password {
            sentinel = sentinel
                .password(password)
                .config("sentinel sentinel-pass", password);
        }
        sentinel.is_sentinel = true;
        sentinel.start()
    }

    #[cfg(feature = "tls")]
    fn with_tls(&self, server: RedisBuilder, like: Option<&RedisServer>) -> RedisBuilder {
        if !self.tls {
            return server;
        }
        let server = match like {
            Some(other) => server.tls_of(other),
            None => server.tls(),
        };
        server.config("tls-replication", "yes")
    }

    #[cfg(not(feature = "tls"))]
    fn with_tls(&self, server: RedisBuilder, _: Option<&RedisServer>) -> RedisBuilder {
        server
    }
}

impl SentinelSet {
    /// Whether a sentinel knows all replicas and all other sentinels.
    fn knows_all(&self, sentinel: &RedisServer) -> bool {
        let count = |what| match sentinel.command(["SENTINEL", what, SERVICE]) {
            Reply::List(all) => all.len(),
            _ => 0,
        };
        count("REPLICAS") == self.options.replicas
            && count("SENTINELS") + 1 == self.options.sentinels
    }
}
