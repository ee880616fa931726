//! What is explored: which clients, which faults, how long. Small enough for every run of the
//! tests; [`deeper`] is for patience.

use std::time::Duration;

use super::types::{Part, Property, Seed};
use super::world::{Bounds, Faults, Replica};

pub(super) const NO_FAULTS: Faults = Faults {
    losses: 0,
    lates: 0,
    copies: 0,
    pauses: 0,
    crashes: 0,
    stops: 0,
    restarts: 0,
    wipes: 0,
    flushes: 0,
    unsubscribed: 0,
    old_data: 0,
    failovers: 0,
    clock_back: 0,
    clock_forward: 0,
};

/// Two clients that try once, a lease of three ticks that is renewed, clocks one part in a hundred
/// apart: as much as the margin allows.
pub(super) fn plain() -> Bounds {
    Bounds {
        clients: 2,
        rounds: 1,
        ticks: 4,
        ttl: seconds(3),
        call_timeout: seconds(1),
        begun: false,
        verify: false,
        waits: None,
        renew: true,
        min_hold: None,
        max_hold: None,
        pace: [990, 1000, 1000],
        lag: false,
        confirmed_only: false,
        writes: false,
        faults: NO_FAULTS,
        parts: Part::EACH,
        replica: Replica::None,
        begins_with: None,
        properties: Property::ALL.to_vec(),
        seed: Seed::None,
    }
}

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What holds though the server forgets: not that there is one holder.
pub(super) fn without_memory() -> Vec<Property> {
    use Property::{OneHolder, PromiseKept};
    without(&[OneHolder, PromiseKept])
}

/// What holds though the server's clock is set: all that leases and late calls are measured on is
/// gone.
pub(super) fn without_clock() -> Vec<Property> {
    use Property::{ResourceIsSafe, StrangersAreSafe, TokensRise};
    vec![TokensRise, ResourceIsSafe, StrangersAreSafe]
}

pub(super) fn without(these: &[Property]) -> Vec<Property> {
    let all = Property::ALL.into_iter();
    all.filter(|property| !these.contains(property)).collect()
}

/// The same for longer, and with one more of each fault that there is.
pub(super) fn deeper(bounds: &Bounds, ticks: u64, more: u8) -> Bounds {
    let add = |count: u8| if count > 0 { count + more } else { 0 };
    let Faults {
        losses,
        lates,
        copies,
        pauses,
        crashes,
        stops,
        restarts,
        wipes,
        flushes,
        unsubscribed,
        old_data,
        failovers,
        clock_back,
        clock_forward,
    } = bounds.faults;
    Bounds {
        ticks: bounds.ticks + ticks,
        faults: Faults {
            losses: add(losses),
            lates: add(lates),
            copies: add(copies),
            pauses: add(pauses),
            crashes: add(crashes),
            stops: add(stops),
            restarts: add(restarts),
            wipes: add(wipes),
            flushes: add(flushes),
            unsubscribed,
            old_data,
            failovers: add(failovers),
            // Twice back or forward would leave the model's range.
            clock_back,
            clock_forward,
        },
        ..bounds.clone()
    }
}

/// One of them, by its name in words.
pub(super) fn named(name: &str) -> Bounds {
    let mut all = all().into_iter();
    let found = all.find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no scenario {name}")).1
}

/// All of them, with their names.
pub(super) fn all() -> Vec<(&'static str, Bounds)> {
    let with = |faults: Faults| Bounds { faults, ..plain() };
    let short = |faults: Faults| Bounds {
        ticks: 2,
        ..with(faults)
    };
    let briefly = |faults: Faults| Bounds {
        ticks: 1,
        ..with(faults)
    };
    let none = NO_FAULTS;
    vec![
        (
            "nothing but each other",
            Bounds {
                rounds: 2,
                ticks: 3,
                ..plain()
            },
        ),
        (
            "three clients",
            Bounds {
                clients: 3,
                ticks: 2,
                ..plain()
            },
        ),
        (
            "late messages",
            Bounds {
                lag: true,
                ..with(Faults { lates: 1, ..none })
            },
        ),
        ("lost messages", with(Faults { losses: 1, ..none })),
        (
            "clocks apart",
            Bounds {
                pace: [990, 1010, 1000],
                ticks: 3,
                ..with(Faults { losses: 1, ..none })
            },
        ),
        (
            "lost and late messages",
            short(Faults {
                losses: 1,
                lates: 1,
                ..none
            }),
        ),
        ("two losses", briefly(Faults { losses: 2, ..none })),
        (
            "connections used again",
            Bounds {
                clients: 1,
                rounds: 2,
                ..with(Faults {
                    losses: 1,
                    lates: 1,
                    ..none
                })
            },
        ),
        (
            // Who sent one message does not know of the other. No transport that is used does this;
            // resent claims are known.
            "copied messages",
            Bounds {
                properties: without(&[Property::NothingLeft, Property::OrphansAreKnown]),
                ..short(Faults {
                    copies: 1,
                    lates: 1,
                    ..none
                })
            },
        ),
        (
            "pauses and crashes",
            Bounds {
                ticks: 3,
                ..with(Faults {
                    pauses: 1,
                    crashes: 1,
                    ..none
                })
            },
        ),
        (
            "writes after a pause",
            Bounds {
                ticks: 3,
                writes: true,
                renew: false,
                ..with(Faults { pauses: 1, ..none })
            },
        ),
        (
            "a stopped server",
            Bounds {
                lag: true,
                confirmed_only: true,
                ..short(Faults { stops: 1, ..none })
            },
        ),
        (
            "a long stall",
            Bounds {
                clients: 1,
                rounds: 2,
                ticks: 6,
                renew: false,
                lag: true,
                confirmed_only: true,
                ..with(Faults { stops: 1, ..none })
            },
        ),
        (
            "restarts",
            Bounds {
                ticks: 3,
                properties: without_memory(),
                ..with(Faults {
                    restarts: 1,
                    ..none
                })
            },
        ),
        (
            "data lost",
            Bounds {
                writes: true,
                properties: without_memory(),
                ..short(Faults { wipes: 1, ..none })
            },
        ),
        (
            "keys deleted",
            Bounds {
                properties: without_memory(),
                ..briefly(Faults {
                    flushes: 1,
                    losses: 1,
                    ..none
                })
            },
        ),
        (
            "the clock set back",
            Bounds {
                writes: true,
                properties: without_clock(),
                ..short(Faults {
                    clock_back: 1,
                    ..none
                })
            },
        ),
        (
            "the clock set forward",
            Bounds {
                writes: true,
                properties: without_clock(),
                ..short(Faults {
                    clock_forward: 1,
                    ..none
                })
            },
        ),
        (
            "a waiter",
            Bounds {
                waits: Some(seconds(3)),
                ..short(Faults { losses: 1, ..none })
            },
        ),
        (
            "leases shorter than a call",
            Bounds {
                ttl: seconds(1),
                call_timeout: seconds(2),
                waits: Some(seconds(3)),
                ..short(Faults {
                    lates: 1,
                    losses: 1,
                    ..none
                })
            },
        ),
        (
            "a least hold",
            Bounds {
                min_hold: Some(seconds(4)),
                ..with(Faults { losses: 1, ..none })
            },
        ),
        (
            "a longest hold",
            Bounds {
                max_hold: Some(seconds(4)),
                ..with(Faults { losses: 1, ..none })
            },
        ),
        (
            "late renewals",
            Bounds {
                clients: 1,
                ticks: 5,
                ..with(Faults {
                    lates: 1,
                    pauses: 1,
                    ..none
                })
            },
        ),
        (
            "no renewal",
            Bounds {
                renew: false,
                ..with(Faults {
                    lates: 1,
                    pauses: 1,
                    ..none
                })
            },
        ),
    ]
}
