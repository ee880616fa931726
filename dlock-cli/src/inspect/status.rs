//! `dlock status`: who holds a lock, and who waits for it.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::description::{STALE, as_json, holder, unix_millis};
use super::target::Target;
use crate::args::Status;
use crate::exit_reason::ExitReason;
use crate::message::escaped;
use crate::print;

/// Prints the state of each lock. Returns the exit code, which does not depend on it. After an
/// error what was found before is printed nevertheless.
pub(crate) fn status(arguments: &Status) -> u8 {
    let (mut lines, mut all) = (String::new(), Vec::new());
    let result = look(arguments, &mut lines, &mut all);
    if result.is_err() && all.is_empty() {
        return result.map_or_else(ExitReason::reported, |()| 0);
    }
    let text = match arguments.json {
        true => format!("{:#}\n", Value::Array(all)),
        false => format!("{lines}{STALE}\n"),
    };
    let printed = print(text.as_bytes());
    result.map_or_else(ExitReason::reported, |()| printed)
}

fn look(arguments: &Status, lines: &mut String, all: &mut Vec<Value>) -> Result<(), ExitReason> {
    for name in &arguments.names {
        // A lock may have a store of its own.
        let target = Target::open(&arguments.store, Some(name))?;
        let lock = target.lock(name)?;
        let look = |key: &str| {
            let held = target.inspect()?.holder(key);
            held.map_err(|error| target.failed(&format!("look at {}", escaped(name)), &error))
        };
        let held = look(lock.key())?;
        let waiting = target.waiting(lock.key())?;
        let mut entry = as_json(lock.key(), held.as_ref(), waiting);
        let state = match &held {
            Some(held) => holder(held, waiting),
            None => "free".to_owned(),
        };
        let key = escaped(lock.key());
        lines.push_str(&format!(
            "{}: {state} (key {key} in {})\n",
            escaped(name),
            target.url
        ));
        if let Some(job) = &arguments.once {
            let key = lock.once_key(job);
            let mark = look(&key)?;
            let state = match &mark {
                Some(mark) if !mark.holder().is_some_and(dlock_core::Holder::is_done) => {
                    format!("not done: begun and {}", holder(mark, None))
                }
                Some(mark) => holder(mark, None),
                None => "not done".to_owned(),
            };
            lines.push_str(&format!(
                "{}: job {}: {state}\n",
                escaped(name),
                escaped(job)
            ));
            entry["job"] = as_json(&key, mark.as_ref(), None);
            entry["job"]["id"] = json!(job);
        }
        entry["name"] = json!(name);
        entry["as_of_unix_ms"] = json!(unix_millis(SystemTime::now()));
        all.push(entry);
    }
    Ok(())
}
