//! Forks a child, which has no safe form in Rust.

use std::io::{self, Read, Write};

/// The seconds after which the system ends a child: it may hang on a mutex that another thread had
/// locked at the fork.
const LIMIT: u32 = 30;

/// Forks. The child has a copy of `value`, sends the result of `child` and exits at once. The
/// parent gets its own `value` back, with what the child has sent.
///
/// `child` runs in a process with only this thread: it must do little, and nothing that needs
/// another thread.
///
/// # Errors
///
/// If the system cannot create a pipe or a process, or the child ended without a result.
// There is no safe fork: the caller must keep to the restrictions on `child` above.
#[allow(unsafe_code)]
pub(crate) fn in_child<T>(value: T, child: impl FnOnce(T) -> String) -> (T, io::Result<String>) {
    let (mut reader, mut writer) = match io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return (value, Err(error)),
    };
    // SAFETY: the child runs `child` and `_exit`, and returns to nobody. glibc and musl keep their
    // allocator usable in it.
    match unsafe { libc::fork() } {
        -1 => (value, Err(io::Error::last_os_error())),
        0 => {
            // SAFETY: `alarm` takes any number; its signal ends the child, which is what it is for.
            unsafe { libc::alarm(LIMIT) };
            let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| child(value)));
            let sent = sent.unwrap_or_else(|_| "the child panicked".to_owned());
            let failed = writer.write_all(sent.as_bytes()).is_err();
            // SAFETY: it ends the process without running the parent's exit handlers and
            // destructors or flushing its buffers.
            unsafe { libc::_exit(i32::from(failed)) }
        }
        pid => {
            drop(writer);
            let mut sent = String::new();
            let read = reader.read_to_string(&mut sent);
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                // The child has closed its end of the pipe, so it has ended or is about to end.
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            }
            let sent = match read {
                Ok(0) => Err(io::Error::other("the child ended without a result")),
                Ok(_) => Ok(sent),
                Err(error) => Err(error),
            };
            (value, sent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_works_on_a_copy() {
        let (value, sent) = in_child(vec![1, 2, 3], |mut copy| {
            copy.clear();
            format!("{} left in {}", copy.len(), std::process::id())
        });
        let sent = sent.unwrap();
        assert_eq!(value.len(), 3);
        assert!(sent.starts_with("0 left in "), "{sent}");
        assert!(!sent.ends_with(&std::process::id().to_string()), "{sent}");
    }

    #[test]
    fn a_child_that_panics_says_so() {
        let ((), sent) = in_child((), |()| std::panic::resume_unwind(Box::new(())));
        assert_eq!(sent.unwrap(), "the child panicked");
    }
}
