//! A store in a hundred lines, held to all its promises by one.
#![allow(clippy::unwrap_used)] // A poisoned table is not to be used.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Datastore, DatastoreError, ErrorKind, Extension,
    FencingToken, HeldBy, Lease, OwnerToken, Reach, ReleaseOutcome, Time,
};

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

impl Table {
    fn in_time(call: &Claim) -> Result<(), DatastoreError> {
        match call.time_left() {
            Duration::ZERO => Err(DatastoreError::not_executed(ErrorKind::Stale, "too late")),
            _ => Ok(()),
        }
    }
}

impl Datastore for Table {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        let mut records = self.0.lock().unwrap();
        Self::in_time(claim)?;
        let now = claim.clock().now();
        let end = now.saturating_add(ttl);
        let record = records.entry(claim.key().to_owned()).or_insert(Record {
            owner: None,
            until: now,
            fence: 0,
            sequence: 0,
            holder: String::new(),
        });
        let fence = FencingToken::new(record.fence);
        match record.owner.filter(|_| record.until > now) {
            Some(owner) if owner == claim.owner() => {
                record.until = record.until.max(end);
                Ok(AcquireOutcome::granted(ttl, fence))
            }
            Some(_) => {
                let held = HeldBy::new()
                    .with_expires_in(now.until(record.until))
                    .with_fence(fence);
                Ok(AcquireOutcome::Held(held.with_holder_text(&record.holder)))
            }
            None => {
                *record = Record {
                    owner: Some(claim.owner()),
                    until: end,
                    fence: record.fence + 1,
                    sequence: 0,
                    holder: claim.holder().to_owned(),
                };
                Ok(AcquireOutcome::granted(
                    ttl,
                    FencingToken::new(record.fence),
                ))
            }
        }
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        let mut records = self.0.lock().unwrap();
        Self::in_time(lease.claim())?;
        let now = lease.clock().now();
        let own = |record: &&mut Record| record.owner == Some(lease.owner()) && record.until > now;
        Ok(match records.get_mut(lease.key()).filter(own) {
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

    fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        let mut records = self.0.lock().unwrap();
        Self::in_time(lease.claim())?;
        let now = lease.clock().now();
        let record = records.get_mut(lease.key());
        let own = |record: &&mut Record| record.owner == Some(lease.owner()) && record.until > now;
        let own = record.filter(own).map(|record| record.owner = None);
        Ok(ReleaseOutcome::from(own.is_some()))
    }

    fn characteristics(&self) -> Characteristics {
        Characteristics::default()
            .with_reach(Reach::Process)
            .with_fencing("until the process ends")
            .with_late_calls_refused()
    }
}

dlock_testkit::conformance!(table, || Table::default());
