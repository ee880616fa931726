//! Programs whose `main` returns while guards are in scope.

use dlock_net::testing::EndingProgram;
use dlock_test_servers::PostgresServer;

use crate::support::{patient, until, with_schema};

#[test]
fn a_program_that_ends_with_guards_in_scope_leaves_no_key() {
    let program = EndingProgram::of(
        module_path!(),
        "a_program_that_ends_with_guards_in_scope_leaves_no_key",
        patient,
    );
    let server = with_schema(PostgresServer::start());
    let mut look = server.session();
    let mut count = |what: &str| -> usize {
        let count = look.run(&format!("SELECT count(*) FROM {what}"));
        count.parse().unwrap()
    };
    for (kind, guards, runs) in [
        (0, 1, 25),
        (1, 1, 25),
        (0, 3, 25),
        (1, 3, 25),
        // More than there are connections.
        (0, 25, 5),
    ] {
        let ids: Vec<_> = (0..guards).map(|it| format!("import-{it}")).collect();
        let mut left = 0;
        for _ in 0..runs {
            program.run(&server.url(), kind, &ids);
            // The server carries out what a program wrote before it closes its connection.
            until("the program is gone", || {
                count("pg_stat_activity WHERE application_name = 'dlock'") == 0
            });
            left += usize::from(count("dlock.locks WHERE owner IS NOT NULL") > 0);
            server.sql("DELETE FROM dlock.locks");
        }
        assert_eq!(left, 0, "runs with {guards} guards on runtime {kind}");
    }
}
