//! Counts allocations and their bytes. Times vary from run to run; a count shows whether there is
//! more work.
//!
//! Every program that links this crate allocates through it. The cost is two additions to numbers
//! of the thread.

// An allocator needs unsafe code. This one only forwards to the system's.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // It has no destructor, so it exists as long as the thread may allocate.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Counts the allocations of this thread while `f` runs. Growing an allocation counts as one.
pub fn during<T>(f: impl FnOnce() -> T) -> (u64, T) {
    let before = ALLOCATIONS.get();
    let result = f();
    (ALLOCATIONS.get() - before, result)
}

/// Counts the bytes that this thread allocates while `f` runs and does not free, at least zero.
pub fn bytes_kept<T>(f: impl FnOnce() -> T) -> (usize, T) {
    let before = balance();
    let result = f();
    let kept = balance().wrapping_sub(before).cast_signed();
    (usize::try_from(kept).unwrap_or(0), result)
}

/// The bytes that this thread has allocated less those that it has freed. It wraps around: a thread
/// may free what another one has allocated.
pub fn balance() -> usize {
    BYTES.get()
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: each call is forwarded to `System` unchanged, which keeps the contract; counting does not
// allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(layout.size(), size);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        change_bytes(layout.size(), 0);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.dealloc(old, layout) }
    }
}

fn count(from: usize, to: usize) {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
    change_bytes(from, to);
}

fn change_bytes(from: usize, to: usize) {
    BYTES.set(BYTES.get().wrapping_add(to).wrapping_sub(from));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_thread_allocates_is_counted_and_nothing_else() {
        let (count, boxes) = during(|| {
            std::thread::scope(|scope| scope.spawn(|| vec![1; 100]).join().is_ok());
            0
        });
        let (again, kept) = during(|| (Box::new(1), Vec::<u8>::with_capacity(10)));
        assert_eq!((again, boxes, *kept.0), (2, 0, 1));
        assert!(count > 0, "starting a thread allocates");
        assert_eq!(during(|| 7), (0, 7));
    }

    #[test]
    fn bytes_that_are_freed_again_are_not_kept() {
        let (bytes, kept) = bytes_kept(|| {
            drop(vec![0_u8; 1000]);
            let mut grown = Vec::<u8>::with_capacity(10);
            grown.reserve_exact(70);
            grown
        });
        assert_eq!((bytes, kept.capacity()), (70, 70));
        assert_eq!(bytes_kept(|| drop(kept)).0, 0);
    }
}
