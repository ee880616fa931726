//! The keys that are held, a page at a time, for operators.
//!
//! A page is one SCAN on one server: the servers of a cluster come one after the other. Who holds
//! each key that was found is asked afterwards, so a key that was released meanwhile is left out.

use dlock_core::{DatastoreError, ErrorKind, HeldBy, HeldPage, PageMark, Time};
use dlock_net::Earlier;

#[cfg(feature = "tokio")]
use crate::aio::calls::{self, Slot};
use crate::error::unexpected;
use crate::operations::{Answer, Call, Listing};
use crate::servers::{Servers, Target};

/// Where a page begins: which of the servers, in the order of their addresses, and where on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    server: usize,
    cursor: u64,
}

impl Place {
    fn of(mark: Option<&PageMark>) -> Result<Self, DatastoreError> {
        let Some(mark) = mark else {
            let (server, cursor) = (0, 0);
            return Ok(Place { server, cursor });
        };
        let place = mark.as_str().split_once(' ').and_then(|(server, cursor)| {
            let (server, cursor) = (server.parse().ok()?, cursor.parse().ok()?);
            Some(Place { server, cursor })
        });
        place.ok_or_else(|| mark.unknown())
    }

    /// The page after this one, on this server or on the next.
    fn next(self, cursor: Option<u64>) -> PageMark {
        let server = self.server + usize::from(cursor.is_none());
        PageMark::new(format!("{server} {}", cursor.unwrap_or(0)))
    }
}

/// One page, see [`dlock_core::Inspect::held`].
pub(crate) fn held(
    servers: &Servers,
    deadline: Time,
    prefix: &str,
    after: Option<&PageMark>,
) -> Result<HeldPage, DatastoreError> {
    let place = Place::of(after)?;
    let Some(target) = servers.target(place.server, deadline)? else {
        return Ok(HeldPage::default());
    };
    let pattern = pattern(prefix);
    let call = list(place, &pattern);
    let listed = match &target {
        Target::One(server) => server.call(deadline, call, Earlier::NOTHING)?,
        Target::Node(node) => node.server.call(deadline, call, Earlier::NOTHING)?,
    };
    let (keys, next) = listed_keys(listed)?;
    let answers = match keys.is_empty() {
        true => Vec::new(),
        false => servers.call_many(deadline, &holders(&keys))?,
    };
    page(place, keys, answers, next)
}

/// As [`held`], without blocking.
#[cfg(feature = "tokio")]
pub(crate) async fn held_shared(
    servers: &Servers,
    deadline: Time,
    prefix: &str,
    after: Option<&PageMark>,
) -> Result<HeldPage, DatastoreError> {
    let place = Place::of(after)?;
    let Some(target) = servers.target_shared(place.server, deadline).await? else {
        return Ok(HeldPage::default());
    };
    let pattern = pattern(prefix);
    let (call, slot) = (list(place, &pattern), Slot::Settled);
    let server = match &target {
        Target::One(server) => server,
        Target::Node(node) => &node.server,
    };
    let listed = calls::call(server, deadline, call, slot, Earlier::NOTHING).await?;
    let (keys, next) = listed_keys(listed)?;
    let answers = match (servers, keys.is_empty()) {
        (_, true) => Vec::new(),
        (Servers::One(server), _) => calls::call_all(server, deadline, &holders(&keys)).await,
        (Servers::Cluster(cluster), _) => cluster.call_all_shared(deadline, &holders(&keys)).await,
    };
    page(place, keys, answers, next)
}

fn list(place: Place, pattern: &str) -> Call<'_> {
    let cursor = place.cursor;
    Call::List(Listing { cursor, pattern })
}

fn holders(keys: &[String]) -> Vec<Call<'_>> {
    keys.iter().map(|key| Call::Holder(key)).collect()
}

/// What SCAN takes for "starts with this".
fn pattern(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for letter in prefix.chars() {
        if "*?[]\\".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('*');
    pattern
}

fn listed_keys(answer: (Answer, bool)) -> Result<(Vec<String>, Option<u64>), DatastoreError> {
    match answer.0 {
        Answer::Listed(keys, next) => Ok((keys, next)),
        answer => Err(unexpected(&answer)),
    }
}

fn page(
    place: Place,
    keys: Vec<String>,
    answers: Vec<Result<Answer, DatastoreError>>,
    next: Option<u64>,
) -> Result<HeldPage, DatastoreError> {
    let mut held: Vec<(String, HeldBy)> = Vec::with_capacity(keys.len());
    for (key, answer) in keys.into_iter().zip(answers) {
        match answer.and_then(|answer| held_by((answer, false))) {
            Ok(Some(holder)) => held.push((key, holder)),
            Ok(None) => {}
            // Something else was put in its place since.
            Err(error) if error.kind() == ErrorKind::ForeignKey => {}
            Err(error) => return Err(error),
        }
    }
    Ok(HeldPage::new(held, Some(place.next(next))))
}

/// Who holds a key, by the answer to that question.
pub(crate) fn held_by(answer: (Answer, bool)) -> Result<Option<HeldBy>, DatastoreError> {
    match answer {
        (Answer::Free, _) => Ok(None),
        (Answer::Held(held), _) => Ok(Some(held)),
        (answer, _) => Err(unexpected(&answer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_taken_letter_by_letter() {
        assert_eq!(pattern("dlock:a*[b]?\\c"), "dlock:a\\*\\[b\\]\\?\\\\c*");
        assert_eq!(pattern(""), "*");
    }

    #[test]
    fn a_mark_leads_on_and_a_foreign_one_is_refused() {
        let first = Place::of(None).unwrap();
        let next = first.next(Some(17));
        assert_eq!(Place::of(Some(&next)).unwrap().cursor, 17);
        let other = first.next(None);
        let (server, cursor) = (1, 0);
        assert_eq!(Place::of(Some(&other)).unwrap(), Place { server, cursor });
        for text in ["", "1", "x 1", "1 -1", "1 1 1"] {
            let error = Place::of(Some(&PageMark::new(text))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
        }
    }
}
