//! Locks in a SQLite file, for the processes of one host.
use dlock_core::*;
use rusqlite::{Connection, Error, ErrorCode, OptionalExtension, params};
use std::time::{Duration, UNIX_EPOCH};

/// AUTOINCREMENT never gives a number twice, so it can be the fencing token.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS locks (fence INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT UNIQUE, owner TEXT, until INTEGER, sequence INTEGER DEFAULT 0, holder TEXT) STRICT";

/// Locks in a SQLite file, opened for each call: nothing is kept that a fork could copy.
pub struct SqliteDatastore(std::path::PathBuf);

/// What a call does once it is the only writer, and the time then, in nanoseconds.
type Run<'a, T> = &'a dyn Fn(&Connection, u64) -> Result<T, Error>;

impl SqliteDatastore {
    /// The locks in this file, which is made if it is not there.
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self, Error> {
        Connection::open(&path)?.execute_batch(TABLE)?;
        Ok(SqliteDatastore(path.as_ref().to_owned()))
    }

    fn call<T>(&self, claim: &Claim, run: Run<'_, T>) -> Result<T, DatastoreError> {
        let undone = |error: Error| DatastoreError::not_executed(kind(&error), error);
        let unknown = |error: Error| DatastoreError::maybe_executed(kind(&error), error);
        let patience = claim.time_left().min(self.characteristics().call_timeout);
        let db = Connection::open(&self.0).map_err(undone)?;
        db.busy_timeout(patience).map_err(undone)?;
        db.execute_batch("BEGIN EXCLUSIVE").map_err(undone)?;
        if claim.time_left().is_zero() {
            return Err(DatastoreError::not_executed(ErrorKind::Stale, "came late"));
        }
        let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() as u64;
        let ended = "DELETE FROM locks WHERE until <= ?";
        db.execute(ended, [now]).map_err(undone)?;
        let answer = run(&db, now).map_err(undone)?;
        db.execute_batch("COMMIT").map(|()| answer).map_err(unknown)
    }
}

impl Datastore for SqliteDatastore {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
        let (key, owner, holder) = (claim.key(), claim.owner().to_string(), claim.holder());
        self.call(claim, &|db, now| {
            let end = now + ttl.min(self.characteristics().ttl_max).as_nanos() as u64;
            let again = "UPDATE locks SET until = max(until, ?) WHERE key = ? AND owner = ?";
            db.execute(again, params![end, key, owner])?;
            let fresh = "INSERT INTO locks (key, owner, until, holder) SELECT ?1, ?2, ?3, ?4
                WHERE NOT EXISTS (SELECT 1 FROM locks WHERE key = ?1)";
            db.execute(fresh, params![key, owner, end, holder])?;
            let who = "SELECT owner = ?, until - ?, fence, holder FROM locks WHERE key = ?";
            db.query_row(who, params![owner, now, key], |row| {
                let left = Duration::from_nanos(row.get(1)?);
                let fence = FencingToken::new(row.get(2)?);
                let held = HeldBy::new().with_expires_in(left).with_fence(fence);
                Ok(match row.get(0)? {
                    true => AcquireOutcome::granted(left, fence),
                    false => AcquireOutcome::Held(held.with_holder_text(row.get_ref(3)?.as_str()?)),
                })
            })
        })
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        let (key, owner, holder) = (lease.key(), lease.owner().to_string(), lease.holder());
        self.call(lease.claim(), &|db, now| {
            let end = now + ttl.min(self.characteristics().ttl_max).as_nanos() as u64;
            let newer = "UPDATE locks SET until = ?1, sequence = ?2, holder = ?3
                WHERE key = ?4 AND owner = ?5 AND sequence < ?2";
            db.execute(newer, params![end, lease.sequence(), holder, key, owner])?;
            let ours = "SELECT until - ? FROM locks WHERE key = ? AND owner = ?";
            let left = db.query_row(ours, params![now, key, owner], |row| row.get(0));
            let left = left.optional()?.map(Duration::from_nanos);
            Ok(left.map_or(Extension::Lost, |left| lease.extended(left)))
        })
    }

    fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        let ours = "DELETE FROM locks WHERE key = ? AND owner = ?";
        let lock = [lease.key(), &lease.owner().to_string()];
        let rows = self.call(lease.claim(), &|db, _| db.execute(ours, lock))?;
        Ok(ReleaseOutcome::from(rows > 0))
    }

    fn characteristics(&self) -> Characteristics {
        let traits = Characteristics::default().with_reach(Reach::Host);
        let traits = traits.with_single_writer().with_late_calls_refused();
        traits.with_fencing("until the file is deleted or replaced by an older copy")
    }
}

fn kind(error: &Error) -> ErrorKind {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Timeout,
        Some(ErrorCode::DiskFull | ErrorCode::ReadOnly) => ErrorKind::Refused,
        Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => ErrorKind::Unreachable,
        _ => ErrorKind::Protocol,
    }
}
