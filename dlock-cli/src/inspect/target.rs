//! The store and the lock that an operator asks about.

use std::sync::Arc;

use dlock_core::{Datastore, DatastoreError, ErrorKind, Inspect, Lock, LockOptions};

use crate::args::StoreArgs;
use crate::config::Settings;
use crate::exit_code;
use crate::exit_reason::ExitReason;
use crate::message::{escaped, with_causes};
use crate::store;

/// An opened store.
pub(super) struct Target {
    store: Arc<dyn Datastore>,
    /// Without secrets, for messages.
    pub(super) url: String,
    /// That of the keys, if it is not the usual one.
    pub(super) prefix: Option<String>,
}

impl Target {
    /// The store of the lock `name`, or of no lock in particular.
    pub(super) fn open(arguments: &StoreArgs, name: Option<&str>) -> Result<Self, ExitReason> {
        let settings = Settings::find(arguments, name)?;
        let opened = store::open(settings.url.as_deref())?;
        Ok(Target {
            store: Arc::from(opened.datastore),
            url: opened.redacted_url,
            prefix: settings.prefix,
        })
    }

    pub(super) fn lock(&self, name: &str) -> Result<Lock, ExitReason> {
        let mut options = LockOptions::builder();
        if let Some(prefix) = &self.prefix {
            options = options.key_prefix(prefix);
        }
        let lock = Lock::with_options(Arc::clone(&self.store), name, options);
        lock.map_err(|error| {
            let message = format!("cannot look at {}: {error}", escaped(name));
            ExitReason::new(exit_code::USAGE, message)
        })
    }

    pub(super) fn inspect(&self) -> Result<&dyn Inspect, ExitReason> {
        self.store.inspect().ok_or_else(|| {
            let message = format!("the store {} cannot be looked into", self.url);
            ExitReason::new(exit_code::UNREACHABLE, message)
        })
    }

    /// How many wait for a key; `None` if the store does not count them.
    pub(super) fn waiting(&self, key: &str) -> Result<Option<usize>, ExitReason> {
        match self.inspect()?.waiting(key) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
            Err(error) => Err(self.failed("count who waits", &error)),
        }
    }

    /// What could not be done in this store.
    pub(super) fn failed(&self, what: &str, error: &DatastoreError) -> ExitReason {
        let message = format!("cannot {what} in {}: {}", self.url, with_causes(error));
        let code = match error.kind() {
            ErrorKind::Invalid => exit_code::USAGE,
            _ => exit_code::UNREACHABLE,
        };
        ExitReason::new(code, message)
    }
}
