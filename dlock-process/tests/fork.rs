//! A forked child is another process than its parent.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used)]

use dlock_process::ProcessId;

/// The exit code of a forked child that runs `child`.
#[allow(unsafe_code)]
fn exit_code(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child compares numbers, and ends without running what belongs to its parent.
    match unsafe { libc::fork() } {
        -1 => panic!("no child: {}", std::io::Error::last_os_error()),
        // SAFETY: it ends the child, if it hangs by a signal.
        0 => unsafe {
            libc::alarm(60);
            libc::_exit(child())
        },
        pid => {
            let mut status = 0;
            // SAFETY: `status` points to a number.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            assert!(libc::WIFEXITED(status), "{status}");
            libc::WEXITSTATUS(status)
        }
    }
}

#[test]
fn a_process_keeps_its_id_in_all_its_threads() {
    let id = ProcessId::current();
    let elsewhere = std::thread::spawn(ProcessId::current).join().unwrap();
    assert_eq!((ProcessId::current(), elsewhere), (id, id));
    assert_ne!(id, ProcessId::other());
}

#[test]
fn a_child_and_its_child_have_ids_of_their_own() {
    let parent = ProcessId::current();
    let code = exit_code(|| {
        let child = ProcessId::current();
        let again = ProcessId::current();
        let grandchild = exit_code(|| {
            let id = ProcessId::current();
            i32::from(id == parent || id == child)
        });
        i32::from(child == parent || child != again || grandchild != 0)
    });
    assert_eq!(code, 0);
    assert_eq!(ProcessId::current(), parent);
}

/// Needs the right to create a pid namespace.
#[test]
#[allow(unsafe_code)]
fn a_child_with_the_pid_of_its_parent_has_another_id() {
    // In a child process, since `unshare` affects the children of the process that calls it.
    let code = exit_code(|| {
        // SAFETY: it takes flags.
        if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
            return 2;
        }
        exit_code(|| {
            // This is the first process of a pid namespace, with pid 1. Its child in another
            // namespace has pid 1 too.
            let (id, pid) = (ProcessId::current(), std::process::id());
            // SAFETY: as above.
            if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
                return 2;
            }
            exit_code(
                || match (std::process::id() == pid, ProcessId::current() == id) {
                    (false, _) => 3,
                    (true, true) => 4,
                    (true, false) => 0,
                },
            )
        })
    });
    assert_ne!(
        code, 2,
        "no right to create a pid namespace: run the tests as root"
    );
    assert_eq!(code, 0, "3: another pid; 4: taken for its parent");
}
