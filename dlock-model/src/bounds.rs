//! How far an exploration goes.

use std::time::Duration;

use super::types::{Part, Property, Seed};

/// How far an exploration goes.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) clients: u8,
    /// How often each client acquires.
    pub(super) rounds: u8,
    /// How long the world lasts, in ticks.
    pub(super) ticks: u64,
    pub(super) ttl: Duration,
    pub(super) call_timeout: Duration,
    /// Whether the world begins when all clients have: the first one holds, the others wait, if
    /// they do.
    pub(super) begun: bool,
    /// Whether a grant is looked at before it is reported, where the store can.
    pub(super) verify: bool,
    /// For how long a refused client waits; `None` if it only tries.
    pub(super) waits: Option<Duration>,
    pub(super) renew: bool,
    pub(super) min_hold: Option<Duration>,
    pub(super) max_hold: Option<Duration>,
    /// How many ms of a client's clock pass in a second.
    pub(super) pace: [u64; 3],
    /// Whether a server's timer may be late by less than a tick.
    pub(super) lag: bool,
    /// Whether only leases count that the store has confirmed, if it can: what it promised while it
    /// was behind is not kept.
    pub(super) confirmed_only: bool,
    /// Whether holders write to a guarded resource.
    pub(super) writes: bool,
    pub(super) faults: Faults,
    /// Which parts of the server's data may come back.
    pub(super) parts: &'static [Part],
    pub(super) replica: Replica,
    /// What came back before the world begins.
    pub(super) begins_with: Option<Part>,
    pub(super) properties: Vec<Property>,
    pub(super) seed: Seed,
}

/// A replica of the server. What it has is what the server had at some earlier moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replica {
    None,
    /// Nobody waits for it.
    Lags,
    /// A grant or an extend counts only if it has acknowledged it.
    Acknowledges,
}

/// How many faults of each kind may happen.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub(super) struct Faults {
    /// Connections that break, and calls that are not answered in time though nothing is stopped.
    pub(super) losses: u8,
    /// Messages that take a tick longer, each time.
    pub(super) lates: u8,
    /// Requests that arrive twice.
    pub(super) copies: u8,
    pub(super) pauses: u8,
    pub(super) crashes: u8,
    pub(super) stops: u8,
    /// Restarts that keep the data, if the server can.
    pub(super) restarts: u8,
    /// Restarts that do not.
    pub(super) wipes: u8,
    /// All keys deleted while the server runs.
    pub(super) flushes: u8,
    /// Processes that messages do not reach, for good.
    pub(super) unsubscribed: u8,
    /// A part of the server's data that is as it was at some earlier moment.
    pub(super) old_data: u8,
    /// The replica takes the place of the server.
    pub(super) failovers: u8,
    pub(super) clock_back: u8,
    pub(super) clock_forward: u8,
}
