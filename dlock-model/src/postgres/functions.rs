//! The functions of dlock-postgres/src/schema.sql, statement by statement.

use super::table::{Found, Mode, Owner, Row, Table, Transaction};

/// A call of a function. Times are those of the server's clock.
#[derive(Clone, Copy, Debug, Hash, PartialEq)]
pub(super) enum Call {
    Acquire {
        owner: Owner,
        ttl: u64,
        not_after: u64,
    },
    Extend {
        owner: Owner,
        ttl: u64,
        sequence: u64,
        not_after: u64,
    },
    Release {
        owner: Owner,
    },
    Abandon {
        owner: Owner,
    },
    Check {
        fence: u64,
    },
    /// No function: another transaction locks the row, and does nothing with it.
    LockRow,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq)]
pub(super) enum Answer {
    Granted {
        fence: u64,
        left: u64,
    },
    Held {
        fence: u64,
        left: u64,
    },
    TooLate,
    Extended {
        left: u64,
    },
    Lost,
    Freed(bool),
    /// Whether `dlock.check` has not failed.
    Checked(bool),
    Locked,
}

/// A mistake in the functions.
#[derive(Clone, Copy, Debug, Hash, PartialEq)]
pub(super) enum Mistake {
    None,
    /// An extend reads the clock before it waits for the row, as the condition of an `UPDATE`
    /// would.
    ExtendReadsClockFirst,
    /// A claim does so.
    ClaimReadsClockFirst,
    /// A claim decides by what a plain read shows, and then writes.
    ClaimLocksNothing,
    /// The fencing token comes from a sequence, whose number is drawn before the row is locked.
    FenceDrawnFirst,
    /// The fencing token is the time alone.
    FenceIsClock,
    /// A claim is not refused for coming too late once it has the row.
    LateClaimGranted,
    /// A claim that waited to insert a row is not refused for coming too late.
    LateInsertGranted,
    /// To abandon looks for a row of the claim, as a release does.
    AbandonDoesNotWait,
    /// To abandon a claim on a key without a row inserts none.
    AbandonInsertsNothing,
    /// A claim locks the row `FOR NO KEY UPDATE`.
    ClaimLocksLittle,
    /// `dlock.check` reads, and locks nothing.
    CheckLocksNothing,
    /// A release frees the row of any owner.
    ReleaseByKey,
    /// An extend repeats what a later one has done.
    SequenceIgnored,
}

/// Where a call is.
#[derive(Clone, Copy, Debug, Hash, PartialEq)]
enum At {
    /// It has not begun.
    Begin,
    /// It locks the row. Whether it waits for it already.
    Lock {
        waits: bool,
    },
    /// It reads what it could not lock.
    Read,
    /// It has the row.
    Decide(Row),
    /// There is no row, and it inserts one.
    Insert,
    /// The same, and it waits; with the row that it wants to insert.
    InsertWaits(Row),
    Done(Answer),
}

/// A call under way, in a transaction of its own.
#[derive(Clone, Debug, Hash)]
pub(super) struct Running {
    pub(super) call: Call,
    at: At,
    /// The time at its begin.
    began: u64,
    /// A number of a sequence, for a mistake.
    drawn: u64,
}

/// What surrounds a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    pub(super) transaction: Transaction,
    /// The server's clock.
    pub(super) now: u64,
    pub(super) mistake: Mistake,
}

impl Running {
    pub(super) fn new(call: Call) -> Self {
        Running {
            call,
            at: At::Begin,
            began: 0,
            drawn: 0,
        }
    }

    pub(super) fn answer(&self) -> Option<Answer> {
        match self.at {
            At::Done(answer) => Some(answer),
            _ => None,
        }
    }

    /// Whether it has done nothing, and keeps nobody from anything by not being over yet.
    pub(super) fn is_over(&self) -> bool {
        let At::Done(answer) = self.at else {
            return false;
        };
        match answer {
            Answer::Granted { .. } | Answer::Extended { .. } | Answer::Freed(true) => false,
            // It has inserted a row without an owner, perhaps.
            Answer::Freed(false) => matches!(self.call, Call::Release { .. }),
            Answer::Held { .. } | Answer::TooLate | Answer::Lost | Answer::Checked(false) => true,
            Answer::Checked(true) | Answer::Locked => false,
        }
    }

    /// Whether it has locked the row.
    pub(super) fn has_row(&self) -> bool {
        matches!(self.at, At::Decide(_) | At::Done(_))
    }

    /// Carries out the next statement. Returns whether it could: otherwise the call waits for
    /// another transaction.
    pub(super) fn step(&mut self, table: &mut Table, around: Around, sequence: &mut u64) -> bool {
        match self.at {
            At::Begin => self.begin(table, around, sequence),
            At::Lock { waits } => return self.lock(table, around, waits),
            At::Read => self.read(table, around),
            At::Decide(row) => return self.decide(table, around, row),
            At::Insert => {
                let row = self.new_row(around.now);
                return self.insert(table, around, row, false);
            }
            At::InsertWaits(row) => return self.insert(table, around, row, true),
            At::Done(_) => return false,
        }
        true
    }

    /// Up to the first statement that locks.
    fn begin(&mut self, table: &Table, around: Around, sequence: &mut u64) {
        // What no function uses would only make more states.
        if around.mistake == Mistake::ExtendReadsClockFirst {
            self.began = around.now;
        }
        self.at = self.top(around);
        match self.call {
            Call::Acquire { .. } if matches!(self.at, At::Done(_)) => {}
            Call::Acquire { owner, .. } => match around.mistake {
                Mistake::FenceDrawnFirst => {
                    *sequence += 1;
                    self.drawn = *sequence;
                }
                Mistake::ClaimLocksNothing => {
                    let row = table.read();
                    if let Some(row) = row.filter(|row| is_takeable(row, owner, around.now)) {
                        self.at = At::Decide(row);
                    }
                }
                _ => {}
            },
            Call::Check { fence } if around.mistake == Mistake::CheckLocksNothing => {
                self.at = At::Done(checked(table.read(), fence, around.now));
            }
            _ => {}
        }
    }

    /// The plain `SELECT` of a claim, and what follows.
    fn read(&mut self, table: &Table, around: Around) {
        let Call::Acquire { owner, .. } = self.call else {
            return;
        };
        self.at = match table.read() {
            None => At::Insert,
            Some(row) if !is_takeable(&row, owner, around.now) => At::Done(held(&row, around.now)),
            Some(_) => self.top(around),
        };
    }

    /// The top of the loop of a claim and of an abandon.
    fn top(&mut self, around: Around) -> At {
        if let Call::Acquire { not_after, .. } = self.call {
            self.began = around.now;
            // `o_now >= a_not_after`
            if around.now >= not_after {
                return At::Done(Answer::TooLate);
            }
        }
        At::Lock { waits: false }
    }

    /// `SELECT … FOR …`
    fn lock(&mut self, table: &mut Table, around: Around, waits: bool) -> bool {
        let mistake = around.mistake;
        let mode = match self.call {
            Call::Acquire { .. } if mistake != Mistake::ClaimLocksLittle => Mode::Update,
            Call::LockRow => Mode::Update,
            Call::Check { .. } => Mode::KeyShare,
            _ => Mode::NoKeyUpdate,
        };
        let owner = match self.call {
            Call::Release { owner } if mistake != Mistake::ReleaseByKey => Some(owner),
            Call::Abandon { owner } if mistake == Mistake::AbandonDoesNotWait => Some(owner),
            _ => None,
        };
        let condition = |row: &Row| match self.call {
            Call::Acquire { owner, .. } => is_takeable(row, owner, self.began),
            _ => owner.is_none() || row.owner == owner,
        };
        self.at = match table.lock(around.transaction, (mode, waits), condition) {
            Found::Waits => {
                self.at = At::Lock { waits: true };
                return !waits;
            }
            Found::There(row) => At::Decide(row),
            Found::Nothing => match self.call {
                Call::Acquire { .. } => At::Read,
                Call::Abandon { .. } if mistake == Mistake::AbandonDoesNotWait => {
                    At::Done(Answer::Freed(false))
                }
                Call::Abandon { .. } if mistake == Mistake::AbandonInsertsNothing => {
                    At::Done(Answer::Freed(false))
                }
                Call::Abandon { .. } => At::Insert,
                Call::Extend { .. } => At::Done(Answer::Lost),
                Call::Release { .. } => At::Done(Answer::Freed(false)),
                Call::Check { .. } => At::Done(Answer::Checked(false)),
                Call::LockRow => At::Done(Answer::Locked),
            },
        };
        true
    }

    /// The row to insert.
    fn new_row(&self, now: u64) -> Row {
        match self.call {
            Call::Acquire { owner, ttl, .. } => Row {
                owner: Some(owner),
                fence: now,
                expires_at: now + ttl,
                sequence: 0,
            },
            _ => Row {
                owner: None,
                fence: now,
                expires_at: now,
                sequence: 0,
            },
        }
    }

    /// `INSERT … ON CONFLICT DO NOTHING`, and what follows if it did something.
    fn insert(&mut self, table: &mut Table, around: Around, row: Row, waited: bool) -> bool {
        let row = match around.mistake {
            Mistake::FenceDrawnFirst if row.owner.is_some() => Row {
                fence: self.drawn,
                ..row
            },
            _ => row,
        };
        self.at = match table.insert(around.transaction, row) {
            Found::Waits => {
                self.at = At::InsertWaits(row);
                return !waited;
            }
            Found::Nothing => self.top(around),
            Found::There(()) => match self.call {
                Call::Acquire { ttl, not_after, .. } => {
                    let is_late = around.now >= not_after;
                    if is_late && around.mistake != Mistake::LateInsertGranted {
                        // The exception rolls back.
                        table.roll_back(around.transaction);
                        At::Done(Answer::TooLate)
                    } else {
                        At::Done(Answer::Granted {
                            fence: row.fence,
                            left: ttl,
                        })
                    }
                }
                _ => At::Done(Answer::Freed(false)),
            },
        };
        true
    }

    /// With the row: `o_now := dlock.now_us()`, and what follows. Returns whether it is done, or
    /// waits to write.
    fn decide(&mut self, table: &mut Table, around: Around, row: Row) -> bool {
        let Around {
            transaction,
            mistake,
            ..
        } = around;
        let row = match table.read() {
            // The `UPDATE` itself has the row as it is then.
            Some(Row { fence, .. }) if mistake == Mistake::ClaimLocksNothing => {
                Row { fence, ..row }
            }
            _ => row,
        };
        let now = match self.call {
            Call::Extend { .. } if mistake == Mistake::ExtendReadsClockFirst => self.began,
            Call::Acquire { .. } if mistake == Mistake::ClaimReadsClockFirst => self.began,
            _ => around.now,
        };
        let free = Row {
            owner: None,
            expires_at: now,
            ..row
        };
        let (answer, write) = match self.call {
            Call::Acquire {
                owner,
                ttl,
                not_after,
            } => self.claimed(&row, (owner, ttl, not_after), now, mistake),
            Call::Extend {
                owner,
                ttl,
                sequence,
                not_after,
            } => match () {
                () if !row.is_held_by(owner, now) => (Answer::Lost, None),
                () if now >= not_after => (Answer::TooLate, None),
                () if row.sequence >= sequence && mistake != Mistake::SequenceIgnored => {
                    let left = row.expires_at - now;
                    (Answer::Extended { left }, None)
                }
                () => {
                    let row = Row {
                        expires_at: now + ttl,
                        sequence,
                        ..row
                    };
                    (Answer::Extended { left: ttl }, Some(row))
                }
            },
            Call::Release { .. } if mistake == Mistake::ReleaseByKey && row.is_held(now) => {
                (Answer::Freed(true), Some(free))
            }
            Call::Release { owner } | Call::Abandon { owner } => match row.is_held_by(owner, now) {
                true => (Answer::Freed(true), Some(free)),
                false => (Answer::Freed(false), None),
            },
            Call::Check { fence } => (checked(Some(row), fence, now), None),
            Call::LockRow => (Answer::Locked, None),
        };
        if let Some(row) = write
            && !table.update(transaction, row)
        {
            return false;
        }
        if answer == Answer::Checked(false) {
            // The exception rolls back.
            table.roll_back(transaction);
        }
        self.at = At::Done(answer);
        true
    }

    fn claimed(
        &self,
        row: &Row,
        (owner, ttl, not_after): (Owner, u64, u64),
        now: u64,
        mistake: Mistake,
    ) -> (Answer, Option<Row>) {
        if now >= not_after && mistake != Mistake::LateClaimGranted {
            return (Answer::TooLate, None);
        }
        if row.is_held_by(owner, now) {
            let left = ttl.max(row.expires_at - now);
            let fence = row.fence;
            let expires_at = now + left;
            return (
                Answer::Granted { fence, left },
                Some(Row { expires_at, ..*row }),
            );
        }
        if row.is_held(now) && mistake != Mistake::ClaimLocksNothing {
            return (held(row, now), None);
        }
        let fence = match mistake {
            Mistake::FenceDrawnFirst => self.drawn,
            Mistake::FenceIsClock => now,
            _ => now.max(row.fence + 1),
        };
        let granted = Row {
            owner: Some(owner),
            fence,
            expires_at: now + ttl,
            sequence: 0,
        };
        (Answer::Granted { fence, left: ttl }, Some(granted))
    }
}

/// `t.owner IS NULL OR t.owner = a_owner OR t.expires_at <= o_now`
fn is_takeable(row: &Row, owner: Owner, now: u64) -> bool {
    row.owner == Some(owner) || !row.is_held(now)
}

fn held(row: &Row, now: u64) -> Answer {
    Answer::Held {
        fence: row.fence,
        left: row.expires_at - now,
    }
}

fn checked(row: Option<Row>, fence: u64, now: u64) -> Answer {
    let is_held = |row: &Row| row.is_held(now) && row.fence == fence;
    Answer::Checked(row.as_ref().is_some_and(is_held))
}
