//! A name server that answers nobody.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::support::{
    PATIENCE, Place, await_handler, code, dlock, ended, kill_child, spawn, stderr,
};
use rustix::process::Signal;

/// A name server that reads questions and answers none. The system's resolver waits for it for ten
/// seconds and more.
struct Silent {
    socket: UdpSocket,
    address: Ipv4Addr,
}

impl Silent {
    /// Listens at an address that belongs to this process alone, and to the test with this number
    /// from 0 to 3.
    fn start(test: u32) -> Self {
        // Linux has at most 4 million processes, and all of 127.0.0.0/8 is this host.
        let [_, high, middle, low] = (std::process::id() * 4 + test).to_be_bytes();
        let address = Ipv4Addr::new(127, high, middle, low);
        let socket = UdpSocket::bind((address, 53))
            .unwrap_or_else(|error| panic!("{error}: run this test as root"));
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Silent { socket, address }
    }

    /// Starts dlock with this as its only name server, and a store on a host of this name.
    fn dlock(&self, place: &Place, host: &str, arguments: &[&str]) -> Child {
        let file = place.path("resolv.conf");
        fs::write(&file, format!("nameserver {}\n", self.address)).unwrap();
        let mut dlock = dlock();
        dlock
            .args(["run", "--store", &format!("redis://{host}.example.org/")])
            .args(arguments)
            .args(["--", "touch", "ran"]);
        let mount = "mount --bind resolv.conf /etc/resolv.conf && exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--", "sh", "-c", mount, "sh"])
            .arg(dlock.get_program())
            .args(dlock.get_args())
            .env_remove("DLOCK_STORE")
            .current_dir(place.path(""));
        spawn(&mut command)
    }

    /// Waits until somebody asks for the address of this host.
    fn await_question(&self, host: &str) {
        let mut question = [0; 512];
        loop {
            let length = self.socket.recv(&mut question).expect("nobody asks");
            let mut parts = question[..length].windows(host.len());
            if parts.any(|part| part == host.as_bytes()) {
                return;
            }
        }
    }
}

#[test]
fn a_signal_ends_a_wait_at_once_though_no_name_server_answers() {
    let server = Silent::start(0);
    for (case, arguments) in [
        ("waits", &["--wait", "forever", "job"] as &[&str]),
        ("tries", &["job"]),
    ] {
        // The machine may be busy, so take the fastest of several runs.
        let fastest = (0..5).filter_map(|run| {
            let (place, host) = (Place::new(), format!("{case}-{run}"));
            let spawned = Instant::now();
            let child = server.dlock(&place, &host, arguments);
            await_handler(&child, Signal::TERM);
            server.await_question(&host);
            let start = Instant::now();
            kill_child(&child, Signal::TERM);
            let output = ended(child);
            let took = start.elapsed();
            assert!(!place.path("ran").exists());
            // One try ends by itself, a second after its start.
            let was_over = case == "tries" && start - spawned > Duration::from_millis(900);
            if was_over && code(&output) == 69 {
                return None;
            }
            assert_eq!(code(&output), 128 + 15, "{}", stderr(&output));
            Some(took)
        });
        let fastest = fastest.min().expect("one signal comes in time");
        assert!(fastest < Duration::from_secs(1), "{fastest:?}");
    }
}

#[test]
fn a_wait_ends_in_time_though_no_name_server_answers() {
    let server = Silent::start(1);
    for arguments in [&["--wait", "1s", "job"] as &[&str], &["job"]] {
        let fastest = (0..3).map(|_| {
            let place = Place::new();
            let start = Instant::now();
            let child = server.dlock(&place, "db", arguments);
            let output = ended(child);
            assert_eq!(code(&output), 69, "{}", stderr(&output));
            assert!(
                stderr(&output).contains("not resolved"),
                "{}",
                stderr(&output)
            );
            start.elapsed()
        });
        let fastest = fastest.min().unwrap();
        assert!(fastest < Duration::from_secs(5), "{fastest:?}");
    }
}
