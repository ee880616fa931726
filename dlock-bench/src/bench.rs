//! One run: its options, and the servers that its measurements share.

use std::cell::OnceCell;

use crate::Failure;
use crate::entry::{self, Entry};
use crate::options::Options;

pub(crate) struct Bench {
    pub(crate) options: Options,
    entries: OnceCell<Vec<Entry>>,
}

impl Bench {
    pub(crate) fn new(options: Options) -> Self {
        Bench {
            options,
            entries: OnceCell::new(),
        }
    }

    /// The competitors. They are started at the first call.
    pub(crate) fn entries(&self) -> Result<&[Entry], Failure> {
        match self.entries.get() {
            Some(entries) => Ok(entries),
            None => {
                let entries = entry::all(&self.options)?;
                Ok(self.entries.get_or_init(|| entries))
            }
        }
    }
}
