//! `dlock list`: all locks that are held.

use std::time::SystemTime;

use dlock_core::{HeldBy, Inspect};
use serde_json::{Value, json};

use super::description::{STALE, as_json, holder, unix_millis};
use super::name::{self, Named};
use super::target::Target;
use crate::args::List;
use crate::exit_code;
use crate::exit_reason::ExitReason;
use crate::message::escaped;
use crate::print;

/// Prints the locks that are held. Returns the exit code.
pub(crate) fn list(arguments: &List) -> u8 {
    match shown(arguments) {
        Ok(text) => print(text.as_bytes()),
        Err(reason) => reason.reported(),
    }
}

fn shown(arguments: &List) -> Result<String, ExitReason> {
    let target = Target::open(&arguments.store, None)?;
    let prefix = start(&target, "")?;
    let wanted = arguments.start.as_deref().unwrap_or_default();
    let keys = all(&target, target.inspect()?, &start(&target, wanted)?)?;
    let (mut lines, mut entries) = (String::new(), Vec::new());
    for (key, held) in &keys {
        let named = name::of_key(&prefix, key);
        let is_mark = named.as_ref().is_some_and(|named| named.job.is_some());
        let waiting = match is_mark {
            true => None,
            false => target.waiting(key)?,
        };
        let mut entry = as_json(key, Some(held), waiting);
        let what = match &named {
            Some(Named { lock, job: None }) => escaped(lock),
            Some(Named {
                lock,
                job: Some(job),
            }) => {
                format!("{}: job {}", escaped(lock), escaped(job))
            }
            None => format!("(the name is not known) key {}", escaped(key)),
        };
        lines.push_str(&format!("{what}: {}\n", holder(held, waiting)));
        entry["name"] = json!(named.as_ref().map(|named| &named.lock));
        entry["job"] = json!(named.as_ref().and_then(|named| named.job.as_ref()));
        entry["as_of_unix_ms"] = json!(unix_millis(SystemTime::now()));
        entries.push(entry);
    }
    if arguments.json {
        return Ok(format!("{:#}\n", Value::Array(entries)));
    }
    if keys.is_empty() {
        let start = escaped(&start(&target, wanted)?);
        lines = format!(
            "No key that starts with {start} is held in {}.\n",
            target.url
        );
    }
    Ok(format!("{lines}{STALE}\n"))
}

/// The start of the keys of all locks whose names start with this.
fn start(target: &Target, name: &str) -> Result<String, ExitReason> {
    // A name must not be empty, and this letter stands in the key as it is.
    let lock = target.lock(&format!("{name}x"))?;
    let start = lock
        .key()
        .strip_suffix('x')
        .filter(|start| !start.contains("%h"));
    start.map(str::to_owned).ok_or_else(|| {
        let message = format!(
            "no list: {} is too long for the start of a key",
            escaped(name)
        );
        ExitReason::new(exit_code::USAGE, message)
    })
}

/// All pages, each key once, in the order of the keys.
fn all(
    target: &Target,
    inspect: &dyn Inspect,
    start: &str,
) -> Result<Vec<(String, HeldBy)>, ExitReason> {
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        let page = inspect.held(start, after.as_ref());
        let page = page.map_err(|error| target.failed("list the locks", &error))?;
        keys.extend(page.keys);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    keys.sort_by(|(one, _), (other, _)| one.cmp(other));
    keys.dedup_by(|(one, _), (other, _)| one == other);
    Ok(keys)
}
