//! One server: the connections to it, and a call over one of them.

use std::sync::Arc;

use dlock_core::{DatastoreError, Time};
use dlock_net::{Earlier, Pool};

#[cfg(feature = "tokio")]
use crate::aio;
use crate::connection::Connection;
use crate::operations::{Answer, Call};
use crate::pool::ConnectionManager;
use crate::replicas::Replicas;

/// The connections that many calls go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// One of the pool, before claims that wait for it.
    Pool,
    /// One beside the pool.
    Dedicated,
}

/// The connections to one server, for both forms.
pub(crate) struct Server {
    pub(crate) pool: Arc<Pool<ConnectionManager>>,
    #[cfg(feature = "tokio")]
    pub(crate) mux: Arc<aio::Shares>,
    /// How many replicas must have a grant.
    pub(crate) replicas: Option<Replicas>,
}

impl Server {
    pub(crate) fn new(pool: Pool<ConnectionManager>, replicas: Option<Replicas>) -> Self {
        Self::over(Arc::new(pool), replicas)
    }

    pub(crate) fn over(pool: Arc<Pool<ConnectionManager>>, replicas: Option<Replicas>) -> Self {
        Server {
            replicas,
            #[cfg(feature = "tokio")]
            mux: Arc::new(aio::shares(&pool)),
            pool,
        }
    }

    /// One call, and whether an earlier try of it may have been carried out as well: on a
    /// connection that died, or one of those `before`.
    pub(crate) fn call(
        &self,
        deadline: Time,
        call: Call<'_>,
        before: Earlier,
    ) -> Result<(Answer, bool), DatastoreError> {
        self.call_by(deadline, call, before, Connection::call_and_wait)
    }

    /// The same by `make`, which makes the call on a connection.
    pub(crate) fn call_by(
        &self,
        deadline: Time,
        call: Call<'_>,
        before: Earlier,
        make: impl Fn(&mut Connection, Call<'_>, Option<Replicas>) -> Result<Answer, DatastoreError>,
    ) -> Result<(Answer, bool), DatastoreError> {
        let send = |connection: &mut Connection, earlier: Earlier| {
            let in_doubt = earlier.and(before.may_have_run()).may_have_run();
            let call = if in_doubt { call.once_more() } else { call };
            make(connection, call, self.replicas).map(|answer| (answer, in_doubt))
        };
        match call.is_urgent() {
            true => self.pool.call_urgent(deadline, send),
            false => self.pool.call(deadline, send),
        }
    }

    /// Many calls in one trip.
    pub(crate) fn call_many<T>(
        &self,
        deadline: Time,
        by: By,
        make: impl FnMut(&mut Connection, Earlier) -> Result<T, DatastoreError>,
    ) -> Result<T, DatastoreError> {
        match by {
            By::Pool => self.pool.call_urgent(deadline, make),
            By::Dedicated => self.pool.call_dedicated(deadline, make),
        }
    }
}
