//! Counts allocations: where a clock says something else each time, a count says whether the work became more.
//!
//! Whoever links this crate allocates through it. It costs an increment of a number of the thread's own.

// An allocator cannot be written without; all that it does is to pass on to the system's.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // Without a destructor, so it is there as long as the thread may allocate.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// How many times this thread allocates while `f` runs; growing an allocation counts as one.
pub fn during<T>(f: impl FnOnce() -> T) -> (u64, T) {
    let before = ALLOCATIONS.get();
    let result = f();
    (ALLOCATIONS.get() - before, result)
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: each call is passed on to `System` as it is, which keeps the contract; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.dealloc(old, layout) }
    }
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
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
}
