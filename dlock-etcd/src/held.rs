//! The keys that are held, a page at a time, for operators.

use dlock_core::{DatastoreError, HeldPage, PageMark};

use crate::operations::commands::Commands;
use crate::operations::listing;

/// What the text of a mark starts with; the last key of the page before follows.
const AFTER: &str = "after ";

/// One page, see [`dlock_core::Inspect::held`].
pub(crate) async fn held<C: Commands>(
    server: &mut C,
    prefix: &str,
    after: Option<&PageMark>,
) -> Result<HeldPage, DatastoreError> {
    let after = after.map(|mark| last_key(mark, prefix)).transpose()?;
    let page = listing::page(server, prefix, after).await?;
    let next = page
        .last
        .map(|last| PageMark::new(format!("{AFTER}{last}")));
    Ok(HeldPage::new(page.keys, next))
}

fn last_key<'a>(mark: &'a PageMark, prefix: &str) -> Result<&'a str, DatastoreError> {
    let key = mark.as_str().strip_prefix(AFTER);
    key.filter(|key| key.starts_with(prefix))
        .ok_or_else(|| mark.unknown())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dlock_core::ErrorKind;

    #[test]
    fn a_mark_leads_on_and_a_foreign_one_is_refused() {
        let mark = PageMark::new("after dlock:a");
        assert_eq!(last_key(&mark, "dlock:").unwrap(), "dlock:a");
        for (text, prefix) in [("", ""), ("17", ""), ("after dlock:a", "other:")] {
            let mark = PageMark::new(text);
            let error = last_key(&mark, prefix).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
        }
    }
}
