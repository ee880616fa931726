//! A process that can start no thread.

use std::time::Duration;

use crate::support::{Behaviour, in_child, is_alone, pool, serve};
use dlock_core::ErrorKind;
use dlock_net::{Endpoint, Socket, deadline_in};

const LONG: Duration = Duration::from_secs(20);

/// From here on this process can start neither a thread nor a process. The limit does not apply to
/// root.
#[allow(unsafe_code)]
pub(crate) fn start_nothing_more() -> bool {
    let none = libc::rlimit {
        rlim_cur: 1,
        rlim_max: 1,
    };
    // SAFETY: both calls change this process only, and take values.
    unsafe {
        libc::setrlimit(libc::RLIMIT_NPROC, &raw const none) == 0
            && (libc::geteuid() != 0 || libc::setuid(65_534) == 0)
    }
}

#[test]
fn if_no_thread_can_be_started_an_address_still_works_and_a_name_gives_a_typed_error() {
    let name = "if_no_thread_can_be_started_an_address_still_works_and_a_name_gives_a_typed_error";
    if !is_alone(&format!("no_threads::{name}")) {
        return;
    }
    let server = serve(Behaviour::Echo);
    let Endpoint::Tcp { port, .. } = server.endpoint() else {
        unreachable!()
    };
    let named: Endpoint = format!("localhost:{port}").parse().unwrap();
    assert!(in_child(|| {
        assert!(start_nothing_more());
        std::thread::Builder::new().spawn(|| {}).unwrap_err();
        let pool = pool(&server, 3);
        assert_eq!(pool.ask(LONG, "a").unwrap(), "a");
        assert_eq!(pool.ask_dedicated(LONG, "b").unwrap(), "b");

        let error = Socket::connect(&named, deadline_in(LONG)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            source.contains("cannot start a thread to resolve"),
            "{source}"
        );
        true
    }));
}
