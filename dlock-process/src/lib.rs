//! Distinguishes a process from the children that it forks.
//!
//! A forked child has a copy of its parent's memory. So a value that belongs to one process, such
//! as a held lock, remembers its [`ProcessId`] and compares it with the present one. The operating
//! system's process id is not enough: a child in a new pid namespace can have the same id as its
//! parent.
//!
//! This is a crate of its own because it is the only part of the library that needs unsafe code.

use std::num::NonZeroU64;

/// Distinguishes this process from its ancestors and its forked children.
///
/// Two processes of which neither descends from the other may have equal ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId(NonZeroU64);

impl ProcessId {
    /// The id of the calling process. On Linux this reads one word of memory. On other systems, and
    /// on Linux before 4.14, which cannot wipe memory on a fork, it is a system call.
    pub fn current() -> Self {
        ProcessId(id())
    }

    /// The id as a number, never zero.
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The id of another process, for tests of forked children.
    #[doc(hidden)]
    pub fn other() -> Self {
        ProcessId(NonZeroU64::MAX)
    }
}

/// The operating system's process id. Without pid namespaces a child cannot have the id of its
/// parent.
fn system_id() -> NonZeroU64 {
    NonZeroU64::new(u64::from(std::process::id())).unwrap_or(NonZeroU64::MIN)
}

#[cfg(not(target_os = "linux"))]
fn id() -> NonZeroU64 {
    system_id()
}

#[cfg(target_os = "linux")]
use wiped::id;

/// A page of memory that the kernel fills with zeros in each forked child.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)] // There is no safe way to map such a page; each use says why it is sound.
mod wiped {
    use std::num::NonZeroU64;
    use std::ptr;
    use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    const LENGTH: usize = size_of::<AtomicU64>();

    /// The first word of the page; [`NONE`] if the system has no such page, null before the first
    /// use.
    ///
    /// This is not a `OnceLock`: a fork while another thread initialises it would leave it locked
    /// in the child.
    static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
    static NONE: AtomicU64 = AtomicU64::new(0);
    /// The last id that this process or an ancestor took. It is in ordinary memory, so a child
    /// counts on from it and never takes the id of an ancestor.
    static LAST: AtomicU64 = AtomicU64::new(0);

    #[inline]
    pub(super) fn id() -> NonZeroU64 {
        let page = PAGE.load(Ordering::Acquire);
        if !page.is_null() && !ptr::eq(page, &raw const NONE) {
            // SAFETY: the pointer comes from `map`, is aligned, and the page is never unmapped.
            if let Some(id) = NonZeroU64::new(unsafe { &*page }.load(Ordering::Acquire)) {
                return id;
            }
        }
        first_look()
    }

    /// The slow path: the first call in this process, or any call without such a page.
    #[cold]
    fn first_look() -> NonZeroU64 {
        let mut page = PAGE.load(Ordering::Acquire);
        if page.is_null() {
            let mapped = map().unwrap_or((&raw const NONE).cast_mut());
            match PAGE.compare_exchange(page, mapped, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => page = mapped,
                Err(first) => {
                    unmap(mapped);
                    page = first;
                }
            }
        }
        if ptr::eq(page, &raw const NONE) {
            return super::system_id();
        }
        // SAFETY: as in `id`.
        let word = unsafe { &*page };
        let next = LAST.fetch_add(1, Ordering::AcqRel) + 1;
        let taken = match word.compare_exchange(0, next, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => next,
            Err(first) => first,
        };
        NonZeroU64::new(taken).unwrap_or(NonZeroU64::MIN)
    }

    /// Maps a page that is zero now, and zero again in each forked child.
    fn map() -> Option<*mut AtomicU64> {
        let (access, private) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address that the kernel chooses overlaps nothing.
        let page = unsafe { mmap_anonymous(ptr::null_mut(), LENGTH, access, private) }.ok()?;
        // SAFETY: the page was mapped above, and nothing refers to it yet.
        let wiped = unsafe { madvise(page, LENGTH, Advice::LinuxWipeOnFork) };
        let page = page.cast::<AtomicU64>();
        if wiped.is_err() {
            unmap(page);
            return None;
        }
        Some(page)
    }

    /// Unmaps a page of `map` that was not published.
    fn unmap(page: *mut AtomicU64) {
        if !ptr::eq(page, &raw const NONE) {
            // SAFETY: the pointer was not published, so nothing refers to the page.
            let _ = unsafe { munmap(page.cast(), LENGTH) };
        }
    }
}

/// The README's code, so that `cargo test` compiles it.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
