//! One row of the table, with the transactions that lock and write it.

/// A running transaction.
pub(super) type Transaction = u8;

/// Who claims.
pub(super) type Owner = u8;

#[derive(Clone, Copy, Debug, Hash, PartialEq)]
pub(super) struct Row {
    /// `None` after a release.
    pub(super) owner: Option<Owner>,
    pub(super) fence: u64,
    pub(super) expires_at: u64,
    pub(super) sequence: u64,
}

impl Row {
    pub(super) fn is_held(&self, now: u64) -> bool {
        self.owner.is_some() && self.expires_at > now
    }

    pub(super) fn is_held_by(&self, owner: Owner, now: u64) -> bool {
        self.owner == Some(owner) && self.expires_at > now
    }
}

/// How a row is locked.
#[derive(Clone, Copy, Debug, Hash, PartialEq)]
pub(super) enum Mode {
    /// `FOR KEY SHARE`
    KeyShare,
    /// `FOR NO KEY UPDATE`, and an `UPDATE` of other columns than the key.
    NoKeyUpdate,
    /// `FOR UPDATE`
    Update,
}

impl Mode {
    fn excludes(self, other: Mode) -> bool {
        match (self, other) {
            (Mode::KeyShare, other) => other == Mode::Update,
            (this, Mode::KeyShare) => this == Mode::Update,
            _ => true,
        }
    }
}

/// What came of a statement that may have to wait for another transaction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Found<T> {
    /// Another transaction must end first.
    Waits,
    Nothing,
    There(T),
}

#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Table {
    committed: Option<Row>,
    /// What a transaction that is not committed has written.
    written: Option<(Transaction, Row)>,
    locks: Vec<(Transaction, Mode)>,
}

impl Table {
    /// A plain read.
    pub(super) fn read(&self) -> Option<Row> {
        self.committed
    }

    /// `SELECT … FOR …`, of a row that a condition selects. A statement that has waited evaluates
    /// the condition again, after it has locked the row: so the lock stays in any case.
    pub(super) fn lock(
        &mut self,
        transaction: Transaction,
        (mode, has_waited): (Mode, bool),
        condition: impl Fn(&Row) -> bool,
    ) -> Found<Row> {
        let selected = self.committed.filter(condition);
        if self.committed.is_none() || (selected.is_none() && !has_waited) {
            return Found::Nothing;
        }
        if self.is_excluded(transaction, mode) {
            return Found::Waits;
        }
        self.locks.push((transaction, mode));
        selected.map_or(Found::Nothing, Found::There)
    }

    /// `INSERT … ON CONFLICT DO NOTHING`
    pub(super) fn insert(&mut self, transaction: Transaction, row: Row) -> Found<()> {
        if self.committed.is_some() {
            return Found::Nothing;
        }
        if self.written.is_some() {
            return Found::Waits;
        }
        self.written = Some((transaction, row));
        self.locks.push((transaction, Mode::Update));
        Found::There(())
    }

    /// `UPDATE` without a condition that could fail; returns whether it was done or must wait.
    pub(super) fn update(&mut self, transaction: Transaction, row: Row) -> bool {
        if self.is_excluded(transaction, Mode::NoKeyUpdate) {
            return false;
        }
        self.locks.push((transaction, Mode::NoKeyUpdate));
        self.written = Some((transaction, row));
        true
    }

    fn is_excluded(&self, transaction: Transaction, mode: Mode) -> bool {
        let mut others = self.locks.iter().filter(|(other, _)| *other != transaction);
        others.any(|(_, other)| mode.excludes(*other))
    }

    pub(super) fn commit(&mut self, transaction: Transaction) {
        if let Some((_, row)) = self.written.filter(|(by, _)| *by == transaction) {
            self.committed = Some(row);
        }
        self.roll_back(transaction);
    }

    pub(super) fn roll_back(&mut self, transaction: Transaction) {
        self.written = self.written.filter(|(by, _)| *by != transaction);
        self.locks.retain(|(by, _)| *by != transaction);
    }
}
