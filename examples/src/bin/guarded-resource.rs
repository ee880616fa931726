//! A guarded resource: a ledger that rejects the write of a holder whose lease has ended while it
//! was paused.
//!
//! ```sh
//! cargo run -p dlock-examples --bin guarded-resource                     # locks in a temporary folder
//! cargo run -p dlock-examples --bin guarded-resource redis://127.0.0.1/  # or memcache://127.0.0.1, file:/some/folder
//! ```
//!
//! 1. The server `slow` acquires the lock, checks its lease, and is paused before it writes.
//! 2. Its lease ends. The server `next` acquires the lock and writes.
//! 3. `slow` continues and writes. By then the ledger has received a higher fencing token, and
//!    rejects the write.
//!
//! Checking the lease does not help `slow`: it has checked, and the lease was valid. Only the
//! resource can detect the late write.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::Duration;

use dlock_core::{FencingToken, Lock, ReleaseError};
use dlock_examples::{Cluster, Outcome, Role, exit, report};

/// The guarded resource. Three lines make it safe: it keeps the highest token that it has received,
/// in the same critical section (in a database: the same transaction) as the guarded data.
#[derive(Debug, Default)]
struct Ledger {
    highest: Option<FencingToken>,
    entries: Vec<String>,
}

impl Ledger {
    fn write(&mut self, token: FencingToken, entry: &str) -> Result<(), FencingToken> {
        match self.highest {
            Some(highest) if token < highest => return Err(highest),
            _ => self.highest = Some(token),
        }
        self.entries.push(entry.to_owned());
        Ok(())
    }
}

/// Both servers do this: acquire, check, write.
fn pay(ledger: &str, role: &Role) -> Outcome {
    let options = role.options().ttl(Duration::from_secs(5));
    let lock = Lock::with_options(role.store()?, "payout", options)?;
    let guard = lock.acquire_within(Duration::from_secs(30))?;
    let token = guard.fencing_token().ok_or("this store has no tokens")?;
    if !guard.is_valid() {
        return Err("the lease ended before anything was done".into());
    }
    report(format_args!(
        "holds the lock with token {token}, will write"
    ));
    if role.server == "slow" {
        // It is paused here, between the check and the write.
        while !role.folder.join("go").exists() {
            sleep(Duration::from_millis(20));
        }
    }
    let mut connection = TcpStream::connect(ledger)?;
    writeln!(connection, "{token} paid by {}", role.server)?;
    let mut answer = String::new();
    BufReader::new(connection).read_line(&mut answer)?;
    report(format_args!(
        "writes with token {token}: {}",
        answer.trim_end()
    ));
    match guard.release() {
        Ok(()) => report("released the lock"),
        Err(ReleaseError::Lost) => report("had lost the lock before it released it"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The ledger as a service: a token and an entry in a line, an answer in a line.
fn serve(listener: &TcpListener, ledger: &Mutex<Ledger>) -> Outcome {
    for connection in listener.incoming() {
        let mut request = String::new();
        let mut connection = BufReader::new(connection?);
        connection.read_line(&mut request)?;
        let (token, entry) = request.trim_end().split_once(' ').ok_or("no token")?;
        let token = FencingToken::new(token.parse()?);
        let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = connection.into_inner();
        match ledger.write(token, entry) {
            Ok(()) => writeln!(answer, "written")?,
            Err(highest) => writeln!(answer, "rejected, the ledger has received token {highest}")?,
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    exit(run_servers())
}

fn run_servers() -> Outcome {
    if let Some(role) = Role::of_this_process() {
        let ledger = std::env::args().nth(1).ok_or("where is the ledger?")?;
        return pay(&ledger, &role);
    }

    let cluster = Cluster::from_arguments()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    thread::spawn({
        let ledger = Arc::clone(&ledger);
        move || {
            if let Err(error) = serve(&listener, &ledger) {
                report(format_args!("the ledger failed: {error}"));
            }
        }
    });

    report("slow acquires the lock, checks its lease, and is paused.");
    let slow = cluster.start("slow", &[&address])?;
    cluster.until("will write")?;
    slow.pause()?;
    report("Nobody renews its lease now. next waits for its end.");
    let next = cluster.start("next", &[&address])?;
    cluster.until("written")?;
    report("slow continues.");
    File::create(cluster.folder().join("go"))?;
    slow.resume()?;
    cluster.end([slow, next])?;

    let ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    report(format_args!("Ledger: {}", ledger.entries.join(", ")));
    if ledger.entries != ["paid by next"] {
        return Err("only the holder of the lock should have written".into());
    }
    Ok(())
}
