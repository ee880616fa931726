//! Where the calls of a store go: to one server, or to the nodes of a cluster.

use std::fmt;
use std::sync::Arc;

use dlock_core::{DatastoreError, Time};
use dlock_net::Earlier;
#[cfg(feature = "tokio")]
use dlock_net::mux::Sending;
#[cfg(feature = "tokio")]
use tokio::runtime::Handle;

#[cfg(feature = "tokio")]
use crate::aio::RequestWriter;
#[cfg(feature = "tokio")]
use crate::aio::calls::{self, Slot};
use crate::cluster::{Cluster, Node};
use crate::connection::Connection;
#[cfg(feature = "tokio")]
use crate::operations::Form;
use crate::operations::{Answer, Call};
use crate::server::{By, Server};

#[derive(Clone)]
pub(crate) enum Servers {
    One(Arc<Server>),
    Cluster(Arc<Cluster>),
}

/// A server that has keys.
pub(crate) enum Target {
    One(Arc<Server>),
    Node(Arc<Node>),
}

impl Servers {
    /// The server at this place, in the order of their addresses; `None` after the last one.
    ///
    /// # Errors
    ///
    /// Not executed: which servers there are is not known by `deadline`.
    pub(crate) fn target(
        &self,
        place: usize,
        deadline: Time,
    ) -> Result<Option<Target>, DatastoreError> {
        Ok(match self {
            Servers::One(server) => (place == 0).then(|| Target::One(Arc::clone(server))),
            Servers::Cluster(cluster) => {
                let primaries = cluster.primaries(deadline)?;
                primaries.into_iter().nth(place).map(Target::Node)
            }
        })
    }

    /// As [`target`](Self::target), without blocking.
    ///
    /// # Errors
    ///
    /// As there.
    #[cfg(feature = "tokio")]
    pub(crate) async fn target_shared(
        &self,
        place: usize,
        deadline: Time,
    ) -> Result<Option<Target>, DatastoreError> {
        Ok(match self {
            Servers::One(server) => (place == 0).then(|| Target::One(Arc::clone(server))),
            Servers::Cluster(cluster) => {
                let primaries = cluster.primaries_shared(deadline).await?;
                primaries.into_iter().nth(place).map(Target::Node)
            }
        })
    }

    /// One call, and whether an earlier try of it may have been carried out as well.
    ///
    /// # Errors
    ///
    /// That of the call.
    pub(crate) fn call(
        &self,
        deadline: Time,
        call: Call<'_>,
    ) -> Result<(Answer, bool), DatastoreError> {
        match self {
            Servers::One(server) => server.call(deadline, call, Earlier::NOTHING),
            Servers::Cluster(cluster) => cluster.call(deadline, call),
        }
    }

    /// Urgent calls, in one trip to each server.
    ///
    /// # Errors
    ///
    /// If none of them was answered.
    pub(crate) fn call_many(
        &self,
        deadline: Time,
        calls: &[Call<'_>],
    ) -> Result<Vec<Result<Answer, DatastoreError>>, DatastoreError> {
        match self {
            Servers::One(server) => server.call_many(deadline, By::Pool, |connection, _| {
                connection.call_many(calls, server.replicas)
            }),
            Servers::Cluster(cluster) => Ok(cluster.call_all(deadline, calls, By::Pool)),
        }
    }

    /// Opens a connection for what is sent to this process.
    ///
    /// # Errors
    ///
    /// Not executed.
    pub(crate) fn open(&self, deadline: Time) -> Result<Connection, DatastoreError> {
        match self {
            Servers::One(server) => server.pool.open(deadline),
            Servers::Cluster(cluster) => cluster.open(deadline),
        }
    }

    /// As [`call`](Self::call), without blocking.
    ///
    /// # Errors
    ///
    /// As there.
    #[cfg(feature = "tokio")]
    pub(crate) async fn call_shared<'a>(
        &'a self,
        deadline: Time,
        call: Call<'a>,
    ) -> Result<(Answer, bool), DatastoreError> {
        match self {
            Servers::One(server) => {
                calls::call(server, deadline, call, Slot::Settled, Earlier::NOTHING).await
            }
            // Boxed, since every future of a call to one server would have room for it.
            Servers::Cluster(cluster) => Box::pin(cluster.call_shared(deadline, call)).await,
        }
    }

    /// Sends one call at once, if a connection to its server is open over which calls on `runtime`
    /// go, and does not wait. Returns false if nothing was sent; otherwise `done` is called with
    /// the reply, or with `None` if none came by `deadline`.
    #[cfg(feature = "tokio")]
    pub(crate) fn send_at_once(
        &self,
        runtime: Option<Handle>,
        deadline: Time,
        call: Call<'_>,
        done: impl FnOnce(Option<Result<Answer, DatastoreError>>) + Send + 'static,
    ) -> bool {
        let write = |writer: &mut RequestWriter, bytes: &mut Vec<u8>, sending: Sending| {
            writer.write(call, Form::Hash, deadline, bytes, sending)
        };
        match self {
            Servers::One(server) => server.mux.send_at_once(runtime, deadline, write, done),
            Servers::Cluster(cluster) => match cluster.shares_of(call.key()) {
                Some(mux) => mux.send_at_once(runtime, deadline, write, done),
                None => false,
            },
        }
    }

    /// Whether it is a cluster.
    pub(crate) fn are_many(&self) -> bool {
        matches!(self, Servers::Cluster(_))
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Servers::One(server) => server.pool.fmt(f),
            Servers::Cluster(cluster) => cluster.fmt(f),
        }
    }
}
