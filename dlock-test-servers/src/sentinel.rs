//! A primary with its replicas, and the sentinels that watch them.

mod builder;

use std::thread;
use std::time::{Duration, Instant};

use crate::{RedisServer, Reply};
pub use builder::SentinelBuilder;

/// A busy machine takes its time to elect a primary.
const PATIENCE: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(10);
/// What Redis sets by itself.
const USUAL_HELLO: Duration = Duration::from_secs(2);
/// The sentinels take an impostor for a replica once it has said so for this many of their hellos.
const HELLOS_OF_AN_IMPOSTOR: u32 = 4;

/// A primary with its replicas, and the sentinels that watch them: private processes that end with
/// the value.
///
/// ```no_run
/// use dlock_test_servers::SentinelSet;
///
/// let mut set = SentinelSet::start(); // a primary, two replicas, three sentinels
/// println!("{}", set.url()); // redis+sentinel://127.0.0.1:…,127.0.0.1:…,127.0.0.1:…/locks
/// let old = set.primary();
/// set.node_mut(old).kill();
/// let new = set.wait_for_another(old);
/// set.node_mut(old).restart_empty(); // says that it is a primary until the sentinels demote it
/// set.wait_for_replica(old);
/// # let _ = new;
/// ```
///
/// A node keeps nothing on disk, so one that is killed comes back empty.
pub struct SentinelSet {
    nodes: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
    options: SentinelBuilder,
}

impl SentinelSet {
    /// A primary, two replicas and three sentinels, which fail over when the primary was silent for
    /// a second.
    ///
    /// # Panics
    ///
    /// If one of them cannot be started.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A set with more than the bare minimum.
    pub fn builder() -> SentinelBuilder {
        SentinelBuilder::default()
    }

    /// The name under which the sentinels know the primary.
    pub fn service(&self) -> &'static str {
        builder::SERVICE
    }

    /// `redis+sentinel://host:port,host:port,host:port/service`, with the passwords of the nodes
    /// and of the sentinels if they have them.
    pub fn url(&self) -> String {
        let hosts = self.sentinels.iter().map(|at| at.address().to_string());
        self.url_with("redis+sentinel", hosts)
    }

    /// The same with TLS, to nodes and sentinels. The authority is that of
    /// [`ca_file`](RedisServer::ca_file) of any node.
    ///
    /// # Panics
    ///
    /// If the set was started without TLS.
    #[cfg(feature = "tls")]
    pub fn tls_url(&self) -> String {
        let hosts = self.sentinels.iter().map(|at| {
            let address = at.tls_address().expect("the set was started with tls()");
            address.to_string()
        });
        self.url_with("rediss+sentinel", hosts)
    }

    fn url_with(&self, scheme: &str, hosts: impl Iterator<Item = String>) -> String {
        let login = match &self.options.password {
            Some(password) => format!(":{password}@"),
            None => String::new(),
        };
        let hosts: Vec<_> = hosts.collect();
        let options = match &self.options.sentinel_password {
            Some(password) => format!("?sentinel_password={password}"),
            None => String::new(),
        };
        let (hosts, service) = (hosts.join(","), self.service());
        format!("{scheme}://{login}{hosts}/{service}{options}")
    }

    /// One of the nodes, by its place. The one at 0 was the first primary.
    pub fn node(&self, at: usize) -> &RedisServer {
        &self.nodes[at]
    }

    /// The same, to be killed and restarted.
    pub fn node_mut(&mut self, at: usize) -> &mut RedisServer {
        &mut self.nodes[at]
    }

    /// How many nodes there are: the primary and its replicas.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// One of the sentinels.
    pub fn sentinel(&self, at: usize) -> &RedisServer {
        &self.sentinels[at]
    }

    /// The same, to be killed and restarted. It keeps what it knows.
    pub fn sentinel_mut(&mut self, at: usize) -> &mut RedisServer {
        &mut self.sentinels[at]
    }

    /// The place of the primary, as the first sentinel that runs knows it.
    ///
    /// # Panics
    ///
    /// If no sentinel runs, or it names no node of this set.
    pub fn primary(&self) -> usize {
        let sentinel = self.sentinels.iter().find(|sentinel| sentinel.is_running());
        let sentinel = sentinel.expect("a sentinel runs");
        self.named_by(sentinel).expect("it names a node")
    }

    fn named_by(&self, sentinel: &RedisServer) -> Option<usize> {
        let ask = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service()];
        let Reply::List(address) = sentinel.command(ask) else {
            return None;
        };
        let port = address.get(1)?.text()?;
        let is_named = |node: &RedisServer| self.port_of(node).to_string() == port;
        self.nodes.iter().position(is_named)
    }

    /// The port by which the sentinels know a node.
    fn port_of(&self, node: &RedisServer) -> u16 {
        match node.tls_address() {
            Some(address) => address.port(),
            None => node.port(),
        }
    }

    /// Makes a replica the primary, in an orderly way, and waits for that. Returns its place.
    ///
    /// # Panics
    ///
    /// If it does not happen in a minute.
    pub fn fail_over(&self) -> usize {
        // Until the other sentinels learn of the failover, the new primary is an impostor to them.
        self.impostors_last(USUAL_HELLO * HELLOS_OF_AN_IMPOSTOR);
        let old = self.primary();
        let start = Instant::now();
        // Refused while a failover is going on, or before a replica is known to be a good one.
        loop {
            let ask = ["SENTINEL", "FAILOVER", self.service()];
            match self.sentinels[0].try_command(ask) {
                Reply::Error(error) => {
                    assert!(start.elapsed() < PATIENCE, "no failover: {error}");
                    thread::sleep(ASK_EVERY);
                }
                _ => return self.wait_for_another(old),
            }
        }
    }

    /// Waits until all running sentinels name the same primary, which is not `old`, and it says so
    /// itself. Returns its place.
    ///
    /// # Panics
    ///
    /// If that does not happen in a minute.
    pub fn wait_for_another(&self, old: usize) -> usize {
        let mut elected = old;
        self.wait("another primary", || {
            let running = self.sentinels.iter().filter(|at| at.is_running());
            let named: Vec<_> = running.map(|sentinel| self.named_by(sentinel)).collect();
            let Some(Some(first)) = named.first().copied() else {
                return false;
            };
            elected = first;
            first != old && named.iter().all(|at| *at == Some(first)) && self.is_primary(first)
        });
        elected
    }

    /// Waits until a node is a replica that has what its primary has.
    ///
    /// # Panics
    ///
    /// If that does not happen in a minute.
    pub fn wait_for_replica(&self, at: usize) {
        self.wait("a replica in step", || {
            let info = self.replication(at);
            info.contains("role:slave") && info.contains("master_link_status:up")
        });
    }

    /// Whether a node says that it is a primary, rightly or not.
    pub fn is_primary(&self, at: usize) -> bool {
        match self.nodes[at].ask(&["ROLE"]) {
            Ok(Reply::List(role)) => {
                role.first().and_then(Reply::text).as_deref() == Some("master")
            }
            _ => false,
        }
    }

    /// What a node says of its replication; nothing while its role changes.
    fn replication(&self, at: usize) -> String {
        let info = self.nodes[at].ask(&["INFO", "replication"]);
        info.ok().and_then(|info| info.text()).unwrap_or_default()
    }

    /// Cuts the links of the replicas to the primary at `at` and keeps them cut: what it is told
    /// from then on reaches none of them. The replicas are stopped until
    /// [`resume_replicas`](Self::resume_replicas).
    ///
    /// # Panics
    ///
    /// If a node is not running.
    pub fn cut_replicas(&self, at: usize) {
        for (place, node) in self.nodes.iter().enumerate() {
            if place != at {
                node.pause();
            }
        }
        // Otherwise the bytes lie in their sockets, and are read when they go on.
        let kill = ["CLIENT", "KILL", "TYPE", "replica", "SKIPME", "no"];
        self.nodes[at].command(kill);
    }

    /// Lets the replicas go on that [`cut_replicas`](Self::cut_replicas) stopped.
    ///
    /// # Panics
    ///
    /// If one of them is not running.
    pub fn resume_replicas(&self, primary: usize) {
        for (place, node) in self.nodes.iter().enumerate() {
            if place != primary {
                node.resume();
            }
        }
    }

    /// Waits until this many replicas have what the primary at `at` has, and acknowledge it.
    ///
    /// # Panics
    ///
    /// If that does not happen in a minute.
    pub fn wait_for_replicas(&self, at: usize, count: usize) {
        self.wait("the replicas", || {
            self.nodes[at].acknowledged_by(count).unwrap_or(false)
        });
    }

    /// For how long at least a node that was stopped or restarted goes on to say that it is a
    /// primary after the sentinels have elected another. Usually 8 seconds, as Redis has it.
    ///
    /// # Panics
    ///
    /// If a sentinel does not answer.
    pub fn impostors_last(&self, time: Duration) {
        for sentinel in self.sentinels.iter().filter(|at| at.is_running()) {
            set_hello(sentinel, time / HELLOS_OF_AN_IMPOSTOR);
        }
    }

    fn wait(&self, what: &str, mut is_there: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_there() {
            let logs = || self.sentinels.iter().map(RedisServer::log);
            assert!(
                start.elapsed() < PATIENCE,
                "{what}: not in {PATIENCE:?}; the sentinels' logs:\n{}",
                logs().collect::<Vec<_>>().join("\n----\n")
            );
            thread::sleep(ASK_EVERY);
        }
    }
}

/// How often a sentinel announces itself to the others.
fn set_hello(sentinel: &RedisServer, time: Duration) {
    let millis = time.as_millis().to_string();
    // Since Redis 7.
    sentinel.try_command(["SENTINEL", "DEBUG", "PUBLISH-PERIOD", &millis]);
}
