//! Three etcd nodes that elect a leader.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::etcd::{EtcdServer, Ports};
use crate::etcd_network::Network;

/// How many nodes: one may be lost, and the other two are a majority.
const NODES: usize = 3;
/// A machine with more work than cores takes its time to elect a leader.
const READY_WITHIN: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_millis(10);
/// Ports that were free a moment ago are tried this often.
const TRIES: usize = 10;

/// Three etcd nodes, as [`EtcdServer`]s that know each other. Dropping it ends them.
pub struct EtcdCluster {
    nodes: Vec<EtcdServer>,
    /// What is between the nodes, if one of them is to be cut off.
    network: Option<Network>,
}

impl EtcdCluster {
    /// Three nodes with a leader.
    ///
    /// # Panics
    ///
    /// If they cannot be started: because the binary is missing, say.
    pub fn start() -> Self {
        Self::start_nodes(false)
    }

    /// The same, where a node can be [cut off](Self::cut_off) from the others.
    ///
    /// # Panics
    ///
    /// If they cannot be started.
    pub fn start_with_network() -> Self {
        Self::start_nodes(true)
    }

    fn start_nodes(with_network: bool) -> Self {
        for _ in 0..TRIES {
            if let Some((nodes, network)) = start_nodes(with_network) {
                let cluster = EtcdCluster { nodes, network };
                cluster.wait_until("every node has a leader", || {
                    cluster.nodes.iter().all(EtcdServer::is_healthy)
                });
                return cluster;
            }
        }
        panic!("an etcd node ended at once, {TRIES} times");
    }

    /// `etcd://host:port,host:port,host:port`.
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.addresses().iter().map(ToString::to_string).collect();
        format!("etcd://{}", addresses.join(","))
    }

    /// Where the nodes listen for clients.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(EtcdServer::address).collect()
    }

    /// The nodes, running or not.
    pub fn nodes(&self) -> &[EtcdServer] {
        &self.nodes
    }

    /// One of the nodes, to kill it or to start it again.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn node_mut(&mut self, number: usize) -> &mut EtcdServer {
        &mut self.nodes[number]
    }

    /// Which node is the leader. Waits for an election to end.
    ///
    /// # Panics
    ///
    /// If there is none for long: no majority is running.
    pub fn leader(&self) -> usize {
        let mut leader = None;
        self.wait_until("there is a leader", || {
            leader = self.nodes.iter().position(EtcdServer::is_leader);
            leader.is_some()
        });
        leader.unwrap_or_default()
    }

    /// Starts nodes again after they were killed, at the same addresses and with their data, and
    /// waits until every node that runs has a leader.
    ///
    /// # Panics
    ///
    /// If one does not start, or there is no majority.
    pub fn start_again(&mut self, nodes: &[usize]) {
        for node in nodes {
            self.nodes[*node].listen_again();
        }
        self.wait_until_healthy();
    }

    /// Makes this node the leader, in agreement with the one that is.
    ///
    /// # Panics
    ///
    /// If there is no leader for long, or the node does not become it.
    pub fn move_leader_to(&self, number: usize) {
        let member = self.nodes[number].member();
        self.wait_until("it is the leader", || {
            let leader = self.leader();
            // An election may come between; then it is asked again.
            if leader != number {
                let body = format!(r#"{{"targetID":"{member}"}}"#);
                self.nodes[leader].post("/v3/maintenance/transfer-leadership", &body);
            }
            self.nodes[number].is_leader()
        });
    }

    /// Cuts the network between this node and the others, until [`heal`](Self::heal). Its clients
    /// still reach it.
    ///
    /// # Panics
    ///
    /// If the cluster was started without a network, or the node does not answer.
    pub fn cut_off(&self, number: usize) {
        let member = self.nodes[number].member();
        let member = member.parse().expect("a number");
        self.network().cut_off(number, member);
    }

    /// Lets all nodes reach each other again, and waits until every node that runs has a leader.
    ///
    /// # Panics
    ///
    /// If the cluster was started without a network, or a node has no leader for long.
    pub fn heal(&self) {
        self.network().heal();
        self.wait_until_healthy();
    }

    fn network(&self) -> &Network {
        let network = self.network.as_ref();
        network.expect("the cluster was started with a network")
    }

    /// Waits until every node that runs has a leader.
    ///
    /// # Panics
    ///
    /// If one has none for long.
    pub fn wait_until_healthy(&self) {
        self.wait_until("every node has a leader", || {
            let mut running = self.nodes.iter().filter(|node| node.is_running());
            running.all(EtcdServer::is_healthy)
        });
    }

    fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let started = Instant::now();
        while !is_so() {
            let logs = || self.nodes.iter().map(EtcdServer::log_text);
            assert!(
                started.elapsed() < READY_WITHIN,
                "not after {READY_WITHIN:?}: {what}; the logs:\n{}",
                logs().collect::<String>()
            );
            thread::sleep(ASK_EVERY);
        }
    }
}

fn start_nodes(with_network: bool) -> Option<(Vec<EtcdServer>, Option<Network>)> {
    let mut ports: [Ports; NODES] = std::array::from_fn(|_| Ports::free());
    let network = with_network.then(|| Network::to(&ports.map(|ports| ports.peer)));
    if let Some(network) = &network {
        for (ports, way) in ports.iter_mut().zip(network.ports()) {
            ports.from_peers = *way;
        }
    }
    let members = [
        ("first", ports[0]),
        ("second", ports[1]),
        ("third", ports[2]),
    ];
    let nodes = members.iter();
    let nodes: Option<Vec<_>> = nodes
        .map(|(name, ports)| EtcdServer::start_node(name, *ports, &members, &[]))
        .collect();
    Some((nodes?, network))
}
