//! What is explored of a queue: who waits, and what goes wrong. For stores that have one.

use super::scenarios::{NO_FAULTS, plain, seconds, without, without_memory};
use super::types::{Part, Property};
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

/// A waiter may be granted the lock and lose it, to another one, before a copy of its claim
/// arrives. Too large to be explored to the end.
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

/// What holds though old data comes back: who held the lock may lose it, and what ended may be
/// there again, though not for long.
fn with_old_data() -> Vec<Property> {
    use Property::{NothingLeft, OneHolder, OrphansAreKnown, PromiseKept};
    without(&[OneHolder, PromiseKept, NothingLeft, OrphansAreKnown])
}

/// One of these parts of the server's data is as it was before.
pub(super) fn old_data(clients: u8, ticks: u64, parts: &'static [Part]) -> Bounds {
    let faults = Faults {
        old_data: 1,
        ..NO_FAULTS
    };
    Bounds {
        parts,
        properties: with_old_data(),
        ..behind_a_holder(clients, ticks, faults)
    }
}

/// The same, and an answer is lost: what was granted is asked for once more.
pub(super) fn and_a_loss(parts: &'static [Part]) -> Bounds {
    let bounds = old_data(2, 1, parts);
    let faults = Faults {
        losses: 1,
        ..bounds.faults
    };
    Bounds { faults, ..bounds }
}

/// A claim that was served before has its lock again, or its place in the queue.
pub(super) fn begins_with(clients: u8, ticks: u64, part: Part) -> Bounds {
    Bounds {
        // As long as that lock is kept.
        ttl: seconds(10),
        begins_with: Some(part),
        properties: with_old_data(),
        ..behind_a_holder(clients, ticks, NO_FAULTS)
    }
}

/// Processes die at any moment, and nothing else goes wrong: whom it was handed lived.
pub(super) fn dead_and_reached(clients: u8, crashes: u8) -> Bounds {
    let faults = Faults {
        crashes,
        ..NO_FAULTS
    };
    let also = [Property::NothingForTheDead, Property::NobodyOvertakes];
    Bounds {
        renew: false,
        properties: Property::ALL.into_iter().chain(also).collect(),
        ..behind_a_holder(clients, 1, faults)
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
            "an unsubscribed process",
            behind_a_holder(
                2,
                2,
                Faults {
                    unsubscribed: 1,
                    ..none
                },
            ),
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
        ("dead and reached", dead_and_reached(3, 1)),
        ("an old lock", old_data(2, 1, &[Part::Lock])),
        ("an old fence", old_data(2, 1, &[Part::Fence])),
        ("an old queue", old_data(2, 1, &[Part::Queue])),
        ("old heartbeats", old_data(2, 1, &[Part::Heartbeats])),
        ("a lagging replica", old_data(2, 1, &[Part::All])),
        ("an old lock and a message lost", and_a_loss(&[Part::Lock])),
        (
            "an old fence and a message lost",
            and_a_loss(&[Part::Fence]),
        ),
        (
            "a lagging replica and a message lost",
            Bounds {
                ticks: 0,
                ..and_a_loss(&[Part::All])
            },
        ),
        ("an old waiter", begins_with(3, 2, Part::Queue)),
        ("an old record", begins_with(3, 2, Part::Lock)),
    ]
}
