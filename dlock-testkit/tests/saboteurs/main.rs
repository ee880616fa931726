//! The suite bites: each of these stores breaks one promise and is caught by a case of that law, in
//! its own words; the same store unbroken passes every case.
#![cfg(unix)]
// Helpers of tests are tests; and what they print goes into the captured output.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod backing;
mod flaw;
#[path = "../../src/pauses.rs"]
mod pauses;
mod queue;
mod rows;
mod rules;
mod store;

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;
use std::time::{Duration, Instant};

use backing::{Backing, FOREIGN, Record};
use dlock_core::{Clock, Time};
use dlock_testkit::{LAWS, Subject, Verdict, conformance, laws};
use flaw::Flaw;
use store::Reference;

conformance!(in_memory, || subject(None));
conformance!(in_a_folder, built_once, reopen = opened);

/// The processes that a case starts do not build the subject again, with a server that nobody uses,
/// say: they open the store that is there.
fn built_once() -> Subject {
    let of_parent = std::env::var_os("DLOCK_TESTKIT_PLACE");
    assert_eq!(of_parent, None, "built again in another process");
    shared(None)
}

/// A store in memory.
fn subject(flaw: Option<Flaw>) -> Subject {
    let store = Reference::in_memory(flaw);
    let backing = store.backing().clone();
    Subject::from(store)
        .writer_held_by({
            let backing = backing.clone();
            move |_| held(&backing)
        })
        .record_locked_by(|_, key| rows::RowLock::of(key))
        .foreign_written_by(move |_, key| write_foreign(&backing, key))
        .without_dangers()
}

/// A store in a folder of its own. Its place names its flaw, for other processes.
fn shared(flaw: Option<Flaw>) -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let name = flaw.map_or("sound".to_owned(), |flaw| format!("{flaw:?}"));
    let place = format!("{name}:{}", folder.path().display());
    Subject::new({
        let place = place.clone();
        move || opened(&place)
    })
    .at(place)
    .writer_held_by(|place| held(opened(place).backing()))
    .record_locked_by(|_, key| rows::RowLock::of(key))
    .foreign_written_by(|place, key| write_foreign(opened(place).backing(), key))
    .without_dangers()
    .cleaned_by(folder)
}

/// The store at a place.
fn opened(place: &str) -> Reference {
    let (name, folder) = place.split_once(':').unwrap();
    Reference::in_folder(Path::new(folder), Flaw::by_name(name))
}

/// The writer's turn, until it is dropped.
fn held(backing: &Backing) -> backing::Turn {
    let end = Clock::BOOTTIME
        .now()
        .saturating_add(Duration::from_secs(10));
    backing.turn(end).expect("nobody else holds the writer")
}

fn write_foreign(backing: &Backing, key: &str) {
    let record = Record {
        owner: None,
        until: Time::MAX,
        fence: 0,
        sequence: 0,
        holder: FOREIGN.to_owned(),
    };
    held(backing).save(key, &record);
}

/// A broken store, the law that it breaks and the case that catches it.
struct Saboteur {
    flaw: Flaw,
    law: &'static str,
    case: fn(&Subject) -> Verdict,
}

macro_rules! saboteurs {
    ($($name:ident = $flaw:ident $(in $place:ident)?, $module:ident::$case:ident, $law:literal, $says:literal;)+) => {
        pub(crate) const SABOTEURS: &[Saboteur] = &[$(Saboteur {
            flaw: Flaw::$flaw,
            law: $law,
            case: laws::$module::$case,
        }),+];

        $(
            #[test]
            fn $name() {
                let subject = || saboteurs!(@subject $flaw $($place)?);
                assert_caught(laws::$module::$case, subject, $law, $says);
            }
        )+
    };
    (@subject $flaw:ident) => {
        subject(Some(Flaw::$flaw))
    };
    (@subject $flaw:ident folder) => {
        shared(Some(Flaw::$flaw)).reopened_by("other_process", opened)
    };
}

mod caught;
use caught::SABOTEURS;

/// How often a case may be run again if the machine paused during it, or was too slow for it.
const TRIES: u32 = 6;
/// A case of law 1 that takes longer than this ran out of the time for its races. A machine that
/// does nothing else runs all of them sooner.
const TIME_FOR_RACES: Duration = Duration::from_secs(3);

/// Runs the case and checks how it fails. A case gives a store the benefit of the doubt if the
/// machine was too slow to see the flaw, or sees it in another place. So it is run again, on
/// another store, if this process paused meanwhile, or if there was no time for all races: not on a
/// machine that keeps the time.
fn assert_caught(
    case: fn(&Subject) -> Verdict,
    subject: impl Fn() -> Subject,
    law: &str,
    says: &str,
) {
    quietly();
    for _ in 0..TRIES {
        let started = Instant::now();
        let (caught, paused) = pauses::during(|| is_caught(case, &subject(), law, says));
        let lacked_races = law == "law 1 (atomic)" && started.elapsed() > TIME_FOR_RACES;
        match caught {
            Ok(()) => return,
            Err(text) if !paused && !lacked_races => panic!("{text}"),
            Err(text) => eprintln!("the machine paused or was too slow: {text}"),
        }
    }
    panic!("the machine paused or was too slow in each of {TRIES} tries");
}

fn is_caught(
    case: fn(&Subject) -> Verdict,
    subject: &Subject,
    law: &str,
    says: &str,
) -> Result<(), String> {
    let message = match catch_unwind(AssertUnwindSafe(|| case(subject))) {
        Ok(verdict) => return Err(format!("it was not caught: the case came to {verdict:?}")),
        Err(panic) => *panic.downcast::<String>().expect("a message"),
    };
    if message.starts_with(&format!("{law}: ")) && message.contains(says) {
        return Ok(());
    }
    Err(format!(
        "it was caught with `{message}`, expected was `{law}: … {says} …`"
    ))
}

/// Shows the failures that are wanted without their backtraces.
fn quietly() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = take_hook();
        set_hook(Box::new(move |info| {
            let message = info
                .payload()
                .downcast_ref::<String>()
                .map_or("", String::as_str);
            let is_wanted = ["law ", "model: ", "declaration", "lock (", "overflow when"]
                .iter()
                .any(|start| message.starts_with(start));
            // Wanted or not: without its backtrace, which takes long to print.
            match is_wanted {
                true => eprintln!("{message}"),
                false => loud(info),
            }
        }));
    });
}

#[test]
#[ignore = "the saboteurs of processes start it"]
fn other_process() {
    dlock_testkit::other_process(|| shared(None).reopened_by("other_process", opened));
}

#[test]
fn a_store_beyond_its_process_must_say_where_it_is() {
    let nowhere = || subject(Some(Flaw::RemembersInItsProcess));
    let says = "not shown: the store declares that it keeps apart processes (Host), but the subject does not say how another \
                process opens it: add `.at(place)` to the `Subject`, and `reopen = |place: &str| …` to `conformance!`; or declare \
                `with_reach(Reach::Process)`";
    assert_caught(
        laws::process::another_process_is_refused,
        nowhere,
        "law 1 (atomic)",
        says,
    );
}

#[test]
fn a_process_that_ends_without_an_answer_is_told_as_that() {
    let unopened = || shared(None).reopened_by("no_such_test", opened);
    assert_caught(
        laws::process::another_process_is_refused,
        unopened,
        "law 1 (atomic)",
        "not shown: another process ended before it answered (exit status: 0); if it panicked, in `reopen` say,",
    );
}

#[test]
fn a_store_with_one_writer_must_say_how_to_keep_it_busy() {
    let says = "not shown: the store declares a single writer, but the subject does not say how to keep it busy: add \
                `.writer_held_by(|place| …)`";
    let unheld = || Subject::from(Reference::in_memory(None));
    let waited = laws::extend::an_extend_that_waited_revives_nothing;
    assert_caught(waited, unheld, "law 7 (extend)", says);
    let busy = laws::bounded::a_busy_writer_does_not_delay_calls_beyond_their_deadline;
    assert_caught(busy, unheld, "law 9 (bounded)", says);
}

#[test]
fn every_law_has_two_saboteurs_at_least() {
    for number in 1..=10 {
        let law = format!("law {number} (");
        let mut flaws: Vec<Flaw> = Vec::new();
        for saboteur in SABOTEURS
            .iter()
            .filter(|saboteur| saboteur.law.starts_with(&law))
        {
            if !flaws.contains(&saboteur.flaw) {
                flaws.push(saboteur.flaw);
            }
        }
        assert!(flaws.len() >= 2, "law {number} has {flaws:?}");
    }
}

#[test]
fn every_case_catches_somebody() {
    // What core does by itself, whatever the store does.
    const OF_CORE: [&str; 3] = [
        "lock_joined_names_are_one_lock",
        "once_an_impossible_keep_is_refused_before_the_job",
        "fork_a_child_has_no_lock",
    ];
    for promise in LAWS {
        let catches = SABOTEURS
            .iter()
            .any(|saboteur| std::ptr::fn_addr_eq(saboteur.case, promise.check));
        assert!(
            catches != OF_CORE.contains(&promise.name),
            "{} catches a saboteur: {catches}",
            promise.name
        );
    }
}
