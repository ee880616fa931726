//! Which node has which slot.

use std::sync::Arc;

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::Endpoint;
use redis::Value;

use super::slot::SLOTS;
use super::walk::node_at;
use crate::handshake;
use crate::operations::server_error;
use crate::server::Server;

/// No node.
const NOBODY: u16 = u16::MAX;

/// A primary of the cluster.
pub(crate) struct Node {
    pub(super) endpoint: Endpoint,
    pub(crate) server: Server,
}

/// The slots and their owners, as far as they are known.
pub(super) struct Map {
    /// Nodes that have slots, or had some or were asked a moment ago.
    nodes: Vec<Arc<Node>>,
    /// By slot, the owner's place in `nodes`.
    owners: Vec<u16>,
    replicas: Vec<Endpoint>,
}

impl Default for Map {
    fn default() -> Self {
        Map {
            nodes: Vec::new(),
            owners: vec![NOBODY; usize::from(SLOTS)],
            replicas: Vec::new(),
        }
    }
}

impl Map {
    /// Whether nothing is known yet.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn owner(&self, slot: u16) -> Option<&Arc<Node>> {
        let owner = *self.owners.get(usize::from(slot))?;
        self.nodes.get(usize::from(owner))
    }

    /// The nodes that have slots, in the order of their addresses.
    pub(super) fn primaries(&self) -> Vec<Arc<Node>> {
        let mut has_slots = vec![false; self.nodes.len()];
        for owner in &self.owners {
            if let Some(has_slots) = has_slots.get_mut(usize::from(*owner)) {
                *has_slots = true;
            }
        }
        let nodes = self.nodes.iter().zip(has_slots);
        let mut primaries: Vec<_> = nodes
            .filter(|(_, has_slots)| *has_slots)
            .map(|(node, _)| Arc::clone(node))
            .collect();
        primaries.sort_by_cached_key(|node| node.endpoint.to_string());
        primaries
    }

    pub(super) fn node(&self, endpoint: &Endpoint) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| node.endpoint == *endpoint)
    }

    /// Keeps a node for later calls.
    pub(super) fn add(&mut self, node: Arc<Node>) {
        if self.node(&node.endpoint).is_none() && self.nodes.len() < usize::from(NOBODY) {
            self.nodes.push(node);
        }
    }

    /// Notes that a node has a slot.
    pub(super) fn set_owner(&mut self, slot: u16, owner: &Endpoint) {
        let at = self.nodes.iter().position(|node| node.endpoint == *owner);
        let at = at.and_then(|at| u16::try_from(at).ok());
        if let (Some(at), Some(place)) = (at, self.owners.get_mut(usize::from(slot))) {
            *place = at;
        }
    }

    /// The map that these ranges make, with the nodes that are known, and others that `open` makes.
    pub(super) fn renewed(&self, layout: Layout, open: impl Fn(Endpoint) -> Node) -> Self {
        let mut map = Map {
            replicas: layout.replicas,
            ..Map::default()
        };
        for range in layout.ranges {
            let known = self.node(&range.owner).cloned();
            map.add(known.unwrap_or_else(|| Arc::new(open(range.owner.clone()))));
            for slot in range.first..=range.last {
                map.set_owner(slot, &range.owner);
            }
        }
        map
    }

    /// All nodes, primaries first.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let primaries = self.nodes.iter().map(|node| &node.endpoint);
        primaries.chain(&self.replicas)
    }
}

/// How a node sees the cluster.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    ranges: Vec<Range>,
    replicas: Vec<Endpoint>,
}

#[derive(Debug, PartialEq, Eq)]
struct Range {
    first: u16,
    last: u16,
    owner: Endpoint,
}

/// Reads the reply to CLUSTER SLOTS from the node at `asked`.
///
/// # Errors
///
/// Not executed: what the node refused with, or that it sees no cluster.
pub(super) fn layout(reply: &Value, asked: &Endpoint) -> Result<Layout, DatastoreError> {
    let ranges = match reply {
        Value::Array(ranges) => ranges,
        Value::ServerError(error) => {
            let error = server_error(error);
            let is_alone = error.message().contains("cluster support disabled");
            let kind = match is_alone {
                true => ErrorKind::Unsupported,
                false => error.kind(),
            };
            return Err(DatastoreError::not_executed(kind, error));
        }
        _ => return Err(handshake::no_redis()),
    };
    let mut layout = Layout::default();
    for range in ranges {
        layout.read(range, asked).ok_or_else(handshake::no_redis)?;
    }
    if layout.ranges.is_empty() {
        let empty = "the cluster has no slots yet";
        return Err(DatastoreError::not_executed(ErrorKind::Refused, empty));
    }
    Ok(layout)
}

impl Layout {
    fn read(&mut self, range: &Value, asked: &Endpoint) -> Option<()> {
        let Value::Array(parts) = range else {
            return None;
        };
        let [Value::Int(first), Value::Int(last), owner, replicas @ ..] = parts.as_slice() else {
            return None;
        };
        let slot = |number: i64| u16::try_from(number).ok().filter(|slot| *slot < SLOTS);
        self.ranges.push(Range {
            first: slot(*first)?,
            last: slot(*last)?,
            owner: node_of(owner, asked)?,
        });
        for replica in replicas {
            let replica = node_of(replica, asked)?;
            if !self.replicas.contains(&replica) {
                self.replicas.push(replica);
            }
        }
        Some(())
    }
}

fn node_of(parts: &Value, asked: &Endpoint) -> Option<Endpoint> {
    let Value::Array(parts) = parts else {
        return None;
    };
    let [host, Value::Int(port), ..] = parts.as_slice() else {
        return None;
    };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::Nil => "",
        _ => return None,
    };
    node_at(host, u16::try_from(*port).ok()?, Some(asked))
}

#[cfg(test)]
mod tests;
