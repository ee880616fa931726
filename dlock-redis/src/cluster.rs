//! A Redis Cluster: which node a call goes to, and where it goes when that node does not carry it
//! out.
//!
//! Each primary has its own pool and its own shared connection. The map of the slots comes from the
//! nodes; it is read in the background, at most once a second, when a call finds that it may be
//! out of date.

#[cfg(feature = "tokio")]
mod aio;
mod blocking;
mod map;
mod slot;
mod walk;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use dlock_core::{Clock, DatastoreError, ErrorKind, ProcessId, Time};
use dlock_net::{Connect as _, Endpoint, Pool, PoolSettings, deadline_in};

use crate::connection::Connection;
use crate::pool::ConnectionManager;
use crate::server::Server;
use map::Map;
pub(crate) use map::Node;
use walk::{Next, Unserved, Walk};

/// How often the map is read at most.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// How long one node may take to send it.
const REFRESH_WITHIN: Duration = Duration::from_secs(1);
/// A map may have a range for each slot, and names each of its nodes.
const LONGEST_MAP: u64 = 16 * 1024 * 1024;
/// The least pause before a call is repeated, and what chance adds to it at most.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MORE: u64 = 30_000_000;

/// The nodes of a cluster.
pub(crate) struct Cluster {
    seeds: Vec<Endpoint>,
    manager: ConnectionManager,
    settings: PoolSettings,
    map: RwLock<Map>,
    refresh: Mutex<Refresh>,
    refreshed: Condvar,
    /// The same for async calls.
    #[cfg(feature = "tokio")]
    renewed: tokio::sync::Notify,
    /// How many connections were opened beside those of the nodes.
    opened: AtomicUsize,
    pid: ProcessId,
    /// That of a forked child: its parent's locks may be held for ever there.
    child: OnceLock<Arc<Cluster>>,
}

/// The reading of the map.
#[derive(Default)]
struct Refresh {
    is_under_way: bool,
    begun: Option<Time>,
    /// Why the last one failed.
    error: Option<DatastoreError>,
}

impl Refresh {
    /// The map could not be read in the time of a call: why not the time before, if it is known.
    fn no_map_in_time(&self) -> DatastoreError {
        let text = "no node of the cluster said which node has which slot";
        let timeout = || DatastoreError::not_executed(ErrorKind::Timeout, text);
        self.error.clone().unwrap_or_else(timeout)
    }
}

impl Cluster {
    /// The cluster to which `seeds` belong. Nodes are reached as `manager` reaches its server.
    pub(crate) fn new(
        seeds: Vec<Endpoint>,
        manager: ConnectionManager,
        settings: PoolSettings,
    ) -> Arc<Self> {
        Arc::new(Cluster {
            seeds,
            manager,
            settings,
            map: RwLock::default(),
            refresh: Mutex::default(),
            refreshed: Condvar::new(),
            #[cfg(feature = "tokio")]
            renewed: tokio::sync::Notify::new(),
            opened: AtomicUsize::new(0),
            pid: ProcessId::current(),
            child: OnceLock::new(),
        })
    }

    /// That of the process that calls.
    fn here(self: &Arc<Self>) -> &Arc<Self> {
        if self.pid == ProcessId::current() {
            return self;
        }
        let (seeds, manager) = (self.seeds.clone(), self.manager.clone());
        let child = || Cluster::new(seeds, manager, self.settings);
        self.child.get_or_init(child).here()
    }

    /// Opens a connection to any node, another one each time.
    ///
    /// # Errors
    ///
    /// Not executed: that of the last node that was tried.
    pub(crate) fn open(self: &Arc<Self>, deadline: Time) -> Result<Connection, DatastoreError> {
        let here = self.here();
        let mut nodes = here.endpoints(None);
        let first = here.opened.fetch_add(1, Ordering::Relaxed) % nodes.len().max(1);
        nodes.rotate_left(first);
        let mut error = None;
        for node in nodes {
            match here.manager.for_node(node).connect(deadline) {
                Ok(connection) => return Ok(connection),
                Err(failed) => error = Some(failed),
            }
            if Clock::BOOTTIME.now() >= deadline {
                break;
            }
        }
        Err(error.unwrap_or_else(unserved))
    }

    /// All nodes that are known, `last` after the others.
    fn endpoints(&self, last: Option<&Endpoint>) -> Vec<Endpoint> {
        let mut nodes: Vec<Endpoint> = Vec::new();
        let map = self.map();
        for node in map.endpoints().chain(&self.seeds) {
            if !nodes.contains(node) {
                nodes.push(node.clone());
            }
        }
        if let Some(at) = nodes.iter().position(|node| Some(node) == last) {
            let last = nodes.remove(at);
            nodes.push(last);
        }
        nodes
    }

    /// The node to which a call goes next, if the map is known; else `None`.
    ///
    /// # Errors
    ///
    /// Not executed, if no node has its slot.
    fn target(&self, slot: u16, walk: &Walk<'_>) -> Result<Option<Arc<Node>>, DatastoreError> {
        if let Some(asked) = walk.asks() {
            return Ok(Some(self.node(asked)));
        }
        let map = self.map();
        match map.owner(slot) {
            Some(node) => Ok(Some(Arc::clone(node))),
            None if map.is_empty() => Ok(None),
            None => Err(unserved()),
        }
    }

    /// The node at `endpoint`, which is kept from now on.
    fn node(&self, endpoint: &Endpoint) -> Arc<Node> {
        if let Some(node) = self.map().node(endpoint) {
            return Arc::clone(node);
        }
        let new = Arc::new(self.open_node(endpoint.clone()));
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        map.add(Arc::clone(&new));
        map.node(endpoint).map_or(new, Arc::clone)
    }

    fn open_node(&self, endpoint: Endpoint) -> Node {
        let manager = self.manager.for_node(endpoint.clone());
        let replicas = manager.replicas;
        let server = Server::new(Pool::new(manager, self.settings), replicas);
        Node { endpoint, server }
    }

    /// What comes after the failure of a call at a node, or of finding one. Returns until when it
    /// pauses before it is repeated.
    ///
    /// # Errors
    ///
    /// That of the call, if it is not repeated.
    fn after(
        self: &Arc<Self>,
        walk: &mut Walk<'_>,
        error: DatastoreError,
        node: Option<&Endpoint>,
        deadline: Time,
    ) -> Result<Option<Time>, DatastoreError> {
        if walk::suspects_map(&error) {
            self.refresh(node);
        }
        let pause = pause();
        // A try that has hardly any time would make a refusal a doubt.
        let has_time = pause.saturating_add(PAUSE) < deadline;
        let Next { owner, pauses } = walk.failed(error, node, has_time)?;
        if let Some(owner) = owner {
            self.node(&owner);
            let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
            map.set_owner(slot::of(walk.call().key()), &owner);
        }
        Ok(pauses.then_some(pause))
    }

    /// Has the map read in the background, unless that was begun a moment ago. `failed` is asked
    /// last.
    fn refresh(self: &Arc<Self>, failed: Option<&Endpoint>) {
        let mut refresh = self.refreshing();
        let now = Clock::BOOTTIME.now();
        let is_early = |begun: Time| begun.until(now) < REFRESH_EVERY;
        if refresh.is_under_way || refresh.begun.is_some_and(is_early) {
            return;
        }
        (refresh.is_under_way, refresh.begun) = (true, Some(now));
        drop(refresh);
        let (cluster, failed) = (Arc::clone(self), failed.cloned());
        let thread = thread::Builder::new().name("dlock-slots".to_owned());
        if let Err(error) = thread.spawn(move || cluster.read_map(failed.as_ref())) {
            let error = DatastoreError::not_executed(ErrorKind::Refused, error);
            self.map_is_read(Some(error));
        }
    }

    /// Reads the map from the first node that sends it.
    fn read_map(&self, failed: Option<&Endpoint>) {
        let mut error = None;
        for node in self.endpoints(failed) {
            match self.layout_from(&node) {
                Ok(layout) => {
                    let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
                    let renewed = map.renewed(layout, |endpoint| self.open_node(endpoint));
                    let old = std::mem::replace(&mut *map, renewed);
                    drop(map);
                    drop(old);
                    return self.map_is_read(None);
                }
                // A refused login says more than a node that is down.
                Err(failed) if error.as_ref().is_none_or(DatastoreError::is_transient) => {
                    error = Some(failed);
                }
                Err(_) => {}
            }
        }
        self.map_is_read(error);
    }

    fn layout_from(&self, node: &Endpoint) -> Result<map::Layout, DatastoreError> {
        let deadline = deadline_in(REFRESH_WITHIN);
        let mut connection = self.manager.for_node(node.clone()).connect(deadline)?;
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        map::layout(&connection.ask(&command, LONGEST_MAP)?, node)
    }

    fn map_is_read(&self, error: Option<DatastoreError>) {
        let mut refresh = self.refreshing();
        (refresh.is_under_way, refresh.error) = (false, error);
        drop(refresh);
        self.refreshed.notify_all();
        #[cfg(feature = "tokio")]
        self.renewed.notify_waiters();
    }

    /// Why there is no map, now that none is being read. `None` if there is one, or soon will be.
    fn why_no_map(self: &Arc<Self>) -> Option<DatastoreError> {
        if !self.map().is_empty() {
            return None;
        }
        self.refresh(None);
        let refresh = self.refreshing();
        match refresh.is_under_way || !self.map().is_empty() {
            true => None,
            false => Some(refresh.error.clone().unwrap_or_else(unserved)),
        }
    }

    fn map(&self) -> std::sync::RwLockReadGuard<'_, Map> {
        // No user code runs under it, so a poisoned one is whole.
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn refreshing(&self) -> MutexGuard<'_, Refresh> {
        self.refresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until when a call that is repeated pauses: not all at the same time.
fn pause() -> Time {
    let now = Clock::BOOTTIME.now();
    let more = Duration::from_nanos(now.as_nanos() % PAUSE_MORE);
    now.saturating_add(PAUSE + more)
}

fn unserved() -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Refused, Unserved)
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seeds: Vec<_> = self.seeds.iter().map(ToString::to_string).collect();
        f.debug_struct("Cluster")
            .field("seeds", &seeds)
            .field("manager", &self.manager)
            .finish_non_exhaustive()
    }
}
