//! A lock in its store, for a verb that holds it: how it is acquired, and what is said if that
//! fails or if the lease is lost.

use std::sync::Arc;
use std::time::Duration;

use dlock_core::{
    AcquireError, Cancel, Datastore, ErrorKind, HeldBy, Lock, LockEvent, LockOptions,
    LockOptionsBuilder, OptionName, OptionsError, Store, Wait, duration,
};

use crate::args::{Codes, LockArgs, Patience};
use crate::config::Settings;
use crate::exit_code;
use crate::exit_reason::ExitReason;
use crate::lease::Loss;
use crate::lock_events::RecordedEvents;
use crate::message::{escaped, with_causes};
use crate::signals::Signals;
use crate::store;

/// What a verb is asked for.
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a str,
    pub(crate) settings: &'a Settings,
    pub(crate) lock: &'a LockArgs,
    /// How long before the end of the lease its user is asked to end.
    pub(crate) grace: Option<Duration>,
    pub(crate) codes: Codes,
    /// What is not done if the lock is not acquired: `the command was not started`.
    pub(crate) not_done: &'static str,
}

/// A lock in its store.
pub(crate) struct Session {
    /// Escaped, for messages.
    pub(crate) name: String,
    pub(crate) codes: Codes,
    patience: Patience,
    not_done: &'static str,
    pub(crate) signals: Signals,
    /// Ends the wait for the lock when a signal comes.
    cancel: Cancel,
    datastore: Arc<dyn Datastore>,
    /// The store's URL without secrets, for messages.
    pub(crate) shown_url: String,
    /// The store's full URL; `None` if none was given.
    pub(crate) url: Option<String>,
    pub(crate) lock: Lock,
    pub(crate) events: Arc<RecordedEvents>,
}

impl Session {
    /// Opens the store, and from here on ends the wait for the lock by signals.
    pub(crate) fn open(wanted: &Wanted<'_>) -> Result<Self, ExitReason> {
        let (name, codes, not_done) = (escaped(wanted.name), wanted.codes, wanted.not_done);
        let signals = Signals::catch().map_err(|error| {
            let message = format!("cannot catch signals: {error}; {not_done}");
            ExitReason::new(exit_code::SYSTEM, message)
        })?;
        let cancel = Cancel::new();
        // Before the store is opened: from here on a signal ends the process even if a call hangs.
        signals.end_wait_with(&cancel).map_err(|error| {
            let message = format!("cannot start a thread: {error}; {not_done}");
            ExitReason::unless_zero(codes.unreachable, message)
        })?;
        let opened = store::open(wanted.settings.url.as_deref()).map_err(|error| match error {
            store::OpenError::Usage(message) => ExitReason::new(exit_code::USAGE, message),
            store::OpenError::Unusable(message) => {
                ExitReason::unless_zero(codes.unreachable, message)
            }
        })?;
        let patience = wanted.lock.patience();
        let events = Arc::new(RecordedEvents::new(name.clone(), patience));
        let datastore: Arc<dyn Datastore> = Arc::from(opened.datastore);
        let store = Store::builder(Arc::clone(&datastore))
            .observer({
                let events = Arc::clone(&events);
                move |event: &LockEvent<'_>| events.record(event)
            })
            .build();
        let lock = Lock::with_options(store, wanted.name, options(wanted)).map_err(|error| {
            let error = with_flags(&error);
            ExitReason::new(exit_code::USAGE, format!("cannot lock {name}: {error}"))
        })?;
        events.set_key(lock.key());
        Ok(Session {
            name,
            codes,
            patience,
            not_done,
            signals,
            cancel,
            datastore,
            shown_url: opened.redacted_url,
            url: opened.url,
            lock,
            events,
        })
    }

    /// How long to wait for the lock.
    pub(crate) fn wait(&self) -> Wait {
        let wait = match self.patience {
            Patience::AtMost(time) => Wait::within(time),
            Patience::Forever => Wait::forever(),
        };
        wait.cancelled_by(&self.cancel)
    }

    /// Whether it is waited for at all.
    pub(crate) fn waits(&self) -> bool {
        self.patience != Patience::AtMost(Duration::ZERO)
    }

    /// Ends the wait.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// What was acquired, or why not.
    pub(crate) fn acquired<T>(&self, result: Result<T, AcquireError>) -> Result<T, ExitReason> {
        let name = &self.name;
        let ended_by_signal = || ExitReason {
            code: self.code_of_signal(),
            message: None,
        };
        result.map_err(|error| match error {
            // A signal ends the wait, and may be the reason why a call failed.
            _ if self.signals.first().is_some() => ended_by_signal(),
            AcquireError::Held(held) => {
                ExitReason::unless_zero(self.codes.held, self.refused(&held))
            }
            AcquireError::Cancelled => ended_by_signal(),
            AcquireError::Datastore(error) if error.kind() == ErrorKind::Invalid => {
                ExitReason::new(
                    exit_code::USAGE,
                    format!(
                        "cannot lock {name} in {}: {}",
                        self.shown_url,
                        with_causes(&error)
                    ),
                )
            }
            AcquireError::Datastore(error) => ExitReason::unless_zero(
                self.codes.unreachable,
                format!(
                    "cannot lock {name} in {}: {}; {}",
                    self.shown_url,
                    with_causes(&error),
                    self.not_done
                ),
            ),
            AcquireError::Invalid(error) => {
                let error = with_flags(&error);
                ExitReason::new(exit_code::USAGE, format!("cannot lock {name}: {error}"))
            }
            error => ExitReason::new(exit_code::USAGE, format!("cannot lock {name}: {error}")),
        })
    }

    /// Says who holds the lock, and where. If the lock has no expiry, also says how to free it.
    fn refused(&self, held: &HeldBy) -> String {
        let (name, url, key) = (&self.name, &self.shown_url, escaped(self.lock.key()));
        if held.expires_in().is_some() {
            return format!("{name} is {held} (key {key} in {url})");
        }
        format!(
            "{name} is {held}, and does not expire: only its holder frees it; \
             if the holder is gone, delete the key {key} in {url}"
        )
    }

    /// Says that the lock stays taken for a while.
    pub(crate) fn not_released(&self, error: &str) -> String {
        format!(
            "could not release {} in {} ({error}); others have to wait for at most {}",
            self.name,
            self.shown_url,
            duration::format(self.lock.options().ttl())
        )
    }

    /// The exit code for the signal that ended the wait.
    pub(crate) fn code_of_signal(&self) -> u8 {
        self.signals
            .first()
            .map_or(exit_code::SYSTEM, exit_code::of_signal)
    }

    /// Says why the lease was lost. `now` is the present holder of the key, if the store was asked.
    pub(crate) fn cause(&self, loss: Loss, now: Option<Option<HeldBy>>) -> String {
        let key = escaped(self.lock.key());
        match (loss, now) {
            (Loss::TimeRanOut, _) => match self.events.renewal_failure() {
                Some(error) => format!("its lease could not be renewed ({error})"),
                None => "its lease ended before it was renewed".to_owned(),
            },
            (Loss::KeyGone, Some(Some(held))) => {
                format!("its key {key} was taken away before the lease ended, and is now {held}")
            }
            (Loss::KeyGone, Some(None)) => {
                format!("its key {key} was deleted before the lease ended, and nobody holds it now")
            }
            (Loss::KeyGone, None) => {
                format!("its key {key} was deleted or taken away before the lease ended")
            }
        }
    }

    /// [`cause`](Self::cause) with the present holder, if the store can be inspected and answers.
    pub(crate) fn cause_with_holder(&self, loss: Loss) -> String {
        let ask = || self.datastore.inspect()?.holder(self.lock.key()).ok();
        self.cause(loss, (loss == Loss::KeyGone).then(ask).flatten())
    }

    pub(crate) fn lost(&self, cause: &str, fate: &str) -> String {
        format!("lost {} in {}: {cause}; {fate}", self.name, self.shown_url)
    }
}

/// What is wrong with an option, by the name of its flag.
fn with_flags(error: &OptionsError) -> String {
    match error {
        OptionsError::OutOfRange {
            option,
            value,
            least,
            most,
        } => {
            let [value, least, most] = [value, least, most].map(|time| duration::format(*time));
            format!("{} {value} is outside {least} to {most}", flag(*option))
        }
        error => error.to_string(),
    }
}

fn flag(option: OptionName) -> &'static str {
    match option {
        OptionName::Ttl => "--ttl",
        OptionName::MinHold => "--min-hold",
        OptionName::Grace => "--kill-after",
        OptionName::Keep => "--keep",
        other => other.as_str(),
    }
}

fn options(wanted: &Wanted<'_>) -> LockOptionsBuilder {
    let mut options = LockOptions::builder();
    let lock = wanted.lock;
    if let Some(prefix) = &wanted.settings.prefix {
        options = options.key_prefix(prefix);
    }
    if let Some(label) = &lock.label {
        options = options.label(label);
    }
    if let Some(ttl) = lock.ttl {
        options = options.ttl(ttl);
    }
    if let Some(min_hold) = lock.min_hold {
        options = options.min_hold(min_hold);
    }
    if let Some(grace) = wanted.grace {
        options = options.grace(grace);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_flags_that_were_given() {
        let day = Duration::from_secs(86_400);
        for (option, message) in [
            (OptionName::Ttl, "--ttl 366d is outside 10ms to 365d"),
            (
                OptionName::MinHold,
                "--min-hold 366d is outside 10ms to 365d",
            ),
            (
                OptionName::Grace,
                "--kill-after 366d is outside 10ms to 365d",
            ),
            (OptionName::Keep, "--keep 366d is outside 10ms to 365d"),
            // There is no flag for it.
            (OptionName::MaxHold, "max_hold 366d is outside 10ms to 365d"),
        ] {
            let error = OptionsError::OutOfRange {
                option,
                value: day * 366,
                least: Duration::from_millis(10),
                most: day * 365,
            };
            assert_eq!(with_flags(&error), message);
        }
        let option = OptionName::Id;
        assert_eq!(
            with_flags(&OptionsError::Empty { option }),
            "the lock's id is empty; give it a name"
        );
    }
}
