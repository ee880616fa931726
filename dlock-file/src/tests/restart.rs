//! Records after a restart of the machine.

use std::fs;
use std::time::Duration;

use dlock_core::{Datastore, ErrorKind, ReleaseOutcome};

use super::{Scratch, TTL, acquire, claim, is_held, is_lost};
use crate::FileError;
use crate::record::{End, Record};

/// Rewrites the end of the lease in the record of `key`.
fn edit_end(scratch: &Scratch, key: &str, edit: impl FnOnce(&mut End)) {
    let path = scratch.record(key);
    let mut record = Record::from_text(&fs::read(&path).unwrap()).unwrap();
    edit(&mut record.holding.as_mut().unwrap().ends);
    fs::write(path, record.to_text()).unwrap();
}

#[test]
fn a_lease_outlives_a_restart_until_its_wall_clock_end() {
    let scratch = Scratch::new();
    let ours = acquire(&scratch.open(), "x", TTL);
    let restarted = scratch.open_after_restart("another");
    // The boot-time clock starts anew, so old readings mean nothing.
    edit_end(&scratch, "x", |end| end.boottime = dlock_core::Time::ZERO);
    assert!(is_held(&restarted, "x"));
    edit_end(&scratch, "x", |end| {
        end.boottime = dlock_core::Time::MAX;
        end.wall -= 31_000_000;
    });
    let next = acquire(&restarted, "x", TTL);
    assert!(next.fence() > ours.fence());
    assert_eq!(restarted.release(&ours).unwrap(), ReleaseOutcome::NotHeld);
}

#[test]
fn within_a_boot_a_wall_clock_that_is_set_changes_nothing() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "x", TTL);
    edit_end(&scratch, "x", |end| end.wall = 0);
    assert!(is_held(&store, "x") && !is_lost(&store, &ours));
    edit_end(&scratch, "x", |end| {
        end.wall = u64::MAX;
        end.boottime = dlock_core::Time::ZERO;
    });
    assert!(is_lost(&store, &ours));
    acquire(&store, "x", TTL);
}

#[test]
fn where_boots_cannot_be_told_apart_locks_work_by_the_wall_clock() {
    let scratch = Scratch::new();
    let store = scratch.open_after_restart("");
    let ours = acquire(&store, "x", TTL);
    assert!(is_held(&store, "x"));
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    acquire(&store, "x", TTL);
    edit_end(&scratch, "x", |end| end.wall -= 31_000_000);
    acquire(&store, "x", TTL);
}

#[test]
fn tokens_rise_although_the_wall_clock_was_set_back() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "x", TTL);
    let path = scratch.record("x");
    let mut record = Record::from_text(&fs::read(&path).unwrap()).unwrap();
    record.fence += 3_600_000_000;
    fs::write(&path, record.to_text()).unwrap();
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    for step in 1..3 {
        let next = acquire(&store, "x", TTL);
        assert_eq!(next.fence().unwrap().get(), record.fence + step);
        assert_eq!(store.release(&next).unwrap(), ReleaseOutcome::Released);
    }
}

#[test]
fn the_last_token_is_not_given_twice() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let record = Record {
        key: "x".to_owned(),
        fence: u64::MAX,
        holding: None,
    };
    fs::write(scratch.record("x"), record.to_text()).unwrap();
    let error = store.acquire(&claim("x"), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

#[test]
fn a_damaged_record_from_before_this_boot_counts_as_none() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let path = scratch.record("x");
    for damaged in ["", "dlock record 1\nkey x\n", "garbage", "\0\0\0\0"] {
        fs::write(&path, damaged).unwrap();
        scratch.age(path.clone(), Duration::from_secs(3650 * 86_400));
        let ours = acquire(&store, "x", TTL);
        assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    }
}

#[test]
fn a_damaged_record_of_this_boot_is_an_error_that_names_the_file() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "x", TTL);
    let path = scratch.record("x");
    let too_long = "x".repeat(100_000);
    for damaged in [
        "",
        "dlock record 1\nkey x\n",
        "garbage",
        "\0\0\0\0",
        &too_long,
    ] {
        fs::write(&path, damaged).unwrap();
        let errors = [
            store.acquire(&claim("x"), TTL).unwrap_err(),
            store.extend(&ours, TTL).unwrap_err(),
            store.release(&ours).unwrap_err(),
            store.abandon(ours.claim()).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::ForeignKey);
            assert!(!error.may_have_executed());
            let source = std::error::Error::source(&error).unwrap();
            let Some(FileError::Unreadable { record }) = source.downcast_ref() else {
                panic!("{source}");
            };
            assert_eq!(record, &path);
            assert!(source.to_string().contains("delete the file"), "{source}");
        }
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            damaged,
            "it is not overwritten"
        );
    }
}

#[test]
fn a_record_of_another_key_under_this_name_is_an_error() {
    let scratch = Scratch::new();
    let store = scratch.open();
    acquire(&store, "y", TTL);
    fs::copy(scratch.record("y"), scratch.record("x")).unwrap();
    let error = store.acquire(&claim("x"), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForeignKey);
    // But a crash of the machine may have brought back the former content of the file.
    scratch.age(scratch.record("x"), Duration::from_secs(3650 * 86_400));
    acquire(&store, "x", TTL);
}

#[test]
fn something_other_than_a_file_is_an_error_at_once() {
    let scratch = Scratch::new();
    let store = scratch.open();
    fs::create_dir(scratch.record("folder")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", scratch.record("link")).unwrap();
    let mut mkfifo = std::process::Command::new("mkfifo");
    assert!(
        mkfifo
            .arg(scratch.record("pipe"))
            .status()
            .unwrap()
            .success()
    );
    for (key, kind) in [
        ("folder", ErrorKind::ForeignKey),
        ("pipe", ErrorKind::ForeignKey),
        ("link", ErrorKind::Refused),
    ] {
        let error = store.acquire(&claim(key), TTL).unwrap_err();
        assert_eq!(error.kind(), kind, "{key}");
    }
}

#[test]
fn a_record_of_a_later_version_is_left_alone() {
    let scratch = Scratch::new();
    let store = scratch.open();
    fs::write(scratch.record("x"), "dlock record 2\nwhatever\n").unwrap();
    scratch.age(scratch.record("x"), Duration::from_secs(3650 * 86_400));
    let error = store.acquire(&claim("x"), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        fs::read(scratch.record("x")).unwrap(),
        b"dlock record 2\nwhatever\n"
    );
}
