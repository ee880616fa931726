//! What a private Redis Cluster is started with.

use std::thread;
use std::time::Duration;

use crate::redis_cluster::PRIMARIES;
use crate::{RedisBuilder, RedisCluster};

/// How to start a [`RedisCluster`].
#[derive(Debug, Clone)]
pub struct RedisClusterBuilder {
    node: RedisBuilder,
    password: Option<String>,
    replicas: bool,
    #[cfg(feature = "tls")]
    tls: bool,
    node_timeout: Duration,
}

impl Default for RedisClusterBuilder {
    fn default() -> Self {
        RedisClusterBuilder {
            node: RedisBuilder::default(),
            password: None,
            replicas: false,
            #[cfg(feature = "tls")]
            tls: false,
            // A node of a cluster that nobody breaks must not be taken for dead, however busy the
            // machine is.
            node_timeout: Duration::from_secs(30),
        }
    }
}

impl RedisClusterBuilder {
    /// With a replica for each primary. A primary that does not answer for a second and a half
    /// is replaced by its replica, unless another [`node_timeout`](Self::node_timeout) is given
    /// after this.
    #[must_use]
    pub fn replicas(mut self) -> Self {
        self.replicas = true;
        self.node_timeout(Duration::from_millis(1500))
    }

    /// With another time after which a node that does not answer counts as failed. Default 30 s.
    #[must_use]
    pub fn node_timeout(mut self, timeout: Duration) -> Self {
        self.node_timeout = timeout;
        self
    }

    /// With a password for the default user of each node.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.node = self.node.password(password).config("masterauth", password);
        self
    }

    /// With a further user on each node, as [`RedisBuilder::user`].
    #[must_use]
    pub fn user(mut self, name: &str, password: &str, rules: &str) -> Self {
        self.node = self.node.user(name, password, rules);
        self
    }

    /// With a TLS port on each node, over which the nodes speak with each other too.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self.node = self.node.config("tls-cluster", "yes");
        self.node = self.node.config("tls-replication", "yes");
        self
    }

    /// With a line of each node's configuration file.
    #[must_use]
    pub fn config(mut self, name: &str, value: &str) -> Self {
        self.node = self.node.config(name, value);
        self
    }

    /// Starts the nodes, joins them, and waits until all of them say that the cluster works. That
    /// takes two seconds and a little: a node that was just started does not take writes sooner.
    ///
    /// # Panics
    ///
    /// If a node cannot be started, or if the cluster does not work within a minute.
    pub fn start(self) -> RedisCluster {
        let timeout = self.node_timeout.as_millis().to_string();
        let node = self
            .node
            .cluster_node()
            .config("cluster-node-timeout", &timeout)
            // However old a replica's data is, it may take over: the tests decide what it lacks.
            .config("cluster-replica-validity-factor", "0")
            .config("repl-diskless-sync-delay", "0")
            .config("repl-ping-replica-period", "1");
        let count = if self.replicas {
            2 * PRIMARIES
        } else {
            PRIMARIES
        };
        let other = node.clone();
        #[cfg(feature = "tls")]
        let node = if self.tls { node.tls() } else { node };
        let first = node.start();
        // Of one authority.
        #[cfg(feature = "tls")]
        let other = match self.tls {
            true => other.tls_of(&first),
            false => other,
        };
        let others = thread::scope(|scope| {
            let started: Vec<_> = (1..count)
                .map(|_| scope.spawn(|| other.clone().start()))
                .collect();
            let others = started.into_iter().map(thread::ScopedJoinHandle::join);
            others.collect::<Result<Vec<_>, _>>()
        });
        let others = others.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let nodes = [first].into_iter().chain(others).collect();
        RedisCluster::of(nodes, self.password)
    }
}
