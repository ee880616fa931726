//! The keys that are held, a page at a time, for operators.

use dlock_core::{DatastoreError, HeldPage, PageMark};

use crate::error::unexpected;
use crate::operations::Answer;
use crate::wire::MOST_ROWS;

/// The page that an answer is. The next one begins behind its last key, if it is full.
pub(crate) fn page(answer: Answer) -> Result<HeldPage, DatastoreError> {
    let Answer::Keys(keys) = answer else {
        return Err(unexpected());
    };
    let last = keys.last().filter(|_| keys.len() == MOST_ROWS);
    let next = last.map(|(key, _)| PageMark::new(key.as_str()));
    Ok(HeldPage::new(keys, next))
}

/// The key behind which a page begins.
///
/// # Errors
///
/// For a mark that is no key with this prefix.
pub(crate) fn begin<'a>(
    prefix: &str,
    after: Option<&'a PageMark>,
) -> Result<&'a str, DatastoreError> {
    match after {
        None => Ok(""),
        Some(mark) if mark.as_str().starts_with(prefix) => Ok(mark.as_str()),
        Some(mark) => Err(mark.unknown()),
    }
}
