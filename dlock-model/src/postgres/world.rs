//! Clients that use the lock, and what must hold.

mod machine;

use super::functions::{Answer, Around, Call, Mistake, Running};
use super::table::{Owner, Table, Transaction};

/// How far an exploration goes. Times are in ticks.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Bounds {
    pub(super) clients: u8,
    /// Claims of each client.
    pub(super) claims: u8,
    /// Extends of each lease.
    pub(super) extends: u64,
    pub(super) ticks: u64,
    pub(super) ttl: u64,
    /// How long a call is waited for.
    pub(super) timeout: u64,
    /// Ticks that pass while a call that waits for no row is on its way, between two statements
    /// or before its commit. One for each such call.
    pub(super) slow: usize,
    /// Answers that are lost after the commit, and connections that break during an extend.
    pub(super) losses: u8,
    /// Calls that are rolled back: the backend is terminated, or waited for the row for too long.
    pub(super) aborts: u8,
    /// Other transactions that lock the row.
    pub(super) strangers: u8,
    /// Transactions of a holder that call `dlock.check`.
    pub(super) checks: u8,
    pub(super) mistake: Mistake,
}

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Property {
    /// At most one client believes that it holds the lock.
    OneHolder,
    /// Who believes that it holds the lock does.
    PromiseKept,
    /// Fencing tokens rise from grant to grant, in the order of commits.
    TokensRise,
    /// No lease that has ended when an extend gets the row is extended by it.
    NoRevival,
    /// An extend that was overtaken by a later one changes nothing.
    NothingOld,
    /// No claim is granted after its end.
    NothingLate,
    /// A claim that was abandoned holds nothing from then on.
    NothingLeft,
    /// Between a successful check and the end of its transaction nobody else is granted the lock.
    ChecksHold,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq)]
enum Phase {
    Idle,
    Claiming {
        call: Transaction,
        sent: u64,
    },
    Abandoning {
        call: Transaction,
        sent: u64,
    },
    Holding {
        fence: u64,
        until: u64,
        sequence: u64,
        /// An extend, and when it was sent.
        extend: Option<(Transaction, u64)>,
    },
    Releasing {
        call: Transaction,
        sent: u64,
    },
}

#[derive(Clone, Debug, Hash)]
struct Client {
    phase: Phase,
    owner: Owner,
    claims: u8,
}

/// A call that the server has, or that is on its way to it.
#[derive(Clone, Debug, Hash)]
struct Slot {
    id: Transaction,
    running: Running,
    /// Whether the key's lease had ended when an extend got the row.
    revives: bool,
    /// Whether a later extend was carried out before.
    is_old: bool,
}

#[derive(Clone)]
pub(super) struct World {
    bounds: Bounds,
    now: u64,
    table: Table,
    /// A sequence in the database, for a mistake.
    sequence: u64,
    clients: Vec<Client>,
    slots: Vec<Slot>,
    /// The owners whose claims were abandoned.
    clean: u32,
    highest_fence: u64,
    slow: usize,
    losses: u8,
    aborts: u8,
    strangers: u8,
    checks: u8,
}

/// The number of no call.
const NO_CALL: Transaction = Transaction::MAX;
/// Claims that a client may make at most.
const CLAIMS: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    Tick,
    Claim(u8),
    Extend(u8),
    Release(u8),
    GiveUp(u8),
    Check(u8),
    LockRow,
    /// The connection breaks. The client does not wait for its extend, which goes on.
    Disconnect(u8),
    /// The next statement of a call.
    Run(Transaction),
    /// The end of its transaction, and its answer.
    Commit(Transaction),
    /// The same, and the answer is lost.
    CommitUnheard(Transaction),
    RollBack(Transaction),
}

impl World {
    pub(super) fn new(bounds: Bounds) -> Self {
        let client = |number| Client {
            phase: Phase::Idle,
            owner: number * CLAIMS,
            claims: 0,
        };
        World {
            bounds,
            // So that a time before is a time, too.
            now: 10,
            table: Table::default(),
            sequence: 0,
            clients: (0..bounds.clients).map(client).collect(),
            slots: Vec::new(),
            clean: 0,
            highest_fence: 0,
            slow: bounds.slow,
            losses: bounds.losses,
            aborts: bounds.aborts,
            strangers: bounds.strangers,
            checks: bounds.checks,
        }
    }

    fn client(&mut self, client: u8) -> &mut Client {
        &mut self.clients[usize::from(client)]
    }

    fn begin(&mut self, call: Call) -> Transaction {
        let is_free = |id: &Transaction| self.slots.iter().all(|slot| slot.id != *id);
        let id = (0..).find(is_free).unwrap_or_default();
        self.slots.push(Slot {
            id,
            running: Running::new(call),
            revives: false,
            is_old: false,
        });
        // In one order, so that equal worlds are equal.
        self.slots.sort_by_key(|slot| slot.id);
        id
    }

    fn slot(&self, id: Transaction) -> &Slot {
        let slot = self.slots.iter().find(|slot| slot.id == id);
        slot.expect("a call under way")
    }

    fn around(&self, transaction: Transaction) -> Around {
        Around {
            transaction,
            now: self.now,
            mistake: self.bounds.mistake,
        }
    }

    fn claim(&mut self, client: u8) {
        let (now, ttl) = (self.now, self.bounds.ttl);
        let not_after = now + self.bounds.timeout;
        let this = self.client(client);
        this.owner = client * CLAIMS + this.claims;
        this.claims += 1;
        let owner = this.owner;
        let call = self.begin(Call::Acquire {
            owner,
            ttl,
            not_after,
        });
        self.client(client).phase = Phase::Claiming { call, sent: now };
    }

    fn extend(&mut self, client: u8) {
        let (now, ttl) = (self.now, self.bounds.ttl);
        let not_after = now + self.bounds.timeout;
        let owner = self.client(client).owner;
        if let Phase::Holding {
            fence,
            until,
            sequence,
            ..
        } = self.client(client).phase
        {
            let sequence = sequence + 1;
            let call = self.begin(Call::Extend {
                owner,
                ttl,
                sequence,
                not_after,
            });
            self.client(client).phase = Phase::Holding {
                fence,
                until,
                sequence,
                extend: Some((call, now)),
            };
        }
    }

    /// The time of a call is over.
    fn give_up(&mut self, client: u8) {
        let (now, owner) = (self.now, self.client(client).owner);
        let phase = match self.client(client).phase {
            Phase::Claiming { .. } => {
                let call = self.begin(Call::Abandon { owner });
                Phase::Abandoning { call, sent: now }
            }
            Phase::Holding {
                fence,
                until,
                sequence,
                ..
            } => Phase::Holding {
                fence,
                until,
                sequence,
                extend: None,
            },
            _ => Phase::Idle,
        };
        self.client(client).phase = phase;
    }

    /// Carries out a statement, and looks at what it decided.
    fn run(&mut self, id: Transaction) -> Result<(), String> {
        let around = self.around(id);
        let before = self.table.read();
        let at = self.slots.iter().position(|slot| slot.id == id);
        let slot = &mut self.slots[at.expect("a call under way")];
        let had_row = slot.running.has_row();
        (slot.running).step(&mut self.table, around, &mut self.sequence);
        if !had_row
            && slot.running.has_row()
            && let Call::Extend {
                owner, sequence, ..
            } = slot.running.call
        {
            slot.revives = !before.is_some_and(|row| row.is_held_by(owner, around.now));
            slot.is_old = before.is_some_and(|row| row.sequence >= sequence);
        }
        let Some(answer) = slot.running.answer() else {
            return Ok(());
        };
        if slot.running.is_over() {
            return self.commit(id, true);
        }
        match (slot.running.call, answer) {
            (Call::Extend { .. }, Answer::Extended { .. }) if slot.revives => Err(broken(
                Property::NoRevival,
                "an extend got the row after the end of the lease",
            )),
            (Call::Extend { ttl, .. }, Answer::Extended { left }) if slot.is_old && left == ttl => {
                // Of the same length it may be, if both came at the same time.
                let same = before.is_some_and(|row| row.expires_at == around.now + ttl);
                match same {
                    true => Ok(()),
                    false => Err(broken(Property::NothingOld, "an old extend was obeyed")),
                }
            }
            (Call::Acquire { not_after, .. }, Answer::Granted { .. })
                if around.now >= not_after =>
            {
                Err(broken(
                    Property::NothingLate,
                    "a claim was granted after its end",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Ends a transaction. Its client receives the answer, unless it is lost.
    fn commit(&mut self, id: Transaction, is_heard: bool) -> Result<(), String> {
        let Slot { running, .. } = self.slot(id).clone();
        let answer = running.answer().expect("it is done");
        let before = self.table.read();
        self.table.commit(id);
        self.slots.retain(|slot| slot.id != id);
        if let (Call::Acquire { owner, .. }, Answer::Granted { fence, .. }) = (running.call, answer)
        {
            let is_repeat = before.is_some_and(|row| row.owner == Some(owner));
            if !is_repeat && fence <= self.highest_fence {
                let text = format!("token {fence} after {}", self.highest_fence);
                return Err(broken(Property::TokensRise, &text));
            }
            self.highest_fence = self.highest_fence.max(fence);
        }
        if let (Call::Check { fence }, Answer::Checked(true)) = (running.call, answer)
            && fence != self.highest_fence
        {
            let text = format!("{fence} was checked, and {} granted", self.highest_fence);
            return Err(broken(Property::ChecksHold, &text));
        }
        match is_heard {
            true => self.answer(id, answer),
            false => self.forget(id),
        }
        Ok(())
    }

    /// A call ends without an answer. Its number may be given to another one, so nobody waits for
    /// it any more: the client gives up when its time is over.
    fn forget(&mut self, id: Transaction) {
        for client in &mut self.clients {
            match &mut client.phase {
                Phase::Claiming { call, .. }
                | Phase::Abandoning { call, .. }
                | Phase::Releasing { call, .. }
                | Phase::Holding {
                    extend: Some((call, _)),
                    ..
                } if *call == id => *call = NO_CALL,
                _ => {}
            }
        }
    }

    fn answer(&mut self, id: Transaction, answer: Answer) {
        let ttl = self.bounds.ttl;
        for client in &mut self.clients {
            let idle = match (client.phase, answer) {
                (Phase::Claiming { call, sent }, Answer::Granted { fence, .. }) if call == id => {
                    client.phase = Phase::Holding {
                        fence,
                        until: sent + ttl,
                        sequence: 0,
                        extend: None,
                    };
                    false
                }
                (
                    Phase::Holding {
                        fence,
                        until,
                        sequence,
                        extend: Some((call, sent)),
                    },
                    Answer::Extended { left },
                ) if call == id => {
                    client.phase = Phase::Holding {
                        fence,
                        until: until.max(sent + left),
                        sequence,
                        extend: None,
                    };
                    false
                }
                (
                    Phase::Holding {
                        extend: Some((call, _)),
                        ..
                    },
                    Answer::Lost,
                ) => call == id,
                (
                    Phase::Holding {
                        fence,
                        until,
                        sequence,
                        extend: Some((call, _)),
                    },
                    Answer::TooLate,
                ) if call == id => {
                    client.phase = Phase::Holding {
                        fence,
                        until,
                        sequence,
                        extend: None,
                    };
                    false
                }
                (Phase::Abandoning { call, .. }, _) if call == id => {
                    self.clean |= 1 << client.owner;
                    true
                }
                (Phase::Claiming { call, .. } | Phase::Releasing { call, .. }, _) => call == id,
                _ => false,
            };
            if idle {
                client.phase = Phase::Idle;
            }
        }
    }

    /// Whether the call waits for no other transaction.
    fn can_go_on(&self, slot: &Slot) -> bool {
        let (mut running, mut table) = (slot.running.clone(), self.table.clone());
        let mut sequence = self.sequence;
        running.step(&mut table, self.around(slot.id), &mut sequence)
    }

    /// The calls that could go on now.
    fn slow_calls(&self) -> usize {
        let is_slow = |slot: &&Slot| match slot.running.call {
            // These are somebody's transactions, which take any time.
            Call::Check { .. } | Call::LockRow => false,
            _ => slot.running.answer().is_some() || self.can_go_on(slot),
        };
        self.slots.iter().filter(is_slow).count()
    }

    /// Clients whose call has taken all of its time: they give it up before time passes.
    fn is_due(&self, client: &Client) -> bool {
        let sent = match client.phase {
            Phase::Claiming { sent, .. }
            | Phase::Abandoning { sent, .. }
            | Phase::Releasing { sent, .. } => sent,
            Phase::Holding {
                extend: Some((_, sent)),
                ..
            } => sent,
            _ => return false,
        };
        self.now >= sent + self.bounds.timeout
    }
}

fn broken(property: Property, text: &str) -> String {
    format!("{property:?}: {text}")
}
