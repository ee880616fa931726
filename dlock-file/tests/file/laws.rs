//! The laws of a store, on one folder with one and with several handles and threads.

use std::thread;
use std::time::Duration;

use crate::support::{CALL, Scratch, acquire, claim, granted, held, lease, record_file};
use dlock_core::{
    AcquireOutcome, Clock, Datastore, ErrorKind, Extension, Fencing, FencingToken, Inspect,
    PageMark, Reach, ReleaseOutcome,
};
use dlock_file::FileDatastore;

const TTL: Duration = Duration::from_secs(30);

#[test]
fn a_key_is_held_until_it_is_released() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.open(), scratch.open());
    let first = acquire(&a, "dlock:x", TTL);
    let refusal = held(b.acquire(&claim("dlock:x"), TTL));
    assert_eq!(
        refusal.holder().map(dlock_core::Holder::pid),
        Some(std::process::id())
    );
    assert_eq!(refusal.fence(), first.fence());
    assert!(
        refusal
            .expires_in()
            .is_some_and(|left| left <= TTL && left > TTL / 2)
    );
    assert_eq!(a.release(&first).unwrap(), ReleaseOutcome::Released);
    let second = acquire(&b, "dlock:x", TTL);
    assert!(second.fence() > first.fence());
}

#[test]
fn a_list_of_many_pages_has_each_key_that_is_held() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for number in 0..600 {
        let lease = acquire(&store, &format!("dlock:{number}"), TTL);
        if number % 2 == 1 {
            assert_eq!(store.release(&lease).unwrap(), ReleaseOutcome::Released);
        }
    }
    let (mut keys, mut pages, mut after) = (Vec::new(), 0, None);
    loop {
        let page = Inspect::held(&store, "dlock:", after.as_ref()).unwrap();
        assert!(page.keys.iter().all(|(_, held)| held.fence().is_some()));
        keys.extend(page.keys.into_iter().map(|(key, _)| key));
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    keys.sort();
    keys.dedup();
    assert_eq!((keys.len(), pages > 1), (300, true));
    let error = store
        .held("", Some(&PageMark::new("no number")))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn a_list_passes_over_a_record_that_cannot_be_read() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let _kept = ["a", "b"].map(|key| acquire(&store, key, TTL));
    std::fs::write(record_file(&scratch.path(), "a"), "no record").unwrap();
    let error = Inspect::holder(&store, "a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForeignKey);
    let page = Inspect::held(&store, "", None).unwrap();
    let keys: Vec<_> = page.keys.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["b"]);
}

#[test]
fn keys_that_look_alike_are_independent() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let long = "k".repeat(250);
    let longer = format!("{}l", &long[..249]);
    for key in [
        "a", "A", "a/b", "a.b", "a_b", "..", ".", "/", "a%2F", "%once:", &long, &longer,
    ] {
        assert!(
            matches!(
                store.acquire(&claim(key), TTL),
                Ok(AcquireOutcome::Granted(_))
            ),
            "{key}"
        );
    }
    let escaped = scratch.path().parent().unwrap().read_dir().unwrap();
    assert_eq!(escaped.count(), 1, "nothing is written outside the folder");
}

#[test]
fn a_refused_claim_changes_nothing() {
    let scratch = Scratch::new();
    let store = scratch.open();
    acquire(&store, "x", TTL);
    let before = scratch.record("x");
    held(store.acquire(&claim("x"), TTL * 2));
    assert_eq!(scratch.record("x"), before);
}

#[test]
fn a_stranger_can_neither_extend_nor_release() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "x", TTL);
    let stranger = lease(claim("x"), ours.grant().clone());
    let before = scratch.record("x");
    assert!(matches!(
        store.extend(&stranger.for_call(9, later()), TTL),
        Ok(Extension::Lost)
    ));
    assert_eq!(store.release(&stranger).unwrap(), ReleaseOutcome::NotHeld);
    store.abandon(stranger.claim()).unwrap();
    assert_eq!(scratch.record("x"), before);
}

#[test]
fn the_same_claim_again_keeps_its_token_and_never_loses_time() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = claim("x");
    let first = granted(store.acquire(&ours, TTL));
    let again = granted(store.acquire(&ours, TTL * 2));
    assert_eq!((again.fence, again.ttl), (first.fence, TTL * 2));
    let shorter = granted(store.acquire(&ours, TTL));
    assert_eq!(shorter.fence, first.fence);
    assert!(
        shorter.ttl > TTL,
        "the grant says what is left: {:?}",
        shorter.ttl
    );
    let left = held(store.acquire(&claim("x"), TTL)).expires_in().unwrap();
    assert!(left > TTL, "{left:?}");
    // Core may have only the older grant.
    assert_eq!(
        store.release(&lease(ours.clone(), first)).unwrap(),
        ReleaseOutcome::Released
    );
}

#[test]
fn a_short_record_follows_a_long_one() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let long = "h".repeat(512);
    for _ in 0..3 {
        let wish = claim("x").with_holder(long.as_str());
        let ours = lease(wish.clone(), granted(store.acquire(&wish, TTL)));
        assert!(scratch.record("x").contains(&long));
        assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
        let ours = acquire(&store, "x", TTL);
        assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    }
}

#[test]
fn a_release_repeated_is_harmless() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let first = acquire(&store, "x", TTL);
    assert_eq!(store.release(&first).unwrap(), ReleaseOutcome::Released);
    assert_eq!(store.release(&first).unwrap(), ReleaseOutcome::NotHeld);
    acquire(&store, "x", TTL);
    assert_eq!(store.release(&first).unwrap(), ReleaseOutcome::NotHeld);
    held(store.acquire(&claim("x"), TTL));
}

#[test]
fn a_lease_lasts_as_long_as_granted_and_then_the_key_is_free() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ttl = Duration::from_millis(200);
    let before = Clock::BOOTTIME.now();
    let first = acquire(&store, "x", ttl);
    let second = loop {
        match store.acquire(&claim("x"), TTL).unwrap() {
            AcquireOutcome::Granted(grant) => break grant,
            AcquireOutcome::Held(_) => thread::sleep(Duration::from_millis(1)),
        }
    };
    assert!(before.until(Clock::BOOTTIME.now()) >= ttl);
    assert!(second.fence > first.fence());
    assert!(matches!(
        store.extend(&first.for_call(1, later()), TTL),
        Ok(Extension::Lost)
    ));
    assert_eq!(store.release(&first).unwrap(), ReleaseOutcome::NotHeld);
}

#[test]
fn an_extend_replaces_the_remaining_time_and_the_description() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "x", TTL);
    let text = ours.holder().replace("running", "done");
    let longer = ours.for_call(1, later()).with_holder(text);
    let Extension::Extended(grant) = store.extend(&longer, TTL * 3).unwrap() else {
        panic!("lost");
    };
    assert_eq!((grant.ttl, grant.fence), (TTL * 3, ours.fence()));
    assert!(scratch.record("x").contains(" done\n"));
    let shorter = ours.for_call(2, later());
    assert!(matches!(
        store.extend(&shorter, TTL / 3),
        Ok(Extension::Extended(_))
    ));
    let left = held(store.acquire(&claim("x"), TTL)).expires_in().unwrap();
    assert!(left <= TTL / 3, "{left:?}");
}

#[test]
fn a_late_copy_of_an_older_extend_changes_nothing() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "x", TTL);
    let older = ours.for_call(1, later());
    let newer = ours.for_call(2, later());
    assert!(matches!(
        store.extend(&newer, TTL * 3),
        Ok(Extension::Extended(_))
    ));
    let before = scratch.record("x");
    for late in [&older, &newer] {
        let Extension::Extended(grant) = store.extend(late, TTL / 3).unwrap() else {
            panic!("lost");
        };
        assert!(
            grant.ttl > TTL * 2,
            "the answer is the true remaining time: {:?}",
            grant.ttl
        );
    }
    assert_eq!(scratch.record("x"), before);
}

#[test]
fn an_extend_never_revives() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let released = acquire(&store, "x", TTL);
    assert_eq!(store.release(&released).unwrap(), ReleaseOutcome::Released);
    assert!(matches!(
        store.extend(&released.for_call(1, later()), TTL),
        Ok(Extension::Lost)
    ));
    let expired = acquire(&store, "y", Duration::from_millis(10));
    thread::sleep(Duration::from_millis(15));
    assert!(matches!(
        store.extend(&expired.for_call(1, later()), TTL),
        Ok(Extension::Lost)
    ));
    for key in ["x", "y"] {
        acquire(&store, key, TTL);
    }
}

#[test]
fn an_abandoned_claim_holds_nothing() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let given_up = claim("x");
    granted(store.acquire(&given_up, TTL));
    store.abandon(&given_up).unwrap();
    store.abandon(&given_up).unwrap();
    acquire(&store, "x", TTL);
    store.abandon(&claim("never-claimed")).unwrap();
}

#[test]
fn an_invalid_key_holder_or_time_is_refused_and_leaves_nothing() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let invalid = |attempt: Result<AcquireOutcome, dlock_core::DatastoreError>| {
        let error = attempt.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!error.may_have_executed());
    };
    for key in ["", "a b", "a\nfence 1", "a\r\n", "ß", &"k".repeat(251)] {
        invalid(store.acquire(&claim(key), TTL));
    }
    for holder in ["a\nfree", "ß", &"h".repeat(513)] {
        invalid(store.acquire(&claim("x").with_holder(holder), TTL));
    }
    let year = Duration::from_secs(366 * 86_400);
    for ttl in [Duration::ZERO, Duration::from_nanos(1), year, Duration::MAX] {
        invalid(store.acquire(&claim("x"), ttl));
    }
    assert_eq!(scratch.files(".lease"), 0);
}

#[test]
fn an_operator_reads_the_holder_and_breaks_exactly_that_lease() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let inspect = store.inspect().unwrap();
    assert_eq!(inspect.holder("x").unwrap(), None);
    let ours = acquire(&store, "x", TTL);
    let fence = ours.fence().unwrap();
    assert_eq!(
        inspect.holder("x").unwrap().and_then(|held| held.fence()),
        Some(fence)
    );
    let other = FencingToken::new(fence.get() + 1);
    assert_eq!(
        inspect.break_lease("x", other).unwrap(),
        ReleaseOutcome::NotHeld
    );
    held(store.acquire(&claim("x"), TTL));
    assert_eq!(
        inspect.break_lease("x", fence).unwrap(),
        ReleaseOutcome::Released
    );
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::NotHeld);
    assert!(acquire(&store, "x", TTL).fence() > Some(fence));
}

#[test]
fn it_declares_its_characteristics() {
    let scratch = Scratch::new();
    let can = scratch.open().characteristics();
    assert_eq!(can.reach, Reach::Host);
    assert!(matches!(can.fencing, Fencing::Rising(_)));
    assert!(can.single_writer && can.refuses_late_calls && can.wakes);
    assert_eq!(
        (can.ttl_min, can.max_key, can.batch),
        (Duration::from_millis(10), 250, 1)
    );
}

#[test]
fn of_many_threads_exactly_one_wins() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for round in 0..20 {
        let key = format!("round-{round}");
        let grants: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        matches!(
                            store.acquire(&claim(&key), TTL),
                            Ok(AcquireOutcome::Granted(_))
                        )
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|t| usize::from(t.join().unwrap()))
                .sum()
        });
        assert_eq!(grants, 1, "{key}");
    }
}

#[test]
fn a_clone_and_a_second_handle_are_the_same_store() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "x", TTL);
    held(store.clone().acquire(&claim("x"), TTL));
    let other = FileDatastore::open(scratch.path()).unwrap();
    assert_eq!(other.release(&ours).unwrap(), ReleaseOutcome::Released);
}

fn later() -> dlock_core::Time {
    Clock::BOOTTIME.now().saturating_add(CALL)
}
