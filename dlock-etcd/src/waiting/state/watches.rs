//! What the cluster reports to be deleted, and whom that wakes.

use std::mem;
use std::sync::Arc;

use dlock_core::{OwnerToken, Signal, Time};

use super::{LOOK, State, TURN, Watch, Watched};
use crate::operations::queue::key_of;
use crate::operations::watching;

impl State {
    /// What this run has to send on a new connection for watches.
    pub(in crate::waiting) fn all_requests(&mut self, run: u64) -> Vec<String> {
        if !self.runs(run) {
            return Vec::new();
        }
        self.requests.clear();
        let all = self.watched.iter_mut();
        let create = |(name, watched): (&Arc<str>, &mut Watched)| {
            let watch = watched.watch.as_mut()?;
            watch.from = None;
            Some(watching::create(watch.id, name))
        };
        all.filter_map(create).collect()
    }

    pub(in crate::waiting) fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// What this run has to send since. The watcher of a run that is over may still be about to end
    /// while another one has begun.
    pub(in crate::waiting) fn take_requests(&mut self, run: u64) -> Vec<String> {
        match self.runs(run) {
            true => mem::take(&mut self.requests),
            false => Vec::new(),
        }
    }

    /// A watch reports deletions after this revision. Those of its waiters that looked before it
    /// must look again, unless they do so just now.
    pub(in crate::waiting) fn created(&mut self, id: i64, revision: i64, now: Time) {
        let Some(name) = self.watches.get(&id) else {
            return;
        };
        let Some(watched) = self.watched.get_mut(name) else {
            return;
        };
        if let Some(watch) = &mut watched.watch {
            watch.from = Some(revision.saturating_add(1));
        }
        let must_look = |owner: &&OwnerToken| {
            let waiter = self.waiters.get(owner);
            waiter.is_some_and(|it| it.since <= revision && !it.claims_at(now))
        };
        let must_look: Vec<_> = watched.waiters.iter().filter(must_look).copied().collect();
        for owner in must_look {
            self.must_look(owner, now);
        }
    }

    /// What a watch waits for was deleted.
    pub(in crate::waiting) fn deleted(&mut self, id: i64, revision: i64, now: Time) {
        let Some(name) = self.watches.get(&id).cloned() else {
            return;
        };
        // A place never comes back.
        let is_over = key_of(&name).is_some();
        if let Some(watched) = self.watched.get_mut(&name) {
            if let Some(watch) = &mut watched.watch {
                watch.deleted = revision;
            }
            let waiters = mem::take(&mut watched.waiters);
            match is_over {
                true => self.next_in_turn(&name, &waiters, now),
                false => self.wake_all(&waiters, now),
            }
        }
        if is_over {
            self.end_watch(id);
        }
    }

    /// What a watch asked for is no longer in the history, so that its waiters must look.
    pub(in crate::waiting) fn compacted(&mut self, id: i64, now: Time) {
        let Some(name) = self.watches.remove(&id) else {
            return;
        };
        if let Some(watched) = self.watched.remove(&name) {
            self.wake_all(&watched.waiters, now);
        }
    }

    /// Reports may have been lost, or will be.
    pub(in crate::waiting) fn watches_lost(&mut self) {
        let by_watch = self.watched.values().filter(|it| it.watch.is_some());
        let waiters = by_watch.flat_map(|watched| &watched.waiters);
        let waiters = waiters.filter_map(|owner| self.waiters.get(owner));
        let signals = waiters.map(|waiter| waiter.signal.clone());
        self.woken.extend(signals);
    }

    /// The waiter sleeps until `watched` is deleted, at the revision `since` or later.
    pub(in crate::waiting) fn waits_behind(
        &mut self,
        owner: OwnerToken,
        watched: Arc<str>,
        since: i64,
        now: Time,
    ) {
        self.waits_no_more(owner);
        let Some(waiter) = self.waiters.get_mut(&owner) else {
            return;
        };
        (waiter.behind, waiter.since) = (Some(Arc::clone(&watched)), since);
        let is_own = self.places.contains_key(&watched);
        let entry = self.watched.entry(Arc::clone(&watched)).or_default();
        entry.waiters.push(owner);
        match &entry.watch {
            Some(watch) if watch.deleted >= since => return self.wake(owner, now),
            Some(watch) if watch.may_have_missed(since) => return self.must_look(owner, now),
            Some(_) => return,
            None if is_own => return,
            None => {}
        }
        self.last_watch += 1;
        let id = self.last_watch;
        self.requests.push(watching::create(id, &watched));
        entry.watch = Some(Watch {
            id,
            from: None,
            deleted: 0,
        });
        self.watches.insert(id, watched);
    }

    pub(super) fn waits_no_more(&mut self, owner: OwnerToken) {
        let waiter = self.waiters.get_mut(&owner);
        let Some(behind) = waiter.and_then(|waiter| waiter.behind.take()) else {
            return;
        };
        if let Some(watched) = self.watched.get_mut(&behind) {
            watched.waiters.retain(|other| *other != owner);
            // A watch stays for a while: the next waiter probably needs the same.
            if watched.waiters.is_empty() && watched.watch.is_none() {
                self.watched.remove(&behind);
            }
        }
    }

    pub(super) fn end_watch(&mut self, id: i64) {
        if let Some(name) = self.watches.remove(&id) {
            self.watched.remove(&name);
            self.requests.push(watching::cancel(id));
        }
    }

    pub(super) fn end_unused_watches(&mut self) {
        let unused = |watched: &Watched| match &watched.watch {
            Some(watch) if watched.waiters.is_empty() => Some(watch.id),
            _ => None,
        };
        let ids: Vec<_> = self.watched.values().filter_map(unused).collect();
        for id in ids {
            self.end_watch(id);
        }
    }

    /// The place before these waiters is gone. They may be the first now: until they claim and
    /// learn more, they are woken by the key too.
    pub(super) fn next_in_turn(&mut self, place: &str, waiters: &[OwnerToken], now: Time) {
        self.wake_all(waiters, now);
        let Some(key) = key_of(place).map(Arc::<str>::from) else {
            return;
        };
        for owner in waiters {
            if let Some(waiter) = self.waiters.get(owner) {
                let since = waiter.since;
                self.waits_behind(*owner, Arc::clone(&key), since, now);
            }
        }
    }

    pub(super) fn wake_all(&mut self, waiters: &[OwnerToken], now: Time) {
        for owner in waiters {
            self.wake(*owner, now);
        }
    }

    pub(super) fn wake(&mut self, owner: OwnerToken, now: Time) {
        self.claims_within(owner, now.saturating_add(TURN));
    }

    /// Wakes a waiter whose turn this need not be.
    pub(super) fn must_look(&mut self, owner: OwnerToken, now: Time) {
        self.claims_within(owner, now.saturating_add(LOOK));
    }

    fn claims_within(&mut self, owner: OwnerToken, end: Time) {
        if let Some(waiter) = self.waiters.get_mut(&owner) {
            waiter.must_claim_by = Some(waiter.must_claim_by.map_or(end, |by| by.min(end)));
            self.woken.push(waiter.signal.clone());
        }
    }

    /// The signals to notify, once the state is not locked any more: what they wake may come back
    /// to it.
    pub(in crate::waiting) fn take_woken(&mut self) -> Vec<Signal> {
        mem::take(&mut self.woken)
    }
}
