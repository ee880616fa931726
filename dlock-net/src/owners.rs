//! Remembers recent claims, such as those that were given up, released or not answered.

use std::collections::{HashSet, VecDeque};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use dlock_core::{OwnerToken, ProcessId};

/// The `MOST` owner tokens that were added last. The oldest are forgotten first.
///
/// An owner token is never reused, so the only possible error is to forget one too early.
#[derive(Debug, Default)]
pub struct RecentOwners<const MOST: usize> {
    tokens: HashSet<OwnerToken>,
    in_order: VecDeque<OwnerToken>,
}

impl<const MOST: usize> RecentOwners<MOST> {
    /// Remembers `owner`, unless it does already.
    pub fn add(&mut self, owner: OwnerToken) {
        if !self.tokens.insert(owner) {
            return;
        }
        if self.in_order.len() == MOST
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.tokens.remove(&oldest);
        }
        self.in_order.push_back(owner);
    }

    /// Forgets `owner`.
    pub fn remove(&mut self, owner: OwnerToken) {
        if self.tokens.remove(&owner) {
            self.in_order.retain(|other| *other != owner);
        }
    }

    /// Returns whether `owner` was added and not forgotten since.
    pub fn has(&self, owner: OwnerToken) -> bool {
        self.tokens.contains(&owner)
    }

    /// The number of tokens that are remembered.
    pub fn len(&self) -> usize {
        self.in_order.len()
    }

    /// Returns whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.in_order.is_empty()
    }
}

/// [`RecentOwners`] for all threads of a process.
///
/// A forked child begins with an empty memory: the parent's claims are the parent's to clean up,
/// and its mutex may be locked for ever in the child.
#[derive(Debug)]
pub struct SharedOwners<const MOST: usize> {
    pid: ProcessId,
    /// If it is zero, as nearly always, the mutex is not locked.
    count: AtomicUsize,
    owners: Mutex<RecentOwners<MOST>>,
    child: OnceLock<Box<SharedOwners<MOST>>>,
}

impl<const MOST: usize> Default for SharedOwners<MOST> {
    fn default() -> Self {
        SharedOwners {
            pid: ProcessId::current(),
            count: AtomicUsize::new(0),
            owners: Mutex::default(),
            child: OnceLock::new(),
        }
    }
}

impl<const MOST: usize> SharedOwners<MOST> {
    /// Remembers `owner`, unless it does already.
    pub fn add(&self, owner: OwnerToken) {
        let own = self.of_this_process();
        own.with(|owners| owners.add(owner));
        if !ptr::eq(self, own) {
            // From now on this child looks at its own memory.
            self.count.fetch_max(1, Ordering::AcqRel);
        }
    }

    /// Forgets `owner`.
    #[inline]
    pub fn remove(&self, owner: OwnerToken) {
        if self.count.load(Ordering::Acquire) > 0 {
            self.of_this_process().with(|owners| owners.remove(owner));
        }
    }

    /// Returns whether `owner` was added and not forgotten since.
    #[inline]
    pub fn has(&self, owner: OwnerToken) -> bool {
        self.count.load(Ordering::Acquire) > 0
            && self.of_this_process().with(|owners| owners.has(owner))
    }

    #[cold]
    fn of_this_process(&self) -> &Self {
        if self.pid == ProcessId::current() {
            return self;
        }
        // A grandchild inherits the memory of the child.
        self.child.get_or_init(Box::default).of_this_process()
    }

    fn with<T>(&self, f: impl FnOnce(&mut RecentOwners<MOST>) -> T) -> T {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let result = f(&mut owners);
        self.count.store(owners.len(), Ordering::Release);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners<const N: usize>() -> [OwnerToken; N] {
        [(); N].map(|()| OwnerToken::random().unwrap())
    }

    #[test]
    fn the_latest_are_remembered_and_no_others() {
        let [first, second, third, unknown] = owners();
        let mut recent = RecentOwners::<2>::default();
        assert!(recent.is_empty());
        for owner in [first, second, third] {
            recent.add(owner);
            recent.add(owner);
        }
        assert!(!recent.has(first), "one too many");
        assert!(recent.has(second) && recent.has(third) && !recent.has(unknown));
        assert_eq!(recent.len(), 2);
        recent.remove(third);
        recent.remove(unknown);
        assert!(recent.has(second) && !recent.has(third));
        assert_eq!(recent.len(), 1);
    }

    #[test]
    fn what_was_added_is_known_until_it_is_forgotten() {
        let [one, other] = owners();
        let shared = SharedOwners::<10>::default();
        assert!(!shared.has(one));
        shared.add(one);
        assert!(shared.has(one) && !shared.has(other));
        shared.remove(other);
        assert!(shared.has(one));
        shared.remove(one);
        assert!(!shared.has(one));
        assert_eq!(shared.count.load(Ordering::Acquire), 0);
    }

    #[test]
    fn a_forked_child_touches_nothing_that_it_inherited_and_remembers_its_own() {
        let [parents, childs] = owners();
        let inherited = SharedOwners::<10> {
            pid: ProcessId::other(),
            ..SharedOwners::default()
        };
        inherited.add(childs);
        assert!(inherited.has(childs) && inherited.owners.lock().unwrap().is_empty());
        inherited.with(|owners| owners.add(parents));
        // As if a thread of the parent had locked the mutex at the fork.
        let locked = inherited.owners.lock().unwrap();
        assert!(!inherited.has(parents));
        inherited.add(childs);
        assert!(inherited.has(childs));
        inherited.remove(childs);
        assert!(!inherited.has(childs));
        assert!(locked.has(parents) && locked.len() == 1);
    }
}
