//! The few methods of etcd that locks need.

use dlock_core::DatastoreError;
use serde_json::Value;

/// One connection to a node.
pub(crate) trait Commands {
    /// Asks the cluster for one thing and returns its answer, which is no error.
    ///
    /// # Errors
    ///
    /// As the connection or the server says; not executed for what only reads.
    fn ask(&mut self, method: Method, body: &Value) -> Result<Value, DatastoreError>;

    /// The error of an answer that lacks something.
    fn unexpected(&self, answer: &Value) -> DatastoreError;
}

/// A method of the JSON gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Authenticate,
    LeaseGrant,
    LeaseRevoke,
    LeaseTimeToLive,
    Range,
    Status,
    Txn,
}

impl Method {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Authenticate => "/v3/auth/authenticate",
            Self::LeaseGrant => "/v3/lease/grant",
            Self::LeaseRevoke => "/v3/lease/revoke",
            Self::LeaseTimeToLive => "/v3/lease/timetolive",
            Self::Range => "/v3/kv/range",
            Self::Status => "/v3/maintenance/status",
            Self::Txn => "/v3/kv/txn",
        }
    }

    pub(crate) fn changes_something(self) -> bool {
        match self {
            Self::LeaseGrant | Self::LeaseRevoke | Self::Txn => true,
            Self::Authenticate | Self::LeaseTimeToLive | Self::Range | Self::Status => false,
        }
    }
}
