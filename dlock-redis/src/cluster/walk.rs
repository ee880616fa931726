//! What a call does after a node of the cluster has not carried it out. No I/O here.

use std::error::Error;

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::{Earlier, Endpoint, NetError};

use crate::error::ServerError;
use crate::operations::Call;

/// The most redirections of one call.
const REDIRECTIONS: u32 = 5;
/// After more than these, which a slot that moved and moves again can take, the nodes disagree, and
/// have a little time to agree.
const AT_ONCE: u32 = 2;

/// The way of one call through the cluster.
pub(super) struct Walk<'a> {
    call: Call<'a>,
    /// Whether the call names no more keys than it must.
    names_few: bool,
    /// The node that the slot is being moved to and that has the key, if the slot's owner said so.
    asks: Option<Endpoint>,
    redirections: u32,
    earlier: Earlier,
}

/// What comes before the next try.
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) struct Next {
    /// The slot's owner is this node.
    pub(super) owner: Option<Endpoint>,
    pub(super) pauses: bool,
}

/// What an error of a node says about the call.
enum Meaning {
    Moved(Endpoint),
    Asks(Endpoint),
    /// The slot is being moved, and the keys of the call are not all in one place.
    Splits,
    /// The node does not serve the slot now.
    Waits,
    Final,
}

impl<'a> Walk<'a> {
    pub(super) fn new(call: Call<'a>) -> Self {
        Walk {
            call,
            names_few: false,
            asks: None,
            redirections: 0,
            earlier: Earlier::NOTHING,
        }
    }

    /// What is to be sent.
    pub(super) fn call(&self) -> Call<'a> {
        let few = || self.call.with_few_keys();
        self.names_few.then(few).flatten().unwrap_or(self.call)
    }

    /// What the tries so far may have done.
    pub(super) fn earlier(&self) -> Earlier {
        self.earlier
    }

    /// Where it is to be sent, if that is not the slot's owner: the slot is being moved there.
    pub(super) fn asks(&self) -> Option<&Endpoint> {
        self.asks.as_ref()
    }

    /// The call failed at `node`.
    ///
    /// # Errors
    ///
    /// The error of the whole call, if it is not to be repeated, or if it `has_time` no more.
    pub(super) fn failed(
        &mut self,
        error: DatastoreError,
        node: Option<&Endpoint>,
        has_time: bool,
    ) -> Result<Next, DatastoreError> {
        let before = self.earlier;
        self.earlier = before.and_failed(&error);
        self.asks = None;
        let mut next = Next::default();
        match meaning(&error, node) {
            Meaning::Final => return Err(before.and_then(error)),
            Meaning::Moved(owner) => next.owner = Some(owner),
            Meaning::Asks(target) => self.asks = Some(target),
            Meaning::Splits if !self.names_few && self.call.with_few_keys().is_some() => {
                self.names_few = true;
                return end_unless(has_time, before, error).map(|()| next);
            }
            Meaning::Splits | Meaning::Waits => {
                next.pauses = true;
                // After the pause the nodes may say something else. Until the slot has moved, its
                // owner sends the call on each time.
                self.redirections = 0;
                return end_unless(has_time, before, error).map(|()| next);
            }
        }
        self.redirections += 1;
        if self.redirections > REDIRECTIONS || !has_time {
            // Not the redirection's own error: that would say that there is nothing to wait for.
            let text =
                format!("the nodes of the cluster do not agree on the slot's owner: {error}");
            let refused = DatastoreError::not_executed(ErrorKind::Refused, text);
            return Err(before.and_then(refused));
        }
        next.pauses = self.redirections > AT_ONCE;
        Ok(next)
    }
}

fn end_unless(
    has_time: bool,
    before: Earlier,
    error: DatastoreError,
) -> Result<(), DatastoreError> {
    match has_time {
        true => Ok(()),
        false => Err(before.and_then(error)),
    }
}

/// Whether the slot may have another owner than we know.
pub(super) fn suspects_map(error: &DatastoreError) -> bool {
    match server_error(error) {
        Some(error) => matches!(
            error.code(),
            "MOVED" | "CLUSTERDOWN" | "READONLY" | "MASTERDOWN" | "LOADING"
        ),
        None => error.is_transient(),
    }
}

fn server_error(error: &DatastoreError) -> Option<&ServerError> {
    error.source()?.downcast_ref()
}

fn meaning(error: &DatastoreError, node: Option<&Endpoint>) -> Meaning {
    let Some(answer) = server_error(error) else {
        return match error.source() {
            Some(source) if source.is::<Unserved>() => Meaning::Waits,
            // Of a node that cannot be reached.
            Some(source) if source.is::<NetError>() && error.is_transient() => Meaning::Waits,
            _ => Meaning::Final,
        };
    };
    let target = || endpoint(answer.message(), node);
    match answer.code() {
        "MOVED" => target().map_or(Meaning::Final, Meaning::Moved),
        "ASK" => target().map_or(Meaning::Final, Meaning::Asks),
        "TRYAGAIN" => Meaning::Splits,
        "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "READONLY" => Meaning::Waits,
        _ => Meaning::Final,
    }
}

/// The node in a redirection, `<slot> <host>:<port>`. A node that does not know the host by which
/// it is reached leaves it out: then it is that of the node that redirects.
fn endpoint(redirection: &str, node: Option<&Endpoint>) -> Option<Endpoint> {
    let (_, address) = redirection.split_once(' ')?;
    let (host, port) = address.rsplit_once(':')?;
    node_at(host, port.parse().ok()?, node)
}

/// The node at a host that a node of the cluster names, which leaves it out if it does not know it.
pub(super) fn node_at(host: &str, port: u16, node: Option<&Endpoint>) -> Option<Endpoint> {
    let host = match (host, node) {
        ("" | "?", Some(Endpoint::Tcp { host, .. })) => host,
        ("" | "?", _) => return None,
        (host, _) => host,
    };
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    (port != 0).then_some(Endpoint::Tcp { host, port })
}

/// No node serves the slot of a key.
#[derive(Debug, thiserror::Error)]
#[error("no node of the cluster serves the slot of this key")]
pub(super) struct Unserved;

#[cfg(test)]
mod tests;
