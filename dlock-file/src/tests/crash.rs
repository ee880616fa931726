//! A process dies, or a system call fails, in the middle of a call.

use std::cell::Cell;
use std::env;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use dlock_core::{
    Claim, Clock, Datastore, ErrorKind, Extension, FencingToken, Lease, ReleaseOutcome,
};
use rustix::io::Errno;

use super::{Scratch, TTL, acquire, claim, folder_at, granted, is_held, is_lost, later};
use crate::FileDatastore;
use crate::failpoint::Failpoint;
use crate::failpoint::testing::with_plan;
use crate::now::Clocks;
use crate::record::{Record, padded_to};
use crate::record_path::RecordPath;
use crate::shard::Shard;
use crate::sweep;

const STEPS: [Failpoint; 8] = [
    Failpoint::ShardOpened,
    Failpoint::ShardLocked,
    Failpoint::SpareOpened,
    Failpoint::SpareWritten,
    Failpoint::SpareTruncated,
    Failpoint::SpareSynced,
    Failpoint::Replacing,
    Failpoint::Replaced,
];

/// Not a test by itself: a process that dies at a failpoint.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn victim() {
    let folder = env::var_os("DLOCK_TEST_FOLDER").expect("run by another test");
    let operation = env::var("DLOCK_TEST_OPERATION").unwrap();
    let at = env::var("DLOCK_TEST_STEP").unwrap();
    let store = FileDatastore::open(folder).unwrap();
    let lease = ["extend", "release"]
        .contains(&&*operation)
        .then(|| acquire(&store, "x", TTL));
    let full = env::var_os("DLOCK_TEST_FULL").is_some();
    let plan = move |step| match format!("{step:?}") == at {
        true => std::process::abort(),
        false if full && step == Failpoint::SpareOpened => Err(Errno::NOSPC.into()),
        false => Ok(()),
    };
    with_plan(plan, || match (operation.as_str(), lease) {
        ("extend", Some(lease)) => drop(store.extend(&lease.for_call(1, later()), TTL * 2)),
        ("sweep", _) => {
            let clocks = Clocks::of_this_boot().with_wall_ahead(172_800);
            sweep::sweep(&folder_at(store.path()), &clocks, sweep::TIME, usize::MAX);
        }
        ("release", Some(lease)) => drop(store.release(&lease)),
        _ => drop(store.acquire(&claim("x"), TTL)),
    });
}

fn die_in(scratch: &Scratch, operation: &str, step: Failpoint) {
    assert!(
        ended_in(scratch, operation, step, false),
        "{operation} {step:?}"
    );
}

/// Runs a process that does the operation, on a full disk or not, and dies at the failpoint.
/// Returns whether it reached it.
fn ended_in(scratch: &Scratch, operation: &str, step: Failpoint, full: bool) -> bool {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "tests::crash::victim", "--ignored"]);
    child.env("DLOCK_TEST_FOLDER", scratch.folder().path());
    child.env("DLOCK_TEST_OPERATION", operation);
    child.env("DLOCK_TEST_STEP", format!("{step:?}"));
    if full {
        child.env("DLOCK_TEST_FULL", "1");
    }
    let output = child.output().unwrap();
    let killed = output.status.signal().is_some();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(killed || output.status.success(), "{text}");
    killed
}

#[test]
fn a_crash_at_any_step_leaves_the_old_record_or_the_new_one() {
    for operation in ["acquire", "extend", "release"] {
        for step in STEPS {
            let scratch = Scratch::new();
            let store = scratch.open();
            let earlier = acquire(&store, "x", TTL);
            assert_eq!(store.release(&earlier).unwrap(), ReleaseOutcome::Released);
            // Only a spare that was longer is truncated, and only a record that must outlive the
            // process is synced.
            let killed = ended_in(&scratch, operation, step, false);
            assert!(
                killed || [Failpoint::SpareTruncated, Failpoint::SpareSynced].contains(&step),
                "{operation} {step:?}"
            );
            let done = !killed || step == Failpoint::Replaced;
            let held = match operation {
                "acquire" => done,
                "release" => !done,
                _ => true,
            };
            let case = format!("{operation} {step:?}");
            assert_eq!(is_held(&store, "x"), held, "{case}");
            if held {
                // The token must not have fallen.
                let refusal = store.acquire(&claim("x"), TTL).unwrap();
                let dlock_core::AcquireOutcome::Held(refusal) = refusal else {
                    panic!("{case}");
                };
                assert!(refusal.fence() > earlier.fence(), "{case}");
            }
        }
    }
}

#[test]
fn a_crash_at_any_step_on_a_full_disk_leaves_the_old_record_or_the_new_one() {
    let all = STEPS
        .into_iter()
        .chain([Failpoint::Overwriting, Failpoint::RecordOverwritten]);
    for (operation, step) in
        all.flat_map(|step| ["acquire", "extend", "release"].map(|op| (op, step)))
    {
        let scratch = Scratch::new();
        let store = scratch.open();
        let earlier = acquire(&store, "x", TTL);
        assert_eq!(store.release(&earlier).unwrap(), ReleaseOutcome::Released);
        // A record that is longer than the following ones. It keeps its length.
        let record = fs::read(scratch.record("x")).unwrap();
        fs::write(scratch.record("x"), padded_to(&record, 1536).unwrap()).unwrap();
        let killed = ended_in(&scratch, operation, step, true);
        let reached = [
            Failpoint::ShardOpened,
            Failpoint::ShardLocked,
            Failpoint::SpareOpened,
            Failpoint::Overwriting,
            Failpoint::RecordOverwritten,
        ];
        assert_eq!(killed, reached.contains(&step), "{operation} {step:?}");
        let done = !killed || step == Failpoint::RecordOverwritten;
        let held = match operation {
            "acquire" => done,
            "release" => !done,
            _ => true,
        };
        assert_eq!(is_held(&store, "x"), held, "{operation} {step:?}");
        let record = Record::from_text(&fs::read(scratch.record("x")).unwrap()).unwrap();
        let earlier = earlier.fence().unwrap().get();
        assert!(record.fence > earlier || !held, "{operation} {step:?}");
    }
}

#[test]
fn a_crash_at_any_step_of_a_sweep_takes_no_token_back() {
    for step in [
        Failpoint::ShardLocked,
        Failpoint::SpareOpened,
        Failpoint::SpareWritten,
        Failpoint::Replacing,
        Failpoint::Replaced,
        Failpoint::TokenKept,
    ] {
        let scratch = Scratch::new();
        let store = scratch.open();
        let earlier = acquire(&store, "x", TTL);
        assert_eq!(store.release(&earlier).unwrap(), ReleaseOutcome::Released);
        die_in(&scratch, "sweep", step);
        let behind = Clocks::of_this_boot().with_wall_ahead(-3600);
        sweep::sweep(
            &scratch.folder(),
            &Clocks::of_this_boot().with_wall_ahead(172_800),
            sweep::TIME,
            usize::MAX,
        );
        assert!(!scratch.record("x").exists(), "{step:?}");
        let store = FileDatastore::with_clocks(scratch.folder(), TTL, behind);
        assert!(
            acquire(&store, "x", TTL).fence() > earlier.fence(),
            "{step:?}"
        );
    }
}

#[test]
fn on_a_full_disk_a_record_is_never_made_longer() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let earlier = acquire(&store, "x", TTL);
    assert_eq!(store.release(&earlier).unwrap(), ReleaseOutcome::Released);
    let before = fs::read(scratch.record("x")).unwrap();
    let long = claim("x").with_holder("h".repeat(512));
    let error = refused_at(Failpoint::SpareOpened, Errno::NOSPC, || {
        store.acquire(&long, TTL)
    })
    .unwrap_err();
    assert!(!error.may_have_executed());
    assert_eq!(fs::read(scratch.record("x")).unwrap(), before);
    granted(store.acquire(&long, TTL).unwrap());
}

#[test]
fn on_a_full_disk_a_record_with_a_second_name_is_left_alone() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "x", TTL);
    fs::hard_link(scratch.record("x"), scratch.folder().path().join("copy")).unwrap();
    let before = fs::read(scratch.record("x")).unwrap();
    let error = refused_at(Failpoint::SpareOpened, Errno::NOSPC, || {
        store.release(&ours)
    })
    .unwrap_err();
    assert!(!error.may_have_executed());
    assert_eq!(
        fs::read(scratch.folder().path().join("copy")).unwrap(),
        before
    );
}

#[test]
fn files_that_a_crash_left_half_written_do_no_harm() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for _ in 0..3 {
        die_in(&scratch, "acquire", Failpoint::SpareOpened);
        die_in(&scratch, "acquire", Failpoint::SpareWritten);
    }
    let ours = acquire(&store, "x", TTL);
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    let files = fs::read_dir(scratch.folder().path()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "swept").collect();
    names.sort();
    let shard = format!("shard-{:02}", RecordPath::of("x").shard);
    let expected = [
        "layout",
        &shard,
        &format!("{shard}.spare"),
        &RecordPath::of("x").file,
    ];
    let mut expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
    expected.sort();
    assert_eq!(names, expected);
}

/// Runs `call` with a failure of the system at `step`.
fn refused_at<R>(step: Failpoint, errno: Errno, call: impl FnOnce() -> R) -> R {
    let plan = move |reached| match reached == step {
        true => Err(io::Error::from(errno)),
        false => Ok(()),
    };
    with_plan(plan, call)
}

#[test]
fn an_error_before_the_record_is_replaced_says_that_nothing_was_done() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for errno in [
        Errno::IO,
        Errno::ACCESS,
        Errno::MFILE,
        Errno::NOSPC,
        Errno::DQUOT,
    ] {
        for step in [Failpoint::SpareOpened, Failpoint::SpareWritten] {
            let attempt = refused_at(step, errno, || store.acquire(&claim("new"), TTL));
            let error = attempt.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{errno:?}");
            assert!(error.is_transient() && !error.may_have_executed());
            assert!(!scratch.record("new").exists());
        }
    }
    acquire(&store, "new", TTL);
}

#[test]
fn an_error_leaves_the_record_that_was_there() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "x", TTL);
    let before = fs::read(scratch.record("x")).unwrap();
    for step in [
        Failpoint::SpareOpened,
        Failpoint::SpareWritten,
        Failpoint::Replacing,
    ] {
        for errno in [Errno::ACCESS, Errno::MFILE] {
            let answer = refused_at(step, errno, || store.release(&ours));
            assert!(!answer.unwrap_err().may_have_executed(), "{step:?}");
            assert_eq!(fs::read(scratch.record("x")).unwrap(), before);
        }
    }
    // After an I/O error the state of the disk is unknown.
    let answer = refused_at(Failpoint::Replacing, Errno::IO, || store.release(&ours));
    assert!(answer.unwrap_err().may_have_executed());
}

#[test]
fn a_shard_lock_is_on_the_file_that_other_processes_open() {
    for linked in [false, true] {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        let path = folder.shard(7);
        if linked {
            // As in a hard-linked copy of the folder, where the file lives on when it is deleted
            // here.
            fs::write(&path, "").unwrap();
            fs::hard_link(&path, folder.path().join("copy")).unwrap();
        }
        let mut times = 0;
        let delete_once = move |step| {
            times += usize::from(step == Failpoint::ShardOpened);
            match times {
                1 => fs::remove_file(&path),
                _ => Ok(()),
            }
        };
        let inside = with_plan(delete_once, || Shard::try_lock(&folder, 7)).unwrap();
        assert!(inside.is_some());
        assert!(Shard::try_lock(&folder, 7).unwrap().is_none(), "{linked}");
    }
}

#[test]
fn a_shard_file_that_is_replaced_again_and_again_does_not_block_a_call_for_ever() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let path = scratch.folder().shard(RecordPath::of("x").shard);
    let delete = move |step| match step {
        Failpoint::ShardOpened => fs::remove_file(&path),
        _ => Ok(()),
    };
    let call = Claim::new("x", &Clock::BOOTTIME, Duration::from_millis(50)).unwrap();
    let error = with_plan(delete, || store.acquire(&call, TTL)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

#[test]
fn an_error_after_the_record_is_replaced_says_that_it_may_have_been_done() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = claim("x");
    let attempt = refused_at(Failpoint::Replaced, Errno::IO, || store.acquire(&ours, TTL));
    assert!(attempt.unwrap_err().may_have_executed());
    // As core does: repeat the claim.
    granted(store.acquire(&ours, TTL).unwrap());
    store.abandon(&ours).unwrap();
    acquire(&store, "x", TTL);
}

#[test]
fn on_a_full_disk_a_lock_can_be_renewed_and_released() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "x", TTL);
    for errno in [Errno::NOSPC, Errno::DQUOT] {
        refused_at(Failpoint::SpareWritten, errno, || {
            let done = ours.holder().replace("running", "done");
            let call = ours.for_call(1, later()).with_holder(done);
            assert!(matches!(
                store.extend(&call, TTL * 2),
                Ok(Extension::Extended(_))
            ));
        });
        assert!(is_held(&store, "x"));
    }
    let released = refused_at(Failpoint::SpareWritten, Errno::NOSPC, || {
        store.release(&ours)
    });
    assert_eq!(released.unwrap(), ReleaseOutcome::Released);
    let next: FencingToken = acquire(&store, "x", TTL).fence().unwrap();
    assert!(Some(next) > ours.fence());
    assert!(is_lost(&store, &ours));
}

#[test]
fn only_what_must_outlive_the_process_is_synced() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let synced = |call: &dyn Fn()| {
        let seen = Rc::new(Cell::new(false));
        let see = Rc::clone(&seen);
        let plan = move |step| {
            see.set(see.get() || step == Failpoint::SpareSynced);
            Ok(())
        };
        with_plan(plan, call);
        seen.get()
    };
    let ours = acquire(&store, "x", TTL);
    let extend = |lease: &Lease, sequence, ttl| {
        let call = lease.for_call(sequence, later());
        assert!(matches!(
            store.extend(&call, ttl),
            Ok(Extension::Extended(_))
        ));
    };
    assert!(!synced(&|| drop(acquire(&store, "y", TTL))));
    assert!(!synced(&|| extend(&ours, 1, TTL)), "a renewal");
    assert!(
        synced(&|| extend(&ours, 2, TTL / 3)),
        "the rest of min_hold"
    );
    let done = ours.holder().replace("running", "done");
    let marked = ours.clone().with_holder(done.clone());
    assert!(synced(&|| extend(&marked, 3, TTL)), "the mark of once");
    let claimed = claim("z").with_holder(done);
    assert!(
        synced(&|| drop(store.acquire(&claimed, TTL))),
        "the same by a fresh claim"
    );
    assert!(
        !synced(&|| extend(&ours, 4, TTL / 100)),
        "no machine is back by then"
    );
    assert!(!synced(&|| assert_eq!(
        store.release(&ours).unwrap(),
        ReleaseOutcome::Released
    )));
}
