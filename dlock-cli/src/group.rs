//! The process group of the command.

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};

/// The process group of the command. Its number is not reused, because its leader is not reaped yet
/// or the group still has members.
#[derive(Clone, Copy)]
pub(crate) struct Group(Pid);

/// A member that signals cannot reach: it runs as another user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfReach;

impl Group {
    pub(crate) fn new(leader: Pid) -> Self {
        Group(leader)
    }

    /// Sends the signal to all members.
    ///
    /// # Errors
    ///
    /// [`OutOfReach`] if no member can be reached.
    pub(crate) fn signal(self, signal: Signal) -> Result<(), OutOfReach> {
        match kill_process_group(self.0, signal) {
            Err(Errno::PERM) => Err(OutOfReach),
            // No member is left.
            _ => Ok(()),
        }
    }

    /// Kills all members. The leader must not be reaped yet.
    ///
    /// # Errors
    ///
    /// [`OutOfReach`] if the leader cannot be reached, even if others can.
    pub(crate) fn kill_with_leader(self) -> Result<(), OutOfReach> {
        self.signal(Signal::KILL)?;
        match kill_process(self.0, Signal::KILL) {
            Err(Errno::PERM) => Err(OutOfReach),
            _ => Ok(()),
        }
    }

    /// Returns whether a member still runs.
    pub(crate) fn runs(self) -> bool {
        match test_kill_process_group(self.0) {
            Err(Errno::SRCH) => false,
            // This also counts zombies, and not every process 1 reaps its orphans soon.
            result => match members(self.0) {
                Members::Living => true,
                Members::Ended => false,
                // The system may hide the processes of other users.
                Members::NotListed => result == Err(Errno::PERM),
            },
        }
    }
}

/// What the list of processes shows of a group that exists.
enum Members {
    Living,
    Ended,
    NotListed,
}

/// Looks for a member that is not a zombie in a group that exists. Without a list of processes,
/// assumes that there is one.
#[cfg(target_os = "linux")]
fn members(group: Pid) -> Members {
    let this = rustix::process::getpid().as_raw_nonzero().to_string();
    // The list of another process namespace says nothing about ours.
    let ours = std::fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() == this.as_str());
    let Some(list) = std::fs::read_dir("/proc").ok().filter(|_| ours) else {
        return Members::Living;
    };
    let group = group.as_raw_nonzero().to_string();
    let mut found = Members::NotListed;
    let stats = list
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
        })
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    for stat in stats {
        match is_living_member(&stat, &group) {
            Some(true) => return Members::Living,
            Some(false) => found = Members::Ended,
            None => {}
        }
    }
    found
}

#[cfg(not(target_os = "linux"))]
fn members(_: Pid) -> Members {
    Members::Living
}

/// Reads `pid (name) state parent group …`; `None` for a process of another group.
#[cfg(target_os = "linux")]
fn is_living_member(stat: &str, group: &str) -> Option<bool> {
    // The name may hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let (state, its_group) = (fields.next(), fields.nth(1));
    (its_group == Some(group)).then_some(!matches!(state, Some("Z" | "X")))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn zombies_do_not_count_as_living_members() {
        for (stat, living) in [
            ("7 (job) S 1 42 42 0 -1", Some(true)),
            ("7 (a) Z (b) R 1 42 42 0 -1", Some(true)),
            ("7 (job) Z 1 42 42 0 -1", Some(false)),
            ("7 (job) S 42 7 42 0 -1", None),
            ("", None),
        ] {
            assert_eq!(is_living_member(stat, "42"), living, "{stat}");
        }
    }
}
