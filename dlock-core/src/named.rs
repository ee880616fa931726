//! What both forms of a lock have: a name in a store, and options.

use std::sync::Arc;
use std::time::Duration;

use crate::ProcessId;
use crate::contract::characteristics::Characteristics;
use crate::contract::holder::{Holder, Phase};
use crate::contract::key;
use crate::engine::acquire::Request;
use crate::engine::lease_policy::LeasePolicy;
use crate::options::{LockOptions, LockOptionsBuilder, OptionName, OptionsError};

/// A lock apart from its store.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) id: String,
    pub(crate) key: Arc<str>,
    pub(crate) options: LockOptions,
}

impl Named {
    /// With default options.
    ///
    /// # Panics
    ///
    /// If the id is empty.
    #[track_caller]
    pub(crate) fn new(id: impl Into<String>, store: &Characteristics) -> Self {
        let id = id.into();
        assert!(!id.is_empty(), "{}", no_id());
        Self::checked(id, LockOptions::default().in_store(store), store)
    }

    /// With options.
    ///
    /// # Errors
    ///
    /// If the id is empty, the options contradict each other, or this store cannot keep them.
    pub(crate) fn with_options(
        id: impl Into<String>,
        options: impl Into<LockOptionsBuilder>,
        store: &Characteristics,
    ) -> Result<Self, OptionsError> {
        let id = id.into();
        if id.is_empty() {
            return Err(no_id());
        }
        let options = options.into().build()?.in_store(store);
        options.check_for(store)?;
        Ok(Self::checked(id, options, store))
    }

    fn checked(id: String, options: LockOptions, store: &Characteristics) -> Self {
        let key = key::lock_key(options.key_prefix(), &id, store.max_key).into();
        Named { id, key, options }
    }

    /// What `process` asks the store for.
    pub(crate) fn request(&self, process: ProcessId, policy: &LeasePolicy) -> Request<'_> {
        let label = self.options.label();
        Request {
            process,
            key: &self.key,
            ttl: policy.first_ttl(),
            holder: Holder::text_of_this_process(process, label, Phase::Running).into(),
            retry: self.options.retry(),
            until_done: false,
        }
    }

    /// The key of the mark of `job`.
    pub(crate) fn once_key(&self, job: &str, store: &Characteristics) -> String {
        key::once_key(self.options.key_prefix(), &self.id, job, store.max_key)
    }

    /// Checks what a job is to be done once with.
    ///
    /// # Errors
    ///
    /// If the job has no name, or the store cannot keep its mark for so long.
    pub(crate) fn check_job(
        job: &str,
        keep: Duration,
        store: &Characteristics,
    ) -> Result<(), OptionsError> {
        OptionName::Keep.check(keep, store.ttl_min, store.ttl_max)?;
        if job.is_empty() {
            let option = OptionName::Job;
            return Err(OptionsError::Empty { option });
        }
        Ok(())
    }
}

fn no_id() -> OptionsError {
    let option = OptionName::Id;
    OptionsError::Empty { option }
}
