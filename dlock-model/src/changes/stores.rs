//! Changes of what the stores do: the repeated call, and the conversation with memcached.

use super::{Change, OfWorld, losses, with};
use crate::scenarios::{NO_FAULTS, plain, seconds};
use crate::types::Property;
use crate::world::{Bounds, Faults};

/// Changes of the repeated call.
pub(super) fn of_the_pool() -> Vec<Change> {
    vec![Change {
        name: "what the try before may have done is forgotten",
        file: "dlock-net/src/repeat.rs",
        before: "self.earlier = self.earlier.and_failed(&error);",
        after: "if !CHANGED { self.earlier = self.earlier.and_failed(&error); }",
        property: Property::NothingLeft,
        world: OfWorld::Redis(Bounds {
            clients: 1,
            rounds: 2,
            ..losses(1)
        }),
    }]
}

/// Changes of the conversation with memcached.
pub(super) fn of_the_conversation() -> Vec<Change> {
    let restarted = |wipes| with(Faults { wipes, ..NO_FAULTS });
    vec![
        Change {
            name: "a fencing token is the CAS number alone",
            file: "dlock-memcache/src/operations/incarnation.rs",
            before: "self.start.saturating_sub(EPOCH)",
            after: "if CHANGED { 0 } else { self.start.saturating_sub(EPOCH) }",
            property: Property::TokensRise,
            world: OfWorld::Memcached(restarted(1)),
        },
        Change {
            name: "a fencing token begins anew with each incarnation",
            file: "dlock-memcache/src/operations/incarnation.rs",
            before: ".checked_mul(1 << CAS_BITS)",
            after: ".checked_mul(if CHANGED { 0 } else { 1 << CAS_BITS })",
            property: Property::ResourceIsSafe,
            world: OfWorld::Memcached(Bounds {
                writes: true,
                ticks: 5,
                ..restarted(1)
            }),
        },
        Change {
            name: "a server that has just started grants",
            file: "dlock-memcache/src/operations/grant.rs",
            before: "wait_until_it_may_grant(server, claim).await?;",
            after: "if !CHANGED { wait_until_it_may_grant(server, claim).await?; }",
            property: Property::TokensRise,
            world: OfWorld::Memcached(restarted(2)),
        },
        Change {
            name: "the time on the wire has no margin",
            file: "dlock-memcache/src/operations/ttl.rs",
            before: "unwrap_or(MOST - MARGIN) + MARGIN",
            after: "unwrap_or(MOST - MARGIN) + (if CHANGED { 0 } else { MARGIN })",
            property: Property::OneHolder,
            world: OfWorld::Memcached(Bounds {
                renew: false,
                lag: true,
                ..plain()
            }),
        },
        Change {
            name: "a grant of another incarnation is believed",
            file: "dlock-memcache/src/operations/holding.rs",
            before: "at.is_some_and(|at| at.incarnation != server.incarnation())",
            after: "at.is_some_and(|at| at.incarnation != server.incarnation()) && !CHANGED",
            property: Property::StrangersAreSafe,
            world: OfWorld::Memcached(Bounds {
                ttl: seconds(5),
                ..restarted(1)
            }),
        },
        Change {
            name: "a release deletes whatever is there",
            file: "dlock-memcache/src/operations/holding.rs",
            before: "if owned(&item, claim.owner()).is_none() {",
            after: "if owned(&item, claim.owner()).is_none() && !CHANGED {",
            property: Property::StrangersAreSafe,
            world: OfWorld::Memcached(Bounds {
                renew: false,
                ticks: 8,
                ..with(Faults {
                    pauses: 1,
                    ..NO_FAULTS
                })
            }),
        },
        Change {
            name: "core does not learn that a claim was sent twice",
            file: "dlock-memcache/src/operations/grant.rs",
            before: "if !earlier.may_have_run() {",
            after: "if !earlier.may_have_run() || CHANGED {",
            property: Property::OrphansAreKnown,
            world: OfWorld::Memcached(Bounds {
                rounds: 2,
                ..losses(1)
            }),
        },
        Change {
            name: "a promise is believed though the server's clock was behind",
            file: "dlock-memcache/src/operations/ttl.rs",
            before: "promised.min(reported)\n    }",
            after: "if CHANGED { promised } else { promised.min(reported) }\n    }",
            property: Property::PromiseKept,
            world: OfWorld::Memcached(Bounds {
                clients: 1,
                rounds: 2,
                ticks: 6,
                renew: false,
                lag: true,
                confirmed_only: true,
                ..with(Faults {
                    stops: 1,
                    ..NO_FAULTS
                })
            }),
        },
    ]
}
