//! A process that dies, or a system that refuses, in the midst of a call.

use std::cell::Cell;
use std::env;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::rc::Rc;

use dlock_core::{Datastore, ErrorKind, Extension, FencingToken, Lease, Released};
use rustix::io::Errno;

use super::{Scratch, TTL, acquire, claim, granted, is_held, is_lost, later};
use crate::FileDatastore;
use crate::fault::Step;
use crate::fault::testing::with_plan;
use crate::place::Place;
use crate::shard::Shard;

const STEPS: [Step; 4] = [Step::Entered, Step::Opened, Step::Written, Step::Replaced];

/// Not a test by itself: a process that dies at a step of a call.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn victim() {
    let folder = env::var_os("DLOCK_TEST_FOLDER").expect("run by another test");
    let operation = env::var("DLOCK_TEST_OPERATION").unwrap();
    let at = env::var("DLOCK_TEST_STEP").unwrap();
    let store = FileDatastore::open(folder).unwrap();
    let lease = (operation != "acquire").then(|| acquire(&store, "x", TTL));
    let plan = move |step| match format!("{step:?}") == at {
        true => std::process::abort(),
        false => Ok(()),
    };
    with_plan(plan, || match (operation.as_str(), lease) {
        ("extend", Some(lease)) => drop(store.extend(&lease.for_call(1, later()), TTL * 2)),
        ("release", Some(lease)) => drop(store.release(&lease)),
        _ => drop(store.acquire(&claim("x"), TTL)),
    });
}

fn die_in(scratch: &Scratch, operation: &str, step: Step) {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "tests::crash::victim", "--ignored"]);
    child.env("DLOCK_TEST_FOLDER", scratch.folder().path());
    child.env("DLOCK_TEST_OPERATION", operation);
    child.env("DLOCK_TEST_STEP", format!("{step:?}"));
    let output = child.output().unwrap();
    let killed = output.status.signal().is_some();
    assert!(killed, "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_crash_at_any_step_leaves_the_old_record_or_the_new_one() {
    for operation in ["acquire", "extend", "release"] {
        for step in STEPS {
            let scratch = Scratch::new();
            let store = scratch.open();
            let earlier = acquire(&store, "x", TTL);
            assert_eq!(store.release(&earlier).unwrap(), Released::Ours);
            die_in(&scratch, operation, step);
            let held = match operation {
                "acquire" => step == Step::Replaced,
                "release" => step != Step::Replaced,
                _ => true,
            };
            let case = format!("{operation} {step:?}");
            assert_eq!(is_held(&store, "x"), held, "{case}");
            if held {
                // The crash must not have taken the token back.
                let refusal = store.acquire(&claim("x"), TTL).unwrap();
                let dlock_core::Attempt::Held(refusal) = refusal else {
                    panic!("{case}");
                };
                assert!(refusal.fence() > earlier.fence(), "{case}");
            }
        }
    }
}

#[test]
fn what_a_crash_left_half_written_is_in_nobodys_way() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for _ in 0..3 {
        die_in(&scratch, "acquire", Step::Opened);
        die_in(&scratch, "acquire", Step::Written);
    }
    let ours = acquire(&store, "x", TTL);
    assert_eq!(store.release(&ours).unwrap(), Released::Ours);
    let files = fs::read_dir(scratch.folder().path()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "swept").collect();
    names.sort();
    let shard = format!("shard-{:02}", Place::of("x").shard);
    let expected = [
        "layout",
        &shard,
        &format!("{shard}.spare"),
        &Place::of("x").file,
    ];
    let mut expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
    expected.sort();
    assert_eq!(names, expected);
}

/// Runs `call` with the system refusing at `step`.
fn refused_at<R>(step: Step, errno: Errno, call: impl FnOnce() -> R) -> R {
    let plan = move |reached| match reached == step {
        true => Err(io::Error::from(errno)),
        false => Ok(()),
    };
    with_plan(plan, call)
}

#[test]
fn an_error_before_the_record_is_replaced_did_nothing() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for errno in [
        Errno::IO,
        Errno::ACCESS,
        Errno::MFILE,
        Errno::NOSPC,
        Errno::DQUOT,
    ] {
        for step in [Step::Opened, Step::Written] {
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
    for step in [Step::Opened, Step::Written, Step::Ready] {
        for errno in [Errno::ACCESS, Errno::MFILE] {
            let answer = refused_at(step, errno, || store.release(&ours));
            assert!(!answer.unwrap_err().may_have_executed(), "{step:?}");
            assert_eq!(fs::read(scratch.record("x")).unwrap(), before);
        }
    }
    // Of a broken disk nobody knows what it did.
    let answer = refused_at(Step::Ready, Errno::IO, || store.release(&ours));
    assert!(answer.unwrap_err().may_have_executed());
}

#[test]
fn who_locks_a_shard_locks_the_file_that_others_see() {
    let scratch = Scratch::new();
    let folder = scratch.folder();
    let path = folder.shard(7);
    let mut times = 0;
    let delete_once = move |step| {
        times += usize::from(step == Step::Found);
        match times {
            1 => fs::remove_file(&path),
            _ => Ok(()),
        }
    };
    let inside = with_plan(delete_once, || Shard::try_lock(&folder, 7)).unwrap();
    assert!(inside.is_some());
    assert!(Shard::try_lock(&folder, 7).unwrap().is_none());
}

#[test]
fn an_error_after_the_record_is_replaced_may_have_done_it() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = claim("x");
    let attempt = refused_at(Step::Replaced, Errno::IO, || store.acquire(&ours, TTL));
    assert!(attempt.unwrap_err().may_have_executed());
    // As core does it: the same claim again.
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
        refused_at(Step::Written, errno, || {
            let done = ours.holder().replace("running", "done");
            let call = ours.for_call(1, later()).with_holder(done);
            assert!(matches!(
                store.extend(&call, TTL * 2),
                Ok(Extension::Extended(_))
            ));
        });
        assert!(is_held(&store, "x"));
    }
    let released = refused_at(Step::Written, Errno::NOSPC, || store.release(&ours));
    assert_eq!(released.unwrap(), Released::Ours);
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
            see.set(see.get() || step == Step::Synced);
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
        Released::Ours
    )));
}
