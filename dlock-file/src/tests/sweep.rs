//! Old records go, and take nothing with them that is needed.

use std::fs;
use std::time::{Duration, SystemTime};

use dlock_core::{Datastore, Released};

use super::{Scratch, TTL, acquire, is_held};
use crate::moment::Clocks;
use crate::place::Place;
use crate::record::Record;
use crate::shard::Shard;
use crate::sweep::{self, KEPT_FOR};

const HOUR: Duration = Duration::from_secs(3600);

/// Makes the record of `key` look as if its last lease had been made that long ago.
fn age_record(scratch: &Scratch, key: &str, by: Duration) {
    let path = scratch.record(key);
    let mut record = Record::from_text(&fs::read(&path).unwrap()).unwrap();
    record.fence -= u64::try_from(by.as_micros()).unwrap();
    if let Some(holding) = &mut record.holding {
        // As if it had been made in an earlier boot: this one may be younger than that.
        holding.ends.boot = "earlier".to_owned();
        holding.ends.wall -= u64::try_from(by.as_micros()).unwrap();
    }
    fs::write(&path, record.to_text()).unwrap();
    scratch.age(path, by);
}

/// A handle that finds the last sweep to be long ago.
fn sweep_anew(scratch: &Scratch) {
    scratch.age(scratch.folder().swept(), HOUR * 2);
    acquire(
        &scratch.open(),
        &format!("sweeper-{:?}", SystemTime::now()).replace(' ', ""),
        TTL,
    );
}

#[test]
fn a_record_long_past_its_end_is_deleted() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for key in ["expired", "young", "held"] {
        acquire(&store, key, TTL);
    }
    let freed = acquire(&store, "freed", TTL);
    assert_eq!(store.release(&freed).unwrap(), Released::Ours);
    acquire(&store, "held-long", KEPT_FOR * 3);
    for (key, age) in [
        ("expired", KEPT_FOR + HOUR),
        ("freed", KEPT_FOR + HOUR),
        ("held-long", KEPT_FOR * 2),
        ("young", KEPT_FOR - HOUR),
    ] {
        age_record(&scratch, key, age);
    }
    sweep_anew(&scratch);
    let is_there = |key| scratch.record(key).exists();
    assert!(!is_there("expired") && !is_there("freed"));
    assert!(is_there("young") && is_there("held") && is_there("held-long"));
    assert!(is_held(&store, "held") && is_held(&store, "held-long"));
}

#[test]
fn a_record_stays_while_its_token_is_ahead_of_the_clock() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "x", TTL);
    assert_eq!(store.release(&ours).unwrap(), Released::Ours);
    // Its time is over, but its token is of today: the clock was set back by two days.
    scratch.age(scratch.record("x"), KEPT_FOR * 2);
    let path = scratch.record("x");
    let mut record = Record::from_text(&fs::read(&path).unwrap()).unwrap();
    record.fence += 86_400_000_000;
    fs::write(&path, record.to_text()).unwrap();
    scratch.age(path, KEPT_FOR * 2);
    sweep_anew(&scratch);
    assert!(acquire(&store, "x", TTL).fence().unwrap().get() > record.fence);
}

#[test]
fn a_sweep_ends_when_its_time_is_over() {
    let scratch = Scratch::new();
    acquire(&scratch.open(), "x", TTL);
    age_record(&scratch, "x", KEPT_FOR * 2);
    let (folder, clocks) = (scratch.folder(), Clocks::of_this_boot());
    sweep::sweep(&folder, &clocks, Duration::ZERO);
    assert!(scratch.record("x").exists());
    sweep::sweep(&folder, &clocks, sweep::TIME);
    assert!(!scratch.record("x").exists());
}

#[test]
fn a_sweep_waits_for_nobody() {
    let scratch = Scratch::new();
    let store = scratch.open();
    acquire(&store, "x", TTL);
    age_record(&scratch, "x", KEPT_FOR * 2);
    let folder = scratch.folder();
    let inside = Shard::try_lock(&folder, Place::of("x").shard).unwrap();
    let other = (0..).map(|n| format!("other-{n}"));
    let other = other
        .into_iter()
        .find(|key| Place::of(key).shard != Place::of("x").shard);
    scratch.age(scratch.folder().swept(), HOUR * 2);
    acquire(&scratch.open(), &other.unwrap(), TTL);
    assert!(inside.is_some() && scratch.record("x").exists());
}

#[test]
fn one_sweep_an_hour_is_enough_for_all() {
    let scratch = Scratch::new();
    acquire(&scratch.open(), "x", Duration::from_millis(10));
    age_record(&scratch, "x", KEPT_FOR * 2);
    scratch.age(scratch.folder().swept(), HOUR / 2);
    acquire(&scratch.open(), "y", TTL);
    assert!(scratch.record("x").exists());
    scratch.age(scratch.folder().swept(), HOUR * 2);
    acquire(&scratch.open(), "z", TTL);
    assert!(!scratch.record("x").exists());
    let swept = fs::metadata(scratch.folder().swept())
        .unwrap()
        .modified()
        .unwrap();
    assert!(
        swept.elapsed().unwrap() < HOUR,
        "the others see that it was done"
    );
}

#[test]
fn a_handle_that_has_looked_does_not_look_again_at_each_claim() {
    let scratch = Scratch::new();
    let store = scratch.open();
    acquire(&store, "x", Duration::from_millis(10));
    age_record(&scratch, "x", KEPT_FOR * 2);
    scratch.age(scratch.folder().swept(), HOUR * 2);
    acquire(&store, "y", TTL);
    assert!(scratch.record("x").exists());
}

#[test]
fn what_is_no_record_is_never_deleted() {
    let scratch = Scratch::new();
    acquire(&scratch.open(), "x", TTL);
    let path = scratch.folder().path().to_owned();
    for name in [
        "layout",
        "notes.txt",
        "my.lease",
        "shard-63",
        "x.0123.lease",
    ] {
        let file = path.join(name);
        if !file.exists() {
            fs::write(&file, "mine").unwrap();
        }
        scratch.age(file, KEPT_FOR * 9);
    }
    // A damaged one of this boot: somebody should look at it.
    let damaged = scratch.record("damaged");
    fs::write(&damaged, "garbage").unwrap();
    sweep_anew(&scratch);
    for name in [
        "layout",
        "notes.txt",
        "my.lease",
        "shard-63",
        "x.0123.lease",
    ] {
        assert!(path.join(name).exists(), "{name}");
    }
    assert!(damaged.exists());
}
