//! The rules that the calls of the reference store are made of, each with the ways to break it.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Claim, Clock, Datastore, DatastoreError, ErrorKind, Extension, FencingToken,
    Grant, HeldBy, Lease, OwnerToken, Revision, Time,
};

use super::backing::{Backing, Memory, Record, Turn};
use super::flaw::Flaw;
use super::queue::{ENDLESS, Waiters};

pub(crate) struct Reference {
    pub(super) backing: Backing,
    pub(super) flaw: Option<Flaw>,
    /// State that only a flawed store has.
    own_fence: AtomicU64,
    pub(super) drawn: Arc<AtomicU64>,
    /// The most waiters that were counted.
    pub(super) waited: Arc<AtomicUsize>,
    waiting: Arc<Mutex<HashMap<String, Claim>>>,
    pub(super) waiters: Arc<Waiters>,
    pub(super) former: Arc<Mutex<HashMap<String, OwnerToken>>>,
}

impl Reference {
    pub(crate) fn in_memory(flaw: Option<Flaw>) -> Self {
        Self::on(Backing::Memory(Arc::default()), flaw)
    }

    pub(crate) fn in_folder(folder: &Path, flaw: Option<Flaw>) -> Self {
        /// A cache in front of the folder, of which other processes know nothing.
        static IN_PROCESS: OnceLock<Mutex<HashMap<String, Arc<Memory>>>> = OnceLock::new();
        let backing = match flaw {
            Some(Flaw::RemembersInItsHandle) => Backing::Memory(Arc::default()),
            Some(Flaw::RemembersInItsProcess) => {
                let mut caches = IN_PROCESS.get_or_init(Mutex::default).lock().unwrap();
                let cache = caches.entry(folder.display().to_string()).or_default();
                Backing::Memory(Arc::clone(cache))
            }
            _ => Backing::in_folder(folder),
        };
        Self::on(backing, flaw)
    }

    pub(super) fn on(backing: Backing, flaw: Option<Flaw>) -> Self {
        Reference {
            backing,
            flaw,
            own_fence: AtomicU64::new(0),
            drawn: Arc::default(),
            waited: Arc::default(),
            waiting: Arc::default(),
            waiters: Arc::default(),
            former: Arc::default(),
        }
    }

    /// As seen by a thread of its own.
    pub(super) fn same_handle(&self) -> Self {
        Reference {
            waiters: Arc::clone(&self.waiters),
            ..Self::on(self.backing.clone(), self.flaw)
        }
    }

    pub(crate) fn backing(&self) -> &Backing {
        &self.backing
    }

    pub(super) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    pub(super) fn now(&self) -> Time {
        Clock::BOOTTIME.now()
    }

    /// The key under which the record stands: itself.
    pub(super) fn name(&self, key: &str) -> String {
        match self.flaw {
            Some(Flaw::FoldsCase) => key.to_ascii_lowercase(),
            Some(Flaw::CutsKeysAt200Bytes) => key[..key.len().min(200)].to_owned(),
            Some(Flaw::TrimsDots) => key.trim_end_matches('.').to_owned(),
            Some(Flaw::DecodesPercents) => key.replace("%41", "A"),
            Some(Flaw::HashesKeysTo12Bits) => {
                let hash = key.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
                    (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
                });
                (hash >> 20).to_string()
            }
            _ => key.to_owned(),
        }
    }

    /// The writer's turn for a call that ends at `end`.
    pub(super) fn turn(&self, end: Time) -> Result<Turn, DatastoreError> {
        let patience = match self.flaw {
            Some(Flaw::WaitsForItsTurnForEver | Flaw::KeepsACrowdWaiting) => Time::MAX,
            // Long enough to have its turn although it is late.
            _ if self.does_late_calls() => self.now().saturating_add(Duration::from_secs(2)),
            Some(Flaw::WaitsLongerThanItSays) => end,
            _ => {
                let limit = self.characteristics().call_timeout;
                let grace = match self.flaw {
                    Some(Flaw::GrantsJustAfterTheEnd) => Duration::from_millis(5),
                    _ => Duration::ZERO,
                };
                let end = end.saturating_add(grace);
                end.min(self.now().saturating_add(limit))
            }
        };
        let Some(turn) = self.backing.turn(patience) else {
            return Err(DatastoreError::not_executed(
                ErrorKind::Timeout,
                "the writer was busy",
            ));
        };
        if self.has(Flaw::KeepsACrowdWaiting) {
            thread::sleep(Duration::from_millis(150));
            return Ok(turn);
        }
        let end = match self.flaw {
            Some(Flaw::GrantsJustAfterTheEnd) => end.saturating_add(Duration::from_millis(5)),
            _ => end,
        };
        if self.now() > end && !self.does_late_calls() {
            return match self.flaw {
                Some(Flaw::LateCallsPanic) => panic!("overflow when subtracting durations"),
                Some(Flaw::LateCallsAreInvalid) => Err(DatastoreError::not_executed(
                    ErrorKind::Invalid,
                    "a negative timeout",
                )),
                _ => Err(DatastoreError::not_executed(
                    ErrorKind::Stale,
                    "the call's end has passed",
                )),
            };
        }
        Ok(turn)
    }

    pub(super) fn does_late_calls(&self) -> bool {
        matches!(
            self.flaw,
            Some(
                Flaw::LateClaimsAreGranted
                    | Flaw::LateClaimsAreDoneAndDenied
                    | Flaw::LateExtendsAreDone
            )
        )
    }

    /// When a lease that starts now ends.
    pub(super) fn end(&self, ttl: Duration) -> Time {
        let ttl = match self.flaw {
            Some(Flaw::EndsAFifthEarly) => ttl * 4 / 5,
            Some(Flaw::EndsASecondLate) => ttl + Duration::from_secs(1),
            Some(Flaw::NeverEnds) => Duration::MAX,
            Some(Flaw::TakesZeroForEver) if ttl.is_zero() => Duration::from_secs(3600),
            Some(Flaw::TakesAMonthForNothing) if ttl > Duration::from_secs(30 * 86_400) => {
                Duration::ZERO
            }
            Some(Flaw::ExtendTakesZeroForEver) if ttl.is_zero() => Duration::MAX,
            Some(Flaw::CutsToAnHour) => ttl.min(Duration::from_secs(3600)),
            Some(Flaw::CutsTo32BitsOfMilliseconds) => {
                let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                Duration::from_millis(millis & u64::from(u32::MAX))
            }
            Some(Flaw::CutsTimesTo100Milliseconds) => {
                Duration::from_millis(u64::try_from(ttl.as_millis()).unwrap() / 100 * 100)
            }
            _ => ttl,
        };
        self.now().saturating_add(ttl)
    }

    pub(super) fn allows(&self, ttl: Duration) -> Result<(), DatastoreError> {
        let traits = self.characteristics();
        let takes_zero = self.has(Flaw::TakesZeroForEver) || self.has(Flaw::ExtendTakesZeroForEver);
        let is_zero_allowed = takes_zero && ttl.is_zero();
        if is_zero_allowed || (ttl >= traits.ttl_min && ttl <= traits.ttl_max) {
            return Ok(());
        }
        Err(DatastoreError::not_executed(
            ErrorKind::Invalid,
            "no such time to live",
        ))
    }

    pub(super) fn next_fence(&self, last: Option<&Record>, ended: bool, drawn: u64) -> u64 {
        let last = last.map_or(0, |record| record.fence);
        match self.flaw {
            Some(Flaw::OneFenceForAll) => 1,
            Some(Flaw::FencesEndWithTheLease) if ended => 1,
            Some(Flaw::FencesOfItsHandle) => self.own_fence.fetch_add(1, Ordering::SeqCst) + 1,
            Some(Flaw::FencesWrapAround) => (last + 1) % 16,
            Some(Flaw::DrawsFencesBeforeItsTurn) => drawn,
            _ => last + 1,
        }
    }

    pub(super) fn grant(&self, ttl: Duration, fence: u64) -> Grant {
        let grant = Grant::new(ttl).with_fence(FencingToken::new(fence));
        match self.flaw {
            Some(Flaw::OnlyTheLatestGrantWorks) => {
                let number = self.own_fence.fetch_add(1, Ordering::SeqCst) + 1;
                grant.with_revision(Revision::new(number))
            }
            _ => grant,
        }
    }

    pub(super) fn is_latest(&self, lease: &Lease) -> bool {
        let latest = self.own_fence.load(Ordering::SeqCst);
        !self.has(Flaw::OnlyTheLatestGrantWorks)
            || lease
                .revision::<u64>()
                .is_some_and(|number| *number == latest)
    }

    pub(super) fn leak(&self) {
        match self.flaw {
            Some(Flaw::LeaksThreads) => {
                thread::spawn(|| thread::sleep(Duration::from_secs(600)));
            }
            Some(Flaw::LeaksFiles) => std::mem::forget(File::open("/dev/null")),
            _ => {}
        }
    }

    /// Whether the record is this owner's.
    pub(super) fn is_owner(&self, record: &Record, owner: OwnerToken) -> bool {
        match self.flaw {
            Some(Flaw::ComparesOwnersBy32Bits) => record
                .owner
                .is_some_and(|own| own.to_string()[..8] == owner.to_string()[..8]),
            _ => record.owner == Some(owner),
        }
    }

    /// Saves the record a moment later, when nobody asks any more.
    pub(super) fn save_later(&self, key: String, record: Record) {
        let store = self.same_handle();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            let turn = store.backing.turn(Time::MAX).unwrap();
            let is_free = turn
                .load(&key)
                .is_none_or(|now| now.owner.is_none() || now.until <= store.now());
            if is_free {
                turn.save(&key, &record);
            }
        });
    }

    /// Looks whether the lease is there, and writes it a moment later.
    pub(super) fn extend_in_two_steps(
        &self,
        turn: Turn,
        lease: &Lease,
        ttl: Duration,
    ) -> Extension {
        let key = self.name(lease.key());
        let now = self.now();
        let record = turn
            .load(&key)
            .filter(|record| record.owner == Some(lease.owner()) && record.until > now);
        let Some(mut record) = record else {
            return Extension::Lost;
        };
        drop(turn);
        thread::sleep(Duration::from_millis(5));
        let turn = self.backing.turn(Time::MAX).unwrap();
        record.until = self.end(ttl);
        record.sequence = lease.sequence();
        turn.save(&key, &record);
        Extension::Extended(self.grant(ttl, record.fence))
    }

    /// Extends, with the turn already had.
    pub(super) fn extend_in(
        &self,
        turn: &Turn,
        lease: &Lease,
        ttl: Duration,
        now: Time,
        is_batch: bool,
    ) -> Extension {
        let key = self.name(lease.key());
        let Some(mut record) = turn.load(&key) else {
            return Extension::Lost;
        };
        let revives = match record.owner {
            None => self.has(Flaw::ExtendRevivesReleased),
            Some(_) => self.has(Flaw::ExtendRevivesExpired) && record.owner == Some(lease.owner()),
        };
        let lives_for = match self.flaw {
            Some(Flaw::ExtendRevivesFor50Milliseconds) => Duration::from_millis(50),
            _ => Duration::ZERO,
        };
        let is_over = record.owner.is_none() || record.until.saturating_add(lives_for) <= now;
        if is_over && !revives {
            return Extension::Lost;
        }
        let is_own = self.is_owner(&record, lease.owner()) || revives;
        let compares = !(self.has(Flaw::ExtendComparesNothing)
            || is_batch && self.has(Flaw::BatchComparesNothing));
        if !is_own && compares {
            let end = self.end(ttl);
            match self.flaw {
                Some(Flaw::ExtendOfStrangersIsDoneAndDenied) => {
                    record.until = record.until.max(end);
                }
                Some(Flaw::ExtendOfStrangersShortens) => record.until = record.until.min(end),
                _ => return Extension::Lost,
            }
            turn.save(&key, &record);
            return Extension::Lost;
        }
        if !self.is_latest(lease) {
            return Extension::Lost;
        }
        let is_newer = match self.flaw {
            Some(Flaw::ExtendIgnoresItsNumber) => true,
            Some(Flaw::BatchIgnoresNumbers) if is_batch => true,
            Some(Flaw::ExtendRepeatsItsNumber) => lease.sequence() >= record.sequence,
            Some(Flaw::ComparesNumbersAsText) => {
                lease.sequence().to_string() > record.sequence.to_string()
            }
            Some(Flaw::KeepsNumbersIn8Bits) => lease.sequence() % 256 > record.sequence % 256,
            Some(Flaw::KeepsNumbersIn16Bits) => {
                lease.sequence() % 65_536 > record.sequence % 65_536
            }
            _ => lease.sequence() > record.sequence,
        };
        if !is_newer {
            let says = match self.flaw {
                Some(Flaw::LateExtendIsToldWhatItAsked) => ttl,
                _ => now.until(record.until),
            };
            return Extension::Extended(self.grant(says, record.fence));
        }
        let end = self.end(ttl);
        record.until = match self.flaw {
            Some(Flaw::ExtendAdds | Flaw::ExtendAddsAndSaysSo) => record.until.saturating_add(ttl),
            Some(Flaw::ExtendNeverShortens) => record.until.max(end),
            Some(Flaw::ExtendKeepsTheOldEnd) => record.until,
            _ => end,
        };
        record.owner = Some(lease.owner());
        record.sequence = lease.sequence();
        if !self.has(Flaw::ExtendKeepsTheHolder) {
            record.holder = lease.holder().to_owned();
        }
        turn.save(&key, &record);
        let says = match self.flaw {
            Some(Flaw::ExtendAddsAndSaysSo) => now.until(record.until),
            _ => ttl,
        };
        Extension::Extended(self.grant(says, record.fence))
    }

    pub(super) fn refuse(
        &self,
        turn: &Turn,
        key: &str,
        mut record: Record,
        claim: &Claim,
        ttl: Duration,
    ) -> AcquireOutcome {
        let now = self.now();
        let end = self.end(ttl);
        match self.flaw {
            Some(Flaw::RefusalLengthens) => record.until = record.until.max(end),
            Some(Flaw::RefusalShortens) => record.until = record.until.min(end),
            Some(Flaw::RefusalRenames) => record.holder = claim.holder().to_owned(),
            Some(Flaw::RefusalQueues) => self.queue(key, claim),
            Some(Flaw::QueuesWhoGaveUp) if claim.deadline().is_some() => self.queue(key, claim),
            _ => {}
        }
        turn.save(key, &record);
        let left = match self.flaw {
            Some(Flaw::RefusalPromisesTooSoon) => Duration::from_millis(1),
            _ => now.until(record.until),
        };
        let held = HeldBy::new()
            .with_expires_in(left)
            .with_fence(FencingToken::new(record.fence));
        let held = match self.is_queued(turn, key, claim.owner()) {
            true => held.with_retry_in(ENDLESS),
            false => held,
        };
        AcquireOutcome::Held(match self.flaw {
            Some(Flaw::KeepsNoHolder) => held,
            _ => held.with_holder_text(&record.holder),
        })
    }

    pub(super) fn queue(&self, key: &str, claim: &Claim) {
        self.waiting
            .lock()
            .unwrap()
            .insert(key.to_owned(), claim.clone());
    }

    pub(super) fn free(&self, turn: &Turn, key: &str, mut record: Record) {
        record.owner = None;
        if self.has(Flaw::FencesEndWithTheRelease) {
            record.fence = 0;
        }
        let waiter = self.waiting.lock().unwrap().remove(key);
        if let Some(waiter) = waiter {
            record.owner = Some(waiter.owner());
            record.until = self.end(Duration::from_secs(30));
        }
        turn.save(key, &record);
        self.hand_over(turn, key, Some(record));
        if self.has(Flaw::ReleasesByPrefix) {
            for other in turn.keys() {
                let record = turn.load(&other).unwrap();
                if other.starts_with(key) {
                    turn.save(
                        &other,
                        &Record {
                            owner: None,
                            ..record
                        },
                    );
                }
            }
        }
    }
}
