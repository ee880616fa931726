//! What is explored of a queue: who waits, and what goes wrong. For stores that have one.

use super::scenarios::{NO_FAULTS, plain, seconds, without, without_memory};
use super::types::Property;
use super::world::{Bounds, Faults};

/// A holder and waiters behind it that wait for longer than the world lasts.
pub(super) fn behind_a_holder(clients: u8, ticks: u64, faults: Faults) -> Bounds {
    Bounds {
        clients,
        ticks,
        ttl: seconds(2),
        waits: Some(seconds(60)),
        begun: true,
        faults,
        ..plain()
    }
}

/// A waiter may be granted the lock and lose it, to another one, before a copy of its claim arrives. Too large to be explored to the end.
pub(super) fn copies_after_leases() -> Bounds {
    let faults = Faults {
        losses: 1,
        lates: 1,
        ..NO_FAULTS
    };
    Bounds {
        ttl: seconds(1),
        call_timeout: seconds(2),
        renew: false,
        rounds: 2,
        ..behind_a_holder(2, 2, faults)
    }
}

/// All of them, with their names.
pub(super) fn all() -> Vec<(&'static str, Bounds)> {
    let none = NO_FAULTS;
    vec![
        ("nobody else", behind_a_holder(3, 1, none)),
        (
            "everybody anew",
            Bounds {
                rounds: 2,
                begun: false,
                ..behind_a_holder(2, 0, none)
            },
        ),
        (
            "a message lost",
            behind_a_holder(2, 1, Faults { losses: 1, ..none }),
        ),
        (
            "a message late",
            behind_a_holder(2, 1, Faults { lates: 1, ..none }),
        ),
        (
            // Who sent one message does not know of the other, as with copies in general.
            "a message twice",
            Bounds {
                properties: without(&[
                    Property::NothingLeft,
                    Property::NothingStays,
                    Property::OrphansAreKnown,
                ]),
                ..behind_a_holder(2, 1, Faults { copies: 1, ..none })
            },
        ),
        (
            "a deaf process",
            behind_a_holder(2, 2, Faults { deaf: 1, ..none }),
        ),
        (
            "a dead process",
            behind_a_holder(2, 3, Faults { crashes: 1, ..none }),
        ),
        (
            "a dead process before another",
            Bounds {
                renew: false,
                ..behind_a_holder(3, 1, Faults { crashes: 1, ..none })
            },
        ),
        (
            "a sleeping process",
            behind_a_holder(2, 1, Faults { pauses: 1, ..none }),
        ),
        (
            "a waiter that gives up",
            Bounds {
                waits: Some(seconds(1)),
                ..behind_a_holder(2, 1, Faults { losses: 2, ..none })
            },
        ),
        (
            "a stopped server",
            behind_a_holder(2, 1, Faults { stops: 1, ..none }),
        ),
        (
            "a queue lost",
            Bounds {
                properties: without_memory(),
                ..behind_a_holder(3, 1, Faults { flushes: 1, ..none })
            },
        ),
    ]
}
