//! A payout that is never made twice: the fencing token is checked in the transaction that pays.
//!
//! ```sh
//! cargo run -p dlock-examples --bin payout postgres://postgres@127.0.0.1/postgres
//! ```
//!
//! 1. The server `slow` acquires the lock, books the payout, and is paused before it commits.
//! 2. Its lease ends. The server `next` acquires the lock, books the payout and commits.
//! 3. `slow` continues. `dlock.check` finds that its token is not the holder's any more, and the
//!    database rolls its transaction back.
//!
//! Locks and payouts are in the same database. It is the database that decides, at the commit.

use std::fs::File;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use dlock_core::{Lock, ReleaseError};
use dlock_examples::{Cluster, Outcome, Role, exit, report};
use dlock_postgres::ConnectionManager;
use postgres::{Client, NoTls};

/// What `dlock.check` fails with.
const STALE: &str = "DL001";

/// Both servers do this: acquire, book, check, commit.
fn pay(database: &str, role: &Role) -> Outcome {
    let options = role.options().ttl(Duration::from_secs(5));
    let lock = Lock::with_options(role.store()?, "payout", options)?;
    let guard = lock.acquire_within(Duration::from_secs(30))?;
    let token = guard.fencing_token().ok_or("this store has no tokens")?;
    let mut client = Client::connect(database, NoTls)?;

    let mut transaction = client.transaction()?;
    let book = "INSERT INTO payouts (paid_by) VALUES ($1)";
    transaction.execute(book, &[&role.server])?;
    report(format_args!(
        "has booked the payout under token {token}, will commit"
    ));
    if role.server == "slow" {
        // It is paused here.
        while !role.folder.join("go").exists() {
            sleep(Duration::from_millis(20));
        }
    }
    let token = i64::try_from(token.get())?;
    let check = transaction.execute("SELECT dlock.check($1, $2)", &[&guard.key(), &token]);
    match check {
        Ok(_) => {
            // Nobody else gets the lock before this has ended.
            transaction.commit()?;
            report("committed");
        }
        Err(error) if error.code().is_some_and(|code| code.code() == STALE) => {
            transaction.rollback()?;
            report("rolled back: somebody else has had the lock since");
        }
        Err(error) => return Err(error.into()),
    }
    match guard.release() {
        Ok(()) => report("released the lock"),
        Err(ReleaseError::Lost) => report("had lost the lock before it released it"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn main() -> ExitCode {
    exit(run_servers())
}

fn run_servers() -> Outcome {
    let database = std::env::args()
        .nth(1)
        .filter(|url| url.starts_with("postgres"))
        .ok_or("give the URL of a PostgreSQL database")?;
    if let Some(role) = Role::of_this_process() {
        return pay(&database, &role);
    }

    ConnectionManager::new(&database)?.migrate(Duration::from_secs(10))?;
    let mut client = Client::connect(&database, NoTls)?;
    client.batch_execute("CREATE TABLE IF NOT EXISTS payouts (paid_by text NOT NULL)")?;
    client.batch_execute("DELETE FROM payouts")?;

    let cluster = Cluster::from_arguments()?;
    report("slow acquires the lock, books the payout, and is paused.");
    let slow = cluster.start("slow", &[&database])?;
    cluster.until("will commit")?;
    slow.pause()?;
    report("Nobody renews its lease now. next waits for its end.");
    let next = cluster.start("next", &[&database])?;
    cluster.until("committed")?;
    report("slow continues.");
    File::create(cluster.folder().join("go"))?;
    slow.resume()?;
    cluster.end([slow, next])?;

    let paid = client.query("SELECT paid_by FROM payouts", &[])?;
    let paid: Vec<String> = paid.iter().map(|row| row.get(0)).collect();
    report(format_args!("Payouts: {}", paid.join(", ")));
    if paid != ["next"] {
        return Err("the payout should have been made once".into());
    }
    Ok(())
}
