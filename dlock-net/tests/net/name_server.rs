//! A real name server that ignores every question. The system's resolver waits for it for 10
//! seconds and more.
// A panic is how a helper of a test fails.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::support::{in_child, is_alone, timed};
use dlock_core::ErrorKind;
use dlock_net::{Endpoint, Socket, deadline_in};

/// Half of the time that the system's resolver waits for one name server.
const SOONER: Duration = Duration::from_secs(5);

/// Moves this process, which has one thread, to a network of its own, with the name server of
/// `resolv_conf`.
#[allow(unsafe_code, clippy::cast_possible_truncation)]
fn move_to_a_network_of_its_own(resolv_conf: &Path) {
    let text = |bytes: &[u8]| std::ffi::CString::new(bytes).unwrap();
    let (root, none) = (text(b"/"), std::ptr::null());
    let from = text(resolv_conf.as_os_str().as_bytes());
    let to = text(b"/etc/resolv.conf");
    let succeeded = |what: &str, answer: libc::c_int| {
        let error = std::io::Error::last_os_error();
        assert_eq!(answer, 0, "{what}: {error}; the test needs user namespaces");
    };
    // SAFETY: the calls change this process only; the strings and the request live while they run.
    unsafe {
        let (user, group) = (libc::geteuid(), libc::getegid());
        let apart = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWNET;
        succeeded("unshare", libc::unshare(apart));
        fs::write("/proc/self/setgroups", "deny").unwrap();
        fs::write("/proc/self/uid_map", format!("0 {user} 1")).unwrap();
        fs::write("/proc/self/gid_map", format!("0 {group} 1")).unwrap();
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let mounted = libc::mount(none, root.as_ptr(), none, private, none.cast());
        succeeded("mount", mounted);
        let bound = libc::mount(from.as_ptr(), to.as_ptr(), none, libc::MS_BIND, none.cast());
        succeeded("mount", bound);
        let mut loopback: libc::ifreq = std::mem::zeroed();
        loopback.ifr_name[0] = b'l'.cast_signed();
        loopback.ifr_name[1] = b'o'.cast_signed();
        loopback.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        let up = libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw mut loopback);
        succeeded("ioctl", up);
    }
}

#[test]
fn a_name_server_that_ignores_all_questions_delays_no_call_beyond_its_deadline() {
    let name = "a_name_server_that_ignores_all_questions_delays_no_call_beyond_its_deadline";
    if !is_alone(&format!("name_server::{name}")) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let resolv_conf = folder.path().join("resolv.conf");
    fs::write(&resolv_conf, "nameserver 127.0.0.1\n").unwrap();
    let named: Endpoint = "db.example.org:6379".parse().unwrap();
    assert!(in_child(|| {
        move_to_a_network_of_its_own(&resolv_conf);
        let name_server = UdpSocket::bind("127.0.0.1:53").unwrap();

        // During the second call the lookup of the first is still running.
        for _ in 0..2 {
            let deadline = deadline_in(Duration::from_millis(300));
            let (took, answer) = timed(|| Socket::connect(&named, deadline));
            let error = answer.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout);
            assert!(took < SOONER, "{took:?}");
        }

        name_server.set_read_timeout(Some(SOONER)).unwrap();
        let mut question = [0; 512];
        let length = name_server.recv(&mut question).unwrap();
        assert!(question[..length].windows(7).any(|part| part == b"example"));
        true
    }));
}
