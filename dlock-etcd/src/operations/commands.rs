//! The few methods of etcd that locks need.

use std::future::Future;

use dlock_core::DatastoreError;
use serde_json::Value;

/// One connection to a node.
///
/// A conversation is a plain `async fn` over this trait. A blocking connection implements it with
/// futures that are ready at once.
pub(crate) trait Commands: Send {
    /// Asks the cluster for one thing and returns its answer, which is no error.
    ///
    /// # Errors
    ///
    /// As the connection or the server says; not executed for what only reads.
    fn ask(
        &mut self,
        method: Method,
        body: &Value,
    ) -> impl Future<Output = Result<Value, DatastoreError>> + Send;

    /// The error of an answer that lacks something.
    fn unexpected(&self, answer: &Value) -> DatastoreError;
}

/// A method of the JSON gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Alarms,
    Authenticate,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    LeaseTimeToLive,
    Members,
    Range,
    /// Several ranges at the same moment.
    Ranges,
    Status,
    Txn,
}

impl Method {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Alarms => "/v3/maintenance/alarm",
            Self::Authenticate => "/v3/auth/authenticate",
            Self::LeaseGrant => "/v3/lease/grant",
            Self::LeaseKeepAlive => "/v3/lease/keepalive",
            Self::LeaseRevoke => "/v3/lease/revoke",
            Self::LeaseTimeToLive => "/v3/lease/timetolive",
            Self::Members => "/v3/cluster/member/list",
            Self::Range => "/v3/kv/range",
            Self::Status => "/v3/maintenance/status",
            Self::Ranges | Self::Txn => "/v3/kv/txn",
        }
    }

    pub(crate) fn changes_something(self) -> bool {
        match self {
            Self::LeaseGrant | Self::LeaseKeepAlive | Self::LeaseRevoke | Self::Txn => true,
            Self::Alarms
            | Self::Authenticate
            | Self::LeaseTimeToLive
            | Self::Members
            | Self::Range
            | Self::Ranges
            | Self::Status => false,
        }
    }
}
