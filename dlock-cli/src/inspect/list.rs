//! `dlock list`: all locks that are held.

use std::collections::HashSet;
use std::time::SystemTime;

use dlock_core::HeldBy;
use serde_json::{Value, json};

use super::description::{STALE, as_json, holder, unix_millis};
use super::name::{self, Named};
use super::target::Target;
use crate::args::List;
use crate::exit_code;
use crate::exit_reason::ExitReason;
use crate::message::escaped;
use crate::print_part;

/// Prints the locks that are held, a page at a time. Returns the exit code. After an error what was
/// found before is printed nevertheless.
pub(crate) fn list(arguments: &List) -> u8 {
    let listed = Listing::begin(arguments).and_then(|mut listing| {
        let listed = listing.pages();
        listing.end(listed.is_ok())?;
        listed
    });
    match listed {
        Ok(()) => 0,
        Err(Stop::Printed(code)) => code,
        Err(Stop::Failed(reason)) => reason.reported(),
    }
}

/// Why the list ends early.
enum Stop {
    /// Nobody reads it any more, or it could not be printed, which was reported: the exit code.
    Printed(u8),
    Failed(ExitReason),
}

impl From<ExitReason> for Stop {
    fn from(reason: ExitReason) -> Self {
        Stop::Failed(reason)
    }
}

struct Listing<'a> {
    arguments: &'a List,
    target: Target,
    /// The start of the keys of all locks.
    prefix: String,
    /// The start of the keys that are wanted.
    start: String,
    /// The keys that were printed: one may be on two pages.
    printed: HashSet<String>,
}

impl<'a> Listing<'a> {
    fn begin(arguments: &'a List) -> Result<Self, Stop> {
        let target = Target::open(&arguments.store, None)?;
        let wanted = arguments.start.as_deref().unwrap_or_default();
        Ok(Listing {
            prefix: start(&target, "")?,
            start: start(&target, wanted)?,
            arguments,
            target,
            printed: HashSet::new(),
        })
    }

    fn pages(&mut self) -> Result<(), Stop> {
        let mut after = None;
        loop {
            let page = self.target.inspect()?.held(&self.start, after.as_ref());
            let page = page.map_err(|error| self.target.failed("list the locks", &error))?;
            self.page(page.keys)?;
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Prints a page, in the order of its keys; after an error those before it.
    fn page(&mut self, mut keys: Vec<(String, HeldBy)>) -> Result<(), Stop> {
        keys.sort_by(|(one, _), (other, _)| one.cmp(other));
        let (mut text, mut result) = (String::new(), Ok(()));
        for (key, held) in keys {
            if self.printed.contains(&key) {
                continue;
            }
            let (line, entry) = match self.entry(&key, &held) {
                Ok(shown) => shown,
                Err(reason) => {
                    result = Err(reason.into());
                    break;
                }
            };
            match (self.arguments.json, self.printed.is_empty()) {
                (false, _) => text.push_str(&line),
                (true, is_first) => {
                    text.push_str(if is_first { "[\n  " } else { ",\n  " });
                    text.push_str(&format!("{entry:#}").replace('\n', "\n  "));
                }
            }
            self.printed.insert(key);
        }
        print_part(text.as_bytes()).map_err(Stop::Printed)?;
        result
    }

    /// A key as a line and as JSON.
    fn entry(&self, key: &str, held: &HeldBy) -> Result<(String, Value), ExitReason> {
        let named = name::of_key(&self.prefix, key);
        let is_mark = named.as_ref().is_some_and(|named| named.job.is_some());
        let waiting = match is_mark {
            true => None,
            false => self.target.waiting(key)?,
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
        entry["name"] = json!(named.as_ref().map(|named| &named.lock));
        entry["job"] = json!(named.as_ref().and_then(|named| named.job.as_ref()));
        entry["as_of_unix_ms"] = json!(unix_millis(SystemTime::now()));
        Ok((format!("{what}: {}\n", holder(held, waiting)), entry))
    }

    /// Prints what stands under the pages. After an error only what was begun is ended.
    fn end(&self, is_complete: bool) -> Result<(), Stop> {
        let text = match (self.arguments.json, self.printed.is_empty()) {
            (_, true) if !is_complete => return Ok(()),
            (true, true) => "[]\n".to_owned(),
            (true, false) => "\n]\n".to_owned(),
            (false, true) => {
                let (start, url) = (escaped(&self.start), &self.target.url);
                format!("No key that starts with {start} is held in {url}.\n{STALE}\n")
            }
            (false, false) => format!("{STALE}\n"),
        };
        print_part(text.as_bytes()).map_err(Stop::Printed)
    }
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
