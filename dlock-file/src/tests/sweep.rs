//! Old records are deleted, and nothing that is needed is lost with them.

use std::fs;
use std::io::Write;
use std::time::{Duration, SystemTime};

use dlock_core::{AcquireOutcome, Claim, Clock, Datastore, Lease, ReleaseOutcome};

use super::{CALL, Scratch, TTL, acquire, claim, granted, is_held};
use crate::FileDatastore;
use crate::now::Clocks;
use crate::record::Record;
use crate::record_path::RecordPath;
use crate::shard::Shard;
use crate::sweep::{self, KEPT_FOR};

const HOUR: Duration = Duration::from_secs(3600);

/// Makes the record of `key` look as if its last lease was granted `by` ago.
fn age_record(scratch: &Scratch, key: &str, by: Duration) {
    let path = scratch.record(key);
    let mut record = Record::from_text(&fs::read(&path).unwrap()).unwrap();
    record.fence -= u64::try_from(by.as_micros()).unwrap();
    if let Some(holding) = &mut record.holding {
        // As if granted in an earlier boot, since this boot may be shorter than that.
        holding.ends.boot = "earlier".to_owned();
        holding.ends.wall -= u64::try_from(by.as_micros()).unwrap();
    }
    fs::write(&path, record.to_text()).unwrap();
    scratch.age(path, by);
}

/// A handle for which the last sweep was long ago.
fn sweep_anew(scratch: &Scratch) {
    scratch.age(scratch.folder().swept(), HOUR * 2);
    acquire(
        &scratch.open(),
        &format!("sweeper-{:?}", SystemTime::now()).replace(' ', ""),
        TTL,
    );
}

/// A lease on a key that is free now or in a moment.
fn acquire_soon(store: &FileDatastore, key: &str) -> Lease {
    loop {
        let claim = claim(key);
        if let AcquireOutcome::Granted(grant) = store.acquire(&claim, TTL).unwrap() {
            return Lease::new(claim, grant);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Lets a handle that has not swept yet claim a name that has a record.
fn sweep_now_if_due(scratch: &Scratch) {
    let store = scratch.open();
    let ours = acquire_soon(&store, "there");
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
}

/// The store, opened as by a process whose wall clock is `seconds` ahead, or behind if negative.
fn open_ahead(scratch: &Scratch, seconds: i64) -> FileDatastore {
    let clocks = Clocks::of_this_boot().with_wall_ahead(seconds);
    FileDatastore::with_clocks(scratch.folder(), CALL, clocks)
}

/// Acquires and releases the key. Returns the token.
fn token(store: &FileDatastore, key: &str) -> u64 {
    let ours = acquire(store, key, TTL);
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    ours.fence().unwrap().get()
}

/// Sweeps the whole folder as a process whose wall clock is `seconds` ahead.
fn sweep_ahead(scratch: &Scratch, seconds: i64) {
    let clocks = Clocks::of_this_boot().with_wall_ahead(seconds);
    sweep::sweep(&scratch.folder(), &clocks, sweep::TIME, usize::MAX);
}

const DAYS: i64 = 86_400;

#[test]
fn tokens_rise_although_a_process_with_a_clock_ahead_sweeps() {
    let scratch = Scratch::new();
    let behind = open_ahead(&scratch, -3600);
    for ahead in [2 * DAYS, 30 * DAYS, 27_000 * DAYS] {
        let first = token(&scratch.open(), "x");
        sweep_ahead(&scratch, ahead);
        assert!(!scratch.record("x").exists(), "it was old to that process");
        let second = token(&behind, "x");
        assert!(second > first, "{first} {second}");
        sweep_ahead(&scratch, ahead);
        assert!(token(&behind, "x") > second);
    }
}

#[test]
fn tokens_rise_although_the_clock_of_the_host_was_ahead_and_is_set_back() {
    let scratch = Scratch::new();
    let first = token(&open_ahead(&scratch, 2 * DAYS), "x");
    sweep_ahead(&scratch, 4 * DAYS);
    assert!(!scratch.record("x").exists());
    let second = token(&scratch.open(), "x");
    assert!(second > first);
    // Even if the record is old before the clock has caught up with the tokens.
    scratch.age(scratch.record("x"), KEPT_FOR * 2);
    sweep_ahead(&scratch, 0);
    assert!(!scratch.record("x").exists());
    assert!(token(&scratch.open(), "x") > second);
}

#[test]
fn a_lease_of_this_boot_is_safe_from_any_wall_clock() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "held", TTL);
    let over = acquire(&store, "over", Duration::from_millis(10));
    std::thread::sleep(Duration::from_millis(15));
    sweep_ahead(&scratch, 27_000 * DAYS);
    assert!(is_held(&store, "held"));
    // On the boot-time clock its end was only a moment ago.
    assert!(scratch.record("over").exists());
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    assert_eq!(store.release(&over).unwrap(), ReleaseOutcome::NotHeld);
}

#[test]
fn a_time_in_the_future_does_not_stop_sweeping() {
    let scratch = Scratch::new();
    let store = scratch.open();
    token(&store, "x");
    token(&store, "there");
    age_record(&scratch, "x", KEPT_FOR * 2);
    let in_2100 = SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_800);
    for file in [scratch.folder().swept(), scratch.record("x")] {
        let file = fs::File::options().write(true).open(file).unwrap();
        file.set_modified(in_2100).unwrap();
    }
    sweep_now_if_due(&scratch);
    assert!(!scratch.record("x").exists());
    let swept = fs::metadata(scratch.folder().swept()).unwrap();
    assert!(swept.modified().unwrap() < in_2100);
}

#[test]
fn a_token_from_far_ahead_does_not_become_that_of_other_keys() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let last = Record {
        key: "x".to_owned(),
        fence: u64::MAX,
        holding: None,
    };
    fs::write(scratch.record("x"), last.to_text()).unwrap();
    sweep_ahead(&scratch, 2 * DAYS);
    assert!(scratch.record("x").exists());
    for key in (0..200).map(|number| number.to_string()) {
        token(&store, &key);
    }
}

#[test]
fn a_record_stays_if_its_token_cannot_be_kept() {
    let scratch = Scratch::new();
    let first = token(&scratch.open(), "x");
    let shard = RecordPath::of_swept(RecordPath::of("x").shard);
    fs::create_dir(scratch.folder().record(&shard.file)).unwrap();
    sweep_ahead(&scratch, 2 * DAYS);
    assert!(scratch.record("x").exists());
    assert!(token(&scratch.open(), "x") > first);
}

#[test]
fn the_records_of_names_used_once_are_bounded_by_the_names_of_a_day() {
    let scratch = Scratch::new();
    let a_day = 1500;
    for day in 0..4 {
        let store = open_ahead(&scratch, day * DAYS);
        let now = SystemTime::now() + KEPT_FOR * u32::try_from(day).unwrap();
        for number in 0..a_day {
            let key = format!("{day}-{number}");
            token(&store, &key);
            let file = fs::File::options().write(true).open(scratch.record(&key));
            file.unwrap().set_modified(now).unwrap();
            if number % 100 == 0 {
                let there = scratch.count();
                assert!(there < a_day * 5 / 4 + 200, "{there} on day {day}");
            }
        }
    }
}

#[test]
fn a_sweep_goes_on_where_the_last_one_stopped() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for key in 0..200 {
        token(&store, &key.to_string());
    }
    let before = scratch.count();
    for key in 0..200 {
        scratch.age(scratch.record(&key.to_string()), KEPT_FOR * 2);
    }
    // Each in a process of its own, as with the command.
    let each = 30;
    for _ in 0..before.div_ceil(each) + 1 {
        let clocks = Clocks::of_this_boot();
        sweep::sweep(&scratch.folder(), &clocks, sweep::TIME, each);
    }
    let records = (0..200).filter(|key| scratch.record(&key.to_string()).exists());
    assert_eq!(records.count(), 0);
}

#[test]
fn a_wrong_position_in_the_file_swept_does_no_harm() {
    let scratch = Scratch::new();
    for note in [
        "",
        "x",
        "18446744073709551615\n",
        "99999999999999999999\n",
        "9223372036854775807\n",
        &"9".repeat(100_000),
    ] {
        token(&scratch.open(), "x");
        scratch.age(scratch.record("x"), KEPT_FOR * 2);
        fs::write(scratch.folder().swept(), note).unwrap();
        sweep_ahead(&scratch, 0);
        assert!(!scratch.record("x").exists(), "{note:.30}");
    }
}

#[test]
fn a_record_long_past_its_end_is_deleted() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for key in ["expired", "young", "held"] {
        acquire(&store, key, TTL);
    }
    let freed = acquire(&store, "freed", TTL);
    assert_eq!(store.release(&freed).unwrap(), ReleaseOutcome::Released);
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
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    // The record is old, but its token is of today, since the clock was set back by two days.
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
    sweep::sweep(&folder, &clocks, Duration::ZERO, usize::MAX);
    assert!(scratch.record("x").exists());
    sweep::sweep(&folder, &clocks, sweep::TIME, usize::MAX);
    assert!(!scratch.record("x").exists());
}

#[test]
fn a_sweep_does_not_wait_for_a_locked_shard() {
    let scratch = Scratch::new();
    let store = scratch.open();
    acquire(&store, "x", TTL);
    age_record(&scratch, "x", KEPT_FOR * 2);
    let folder = scratch.folder();
    let inside = Shard::try_lock(&folder, RecordPath::of("x").shard).unwrap();
    let other = (0..).map(|n| format!("other-{n}"));
    let other = other
        .into_iter()
        .find(|key| RecordPath::of(key).shard != RecordPath::of("x").shard);
    scratch.age(scratch.folder().swept(), HOUR * 2);
    acquire(&scratch.open(), &other.unwrap(), TTL);
    assert!(inside.is_some() && scratch.record("x").exists());
}

#[test]
fn one_sweep_an_hour_is_enough_for_claims_of_names_that_are_there() {
    let scratch = Scratch::new();
    for key in ["x", "y", "z"] {
        acquire(&scratch.open(), key, Duration::from_millis(10));
    }
    age_record(&scratch, "x", KEPT_FOR * 2);
    scratch.age(scratch.folder().swept(), HOUR / 2);
    acquire_soon(&scratch.open(), "y");
    assert!(scratch.record("x").exists());
    scratch.age(scratch.folder().swept(), HOUR * 2);
    acquire_soon(&scratch.open(), "z");
    assert!(!scratch.record("x").exists());
    let swept = fs::metadata(scratch.folder().swept())
        .unwrap()
        .modified()
        .unwrap();
    assert!(swept.elapsed().unwrap() < HOUR, "the others find it done");
}

#[test]
fn a_handle_does_not_check_for_a_sweep_at_each_claim() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for key in ["x", "y"] {
        acquire(&store, key, Duration::from_millis(10));
    }
    age_record(&scratch, "x", KEPT_FOR * 2);
    scratch.age(scratch.folder().swept(), HOUR * 2);
    acquire_soon(&store, "y");
    assert!(scratch.record("x").exists());
}

#[test]
fn a_file_that_is_not_a_record_is_never_deleted() {
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
    // A damaged record of this boot: an operator should look at it.
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

/// Not a test: measures the cost of 60 000 names a day.
#[test]
#[ignore = "a measurement: cargo test --release -p dlock-file --lib sixty -- --ignored --nocapture"]
fn sixty_thousand_names_a_day() {
    let scratch = Scratch::new();
    let a_day = std::env::var("NAMES").map_or(60_000_u32, |n| n.parse().unwrap());
    // First without sweeps, since a call with little time left makes none. Then with nothing to
    // delete.
    let shorter = sweep::TIME / 2;
    for (part, day, call) in [
        (0, 0_i64, shorter),
        (1, 0, CALL),
        (2, 1, CALL),
        (3, 2, CALL),
    ] {
        let store = open_ahead(&scratch, day * DAYS);
        let now = SystemTime::now() + KEPT_FOR * u32::try_from(day).unwrap();
        let (mut taken, mut most) = (Duration::ZERO, 0);
        for number in 0..a_day {
            let key = format!("{part}-{number}");
            let start = std::time::Instant::now();
            let claim = Claim::new(key.as_str(), &Clock::BOOTTIME, call).unwrap();
            let lease = Lease::new(claim.clone(), granted(store.acquire(&claim, TTL).unwrap()));
            assert_eq!(store.release(&lease).unwrap(), ReleaseOutcome::Released);
            taken += start.elapsed();
            let file = fs::File::options().write(true).open(scratch.record(&key));
            file.unwrap().set_modified(now).unwrap();
            if number % 1000 == 0 {
                most = most.max(scratch.count());
            }
        }
        let there = scratch.count();
        let _ = writeln!(
            std::io::stdout(),
            "part {part}, day {day}: {:?} a pair, at most {most} files, {there} in the end",
            taken / a_day
        );
    }
}
