//! Programs whose `main` returns while guards are in scope.

use dlock_net::testing::EndingProgram;
use dlock_test_servers::TlsCertificate;

use super::*;
use crate::support::{eventually, read};

/// How often each program runs.
const RUNS: usize = 25;

#[test]
fn a_program_that_ends_with_guards_in_scope_leaves_no_key() {
    let program = EndingProgram::of(
        module_path!(),
        "a_program_that_ends_with_guards_in_scope_leaves_no_key",
        |url| EtcdDatastore::open(url).unwrap(),
    );
    let tls = EtcdServer::start_with_tls(TlsCertificate::Signed);
    let tls_url = format!("{}?ca={}", tls.tls_url(), tls.ca_file().display());
    for (server, url) in [(server(), server().url()), (&tls, tls_url)] {
        for (kind, guards) in [(0, 1), (1, 1), (0, 3), (1, 3)] {
            for _ in 0..RUNS {
                let keys: Vec<_> = (0..guards).map(|_| key("aio-ends")).collect();
                let ids: Vec<_> = keys.iter().map(|key| &key["dlock:".len()..]).collect();
                program.run(&url, kind, &ids);
                // The server carries out what the program wrote, though the program is gone.
                for key in &keys {
                    eventually("the lock is free", || {
                        read(server, key).is_none().then_some(())
                    });
                }
            }
        }
    }
}
