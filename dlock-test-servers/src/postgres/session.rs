//! SQL through `psql`, so that this crate needs no client of its own.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::programs::{INSTALL, Programs};

/// What no answer has in it.
const END: &str = "dlock-test-servers-end";

/// A connection of the superuser that stays open, with its transaction. Dropping it closes it, and
/// the server rolls an open transaction back.
pub struct PostgresSession {
    psql: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl PostgresSession {
    pub(super) fn open(programs: &Programs, host: &OsStr, port: u16) -> Self {
        let mut psql = psql(programs, host, port)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run `psql`: {error}; {INSTALL}"));
        let output = psql.stdout.take().expect("it is a pipe");
        let mut session = PostgresSession {
            input: psql.stdin.take(),
            output: BufReader::new(output),
            psql,
        };
        session.run("SELECT 1");
        session
    }

    /// Runs SQL and waits for its answer, which has a line for each row.
    ///
    /// # Panics
    ///
    /// If it fails: then the session has ended.
    pub fn run(&mut self, sql: &str) -> String {
        self.send(sql);
        self.answer()
    }

    /// Has SQL run, and does not wait.
    ///
    /// # Panics
    ///
    /// If the session has ended.
    pub fn send(&mut self, sql: &str) {
        let input = self.input.as_mut().expect("the session is open");
        let sent = writeln!(input, "{sql};\nSELECT '{END}';").and_then(|()| input.flush());
        sent.expect("the session is open");
    }

    /// The answer to what was [sent](Self::send).
    ///
    /// # Panics
    ///
    /// If it has failed.
    pub fn answer(&mut self) -> String {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line);
            assert!(matches!(read, Ok(1..)), "the session has ended");
            match line.trim_end() {
                END => return lines.join("\n"),
                line => lines.push(line.to_owned()),
            }
        }
    }
}

impl Drop for PostgresSession {
    /// Waits until the server has closed the connection.
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.psql.kill();
        let _ = self.psql.wait();
    }
}

/// Runs SQL in one transaction on a connection of its own.
pub(super) fn answer(
    programs: &Programs,
    host: &OsStr,
    port: u16,
    sql: &str,
) -> Result<String, String> {
    let output = psql(programs, host, port)
        .args(["-v", "VERBOSITY=verbose", "-c", sql])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run `psql`: {error}; {INSTALL}"));
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim_end().into()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Returns whether the server takes connections.
pub(super) fn is_ready(programs: &Programs, host: &OsStr, port: u16) -> bool {
    let mut command = Command::new(programs.path("pg_isready"));
    command.args(["-q", "-h"]).arg(host);
    command.args(["-p", &port.to_string()]).env_clear();
    let status = command.stdin(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn psql(programs: &Programs, host: &OsStr, port: u16) -> Command {
    let mut command = Command::new(programs.path("psql"));
    command
        .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-h"])
        .arg(host);
    command.args(["-U", "postgres", "-d", "postgres", "-p"]);
    command.arg(port.to_string());
    command
}
