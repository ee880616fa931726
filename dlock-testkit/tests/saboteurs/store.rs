//! A store that keeps every promise, except for the flaw that it is given.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Datastore, DatastoreError, ErrorKind, Extension,
    FencingToken, Finding, HeldBy, HeldPage, Inspect, Lease, OwnerToken, PageMark, Reach,
    ReleaseOutcome, Severity, Signal, Time, Watch,
};

use super::backing::{Backing, FOREIGN, Record};
use super::flaw::Flaw;
use super::rows::{is_locked, wait_for_row};
pub(crate) use super::rules::Reference;

/// For an operator's look.
const PATIENCE: Duration = Duration::from_secs(2);

impl Datastore for Reference {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
        self.allows(ttl)?;
        self.leak();
        let drawn = self.drawn.fetch_add(1, Ordering::SeqCst) + 1;
        if self.has(Flaw::DrawsFencesBeforeItsTurn) {
            thread::sleep(Duration::from_micros(drawn % 7 * 50));
        }
        let mut turn = self.turn(claim.not_after())?;
        let is_late = self.now() > claim.not_after();
        let key = self.name(claim.key());
        let found = turn.load(&key);
        if found
            .as_ref()
            .is_some_and(|record| record.holder == FOREIGN)
        {
            match self.flaw {
                Some(Flaw::OverwritesForeignKeys) => {}
                Some(Flaw::HoldsForeignKeys) => return Ok(AcquireOutcome::Held(HeldBy::new())),
                _ => {
                    let kind = ErrorKind::ForeignKey;
                    return Err(DatastoreError::not_executed(kind, "no record of a lock"));
                }
            }
        }
        let found = self.hand_over(&turn, &key, found);
        let held = found.clone().filter(|record| {
            let is_over = match self.flaw {
                Some(Flaw::ExpiresForItsOwnerOnly) => {
                    record.owner == Some(claim.owner()) && record.until <= self.now()
                }
                _ => record.until <= self.now(),
            };
            record.owner.is_some() && !is_over
        });
        let found_ended = found.as_ref().is_some_and(|record| record.owner.is_some());
        let Some(mut record) = held else {
            if self.has(Flaw::ExpiresOnlyWhenAsked) && found_ended {
                let record = found.unwrap();
                self.free(&turn, &key, record.clone());
                return Ok(self.refuse(&turn, &format!("{key}-seen"), record, claim, ttl));
            }
            let opens = self.has(Flaw::ChecksThenSets)
                || self.has(Flaw::IsTakenTwiceInOneOf500) && drawn % 1000 < 2
                || self.has(Flaw::TakesOverWithoutALock) && found_ended;
            if opens {
                drop(turn);
                thread::sleep(Duration::from_micros(20));
                turn = self.turn(claim.not_after())?;
            }
            let fence = self.next_fence(found.as_ref(), found_ended, drawn);
            let sequence = match (&found, self.flaw) {
                (Some(found), Some(Flaw::NumbersOutliveTheirOwner)) => found.sequence,
                _ => 0,
            };
            let record = Record {
                owner: Some(claim.owner()),
                until: self.end(ttl),
                fence,
                sequence,
                holder: claim.holder().to_owned(),
            };
            if is_late && self.has(Flaw::LateExtendsAreDone) {
                return Err(DatastoreError::not_executed(ErrorKind::Stale, "late"));
            }
            let is_short = self.now().until(claim.not_after()) < Duration::from_millis(30);
            if is_short && self.has(Flaw::DoesInTheBackgroundWhatItDenied) {
                self.save_later(key, record);
                return Err(DatastoreError::not_executed(ErrorKind::Timeout, "no time"));
            }
            turn.save(&key, &record);
            self.dequeue(&turn, &key, claim.owner());
            if is_late && self.has(Flaw::LateClaimsAreDoneAndDenied)
                || is_short && self.has(Flaw::DeniesWhatItDidInTheLastMoment)
            {
                return Err(DatastoreError::not_executed(ErrorKind::Stale, "late"));
            }
            return Ok(AcquireOutcome::Granted(self.grant(ttl, fence)));
        };
        if !self.is_owner(&record, claim.owner()) || self.has(Flaw::RefusesRepeats) {
            let refusal = self.refuse(&turn, &key, record, claim, ttl);
            drop(turn);
            if self.has(Flaw::TakesItsTime) {
                thread::sleep(Duration::from_millis(2600));
            }
            if self.has(Flaw::WaitsForTheHolder) && claim.deadline().is_some() {
                thread::sleep(self.now().until(claim.deadline().unwrap()));
            }
            return Ok(refusal);
        }
        let end = self.end(ttl);
        record.until = match self.flaw {
            Some(Flaw::RepeatsDoNotRaise) => record.until,
            Some(Flaw::RepeatsShorten) => end,
            _ => record.until.max(end),
        };
        match self.flaw {
            Some(Flaw::RepeatsGetANewFence) => record.fence += 1,
            Some(Flaw::RepeatsForgetTheNumber) => record.sequence = 0,
            Some(Flaw::RepeatsRename) => record.holder = claim.holder().to_owned(),
            _ => {}
        }
        turn.save(&key, &record);
        self.dequeue(&turn, &key, claim.owner());
        Ok(AcquireOutcome::Granted(self.grant(ttl, record.fence)))
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        if self.has(Flaw::ExtendTakesItsTime) {
            thread::sleep(Duration::from_millis(4200));
        }
        if !self.has(Flaw::ExtendTakesAnyTime) {
            self.allows(ttl)?;
        }
        let (before_row, row_was_locked) = (self.now(), is_locked(lease.key()));
        if !wait_for_row(lease.key(), lease.not_after()) {
            let kind = ErrorKind::Timeout;
            return Err(DatastoreError::not_executed(kind, "the row is locked"));
        }
        let before_turn = self.now();
        let turn = self.turn(lease.not_after())?;
        let now = match self.flaw {
            Some(Flaw::ReadsItsClockBeforeTheRowIsFree) if row_was_locked => before_row,
            Some(Flaw::ReadsItsClockBeforeItsTurn) => before_turn,
            _ => self.now(),
        };
        if self.has(Flaw::ExtendChecksThenWrites) {
            return Ok(self.extend_in_two_steps(turn, lease, ttl));
        }
        Ok(self.extend_in(&turn, lease, ttl, now, false))
    }

    fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        let turn = match self.flaw {
            Some(Flaw::LateReleasesAreDone) => self.turn(Time::MAX)?,
            _ => self.turn(lease.not_after())?,
        };
        let key = self.name(lease.key());
        let now = self.now();
        let record = turn
            .load(&key)
            .filter(|record| record.owner.is_some() && record.until > now);
        if self.has(Flaw::ReleaseDoesNothing) {
            return Ok(ReleaseOutcome::from(record.is_some()));
        }
        let Some(record) = record else {
            return match self.flaw {
                Some(Flaw::ReleasesExpired) => Ok(ReleaseOutcome::Released),
                Some(Flaw::RepeatedReleaseFails) => Err(DatastoreError::not_executed(
                    ErrorKind::Protocol,
                    "no such record",
                )),
                _ => Ok(ReleaseOutcome::NotHeld),
            };
        };
        let mut is_ours = self.is_owner(&record, lease.owner()) && self.is_latest(lease);
        if is_ours && self.has(Flaw::ReleaseComparesThenDeletes) {
            drop(turn);
            thread::sleep(Duration::from_millis(2));
            let turn = self.turn(lease.not_after())?;
            let record = turn.load(&key).unwrap_or(record);
            self.free(&turn, &key, record);
            return Ok(ReleaseOutcome::Released);
        }
        if self.has(Flaw::RepeatedReleaseFreesTheNext) {
            let mut former = self.former.lock().unwrap();
            is_ours |= former.get(&key) == Some(&lease.owner());
            former.insert(key.clone(), lease.owner());
        }
        let frees = is_ours
            || self.has(Flaw::ReleaseComparesNothing)
            || self.has(Flaw::ReleaseOfStrangersIsDoneAndDenied);
        if frees {
            self.free(&turn, &key, record);
        }
        Ok(ReleaseOutcome::from(
            is_ours || self.has(Flaw::ReleaseComparesNothing),
        ))
    }

    fn characteristics(&self) -> Characteristics {
        let traits = Characteristics::default()
            .with_single_writer()
            .with_late_calls_refused();
        let traits = match self.backing {
            Backing::Memory(_) if self.flaw != Some(Flaw::RemembersInItsProcess) => {
                traits.with_reach(Reach::Process)
            }
            _ => traits.with_reach(Reach::Host),
        };
        let traits = match self.queues() {
            true => traits.with_wakes(),
            false => traits,
        };
        match self.flaw {
            Some(Flaw::HidesItsFences) => traits,
            Some(Flaw::WakesNobody) => traits.with_fencing("ever").with_wakes(),
            Some(Flaw::ConfirmsWhatIsGone) => traits
                .with_fencing("ever")
                .with_confirm_after(Duration::from_millis(5)),
            Some(Flaw::ExtendRevivesFor50Milliseconds) => traits
                .with_fencing("ever")
                .with_granularity(Duration::from_millis(1)),
            Some(Flaw::WakesWhoLeft) => traits.with_fencing("ever").with_wakes(),
            Some(Flaw::DeclaresNoTime) => {
                let ttl_max = traits.ttl_max;
                traits
                    .with_fencing("ever")
                    .with_ttl(Duration::ZERO, ttl_max)
            }
            // Turns are not in order, and a machine under load is not what is tested here.
            None => traits
                .with_fencing("ever")
                .with_call_timeout(Duration::from_secs(10)),
            _ => traits.with_fencing("ever"),
        }
    }

    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        let turn = self.turn(claim.not_after())?;
        let key = self.name(claim.key());
        let record = turn.load(&key);
        match self.flaw {
            Some(Flaw::AbandonDoesNothing) => return Ok(()),
            Some(Flaw::AbandonClaims) => {
                drop(turn);
                return self
                    .acquire(claim, Duration::from_secs(30))
                    .map(|_: AcquireOutcome| ());
            }
            _ => {}
        }
        if let Some(record) = record {
            let is_ours = record.owner == Some(claim.owner());
            if is_ours || self.has(Flaw::AbandonFreesWhateverIsThere) {
                self.free(&turn, &key, record);
            }
        }
        Ok(())
    }

    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        if self.queues() {
            let turn = self.turn(claim.not_after())?;
            return Ok(Some(self.enqueue(&turn, claim, signal)));
        }
        if self.has(Flaw::WakesWhoLeft) {
            let signal = signal.clone();
            thread::spawn(move || {
                for _ in 0..50 {
                    thread::sleep(Duration::from_millis(20));
                    signal.notify();
                }
            });
            return Ok(Some(Watch::new(|| ())));
        }
        let wakes = self.has(Flaw::WakesNobody) || self.has(Flaw::WakesUndeclared);
        Ok(wakes.then(|| Watch::new(|| ())))
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        if self.has(Flaw::ExtendTakesItsTime) {
            thread::sleep(Duration::from_millis(4200));
        }
        let mut answers: Vec<_> = leases
            .iter()
            .enumerate()
            .map(|(place, (lease, ttl))| {
                let is_cut = match self.flaw {
                    Some(Flaw::CutsBatchesAt64) => place >= 64,
                    Some(Flaw::CutsBatchesAt1000) => place >= 1000,
                    _ => false,
                };
                if is_cut {
                    return Ok(lease.extended(*ttl));
                }
                let turn = match self.flaw {
                    Some(Flaw::LateBatchesAreDone) => self.turn(Time::MAX)?,
                    _ => self.turn(lease.not_after())?,
                };
                Ok(self.extend_in(&turn, lease, *ttl, self.now(), true))
            })
            .collect();
        if self.has(Flaw::BatchAnswersBackwards) {
            answers.reverse();
        }
        answers
    }
}

impl Inspect for Reference {
    fn holder(&self, key: &str) -> Result<Option<HeldBy>, DatastoreError> {
        let turn = self.turn(self.now().saturating_add(PATIENCE))?;
        let now = self.now();
        let record = turn.load(&self.name(key)).filter(|record| {
            self.has(Flaw::ShowsReleasedKeys) || record.owner.is_some() && record.until > now
        });
        Ok(record.map(|record| {
            HeldBy::new()
                .with_expires_in(now.until(record.until))
                .with_fence(FencingToken::new(record.fence))
                .with_holder_text(&record.holder)
        }))
    }

    fn break_lease(
        &self,
        key: &str,
        fence: FencingToken,
    ) -> Result<ReleaseOutcome, DatastoreError> {
        let turn = self.turn(self.now().saturating_add(PATIENCE))?;
        let now = self.now();
        let key = self.name(key);
        let record = turn.load(&key).filter(|record| {
            let is_meant = record.fence == fence.get() || self.has(Flaw::BreaksAnyLease);
            record.owner.is_some() && record.until > now && is_meant
        });
        let found = record.is_some();
        match record {
            Some(record) if self.has(Flaw::BreaksWithoutWaking) => {
                // As if somebody had deleted the key.
                let (owner, until) = (None, now);
                let record = Record {
                    owner,
                    until,
                    ..record
                };
                turn.save(&key, &record);
                self.save_places(&turn, &key, &[]);
            }
            Some(record) => self.free(&turn, &key, record),
            None => {}
        }
        Ok(ReleaseOutcome::from(found))
    }

    fn waiting(&self, key: &str) -> Result<usize, DatastoreError> {
        let turn = self.turn(self.now().saturating_add(PATIENCE))?;
        let most = self.waited.load(Ordering::SeqCst);
        let count = self.places(&turn, &self.name(key)).len();
        self.waited.fetch_max(count, Ordering::SeqCst);
        Ok(match self.flaw {
            Some(Flaw::CountsWhoGaveUp) => count.max(most),
            Some(Flaw::CountsOneWaiter) => count.min(1),
            _ => count,
        })
    }

    /// Three names to a page, in their order.
    fn held(&self, prefix: &str, after: Option<&PageMark>) -> Result<HeldPage, DatastoreError> {
        let turn = self.turn(self.now().saturating_add(PATIENCE))?;
        let now = self.now();
        let Some(mut keys) = turn.names() else {
            let text = "the folder has no list";
            return Err(DatastoreError::not_executed(ErrorKind::Unsupported, text));
        };
        keys.sort();
        keys.retain(|key| key.starts_with(prefix) || self.has(Flaw::ListsOtherKeys));
        keys.retain(|key| after.is_none_or(|after| key.as_str() > after.as_str()));
        let next = keys.get(2).filter(|_| keys.len() > 3);
        let next = next.map(|key| PageMark::new(key.as_str()));
        let next = match self.flaw {
            Some(Flaw::ListsTheFirstKeys) => None,
            Some(Flaw::ListsWithoutEnd) => Some(PageMark::new("")),
            _ => next,
        };
        let shown = keys.iter().take(3).filter_map(|key| {
            let record = turn.load(key)?;
            let is_held = record.owner.is_some() && record.until > now;
            let is_shown = is_held || self.has(Flaw::ListsReleasedKeys);
            let held = HeldBy::new().with_fence(FencingToken::new(record.fence));
            is_shown.then(|| (key.clone(), held))
        });
        Ok(HeldPage::new(shown.collect(), next))
    }
    fn findings(&self) -> Result<Vec<Finding>, DatastoreError> {
        let turn = self.turn(self.now().saturating_add(PATIENCE))?;
        let mut owners = String::new();
        for key in turn.names().unwrap_or_default() {
            let Some(mut record) = turn.load(&key) else {
                continue;
            };
            match (self.flaw, record.owner) {
                (Some(Flaw::ShowsItsOwners), Some(owner)) => owner.push_to(&mut owners),
                (Some(Flaw::FreesWhatItChecks), Some(_)) => record.owner = None,
                (Some(Flaw::HoldsWhatItChecks), None) => record.owner = OwnerToken::random().ok(),
                (Some(Flaw::RaisesTokensInACheck), Some(_)) => record.fence += 1,
                (Some(Flaw::ForgetsWaitersInACheck), _) => self.save_places(&turn, &key, &[]),
                _ => {}
            }
            turn.save(&key, &record);
        }
        let mut finding = Finding::warning(
            "this is a store for tests",
            format!("it ends with its process, and all locks with it{owners}"),
            "use another one",
        );
        match self.flaw {
            Some(Flaw::FindsWithoutARemedy) => finding.remedy = " ".to_owned(),
            Some(Flaw::FindsInTwoLines) => finding.what.push('\n'),
            Some(Flaw::FindsADanger) => finding.severity = Severity::Danger,
            _ => {}
        }
        Ok(vec![finding])
    }
}
