//! `dlock key`: the key of a lock in the store.

use super::target::Target;
use crate::args::Key;
use crate::exit_reason::ExitReason;
use crate::message::escaped;
use crate::print;

/// The prefix of keys without `--prefix`.
const DEFAULT_PREFIX: &str = "dlock";

/// Prints the key. Returns the exit code.
pub(crate) fn key(arguments: &Key) -> u8 {
    match shown(arguments) {
        Ok(text) => print(text.as_bytes()),
        Err(reason) => reason.reported(),
    }
}

fn shown(arguments: &Key) -> Result<String, ExitReason> {
    let target = Target::open(&arguments.store, Some(&arguments.name))?;
    let lock = target.lock(&arguments.name)?;
    let prefix = target.prefix.as_deref().unwrap_or(DEFAULT_PREFIX);
    let is_plain = lock.key() == format!("{prefix}:{}", arguments.name);
    let command = match target.url.split_once(':').map(|(scheme, _)| scheme) {
        Some("file") => {
            return Ok(format!(
                "{}\nNo client of another language uses a folder of dlock.\n",
                escaped(lock.key())
            ));
        }
        Some("etcd") => {
            return Ok(format!(
                "{}\nOnly dlock may write this key: for anything else in it dlock reports an error.\n",
                escaped(lock.key())
            ));
        }
        Some(scheme) if scheme.starts_with("postgres") => {
            return Ok(format!(
                "{}\nA transaction checks the lock's token with SELECT dlock.check(key, token).\n",
                escaped(lock.key())
            ));
        }
        Some(scheme) if scheme.starts_with("memcache") => "add",
        _ => "SET with NX",
    };
    let others = match is_plain {
        true => format!(
            "A client that locks this key by {command} excludes dlock, and dlock excludes it."
        ),
        false => format!(
            "The name holds characters that are escaped in the key, or is shortened: a client that locks \
             the plain name by {command} does not exclude dlock. One that locks this key does."
        ),
    };
    Ok(format!("{}\n{others}\n", escaped(lock.key())))
}
