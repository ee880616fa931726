//! The file systems on which a store is refused.
//!
//! A file store needs file locks that all its processes respect, and a boot-time clock that they
//! share. On a network file system the lock is either local only, or it is silently lost when the
//! server restarts. Hosts of a cluster file system have no common clock. The file system behind
//! FUSE is unknown, so FUSE is refused too, and so is 9p, which gives virtual machines access to
//! folders of their host.

use std::io;
use std::path::Path;

/// The last two hold no user files. The numbers come from the kernel's `linux/magic.h` and from the
/// sources of the out-of-tree file systems.
const REFUSED: [(u32, &str); 25] = [
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0000_564c, "NCP"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x00c3_6400, "Ceph"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "FUSE"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x2003_0528, "OrangeFS"),
    (0xaad7_aaea, "PanFS"),
    (0xbeef_dead, "SNFS"),
    (0x6163_6673, "ACFS"),
    (0x786f_4256, "a VirtualBox shared folder"),
    (0xbacb_acbc, "a VMware shared folder"),
    (0x7c7c_6673, "a Parallels shared folder"),
    (0x0000_9fa0, "procfs"),
    (0x6265_6572, "sysfs"),
];

/// The name of the file system of `folder`, if it is refused.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn refused(folder: &Path) -> io::Result<Option<&'static str>> {
    let kind = rustix::fs::statfs(folder)?.f_type;
    // The field is signed on some platforms, and wider than the number on most.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(name_of(kind as u32))
}

/// On other systems the kind of a file system is not checked.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn refused(_: &Path) -> io::Result<Option<&'static str>> {
    Ok(None)
}

fn name_of(kind: u32) -> Option<&'static str> {
    REFUSED
        .iter()
        .find(|(number, _)| *number == kind)
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_and_fuse_file_systems_are_refused() {
        assert_eq!(name_of(0x6969), Some("NFS"));
        assert_eq!(name_of(0x6573_5546), Some("FUSE"));
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn the_file_system_of_the_folder_is_checked() {
        assert_eq!(refused(Path::new("/proc")).unwrap(), Some("procfs"));
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(refused(scratch.path()).unwrap(), None);
        assert!(refused(Path::new("/no/such/folder")).is_err());
    }

    #[test]
    fn local_file_systems_are_accepted() {
        // ext4, tmpfs, XFS, btrfs, overlayfs, ZFS
        for kind in [
            0xef53,
            0x0102_1994,
            0x5846_5342,
            0x9123_683e,
            0x794c_7630,
            0x2fc1_2fc1,
        ] {
            assert_eq!(name_of(kind), None, "{kind:x}");
        }
    }
}
