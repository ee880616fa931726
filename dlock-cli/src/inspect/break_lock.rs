//! `dlock break`: frees a lock that a certain holder holds.

use dlock_core::{FencingToken, ReleaseOutcome};

use super::description::holder;
use super::target::Target;
use crate::args::Break;
use crate::exit_code;
use crate::exit_reason::ExitReason;
use crate::message::escaped;
use crate::print;

/// Frees the lease with the token. Returns the exit code.
pub(crate) fn break_lock(arguments: &Break) -> u8 {
    match freed(arguments) {
        Ok(text) => print(text.as_bytes()),
        Err(reason) => reason.reported(),
    }
}

fn freed(arguments: &Break) -> Result<String, ExitReason> {
    let target = Target::open(&arguments.store, Some(&arguments.name))?;
    let lock = target.lock(&arguments.name)?;
    let (name, token) = (escaped(&arguments.name), FencingToken::new(arguments.token));
    let inspect = target.inspect()?;
    let outcome = inspect.break_lease(lock.key(), token);
    let outcome = outcome.map_err(|error| target.failed(&format!("free {name}"), &error))?;
    if outcome == ReleaseOutcome::Released {
        return Ok(format!(
            "freed {name}, which was held with the token {token}; its holder learns of it at its next renewal\n"
        ));
    }
    // The step that compares the tokens does not say who holds it.
    let held = inspect.holder(lock.key());
    let now = match held {
        Ok(Some(held)) => format!("it is {}", holder(&held, None)),
        Ok(None) => "nobody holds it".to_owned(),
        Err(error) => return Err(target.failed(&format!("look at {name}"), &error)),
    };
    let key = escaped(lock.key());
    Err(ExitReason::new(
        exit_code::HELD,
        format!(
            "{name} is not held with the token {token}; nothing was freed: {now} (key {key} in {})",
            target.url
        ),
    ))
}
