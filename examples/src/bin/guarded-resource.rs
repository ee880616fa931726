//! A guarded resource: a ledger that rejects the write of a holder whose lease ended while it was paused.
//!
//! ```sh
//! cargo run -p dlock-examples --bin guarded-resource                     # locks in a temporary folder
//! cargo run -p dlock-examples --bin guarded-resource redis://127.0.0.1/  # or memcache://127.0.0.1, file:/some/folder
//! ```
//!
//! 1. The server `slow` acquires the lock, looks at its lease, and is paused before it writes.
//! 2. Its lease ends. The server `next` acquires the lock and writes.
//! 3. `slow` goes on where it was, and writes. The ledger has seen a higher fencing token by then, and rejects it.
//!
//! No look at the lease helps `slow`: it looked, and the lease was valid. Only the resource can know.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::Duration;

use dlock_core::{FencingToken, Lock, ReleaseError};
use dlock_examples::{Outcome, Part, Stage, exit, say};

/// The guarded resource. What makes it safe is three lines: it keeps the highest token that it has seen, in the same
/// critical section (a database: the same transaction) as what it guards.
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

/// What both servers do: acquire, look, write.
fn pay(ledger: &str, part: &Part) -> Outcome {
    let options = part.options().with_ttl(Duration::from_secs(2));
    let lock = Lock::with_options(part.store()?, "payout", options)?;
    let guard = lock.acquire_within(Duration::from_secs(30))?;
    let token = guard.fencing_token().ok_or("this store has no tokens")?;
    if !guard.is_valid() {
        return Err("the lease ended before anything was done".into());
    }
    say(format_args!(
        "holds the lock with token {token}, will write"
    ));
    if part.server == "slow" {
        // Here it is paused: between the look and the write.
        while !part.folder.join("go").exists() {
            sleep(Duration::from_millis(20));
        }
    }
    let mut connection = TcpStream::connect(ledger)?;
    writeln!(connection, "{token} paid by {}", part.server)?;
    let mut answer = String::new();
    BufReader::new(connection).read_line(&mut answer)?;
    say(format_args!(
        "writes with token {token}: {}",
        answer.trim_end()
    ));
    match guard.release() {
        Ok(()) => say("released the lock"),
        Err(ReleaseError::Lost) => say("had lost the lock before it released it"),
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
            Err(highest) => writeln!(answer, "rejected, the ledger has seen token {highest}")?,
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    exit(play())
}

fn play() -> Outcome {
    if let Some(part) = Part::of_this_process() {
        let ledger = std::env::args().nth(1).ok_or("where is the ledger?")?;
        return pay(&ledger, &part);
    }

    let stage = Stage::from_arguments()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    thread::spawn({
        let ledger = Arc::clone(&ledger);
        move || {
            if let Err(error) = serve(&listener, &ledger) {
                say(format_args!("the ledger failed: {error}"));
            }
        }
    });

    say("slow acquires the lock, looks at its lease, and is paused.");
    let slow = stage.start("slow", &[&address])?;
    stage.until("will write")?;
    slow.pause()?;
    say("Nobody renews its lease now. next waits for its end.");
    let next = stage.start("next", &[&address])?;
    stage.until("written")?;
    say("slow goes on.");
    File::create(stage.folder().join("go"))?;
    slow.resume()?;
    stage.end([slow, next])?;

    let ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    say(format_args!("Ledger: {}", ledger.entries.join(", ")));
    if ledger.entries != ["paid by next"] {
        return Err("only the holder of the lock should have written".into());
    }
    Ok(())
}
