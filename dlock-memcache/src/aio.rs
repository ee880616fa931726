//! The async form: the same locks over a connection that many calls share.

mod connection;
mod operations;
mod replies;

use std::sync::Arc;

use dlock_core::{DatastoreError, Time};
use dlock_net::mux::{Multiplexer, Open, Opened};
use dlock_net::{Pool, Transport as _};

use crate::handshake;
use crate::incarnations::Facts;
use crate::pool::ConnectionManager;
use replies::MemcacheReplies;

/// The connections of the async form.
pub(crate) type Shares = Multiplexer<Opener>;

/// Connections that are opened as those of the pool are, and belong to none.
pub(crate) fn shares(pool: &Arc<Pool<ConnectionManager>>) -> Shares {
    Multiplexer::new(Opener(Arc::clone(pool)))
}

pub(crate) struct Opener(Arc<Pool<ConnectionManager>>);

impl Open for Opener {
    type Writer = Facts;
    type Replies = MemcacheReplies;

    fn open(&self, deadline: Time) -> Result<Opened<Facts, MemcacheReplies>, DatastoreError> {
        let connection = self.0.open(deadline)?;
        let parts = connection.into_parts().and_then(|(stream, peer, facts)| {
            let (layer, socket) = Box::new(stream).into_shared()?;
            Some((layer, socket, peer, facts))
        });
        let (layer, socket, peer, facts) = parts.ok_or_else(handshake::no_memcached)?;
        Ok(Opened {
            socket,
            layer,
            replies: MemcacheReplies::of(peer.clone()),
            peer,
            writer: facts,
        })
    }

    fn takes_more(&self, server: &mut Facts) -> bool {
        server.are_latest()
    }
}
