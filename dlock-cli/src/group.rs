//! The process group of the command.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

/// A process group that is known to be ours.
pub(crate) struct Group(Mutex<Option<Pid>>);

impl Group {
    pub(crate) fn new(leader: Pid) -> Self {
        Group(Mutex::new(Some(leader)))
    }

    /// Sends the signal to all members.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(group) = *self.known() {
            let _ = kill_process_group(group, signal);
        }
    }

    /// From now on its number could be somebody else's: no signal is sent any more.
    pub(crate) fn forget(&self) {
        *self.known() = None;
    }

    /// Whether a member still runs.
    pub(crate) fn runs(&self) -> bool {
        let group = *self.known();
        group.is_some_and(|group| {
            // This counts zombies too, and not every process 1 waits for its orphans soon.
            test_kill_process_group(group) != Err(Errno::SRCH) && has_living_member(group)
        })
    }

    fn known(&self) -> MutexGuard<'_, Option<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a member of a group that exists is no zombie; yes if the system does not tell.
#[cfg(target_os = "linux")]
fn has_living_member(group: Pid) -> bool {
    let this = rustix::process::getpid().as_raw_nonzero().to_string();
    // Another process namespace's list would say nothing about ours.
    let ours = std::fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() == this.as_str());
    let Some(list) = std::fs::read_dir("/proc").ok().filter(|_| ours) else {
        return true;
    };
    let group = group.as_raw_nonzero().to_string();
    list.flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
        })
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
        .any(|stat| is_living_member(&stat, &group))
}

#[cfg(not(target_os = "linux"))]
fn has_living_member(_: Pid) -> bool {
    true
}

/// Reads `pid (name) state parent group …`.
#[cfg(target_os = "linux")]
fn is_living_member(stat: &str, group: &str) -> bool {
    // The name may hold spaces and parentheses.
    let Some((_, rest)) = stat.rsplit_once(") ") else {
        return false;
    };
    let mut fields = rest.split(' ');
    let (state, its_group) = (fields.next(), fields.nth(1));
    its_group == Some(group) && !matches!(state, Some("Z" | "X"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn zombies_are_no_living_members() {
        for (stat, living) in [
            ("7 (job) S 1 42 42 0 -1", true),
            ("7 (a) Z (b) R 1 42 42 0 -1", true),
            ("7 (job) Z 1 42 42 0 -1", false),
            ("7 (job) S 42 7 42 0 -1", false),
            ("", false),
        ] {
            assert_eq!(is_living_member(stat, "42"), living, "{stat}");
        }
    }
}
