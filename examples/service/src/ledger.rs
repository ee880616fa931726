//! The guarded resource: a file that rejects an entry with a lower fencing token than the last.
//!
//! A database does the same in the transaction that writes the data:
//! `UPDATE … SET …, token = $1 WHERE token <= $1`, and no row means that the writer is late.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use dlock_core::FencingToken;
use rustix::fs::{FlockOperation, flock};
use tokio::task::spawn_blocking;

use crate::Outcome;

/// A file of lines: a token and what was written with it, or `rejected` and both.
#[derive(Clone)]
pub(crate) struct Ledger(Arc<Path>);

impl Ledger {
    pub(crate) fn at(path: &Path) -> Self {
        Ledger(path.into())
    }

    /// Adds an entry, unless the ledger has received a higher token.
    ///
    /// # Errors
    ///
    /// If it has, or the file cannot be read or written.
    pub(crate) async fn write(&self, token: FencingToken, entry: &'static str) -> Outcome {
        let path = Arc::clone(&self.0);
        // A dropped future does not stop this closure.
        let written = spawn_blocking(move || write(&path, token, entry)).await??;
        match written {
            None => Ok(()),
            Some(highest) => {
                Err(format!("token {token} is late, the ledger has received {highest}").into())
            }
        }
    }
}

/// Returns the highest token if it is higher than this one.
fn write(path: &Path, token: FencingToken, entry: &str) -> io::Result<Option<u64>> {
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(path)?;
    // Reading the highest token and writing the entry are one step, as in a transaction. The kernel
    // ends the flock when the file is closed.
    flock(&file, FlockOperation::LockExclusive)?;
    let highest = highest_token(&mut file)?;
    if highest > token.get() {
        writeln!(file, "rejected {token} {entry}")?;
        return Ok(Some(highest));
    }
    writeln!(file, "{token} {entry}")?;
    Ok(None)
}

fn highest_token(file: &mut File) -> io::Result<u64> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let tokens = text
        .lines()
        .filter_map(|line| line.split(' ').next()?.parse().ok());
    Ok(tokens.max().unwrap_or(0))
}
