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

#[cfg(test)]
mod tests {
    use super::*;
    use dlock_core::{ErrorKind, HeldBy};

    fn keys(count: usize) -> Answer {
        let key = |number| (format!("dlock:{number}"), HeldBy::new());
        Answer::Keys((0..count).map(key).collect())
    }

    #[test]
    fn a_full_page_leads_on_behind_its_last_key() {
        let next = |count| page(keys(count)).unwrap().next;
        assert!(next(0).is_none() && next(MOST_ROWS - 1).is_none());
        let mark = next(MOST_ROWS).unwrap();
        assert_eq!(mark.as_str(), format!("dlock:{}", MOST_ROWS - 1));
        assert_eq!(begin("dlock:", Some(&mark)).unwrap(), mark.as_str());
        let error = page(Answer::Lost).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
    }

    #[test]
    fn a_page_begins_at_the_first_key_or_behind_a_mark_with_its_prefix() {
        assert_eq!(begin("dlock:", None).unwrap(), "");
        let error = begin("other:", Some(&PageMark::new("dlock:a"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
