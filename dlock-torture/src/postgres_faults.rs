//! The faults of PostgreSQL.

use std::thread;
use std::time::Duration;

use dlock_history::Harm;
use dlock_postgres::MIGRATION;
use dlock_test_servers::PostgresServer;

use crate::backend::LockSpec;
use crate::lanes::{Round, sleep_until};
use crate::plan::{Fault, Planned};
use crate::postgres::{Pair, set_synchronous};

/// The connections of dlock.
const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
     WHERE application_name = 'dlock'";
/// For how long a primary grants locks of which its standby does not know, at most.
const ALONE: Duration = Duration::from_millis(1500);
/// For how long a primary that was replaced goes on beside its successor.
const IMPOSTOR: Duration = Duration::from_millis(1500);

/// Another transaction locks the row of a lock, and does not change it.
fn lock_row(server: &PostgresServer, lock: LockSpec, unlocked: impl FnOnce()) {
    let mut session = server.session();
    let key = lock.key();
    session.run(&format!(
        "BEGIN; SELECT count(*) FROM (SELECT 1 FROM dlock.locks WHERE key = '{key}' FOR UPDATE) l"
    ));
    unlocked();
    session.run("ROLLBACK");
}

/// Carries out a plan. Each fault is healed before the next begins. No fault is an excuse: what was
/// answered is kept.
pub(crate) fn break_server(round: &Round, plan: &[Planned], server: &mut PostgresServer) {
    for planned in plan {
        let since = round.wait_for(planned);
        let until = since.saturating_add(planned.lasts);
        match planned.fault {
            Fault::StopServer => {
                server.pause();
                sleep_until(until);
                server.resume();
            }
            Fault::KillServer { keeps_data: true } => {
                server.crash();
                sleep_until(until);
                server.start_again();
            }
            Fault::KillBackend => {
                server.kill_backend("dlock");
                // The server is there until it has noticed.
                thread::sleep(Duration::from_millis(100));
            }
            ref other => break_connected(other, server, || sleep_until(until)),
        }
        server.wait_until_ready();
        round.record.fault(planned.fault.name(), Harm::None, since);
    }
}

/// Faults of a server that goes on.
fn break_connected(fault: &Fault, server: &PostgresServer, wait: impl FnOnce()) {
    match fault {
        Fault::TerminateBackends => {
            server.sql(TERMINATE);
        }
        Fault::LockRow(lock) => lock_row(server, *lock, wait),
        Fault::Migrate => {
            server.sql(MIGRATION);
        }
        other => unreachable!("{other:?} is not of PostgreSQL"),
    }
}

/// The same for a pair. Only what is granted while commits do not wait for the standby is lost.
pub(crate) fn break_pair(round: &Round, plan: &[Planned], pair: &mut Pair) {
    for planned in plan {
        let since = round.wait_for(planned);
        let until = since.saturating_add(planned.lasts);
        let harm = match planned.fault {
            Fault::KillPrimary(_) => {
                pair.primary_mut().crash();
                pair.promote();
                sleep_until(until);
                pair.rejoin();
                Harm::None
            }
            Fault::StopPrimary(_) => {
                pair.primary().pause();
                pair.promote();
                sleep_until(until);
                // It takes itself for the primary, and no standby follows it.
                pair.standby().resume();
                thread::sleep(IMPOSTOR);
                pair.rejoin();
                Harm::None
            }
            Fault::LosePrimary => {
                pair.standby().sql("ALTER SYSTEM SET primary_conninfo = ''");
                pair.standby().sql("SELECT pg_reload_conf()");
                set_synchronous(pair.primary(), false);
                sleep_until(until.min(since.saturating_add(ALONE)));
                pair.primary_mut().crash();
                pair.promote();
                sleep_until(until);
                pair.rejoin();
                Harm::Loss
            }
            Fault::KillReplica(_) => {
                pair.standby_mut().crash();
                sleep_until(until);
                pair.standby_mut().start_again();
                Harm::None
            }
            Fault::StopReplica(_) => {
                pair.standby().pause();
                sleep_until(until);
                pair.standby().resume();
                Harm::None
            }
            ref other => {
                break_connected(other, pair.primary(), || sleep_until(until));
                Harm::None
            }
        };
        pair.wait_until_synchronous();
        round.record.fault(planned.fault.name(), harm, since);
    }
}
