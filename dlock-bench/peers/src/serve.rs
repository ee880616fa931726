//! Makes pairs on command. The process reads lines from its standard input:
//!
//! | line | |
//! | --- | --- |
//! | `ready` | sent once |
//! | `pairs MILLIS` | received: all tasks acquire and release for that time |
//! | `count PAIRS NANOS CPU_NANOS` | sent then: how many pairs, how long it took, how long the process ran on a core |

use std::io::{self, BufRead as _, Write as _};
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::contender::Failure;
use crate::tasks::{Count, Pair, pairs};

/// Makes pairs on command until the standard input ends.
pub(crate) fn until_the_input_ends(
    runtime: &Runtime,
    pair: &Pair,
    tasks: usize,
) -> Result<(), Failure> {
    write_line("ready")?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let millis = line.strip_prefix("pairs ").ok_or("an unknown command")?;
        let lasts = Duration::from_millis(millis.parse()?);
        let Count {
            pairs,
            elapsed,
            client,
        } = pairs(runtime, pair, tasks, lasts)?;
        let (elapsed, client) = (elapsed.as_nanos(), client.as_nanos());
        write_line(&format!("count {pairs} {elapsed} {client}"))?;
    }
    Ok(())
}

fn write_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
