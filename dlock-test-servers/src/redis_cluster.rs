//! A private Redis Cluster.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::{RedisClusterBuilder, RedisServer, Reply};

/// The number of nodes that share the slots.
pub(super) const PRIMARIES: usize = 3;
/// The number of slots.
const SLOTS: usize = 16_384;
/// How long a busy machine may take to change the cluster.
const WITHIN: Duration = Duration::from_secs(60);
/// A replica gives up a failover that its primary has not agreed to within five seconds.
const FAILOVER_ENDS_WITHIN: Duration = Duration::from_secs(6);
const ASK_EVERY: Duration = Duration::from_millis(10);

/// A private Redis (or Valkey) Cluster: three primaries, and three replicas if asked for. Dropping
/// it kills all nodes.
///
/// Nodes are numbered from 0. At first nodes 0 to 2 are the primaries, each with a third of the
/// slots, and node `n + 3` is the replica of node `n`.
///
/// ```no_run
/// use dlock_test_servers::RedisCluster;
///
/// let mut cluster = RedisCluster::builder().replicas().start();
/// let owner = cluster.owner_of("k");
/// cluster.node_mut(owner).kill();
/// cluster.wait_for_takeover(owner);
/// assert_ne!(cluster.owner_of("k"), owner);
/// println!("{}", cluster.url());
/// ```
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
    ids: Vec<String>,
    password: Option<String>,
}

impl RedisCluster {
    /// Three primaries without replicas.
    ///
    /// # Panics
    ///
    /// As [`RedisClusterBuilder::start`].
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A cluster with more than that.
    pub fn builder() -> RedisClusterBuilder {
        RedisClusterBuilder::default()
    }

    /// Makes a cluster of these nodes, of which none knows another.
    pub(super) fn of(nodes: Vec<RedisServer>, password: Option<String>) -> Self {
        let id = |node: &RedisServer| node.command(["CLUSTER", "MYID"]).text();
        let ids = nodes.iter().map(|node| id(node).unwrap_or_default());
        let cluster = RedisCluster {
            ids: ids.collect(),
            nodes,
            password,
        };
        cluster.join();
        cluster
    }

    fn join(&self) {
        for at in 0..PRIMARIES {
            let slots: Vec<_> = (slots_of(at)).map(|slot| slot.to_string()).collect();
            let mut command = vec!["CLUSTER", "ADDSLOTS"];
            command.extend(slots.iter().map(String::as_str));
            self.nodes[at].command(command);
            // Otherwise the nodes would have to find out which of them is first.
            let epoch = (at + 1).to_string();
            self.nodes[at].command(["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
        }
        for node in &self.nodes[1..] {
            let first = &self.nodes[0];
            let first = first.tls_address().unwrap_or(first.address());
            let port = first.port().to_string();
            node.command(["CLUSTER", "MEET", &first.ip().to_string(), &port]);
        }
        let count = self.nodes.len();
        until("all nodes know each other", || {
            self.nodes.iter().all(|node| {
                let known = info(node, "cluster_known_nodes");
                known.as_deref() == Some(&*count.to_string())
            })
        });
        for at in PRIMARIES..count {
            self.nodes[at].command(["CLUSTER", "REPLICATE", &self.ids[at - PRIMARIES]]);
        }
        self.wait_until_ok();
        for at in PRIMARIES..count {
            self.wait_for_replica(at);
        }
        until("all nodes know the replicas", || {
            self.nodes.iter().all(|node| {
                let nodes = node.command(["CLUSTER", "NODES"]);
                let knows = |at| self.replica_as_seen(&nodes, at - PRIMARIES) == Some(at);
                (PRIMARIES..count).all(knows)
            })
        });
    }

    /// The node of this number.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn node(&self, at: usize) -> &RedisServer {
        &self.nodes[at]
    }

    /// The same, to be killed or started again.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn node_mut(&mut self, at: usize) -> &mut RedisServer {
        &mut self.nodes[at]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// `redis+cluster://[:password@]127.0.0.1:port,127.0.0.1:port,127.0.0.1:port`, with the first
    /// three nodes.
    pub fn url(&self) -> String {
        let addresses = self.nodes.iter().map(RedisServer::address);
        let login = match &self.password {
            Some(password) => format!(":{password}@"),
            None => String::new(),
        };
        format!("redis+cluster://{login}{}", listed(addresses))
    }

    /// The same for one of its users.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        let addresses = self.nodes.iter().map(RedisServer::address);
        format!("redis+cluster://{user}:{password}@{}", listed(addresses))
    }

    /// The same with TLS: `rediss+cluster://…?ca=…`.
    ///
    /// # Panics
    ///
    /// If the nodes were started without TLS.
    #[cfg(feature = "tls")]
    pub fn tls_url(&self) -> String {
        let address = |node: &RedisServer| {
            let address = node.tls_address();
            address.expect("the cluster was started with tls()")
        };
        let addresses = listed(self.nodes.iter().map(address));
        let authorities = self.nodes[0].ca_file();
        format!("rediss+cluster://{addresses}?ca={}", authorities.display())
    }

    /// The slot of a key.
    ///
    /// # Panics
    ///
    /// If no node answers.
    pub fn slot_of(&self, key: &str) -> u16 {
        let slot = self.any(["CLUSTER", "KEYSLOT", key]).integer();
        slot.and_then(|slot| u16::try_from(slot).ok())
            .expect("a key has a slot")
    }

    /// The node that has the slot of a key, as the nodes that run see it.
    ///
    /// # Panics
    ///
    /// If no node answers, or none has it.
    pub fn owner_of(&self, key: &str) -> usize {
        self.owner_of_slot(self.slot_of(key))
    }

    /// The node that has a slot.
    ///
    /// # Panics
    ///
    /// As [`owner_of`](Self::owner_of).
    pub fn owner_of_slot(&self, slot: u16) -> usize {
        self.owner_as_seen(&self.any(["CLUSTER", "SLOTS"]), slot)
            .expect("each slot has an owner")
    }

    /// The replica of a primary. After a failover it takes a moment until the primary has one.
    ///
    /// # Panics
    ///
    /// If no node names one within a minute.
    pub fn replica_of(&self, primary: usize) -> usize {
        let mut found = None;
        until("the primary has a replica", || {
            found = self.replica_as_seen(&self.any(["CLUSTER", "NODES"]), primary);
            found.is_some()
        });
        found.unwrap_or(primary)
    }

    /// The replica of a primary by a reply to CLUSTER NODES.
    fn replica_as_seen(&self, nodes: &Reply, primary: usize) -> Option<usize> {
        let nodes = nodes.text().unwrap_or_default();
        let replica = nodes.lines().find_map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            (words.get(3) == Some(&&*self.ids[primary])).then(|| words[0].to_owned())
        })?;
        self.ids.iter().position(|id| *id == replica)
    }

    /// Waits until every node that runs says that the cluster works, and all of them name the same
    /// owners.
    ///
    /// # Panics
    ///
    /// If they do not within a minute.
    pub fn wait_until_ok(&self) {
        until("the cluster works", || {
            let is_ok = |node| info(node, "cluster_state").as_deref() == Some("ok");
            self.awake().all(is_ok) && self.agree()
        });
    }

    /// Waits until the slots of this node, which was stopped or killed, have another owner, and all
    /// nodes that run know it.
    ///
    /// # Panics
    ///
    /// If that is not so within a minute.
    pub fn wait_for_takeover(&self, from: usize) {
        until("a replica takes over", || {
            let owns = |node: &RedisServer| {
                let ranges = self.ranges(&node.try_command(["CLUSTER", "SLOTS"]));
                let covered: usize = ranges.iter().map(|range| range.slots().len()).sum();
                let is_of = |range: &Range| range.owner.is_none_or(|owner| owner == from);
                covered < SLOTS || ranges.iter().any(is_of)
            };
            !self.awake().any(owns)
        });
        self.wait_until_ok();
    }

    /// Has a replica take the place of its primary, in agreement with it: nothing is lost.
    ///
    /// # Panics
    ///
    /// If it does not within a minute.
    pub fn fail_over_to(&self, replica: usize) {
        let mut asked: Option<Instant> = None;
        until("the replica is a primary", || {
            let node = &self.nodes[replica];
            if is_primary(node) {
                return true;
            }
            // A primary that is too busy to agree within five seconds has let it pass.
            if asked.is_none_or(|at| at.elapsed() > FAILOVER_ENDS_WITHIN) {
                node.command(["CLUSTER", "FAILOVER"]);
                asked = Some(Instant::now());
            }
            false
        });
        self.wait_until_ok();
    }

    /// Waits until a replica has all data of its primary and is connected with it.
    ///
    /// # Panics
    ///
    /// If it is not within a minute.
    pub fn wait_for_replica(&self, replica: usize) {
        until("the replica is connected", || {
            let info = self.nodes[replica].command(["INFO", "replication"]);
            info.text()
                .is_some_and(|text| text.contains("master_link_status:up"))
        });
    }

    /// Stops the replica of a primary and cuts the link between them: what the primary is sent from
    /// now on is lost if it is killed before the replica goes on. Returns the replica.
    ///
    /// # Panics
    ///
    /// If the primary has no replica within a minute.
    pub fn cut_off_replica_of(&self, primary: usize) -> usize {
        let replica = self.replica_of(primary);
        self.nodes[replica].pause();
        self.nodes[primary].command(["CLIENT", "KILL", "TYPE", "replica"]);
        replica
    }

    /// Begins to move a slot. From now on its owner answers `ASK` for keys that it does not have.
    ///
    /// # Panics
    ///
    /// If a node refuses.
    pub fn begin_migration(&self, slot: u16, to: usize) {
        let from = self.owner_of_slot(slot);
        let slot = slot.to_string();
        let set = |at: usize, state: &str, other: usize| {
            self.nodes[at].command(["CLUSTER", "SETSLOT", &slot, state, &self.ids[other]]);
        };
        set(to, "IMPORTING", from);
        set(from, "MIGRATING", to);
    }

    /// Moves these keys of a slot that migrates; keys that do not exist are left out.
    ///
    /// # Panics
    ///
    /// If a node refuses.
    pub fn move_keys(&self, from: usize, to: usize, keys: &[&str]) {
        let to = self.nodes[to].address();
        let (host, port) = (to.ip().to_string(), to.port().to_string());
        let mut command = vec!["MIGRATE", &host, &port, "", "0", "10000"];
        if let Some(password) = &self.password {
            command.extend(["AUTH", password]);
        }
        command.push("KEYS");
        command.extend(keys);
        self.nodes[from].command(command);
    }

    /// Moves what is left of a slot, and ends its migration.
    ///
    /// # Panics
    ///
    /// If a node refuses.
    pub fn finish_migration(&self, slot: u16, to: usize) {
        let from = self.owner_of_slot(slot);
        let number = slot.to_string();
        loop {
            let keys = self.nodes[from].command(["CLUSTER", "GETKEYSINSLOT", &number, "100"]);
            let Reply::List(keys) = keys else { break };
            let keys: Vec<_> = keys.iter().filter_map(Reply::text).collect();
            if keys.is_empty() {
                break;
            }
            let keys: Vec<_> = keys.iter().map(String::as_str).collect();
            self.move_keys(from, to, &keys);
        }
        // The new owner first: otherwise both would redirect for a moment.
        let primaries = (0..self.nodes.len())
            .filter(|at| *at != to && self.nodes[*at].is_awake())
            .filter(|at| is_primary(&self.nodes[*at]));
        for at in [to].into_iter().chain(primaries) {
            self.nodes[at].command(["CLUSTER", "SETSLOT", &number, "NODE", &self.ids[to]]);
        }
        until("all nodes know the new owner", || self.agree());
    }

    fn awake(&self) -> impl Iterator<Item = &RedisServer> {
        self.nodes.iter().filter(|node| node.is_awake())
    }

    fn any<'a>(&self, words: impl AsRef<[&'a str]>) -> Reply {
        let node = self.awake().next().expect("a node runs");
        node.command(words)
    }

    /// Whether all nodes that run name the same owners.
    fn agree(&self) -> bool {
        let owners = |node: &RedisServer| {
            let mut ranges = self.ranges(&node.try_command(["CLUSTER", "SLOTS"]));
            ranges.sort_unstable();
            ranges
        };
        let mut all = self.awake().map(owners);
        let first = all.next().unwrap_or_default();
        all.all(|other| other == first)
    }

    /// The owner of a slot by a reply to CLUSTER SLOTS.
    fn owner_as_seen(&self, slots: &Reply, slot: u16) -> Option<usize> {
        let ranges = self.ranges(slots);
        let range = ranges.iter().find(|range| range.slots().contains(&slot))?;
        range.owner
    }

    /// The ranges of a reply to CLUSTER SLOTS. Neighbouring slots of one node are one range.
    fn ranges(&self, slots: &Reply) -> Vec<Range> {
        let Reply::List(ranges) = slots else {
            return Vec::new();
        };
        let range = |range: &Reply| {
            let Reply::List(parts) = range else {
                return None;
            };
            let [first, last, Reply::List(owner), ..] = parts.as_slice() else {
                return None;
            };
            let id = owner.get(2)?.text()?;
            Some(Range {
                first: u16::try_from(first.integer()?).ok()?,
                last: u16::try_from(last.integer()?).ok()?,
                owner: self.ids.iter().position(|known| *known == id),
            })
        };
        ranges.iter().filter_map(range).collect()
    }
}

/// Slots that one node has.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    first: u16,
    last: u16,
    /// `None` if the node is none of the cluster's.
    owner: Option<usize>,
}

impl Range {
    fn slots(&self) -> std::ops::RangeInclusive<u16> {
        self.first..=self.last
    }
}

/// A third of the slots.
fn slots_of(primary: usize) -> std::ops::Range<usize> {
    primary * SLOTS / PRIMARIES..(primary + 1) * SLOTS / PRIMARIES
}

fn listed(addresses: impl Iterator<Item = SocketAddr>) -> String {
    let addresses = addresses.take(PRIMARIES).map(|address| address.to_string());
    addresses.collect::<Vec<_>>().join(",")
}

fn info(node: &RedisServer, name: &str) -> Option<String> {
    let text = node.command(["CLUSTER", "INFO"]).text()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.to_owned())
    })
}

fn is_primary(node: &RedisServer) -> bool {
    match node.command(["ROLE"]) {
        Reply::List(parts) => parts.first().and_then(Reply::text).as_deref() == Some("master"),
        _ => false,
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < WITHIN, "not within {WITHIN:?}: {what}");
        thread::sleep(ASK_EVERY);
    }
}
