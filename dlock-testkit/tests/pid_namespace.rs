//! A child that has its parent's pid, in a pid namespace of its own, has none of its locks.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use dlock_core::{Lock, MemoryDatastore, ReleaseError};

/// The exit code of a forked child that runs `child`.
#[allow(unsafe_code)] // There is no safe fork.
fn exit_code(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child ends without running what belongs to its parent, and glibc keeps its
    // allocator usable in it.
    match unsafe { libc::fork() } {
        -1 => panic!("no child: {}", std::io::Error::last_os_error()),
        // SAFETY: it ends the child, if it hangs by a signal.
        0 => unsafe {
            libc::alarm(60);
            libc::_exit(child())
        },
        pid => {
            let mut status = 0;
            // SAFETY: `status` is a place for a number.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            assert!(libc::WIFEXITED(status), "{status}");
            libc::WEXITSTATUS(status)
        }
    }
}

/// The next child of this process is the first one of a new pid namespace. Returns whether it may
/// be.
#[allow(unsafe_code)]
fn in_new_namespace() -> bool {
    // SAFETY: it takes flags.
    unsafe { libc::unshare(libc::CLONE_NEWPID) == 0 }
}

#[test]
fn a_child_with_the_pid_of_its_parent_neither_holds_nor_frees_its_lock() {
    let code = exit_code(|| {
        if !in_new_namespace() {
            return 2;
        }
        exit_code(|| {
            // Process 1 of a namespace; so is its child.
            let (store, pid) = (MemoryDatastore::new(), std::process::id());
            let guard = Lock::new(store.clone(), "import").try_acquire().unwrap();
            if !in_new_namespace() {
                return 2;
            }
            let guard = std::cell::Cell::new(Some(guard));
            let code = exit_code(|| {
                let guard = guard.take().unwrap();
                if std::process::id() != pid {
                    return 3;
                }
                if guard.is_valid() {
                    return 4;
                }
                if !matches!(guard.release(), Err(ReleaseError::Lost)) {
                    return 5;
                }
                // The child's copy of the store: a release would have freed the key in it.
                i32::from(store.is_empty()) * 6
            });
            let still_held = guard.take().is_some_and(|guard| guard.is_valid());
            if still_held { code } else { 7 }
        })
    });
    assert_ne!(
        code, 2,
        "no right to make a pid namespace: run the tests as root"
    );
    let meaning = "3: another pid; 4: the child holds; 5: its release worked; 6: it freed the key";
    assert_eq!(code, 0, "{meaning}; 7: the parent lost it");
}
