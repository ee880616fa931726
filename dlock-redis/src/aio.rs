//! The async form: the same locks over a connection that many calls share.

pub(crate) mod calls;
mod operations;
mod replies;

use std::sync::{Arc, OnceLock};

use dlock_core::{DatastoreError, Time};
use dlock_net::mux::{Multiplexer, Open, Opened};
use dlock_net::{Pool, Transport as _};

use crate::connection::Parts;
use crate::handshake;
use crate::pool::ConnectionManager;
use crate::sentinel::Sentinels;
pub(crate) use replies::RequestWriter;
use replies::{RedisReplies, halves};

/// The connections of the async form.
pub(crate) type Shares = Multiplexer<Opener>;

/// Connections that are opened as those of the pool are, and belong to none.
pub(crate) fn shares(pool: &Arc<Pool<ConnectionManager>>) -> Shares {
    Multiplexer::new(Opener {
        pool: Arc::clone(pool),
        sentinels: OnceLock::new(),
    })
}

pub(crate) struct Opener {
    pool: Arc<Pool<ConnectionManager>>,
    /// Known from the first connection on.
    sentinels: OnceLock<Arc<Sentinels>>,
}

impl Open for Opener {
    type Writer = RequestWriter;
    type Replies = RedisReplies;

    fn open(&self, deadline: Time) -> Result<Opened<RequestWriter, RedisReplies>, DatastoreError> {
        let connection = self.pool.open(deadline)?;
        let parts = connection.into_parts().ok_or_else(handshake::no_redis)?;
        let Parts {
            stream,
            peer,
            packer,
            clock,
            in_cluster,
            named,
        } = parts;
        if let Some(named) = named {
            let _ = self.sentinels.set(Arc::clone(named.sentinels()));
        }
        let shared = Box::new(stream).into_shared();
        let (layer, socket) = shared.ok_or_else(handshake::no_redis)?;
        let (writer, replies) = halves(packer, clock, in_cluster);
        Ok(Opened {
            socket,
            layer,
            peer,
            writer,
            replies,
        })
    }

    fn is_current(&self, peer: &str) -> bool {
        let sentinels = self.sentinels.get();
        sentinels.is_none_or(|sentinels| sentinels.are_naming(peer))
    }
}
