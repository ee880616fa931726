//! The async form: the same locks over a few connections, which the calls of a runtime share.

mod connection;
mod operations;
mod replies;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dlock_core::aio::is_polled_by_drop;
use dlock_core::{DatastoreError, ErrorKind, Time};
use dlock_net::Pool;
use dlock_net::mux::{Multiplexer, Open, Opened};

use crate::ConnectionManager;
use crate::connection::Parts;
use crate::endpoints::Endpoints;
use replies::EtcdReplies;

/// How many connections a runtime has. A connection carries out one request after the other, so a
/// call takes one that no other call uses, if there is one.
const LANES: usize = 8;

/// The connections of the async form. They are opened as those of the pool are, and belong to none.
pub(crate) struct Shares {
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    mux: Multiplexer<Opener>,
    /// How many calls use it.
    calls: AtomicUsize,
}

/// One call's share of a lane.
struct Taken<'a>(&'a Lane);

impl Shares {
    pub(crate) fn new(pool: &Arc<Pool<ConnectionManager>>) -> Self {
        let lane = || Lane {
            mux: Multiplexer::new(Opener(Arc::clone(pool))),
            calls: AtomicUsize::new(0),
        };
        Shares {
            lanes: (0..LANES).map(|_| lane()).collect(),
        }
    }

    /// The first of the lanes that the fewest calls use, so that few are opened if few are needed.
    ///
    /// The program may end before the release of a dropped guard could open a connection. So that
    /// one takes a lane that has one, behind the requests of other calls if need be.
    fn take(&self) -> Option<Taken<'_>> {
        let is_late = |lane: &Lane| is_polled_by_drop() && !lane.mux.is_connected();
        let calls = |lane: &&Lane| (is_late(lane), lane.calls.load(Ordering::Relaxed));
        let lane = self.lanes.iter().min_by_key(calls)?;
        lane.calls.fetch_add(1, Ordering::Relaxed);
        Some(Taken(lane))
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").finish_non_exhaustive()
    }
}

impl RequestWriter {
    /// A request was not answered in time. What comes after it would wait for that answer too, so
    /// the next call goes over another connection, and to another node if there is one.
    fn timed_out(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
        self.endpoints.failed(self.number);
    }
}

pub(crate) struct Opener(Arc<Pool<ConnectionManager>>);

/// What writes the requests of a connection.
pub(crate) struct RequestWriter {
    peer: String,
    token: Option<String>,
    /// The node, in the order of the URL.
    number: usize,
    endpoints: Arc<Endpoints>,
    /// Whether the next call must use another connection.
    has_ended: Arc<AtomicBool>,
}

impl Open for Opener {
    type Writer = RequestWriter;
    type Replies = EtcdReplies;

    fn open(&self, deadline: Time) -> Result<Opened<RequestWriter, EtcdReplies>, DatastoreError> {
        let connection = self.0.open(deadline)?;
        let Parts {
            stream,
            peer,
            number,
            endpoints,
            token,
        } = connection.into_parts().ok_or_else(ended)?;
        let (layer, socket) = stream.into_shared().ok_or_else(ended)?;
        let has_ended = Arc::new(AtomicBool::new(false));
        Ok(Opened {
            socket,
            layer,
            replies: EtcdReplies {
                peer: peer.clone(),
                number,
                endpoints: Arc::clone(&endpoints),
                has_ended: Arc::clone(&has_ended),
            },
            peer: peer.clone(),
            writer: RequestWriter {
                peer,
                token,
                number,
                endpoints,
                has_ended,
            },
        })
    }

    fn takes_more(&self, writer: &mut RequestWriter) -> bool {
        !writer.has_ended.load(Ordering::Relaxed)
    }
}

fn ended() -> DatastoreError {
    DatastoreError::not_executed(
        ErrorKind::Unreachable,
        "the node ended the connection after its first answer",
    )
}
