//! An async store in a hundred lines, held to all its promises by one.

use std::collections::HashMap;
use std::time::Duration;

use dlock_core::aio::AsyncDatastore;
use dlock_core::{
    AcquireOutcome, Characteristics, Claim, DatastoreError, ErrorKind, Extension, FencingToken,
    HeldBy, Lease, OwnerToken, Reach, ReleaseOutcome, Time,
};
use tokio::sync::Mutex;

/// What is known of a key; it stays when the key is free, for its fencing token.
struct Record {
    owner: Option<OwnerToken>,
    until: Time,
    fence: u64,
    sequence: u64,
    holder: String,
}

#[derive(Default)]
struct Table(Mutex<HashMap<String, Record>>);

/// Whether this owner holds the key. A future may have waited for its turn: the time is now.
fn own(record: &Record, lease: &Lease) -> bool {
    record.owner == Some(lease.owner()) && record.until > lease.clock().now()
}

/// To be asked after each `await`: the caller of a late call is gone.
fn in_time(call: &Claim) -> Result<(), DatastoreError> {
    match call.time_left() {
        Duration::ZERO => Err(DatastoreError::not_executed(ErrorKind::Stale, "too late")),
        _ => Ok(()),
    }
}

impl AsyncDatastore for Table {
    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        let mut records = self.0.lock().await;
        in_time(claim)?;
        // From here on there is no `await`: the call is carried out as a whole, or dropped before.
        let now = claim.clock().now();
        let end = now.saturating_add(ttl);
        let record = records.entry(claim.key().to_owned()).or_insert(Record {
            owner: None,
            until: now,
            fence: 0,
            sequence: 0,
            holder: String::new(),
        });
        match record.owner.filter(|_| record.until > now) {
            Some(owner) if owner == claim.owner() => record.until = record.until.max(end),
            Some(_) => {
                let held = HeldBy::new()
                    .with_expires_in(now.until(record.until))
                    .with_fence(FencingToken::new(record.fence));
                return Ok(AcquireOutcome::Held(held.with_holder_text(&record.holder)));
            }
            None => {
                *record = Record {
                    owner: Some(claim.owner()),
                    until: end,
                    fence: record.fence + 1,
                    sequence: 0,
                    holder: claim.holder().to_owned(),
                }
            }
        }
        let fence = FencingToken::new(record.fence);
        Ok(AcquireOutcome::granted(ttl, fence))
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        let mut records = self.0.lock().await;
        in_time(lease.claim())?;
        let now = lease.clock().now();
        let record = records.get_mut(lease.key());
        Ok(match record.filter(|record| own(record, lease)) {
            None => Extension::Lost,
            Some(record) if lease.sequence() <= record.sequence => {
                lease.extended(now.until(record.until))
            }
            Some(record) => {
                record.until = now.saturating_add(ttl);
                record.sequence = lease.sequence();
                record.holder = lease.holder().to_owned();
                lease.extended(ttl)
            }
        })
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        let mut records = self.0.lock().await;
        in_time(lease.claim())?;
        let record = records.get_mut(lease.key());
        let freed = record
            .filter(|record| own(record, lease))
            .map(|record| record.owner = None);
        Ok(ReleaseOutcome::from(freed.is_some()))
    }

    fn characteristics(&self) -> Characteristics {
        Characteristics::default()
            .with_reach(Reach::Process)
            .with_fencing("until the process ends")
            .with_late_calls_refused()
    }
}

dlock_testkit::async_conformance!(table, || Table::default());
