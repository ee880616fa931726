//! `dlock forget`: lets a job that is marked as done run again.

use dlock_core::{Holder, ReleaseOutcome};

use super::description::holder;
use super::target::Target;
use crate::args::Forget;
use crate::exit_code;
use crate::exit_reason::ExitReason;
use crate::message::escaped;
use crate::print;

/// Removes the mark of the job. Returns the exit code.
pub(crate) fn forget(arguments: &Forget) -> u8 {
    match forgotten(arguments) {
        Ok(text) => print(text.as_bytes()),
        Err(reason) => reason.reported(),
    }
}

fn forgotten(arguments: &Forget) -> Result<String, ExitReason> {
    let target = Target::open(&arguments.store, Some(&arguments.name))?;
    let lock = target.lock(&arguments.name)?;
    let job = format!(
        "job {} of {}",
        escaped(&arguments.job),
        escaped(&arguments.name)
    );
    let mark = lock.once_key(&arguments.job);
    let inspect = target.inspect()?;
    let refused = |why: String| {
        let message = format!("{job} {why}; nothing was forgotten");
        ExitReason::new(exit_code::HELD, message)
    };
    let look = || {
        let found = inspect.holder(&mark);
        found.map_err(|error| target.failed(&format!("look at {job}"), &error))
    };
    let Some(found) = look()? else {
        return Err(refused("is not marked as done".to_owned()));
    };
    let is_done = found.holder().is_some_and(Holder::is_done);
    let Some(token) = found.fence().filter(|_| is_done) else {
        return Err(refused(format!(
            "is not done: its mark is {}",
            holder(&found, None)
        )));
    };
    // Only this mark: if the job was forgotten and begun again meanwhile, it has another token.
    let outcome = inspect.break_lease(&mark, token);
    match outcome.map_err(|error| target.failed(&format!("forget {job}"), &error))? {
        ReleaseOutcome::Released => Ok(format!("forgot that {job} was done; it can run again\n")),
        ReleaseOutcome::NotHeld => Err(refused(match look()? {
            Some(now) => format!("has another mark by now, which is {}", holder(&now, None)),
            None => "is not marked as done any more".to_owned(),
        })),
    }
}
