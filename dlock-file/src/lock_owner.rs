//! Finds the process that has locked a file, in the kernel's list of locks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The process that has an `flock` on `file`; `None` if it is not visible, because it runs in
/// another container.
pub(crate) fn lock_owner(file: &Path) -> Option<u32> {
    let found = fs::metadata(file).ok()?;
    let list = fs::read_to_string("/proc/locks").ok()?;
    owner_in(&list, found.dev(), found.ino())
}

/// `1: FLOCK  ADVISORY  WRITE 4121 fe:00:10010703 0 EOF`
///
/// Some file systems (btrfs, overlay) show another device here than in a file's metadata. Then the
/// inode decides, if it is unique in the list.
fn owner_in(list: &str, device: u64, inode: u64) -> Option<u32> {
    let mut elsewhere = Vec::new();
    for line in list.lines() {
        let mut words = line.split_whitespace().skip(1);
        // Skip the lines with `->`: they show processes that wait in a blocking call.
        if words.next() != Some("FLOCK") {
            continue;
        }
        let mut words = words.skip(2);
        let (Some(pid), Some(place)) = (words.next(), words.next()) else {
            continue;
        };
        let mut place = place.split(':');
        let mut number = |radix| u64::from_str_radix(place.next()?, radix).ok();
        let (major, minor, number) = (number(16), number(16), number(10));
        let pid = pid.parse().ok().filter(|pid| *pid > 0);
        if number != Some(inode) {
            continue;
        }
        let same = major == Some(u64::from(rustix::fs::major(device)))
            && minor == Some(u64::from(rustix::fs::minor(device)));
        if same {
            return pid;
        }
        elsewhere.push(pid);
    }
    match elsewhere[..] {
        [pid] => pid,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
1: POSIX  ADVISORY  WRITE 11 fe:00:100 0 EOF
2: FLOCK  ADVISORY  WRITE 22 fe:00:100 0 EOF
2: -> FLOCK  ADVISORY  WRITE 33 fe:00:100 0 EOF
3: FLOCK  ADVISORY  WRITE 44 00:1b:100 0 EOF
4: FLOCK  ADVISORY  WRITE 55 00:1c:200 0 EOF
5: FLOCK  ADVISORY  WRITE 0 fe:00:300 0 EOF
6: OFDLCK ADVISORY  READ -1 fe:00:100 0 EOF
7: FLOCK
";

    #[test]
    fn the_holder_is_found_among_other_locks() {
        let device = rustix::fs::makedev(0xfe, 0);
        assert_eq!(owner_in(LIST, device, 100), Some(22));
        assert_eq!(owner_in(LIST, rustix::fs::makedev(0, 0x1b), 100), Some(44));
        // A device that is not in the list: only a unique inode identifies the lock.
        assert_eq!(owner_in(LIST, device, 200), Some(55));
        assert_eq!(owner_in(LIST, rustix::fs::makedev(9, 9), 100), None);
        assert_eq!(owner_in(LIST, device, 300), None);
        assert_eq!(owner_in(LIST, device, 400), None);
    }

    #[test]
    fn a_lock_of_this_process_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(lock_owner(file.path()), None);
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert_eq!(lock_owner(file.path()), Some(std::process::id()));
    }
}
