//! Old copies of the server's data come back.

use super::protocol::Protocol;
use super::types::{Owner, Part};
use super::world::World;

impl<P: Protocol> World<P> {
    /// Gives the server an old copy of a claim under which the last client was already served.
    pub(super) fn begin_with(&mut self, part: Part) {
        let client = self.bounds.clients - 1;
        let owner = Owner { client, number: 0 };
        let mut around = self.around();
        self.server.haunt(&mut around, owner, part);
        self.client_mut(client).waiting.ends(owner);
    }

    pub(super) fn bring_back(&mut self, part: Part) {
        self.faults.old_data -= 1;
        if let Some(copy) = self.copy.take() {
            self.server.bring_back(&copy, part);
        }
        if part == Part::All {
            self.end_of_process(true);
        }
        // A lock that was handed over lasts into a second tick, and no waiter was notified. The
        // next heartbeat finds everything else that is lost or old.
        self.brought_back_costs += match part {
            Part::Lock | Part::All => 3,
            _ => 1,
        };
    }
}
