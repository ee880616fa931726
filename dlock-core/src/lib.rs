//! Distributed locks with leases and fencing tokens.

mod answer;
mod characteristics;
mod claim;
mod clock;
mod datastore;
pub mod duration;
mod error;
mod holder;
mod key;
mod lease;
mod options;
mod signal;
mod time;

pub use answer::{Attempt, Extension, Held, Released};
pub use characteristics::{Characteristics, Fencing, Reach};
pub use claim::{Claim, OwnerToken};
pub use clock::{Clock, FakeClock};
pub use datastore::{Datastore, Inspect, Watch};
pub use error::{DatastoreError, ErrorKind};
pub use holder::Holder;
pub use lease::{FencingToken, Grant, Lease, Revision, drift};
pub use options::{Backoff, DEFAULT_ID, LockOptions, OptionsError};
pub use signal::Signal;
pub use time::Time;
