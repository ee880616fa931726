//! A replica takes the place of the server, with what it has by then: what `wait_replicas` keeps,
//! and what is lost without.

use std::rc::Rc;

use super::client::SLOTS;
use super::explorer::digest;
use super::protocol::Protocol;
use super::queues::behind_a_holder;
use super::redis::Redis;
use super::scenarios::{NO_FAULTS, plain, seconds, without};
use super::seeded::shows;
use super::types::{Property, Seed};
use super::world::{Bounds, Faults, Replica, World};
use super::{holds, stated_limits_are_real::is_broken};

impl<P: Protocol> World<P> {
    /// It begins with what the server has.
    pub(super) fn begin_replica(&mut self) {
        if self.bounds.replica != Replica::None {
            self.replicate();
        }
    }

    /// Whether there is a replica, and it lacks something or has not said that it has it.
    pub(super) fn is_ahead_of_replica(&self) -> bool {
        let is_open = |id: u8| {
            let pending = SLOTS
                .iter()
                .filter_map(|slot| self.client(id).pending(*slot));
            let mut asked = pending.filter(|pending| pending.reply.is_some() && !pending.dead);
            asked.any(|pending| !pending.is_replicated)
        };
        let lacks = |replica: &Rc<P>| digest(&**replica) != digest(&self.server);
        let is_asked = || {
            let waits = self.bounds.replica == Replica::Acknowledges;
            waits && (0..self.bounds.clients).any(is_open)
        };
        self.replica
            .as_ref()
            .is_some_and(|replica| lacks(replica) || is_asked())
    }

    pub(super) fn replicate(&mut self) {
        self.replica = Some(Rc::new(self.server.clone()));
        for client in &mut self.clients {
            let pending = Rc::make_mut(client).all_pending_mut();
            // What a server did that is gone is acknowledged no more.
            for pending in pending.filter(|pending| pending.reply.is_some() && !pending.dead) {
                pending.is_replicated = true;
            }
        }
    }

    /// The old server becomes the replica of the new one.
    pub(super) fn fail_over(&mut self) {
        self.faults.failovers -= 1;
        if let Some(replica) = &self.replica {
            self.server = P::clone(replica);
        }
        self.end_of_process(true);
        // What was handed over may be so again, and no waiter is notified: see `bring_back`.
        self.brought_back_costs += 3;
    }
}

const FAILOVER: Faults = Faults {
    failovers: 1,
    ..NO_FAULTS
};

/// What holds over a failover if each grant has been acknowledged: a release is not waited for, so
/// what ended may be there again, though not for long.
fn kept() -> Vec<Property> {
    without(&[Property::NothingLeft, Property::OrphansAreKnown])
}

fn acknowledged(bounds: &Bounds) -> Bounds {
    Bounds {
        replica: Replica::Acknowledges,
        properties: kept(),
        ..bounds.clone()
    }
}

/// Two clients, and a failover at any moment.
fn two(ticks: u64, faults: Faults) -> Bounds {
    let bounds = acknowledged(&plain());
    Bounds {
        ticks,
        ttl: seconds(2),
        faults,
        ..bounds
    }
}

#[test]
fn nobody_else_holds_after_a_failover_what_the_replica_has_acknowledged() {
    holds::<Redis>(&two(2, FAILOVER));
}

#[test]
fn nor_if_a_message_is_lost() {
    let faults = Faults {
        losses: 1,
        ..FAILOVER
    };
    holds::<Redis>(&Bounds {
        renew: false,
        ..two(0, faults)
    });
}

#[test]
fn nor_if_others_wait() {
    let bounds = acknowledged(&behind_a_holder(2, 1, FAILOVER));
    // They wait for as long as the replica acknowledges nothing.
    let properties = bounds.properties.into_iter();
    let properties = properties.filter(|property| *property != Property::NobodyWaitsForEver);
    holds::<Redis>(&Bounds {
        renew: false,
        properties: properties.collect(),
        ..bounds
    });
}

#[test]
fn a_guarded_resource_is_safe_whatever_is_lost() {
    let bounds = Bounds {
        replica: Replica::Lags,
        writes: true,
        renew: false,
        properties: vec![
            Property::TokensRise,
            Property::ResourceIsSafe,
            Property::StrangersAreSafe,
            Property::SomeoneCanAcquire,
        ],
        ..two(1, FAILOVER)
    };
    holds::<Redis>(&bounds);
}

/// Without failover too: a claim that the replica has not acknowledged failed, and keeps nobody
/// out.
#[test]
fn a_claim_that_is_not_acknowledged_leaves_nothing() {
    let bounds = Bounds {
        properties: Property::ALL.to_vec(),
        ..two(2, NO_FAULTS)
    };
    holds::<Redis>(&bounds);
}

/// What the page on Redis sets says that a failover loses.
#[test]
fn a_failover_gives_the_lock_to_a_second_holder_if_no_replica_is_waited_for() {
    let bounds = Bounds {
        replica: Replica::Lags,
        ..two(1, FAILOVER)
    };
    is_broken::<Redis>(Property::OneHolder, &bounds);
}

#[test]
fn one_holder_shows_a_grant_that_counts_without_the_replica() {
    let seed = Seed::ClaimNotAcknowledged;
    shows::<Redis>(Property::OneHolder, seed, &two(1, FAILOVER));
}

#[test]
fn promise_kept_shows_an_extend_that_counts_without_the_replica() {
    let bounds = Bounds {
        clients: 1,
        ..two(3, FAILOVER)
    };
    let seed = Seed::ExtendNotAcknowledged;
    shows::<Redis>(Property::PromiseKept, seed, &bounds);
}

#[test]
fn nothing_left_shows_a_grant_that_is_not_taken_back() {
    let seed = Seed::NotTakenBack;
    shows::<Redis>(Property::NothingLeft, seed, &two(1, NO_FAULTS));
}
