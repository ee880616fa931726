//! dlock-memcache's own conversation with the server, over a connection of the model.

use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Claim, DatastoreError, Extension, FencingToken, Grant, HeldBy, Lease,
    OwnerToken, ReleaseOutcome, Revision, Time,
};
use dlock_memcache::operations::commands::{Commands, Deleted, Item, Key, Replacement, Stored};
use dlock_memcache::operations::grant::{self, Wanted};
use dlock_memcache::operations::incarnation::Incarnation;
use dlock_memcache::operations::record::Record;
use dlock_memcache::operations::revision::At;
use dlock_memcache::operations::{batch, holding};
use dlock_net::Earlier;

use super::call::{Begin, Wire, failed};
use super::client::Slot;
use super::convert::RUNNING;
use super::memcache::{Link, Memcached, Reply, Request};
use super::port::NAME;
use super::types::{Answer, Call, GrantOf, Owner, Verb};

/// The server over one connection, as a call by `by` sees it.
struct Server<'a> {
    wire: &'a mut Wire<Memcached>,
    by: Owner,
    /// The how manieth grant each number belongs to.
    ordinals: Vec<(u64, u8)>,
}

pub(super) async fn converse(
    wire: &mut Wire<Memcached>,
    begin: &Begin<Link>,
    earlier: Earlier,
) -> Result<Answer, DatastoreError> {
    let call = &begin.call;
    let claim = claim(call, wire);
    let lease = lease(call, &claim);
    let mut server = Server {
        wire,
        by: call.owner,
        ordinals: Vec::new(),
    };
    match call.verb {
        Verb::Acquire => {
            let wanted = Wanted {
                claim: &claim,
                ttl: call.ttl,
                verify: begin.verify,
            };
            let given_up = |token| begin.given_up.contains(&owner_of(token));
            match grant::acquire(&mut server, &wanted, given_up, earlier).await? {
                AcquireOutcome::Granted(grant) => Ok(Answer::Granted(server.plain(&grant))),
                AcquireOutcome::Held(held) => Ok(Answer::Held {
                    expires_in: left_of(&held),
                }),
            }
        }
        // The worker extends in batches. What fails in one is its answer: it is not sent again.
        Verb::Extend if begin.slot == Slot::Keeper => {
            let leases = [(lease, call.ttl)];
            let mut answers = batch::extend_many(&mut server, &[&leases[0]], earlier).await?;
            let answer = answers.pop().expect("one answer for each");
            Ok(server
                .extension(answer)
                .unwrap_or_else(|error| failed(&error)))
        }
        Verb::Extend => {
            let extended = holding::extend(&mut server, &lease, call.ttl, earlier).await;
            server.extension(extended)
        }
        Verb::Confirm => {
            let mut answers = holding::confirm_many(&mut server, &[&lease]).await?;
            let answer = answers.pop().expect("one answer for each");
            Ok(server
                .extension(answer)
                .unwrap_or_else(|error| failed(&error)))
        }
        Verb::Release => {
            let released = holding::release(&mut server, &lease, earlier).await?;
            Ok(Answer::Released(released == ReleaseOutcome::Released))
        }
        Verb::Abandon => {
            let _: ReleaseOutcome = holding::delete_owned(&mut server, &claim).await?;
            Ok(Answer::Abandoned)
        }
        Verb::Look | Verb::Leave | Verb::GiveBack | Verb::TakeBack => {
            unreachable!("memcached has no queue and no replicas")
        }
    }
}

fn claim(call: &Call, wire: &Wire<Memcached>) -> Claim {
    Claim::by(
        token_of(call.owner),
        RUNNING.into(),
        NAME.into(),
        wire.clock(),
        call.not_after,
    )
}

/// The lease by the latest grant; one that was never granted has no number.
fn lease(call: &Call, claim: &Claim) -> Lease {
    let mut grant = Grant::new(call.grant.map_or(Duration::ZERO, |grant| grant.ttl));
    if let Some(at) = call.grant.and_then(|grant| grant.at) {
        grant = grant.with_revision(Revision::new(at));
    }
    if let Some(fence) = call.grant.and_then(|grant| grant.fence) {
        grant = grant.with_fence(FencingToken::new(fence));
    }
    Lease::new(claim.clone(), grant).for_call(call.sequence, call.not_after)
}

fn token_of(owner: Owner) -> OwnerToken {
    let number = u16::from(owner.client) << 8 | u16::from(owner.number);
    OwnerToken::from_hex(&format!("{number:032x}")).expect("32 digits")
}

fn owner_of(token: OwnerToken) -> Owner {
    let number = u16::from_str_radix(&token.to_string(), 16).expect("one of the model's");
    let [client, number] = number.to_be_bytes();
    Owner { client, number }
}

fn left_of(held: &HeldBy) -> Duration {
    held.expires_in().unwrap_or(Duration::from_secs(1))
}

impl Server<'_> {
    fn plain(&self, grant: &Grant) -> GrantOf {
        let at = *grant.revision.get::<At>().expect("a grant of memcached");
        let known = self.ordinals.iter().find(|(cas, _)| *cas == at.cas);
        GrantOf {
            fence: grant.fence.map(FencingToken::get),
            ttl: grant.ttl,
            at: Some(at),
            ordinal: known.expect("a record that was seen").1,
            copy_may_follow: grant.copy_may_follow,
        }
    }

    fn extension(
        &self,
        answer: Result<Extension, DatastoreError>,
    ) -> Result<Answer, DatastoreError> {
        Ok(match answer? {
            Extension::Extended(grant) => Answer::Extended(self.plain(&grant)),
            Extension::Lost => Answer::Lost,
        })
    }

    async fn store(&mut self, request: Request) -> Result<Stored, DatastoreError> {
        Ok(match self.wire.ask(request, true).await? {
            Reply::Done { cas, ordinal } => {
                self.ordinals.push((cas, ordinal));
                Stored::Done(cas)
            }
            Reply::NotFound => Stored::NotFound,
            Reply::Other => Stored::Other,
            Reply::Item(item) => unreachable!("{item:?} to a store"),
        })
    }
}

impl Commands for Server<'_> {
    fn now(&self) -> Time {
        self.wire.now()
    }

    fn time_left(&mut self) -> Duration {
        self.wire.now().until(self.wire.deadline())
    }

    fn peer(&self) -> &str {
        "memcached"
    }

    fn incarnation(&self) -> Incarnation {
        self.wire.link.incarnation
    }

    fn leads_to_several(&self) -> bool {
        false
    }

    /// As if the server were asked at the very moment when it is old enough.
    async fn may_grant(&mut self) -> Result<bool, DatastoreError> {
        if !self.wire.link.may_grant {
            self.wire.wait_until_it_may_grant().await?;
            self.wire.link.may_grant = true;
        }
        Ok(true)
    }

    async fn pause(&mut self, time: Duration) {
        let until = self.wire.now().saturating_add(time);
        self.wire.sleep(until).await;
    }

    async fn add(
        &mut self,
        _: Key<'_>,
        seconds: u32,
        value: &str,
    ) -> Result<Stored, DatastoreError> {
        let record = Record::parse(value.as_bytes()).expect("a record");
        assert_eq!((record.fence, record.sequence), (None, 0), "{value}");
        let owner = owner_of(record.owner);
        self.store(Request::Add { owner, seconds }).await
    }

    async fn replace(&mut self, replacement: &Replacement<'_>) -> Result<Stored, DatastoreError> {
        let record = Record::parse(replacement.value.as_bytes()).expect("a record");
        let request = Request::Replace {
            by: owner_of(record.owner),
            cas: replacement.cas,
            seconds: replacement.seconds,
            fence: record.fence.map_or(0, FencingToken::get),
            sequence: record.sequence,
        };
        self.store(request).await
    }

    async fn replace_many(
        &mut self,
        replacements: &[Replacement<'_>],
    ) -> Result<Vec<Result<Stored, DatastoreError>>, DatastoreError> {
        let [one] = replacements else {
            unreachable!("a process has one lease")
        };
        Ok(vec![Ok(self.replace(one).await?)])
    }

    async fn delete(&mut self, _: Key<'_>, cas: u64) -> Result<Deleted, DatastoreError> {
        let by = self.by;
        let request = Request::Delete { by, cas };
        Ok(match self.wire.ask(request, true).await? {
            Reply::Done { .. } => Deleted::Done,
            Reply::NotFound => Deleted::NotFound,
            Reply::Other => Deleted::Other,
            Reply::Item(item) => unreachable!("{item:?} to a delete"),
        })
    }

    async fn delete_unconditionally(&mut self, _: Key<'_>) -> Result<(), DatastoreError> {
        unreachable!("the server has CAS numbers")
    }

    async fn get(&mut self, _: Key<'_>) -> Result<Option<Item>, DatastoreError> {
        let item = match self.wire.ask(Request::Get, false).await? {
            Reply::Item(item) => item,
            Reply::NotFound => return Ok(None),
            other => unreachable!("{other:?} to a get"),
        };
        self.ordinals.push((item.cas, item.ordinal));
        let record = Record {
            owner: token_of(item.owner),
            fence: (item.fence != 0).then_some(FencingToken::new(item.fence)),
            sequence: item.sequence,
            holder: RUNNING,
        };
        Ok(Some(Item {
            value: record.to_value().into_bytes(),
            seconds: item.seconds,
            cas: item.cas,
        }))
    }

    async fn get_many(
        &mut self,
        keys: &[Key<'_>],
    ) -> Result<Vec<Result<Option<Item>, DatastoreError>>, DatastoreError> {
        let [key] = keys else {
            unreachable!("a process has one lease")
        };
        Ok(vec![Ok(self.get(*key).await?)])
    }
}
