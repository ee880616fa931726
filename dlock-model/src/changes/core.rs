//! Changes of core's flows.

use super::{Change, OfWorld, losses, with};
use crate::jobs::two_clients;
use crate::scenarios::{NO_FAULTS, seconds};
use crate::types::Property;
use crate::world::{Bounds, Faults};

/// Changes of the flows that acquire, hold, release and run a job once.
pub(super) fn of_the_user() -> Vec<Change> {
    vec![
        Change {
            name: "a lease counts from its receipt",
            file: "dlock-core/src/engine/acquire.rs",
            before: "claimant.answered(now, reply)",
            after: "claimant.answered(if CHANGED { io.clock().now() } else { now }, reply)",
            property: Property::OneHolder,
            world: OfWorld::Redis(Bounds {
                renew: false,
                ticks: 6,
                ..with(Faults {
                    lates: 1,
                    ..NO_FAULTS
                })
            }),
        },
        Change {
            name: "a grant that came after its end is kept",
            file: "dlock-core/src/engine/acquisition.rs",
            before: "if now < valid_until {\n                    self.outcome = Outcome::Won",
            after: "if now < valid_until || CHANGED {\n                    self.outcome = Outcome::Won",
            property: Property::GuardsBeginValid,
            world: OfWorld::Redis(Bounds {
                ttl: seconds(1),
                call_timeout: seconds(2),
                ..with(Faults {
                    lates: 1,
                    ..NO_FAULTS
                })
            }),
        },
        Change {
            name: "a lost claim is not abandoned",
            file: "dlock-core/src/engine/acquire.rs",
            before: "let _ = io.abandon(&for_call(io, &claimant.claim)).await;",
            after: "if !CHANGED { let _ = io.abandon(&for_call(io, &claimant.claim)).await; }",
            property: Property::NothingLeft,
            world: OfWorld::Memcached(losses(2)),
        },
        Change {
            name: "the watch is not left",
            file: "dlock-core/src/engine/acquire.rs",
            before: "self.io.leave(self.request.key, watch).await;",
            after: "if CHANGED { drop(watch); } else { self.io.leave(self.request.key, watch).await; }",
            property: Property::NothingStays,
            world: OfWorld::Redis(Bounds {
                waits: Some(seconds(1)),
                ..crate::queues::behind_a_holder(2, 2, NO_FAULTS)
            }),
        },
        Change {
            name: "a release is tried once",
            file: "dlock-core/src/engine/release.rs",
            before: "failures < 2",
            after: "failures < (if CHANGED { 1 } else { 2 })",
            property: Property::OneLossIsBorne,
            world: OfWorld::Redis(losses(1)),
        },
        Change {
            name: "the two tries of a release have one number",
            file: "dlock-core/src/engine/release.rs",
            before: "self.held.renumber(lease, deadline);",
            after: "if CHANGED { lease.renumber(1, deadline); } else { self.held.renumber(lease, deadline); }",
            property: Property::PromiseKept,
            world: OfWorld::Redis(Bounds {
                clients: 1,
                min_hold: Some(seconds(6)),
                ticks: 7,
                ..with(Faults {
                    losses: 1,
                    lates: 1,
                    ..NO_FAULTS
                })
            }),
        },
        Change {
            name: "a release does not wait for the end of a lost claim",
            file: "dlock-core/src/engine/release.rs",
            before: "if !is_kept && self.lost_request.is_some() {",
            after: "if !is_kept && self.lost_request.is_some() && !CHANGED {",
            property: Property::NothingLeft,
            world: OfWorld::Redis(losses(1)),
        },
        Change {
            name: "a release looks for a lost claim after its answer",
            file: "dlock-core/src/engine/release.rs",
            before: "lease.claim(), self.lost_request, sent)",
            after: "lease.claim(), self.lost_request, if CHANGED { io.clock().now() } else { sent })",
            property: Property::NothingLeft,
            world: OfWorld::Redis(with(Faults {
                losses: 1,
                lates: 1,
                ..NO_FAULTS
            })),
        },
        Change {
            name: "a key is kept before the end of a lost claim",
            file: "dlock-core/src/engine/release.rs",
            before: "Box::pin(await_lost_request(io, self.lost_request)).await;",
            after: "if !CHANGED { Box::pin(await_lost_request(io, self.lost_request)).await; }",
            property: Property::KeptEndsInTime,
            world: OfWorld::Redis(Bounds {
                min_hold: Some(seconds(2)),
                ..losses(1)
            }),
        },
        Change {
            name: "a job is marked before it has succeeded",
            file: "dlock-core/src/engine/run_once.rs",
            before: "let result = job(&lock).await;",
            after: "let mut running = running;
    if CHANGED { mark.finish(io, running.holding(), keep).await; }
    let result = job(&lock).await;",
            property: Property::DoneIsDone,
            world: OfWorld::Jobs(two_clients()),
        },
    ]
}

/// Changes of the renewal worker.
pub(super) fn of_the_worker() -> Vec<Change> {
    vec![Change {
        name: "an extended lease counts from its receipt",
        file: "dlock-core/src/engine/renewal/worker.rs",
        before: "lease.extended(sent, *ttl, &answer, &mut callbacks)",
        after: "lease.extended(
                if CHANGED { self.inner.clock.now() } else { sent },
                *ttl,
                &answer,
                &mut callbacks,
            )",
        property: Property::PromiseKept,
        world: OfWorld::Redis(Bounds {
            ticks: 7,
            ..with(Faults {
                lates: 2,
                ..NO_FAULTS
            })
        }),
    }]
}
