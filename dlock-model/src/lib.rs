//! The flows of dlock explored: every interleaving, within bounds, of some clients and one server
//! with one lock.
//!
//! The clients run the code of production itself:
//!
//! - `flows`: core's flows that acquire, hold, release and run a job once, and the renewal worker's
//!   loop with the look of the timing thread. They see the world through core's `Io` (`port`).
//! - `call`: one call of a store. dlock-net's repetition on a fresh connection runs around a
//!   conversation with the server. That of memcached is dlock-memcache's own (`memcache_call`),
//!   over its `Commands`.
//!
//! Each of them suspends at every call, command, watch and sleep, and goes on when the model gives
//! it an input. Core, dlock-net and dlock-memcache are compiled for that once more, with
//! `cfg(dlock_model)`: `core/Cargo.toml` says how.
//!
//! `replay` makes states of them. A future cannot be copied, but equal histories lead to equal
//! futures. So a state of the world has, for each process and for each call under way, a
//! fingerprint of what it was given and when. It is run again from its own log only where the
//! memory has no entry for (fingerprint, now, input), and must then want the same as before, or the
//! model fails as "not deterministic".
//!
//! Around them stand in for the real things:
//!
//! - `redis`, `redis_scripts` and `redis_queue`: the scripts line by line, and the connection that
//!   learns the server's time and sends not-after times in it. `twins` holds these stand-ins to the
//!   scripts: it plays random calls on both, the scripts on a real server, and compares.
//! - `waiting`: the waiters of a store in dlock-redis: the watch, what is received, the heartbeats
//!   once a tick, the leaves that are repeated. A process has one waiter and one key. Ends sooner
//!   than a tick, and the tests of whether messages come through, are left out: a process that has
//!   lost its subscription stays without one.
//! - `memcache`: `add`, compare-and-set, compare-and-delete and get, with the server's own second
//!   and its incarnation.
//! - `user` and `wire`: carry out what the flows and the calls want, one step at a time.
//! - `world`: messages under way, which arrive at any time, in any order, twice or never; pauses
//!   and crashes of clients, at any moment; a server that stops, goes on, restarts, loses its data;
//!   data that comes back as it was at an earlier moment, one key alone or all of them; clocks that
//!   run one part in a hundred apart, and a server's clock that is set.
//! - `replicas`: a replica, which has what the server had at an earlier moment and takes its place
//!   at any time. With `wait_replicas` it must have a grant or an extend that counts. The old
//!   server is gone then; one that goes on for a while without its replica acknowledges nothing.
//!
//! Time goes in ticks of a second. A client that is not paused does what is due before the next
//! tick, in any order with everything else; a message takes no tick or costs one of `Faults::lates`
//! for each; a lost one costs one of `Faults::losses`.
//!
//! `future` looks ahead from each tick, in one order of many and without further faults: a waiter
//! is granted the lock, and nothing stays of what was there.
//!
//! `explorer` visits the states breadth first and knows them by 64-bit fingerprints; `properties`
//! is looked at in each. `scenarios` and `queues` have the bounds. `seeded` breaks the stand-ins on
//! purpose, `changes` the text of the flows themselves, and each demands that a property shows it.
//! `jobs` is a small world of its own: two keys, for jobs that are to be done once. `postgres` is
//! another: calls of PostgreSQL's functions that wait for each other's row.
//!
//! The scenarios in each run of the tests are small. For larger ones, with figures:
//!
//! ```text
//! cargo test --release -p dlock-model deeper -- --ignored --nocapture
//! ```
//!
//! `DLOCK_MODEL_TICKS` (default 1) says how many ticks longer, `DLOCK_MODEL_FAULTS` (default 0) how
//! many more of each fault that a scenario has, `DLOCK_MODEL_STATES` (default 3000000) how many
//! states of each are visited at most; a million takes some 300 MB and a few seconds.

#![cfg(test)]

mod bounds;
mod call;
mod changes;
mod client;
mod convert;
mod explorer;
mod flows;
mod future;
mod jobs;
mod memcache;
mod memcache_call;
mod old_data;
mod port;
mod postgres;
mod properties;
mod protocol;
mod queues;
mod redis;
mod redis_queue;
mod redis_scripts;
mod replay;
mod replicas;
mod scenarios;
mod seeded;
mod seeded_queues;
mod twins;
mod types;
mod user;
mod waiting;
mod wire;
mod world;

use std::env;

use explorer::{Explored, explore};
use memcache::Memcached;
use protocol::Protocol;
use redis::Redis;
use scenarios::{NO_FAULTS, deeper, named, plain, seconds};
use types::Property;
use world::{Bounds, Faults, World};

/// More than any scenario of the usual run has.
const MOST: usize = 2_000_000;

fn explored<P: Protocol>(bounds: &Bounds, most: usize) -> Explored {
    explore(&World::<P>::new(bounds), most)
}

fn holds<P: Protocol>(bounds: &Bounds) {
    let explored = explored::<P>(bounds, MOST);
    assert!(explored.broken.is_none(), "{explored}");
    assert!(explored.complete && explored.states > 500, "{explored}");
}

macro_rules! scenarios {
    ($($name:ident)+) => {
        mod redis_keeps_its_promises_with {
            $(#[test] fn $name() {
                super::holds::<super::Redis>(&super::named(&stringify!($name).replace('_', " ")));
            })+
        }

        mod memcached_keeps_its_promises_with {
            $(#[test] fn $name() {
                super::holds::<super::Memcached>(&super::named(&stringify!($name).replace('_', " ")));
            })+
        }

        #[test]
        fn every_scenario_is_explored() {
            let explored = [$(stringify!($name).replace('_', " ")),+];
            let all: Vec<_> = scenarios::all().into_iter().map(|(name, _)| name).collect();
            assert_eq!(explored.to_vec(), all);
        }
    };
}

scenarios! {
    nothing_but_each_other
    three_clients
    late_messages
    lost_messages
    clocks_apart
    lost_and_late_messages
    two_losses
    connections_used_again
    copied_messages
    pauses_and_crashes
    writes_after_a_pause
    a_stopped_server
    a_long_stall
    restarts
    data_lost
    keys_deleted
    the_clock_set_back
    the_clock_set_forward
    a_waiter
    leases_shorter_than_a_call
    a_least_hold
    a_longest_hold
    late_renewals
    no_renewal
}

macro_rules! queues {
    ($($name:ident)+) => {
        mod redis_keeps_its_promises_to_waiters_with {
            $(#[test] fn $name() {
                let name = stringify!($name).replace('_', " ");
                let mut all = super::queues::all().into_iter();
                let (_, bounds) = all.find(|(known, _)| *known == name).expect("a scenario");
                super::holds::<super::Redis>(&bounds);
            })+
        }

        #[test]
        fn every_scenario_of_queues_is_explored() {
            let explored = [$(stringify!($name).replace('_', " ")),+];
            let all: Vec<_> = queues::all().into_iter().map(|(name, _)| name).collect();
            assert_eq!(explored.to_vec(), all);
        }
    };
}

queues! {
    nobody_else
    everybody_anew
    a_message_lost
    a_message_late
    a_message_twice
    an_unsubscribed_process
    a_dead_process
    a_dead_process_before_another
    a_sleeping_process
    a_waiter_that_gives_up
    a_stopped_server
    a_queue_lost
    dead_and_reached
    an_old_lock
    an_old_fence
    an_old_queue
    old_heartbeats
    a_lagging_replica
    an_old_lock_and_a_message_lost
    an_old_fence_and_a_message_lost
    a_lagging_replica_and_a_message_lost
    an_old_waiter
    an_old_record
}

/// What the stores say that they do not promise, they do not.
mod stated_limits_are_real {
    use super::*;

    pub(super) fn is_broken<P: Protocol>(property: Property, bounds: &Bounds) {
        let bounds = Bounds {
            properties: vec![property],
            ..bounds.clone()
        };
        let explored = explored::<P>(&bounds, MOST);
        let broken = explored.broken.expect("a limit that is none");
        assert!(broken.what.starts_with(&format!("{property:?}")));
    }

    fn with(faults: Faults) -> Bounds {
        Bounds { faults, ..plain() }
    }

    #[test]
    fn redis_gives_a_lower_token_once_its_data_is_lost_and_its_clock_set_back() {
        let faults = Faults {
            wipes: 1,
            clock_back: 1,
            ..NO_FAULTS
        };
        is_broken::<Redis>(Property::TokensRise, &with(faults));
    }

    #[test]
    fn memcached_gives_a_lower_token_once_its_clock_is_set_back_before_a_restart() {
        let faults = Faults {
            wipes: 1,
            clock_back: 1,
            ..NO_FAULTS
        };
        is_broken::<Memcached>(Property::TokensRise, &with(faults));
    }

    #[test]
    fn a_server_that_loses_its_data_gives_the_lock_to_a_second_holder() {
        let faults = Faults {
            wipes: 1,
            ..NO_FAULTS
        };
        is_broken::<Redis>(Property::OneHolder, &with(faults));
        // memcached grants nothing while it is new, and a holder that renews learns of the loss
        // before that is over.
        let bounds = Bounds {
            ttl: seconds(5),
            renew: false,
            ..with(faults)
        };
        is_broken::<Memcached>(Property::OneHolder, &bounds);
    }

    #[test]
    fn redis_gives_the_lock_to_a_second_holder_once_its_clock_is_set_forward() {
        let faults = Faults {
            clock_forward: 1,
            ..NO_FAULTS
        };
        is_broken::<Redis>(Property::OneHolder, &with(faults));
    }

    #[test]
    fn redis_gets_a_later_end_by_what_a_clock_ran_ahead_since_the_latest_reply() {
        let bounds = Bounds {
            clients: 1,
            rounds: 2,
            pace: [1010; 3],
            ..with(Faults {
                losses: 1,
                ..NO_FAULTS
            })
        };
        is_broken::<Redis>(Property::NothingLeft, &bounds);
    }

    #[test]
    fn memcached_keeps_a_lease_too_short_that_it_stored_after_a_stall() {
        let bounds = Bounds {
            lag: true,
            ticks: 8,
            renew: false,
            ..with(Faults {
                stops: 1,
                ..NO_FAULTS
            })
        };
        is_broken::<Memcached>(Property::PromiseKept, &bounds);
    }

    #[test]
    fn memcached_carries_a_claim_out_that_was_given_up_long_ago() {
        // Redis does not: that is what the time in a request is for.
        let faults = Faults {
            losses: 2,
            ..NO_FAULTS
        };
        is_broken::<Memcached>(Property::NothingLate, &with(faults));
        let bounds = Bounds {
            properties: vec![Property::NothingLate],
            ..with(faults)
        };
        holds::<Redis>(&bounds);
    }
}

#[test]
#[ignore = "takes minutes; see the module's documentation"]
#[expect(clippy::print_stdout, reason = "the figures are what it is for")]
fn deeper_exploration() {
    let number = |name: &str, default: u64| {
        let value = env::var(name).ok();
        value.map_or(default, |value| value.parse().expect("a number"))
    };
    let ticks = number("DLOCK_MODEL_TICKS", 1);
    let more = u8::try_from(number("DLOCK_MODEL_FAULTS", 0)).expect("a small number");
    let most =
        usize::try_from(number("DLOCK_MODEL_STATES", 3_000_000)).expect("a number of states");
    let (mut states, mut transitions, mut broken) = (0, 0, Vec::new());
    let mut add = |store: &str, name: &str, explored: &Explored| {
        println!("{store}, {name}: {explored}");
        states += explored.states;
        transitions += explored.transitions;
        if explored.broken.is_some() {
            broken.push(format!("{store}, {name}"));
        }
    };
    for (name, bounds) in scenarios::all() {
        let bounds = deeper(&bounds, ticks, more);
        add("Redis", name, &explored::<Redis>(&bounds, most));
        add("memcached", name, &explored::<Memcached>(&bounds, most));
    }
    for (name, bounds) in queues::all() {
        let bounds = deeper(&bounds, ticks, more);
        add(
            "The queue of Redis",
            name,
            &explored::<Redis>(&bounds, most),
        );
    }
    println!("{states} states, {transitions} transitions in all");
    assert!(broken.is_empty(), "{broken:?}");
}
