//! Histories with commands that run jobs, and processes that crash.

use super::*;

fn runs(actor: &str, time: u64) -> Event {
    let until = at(time.saturating_sub(100));
    event(actor, time, time, What::Extended { holding: 0, until })
}

fn doomed(actor: &str, by: u64) -> Event {
    let (by, why) = (at(by), "dead".to_owned());
    event(actor, 100, 100, What::Doomed { by, why })
}

#[test]
fn a_job_that_runs_on_when_it_must_be_over_is_found() {
    let job = [granted("a", 0, 5, 10), doomed("a", 1000)];
    let steps = |count: u64| -> Vec<Event> {
        (1..=count)
            .map(|number| runs("a", 1000 + number * 10))
            .collect()
    };
    assert_eq!(violated(&[&job, &steps(20)]), [Property::Outlived]);
    let text = check(&[&job, &steps(20)]).to_string();
    assert!(
        text.contains("ran for 200ms after it had to be over (dead)"),
        "{text}"
    );
    // Killed a little late, as on a busy machine; in time; another's job.
    assert_eq!(violated(&[&job, &steps(4)]), NOTHING);
    assert_eq!(violated(&[&job, &[runs("a", 900)]]), NOTHING);
    let others = [granted("a", 0, 5, 10), doomed("b", 1000)];
    assert_eq!(violated(&[&others, &steps(20)]), NOTHING);
}

#[test]
fn a_job_that_runs_beside_the_next_holder_is_found() {
    let job = [granted("a", 0, 5, 10), runs("a", 2000)];
    assert_eq!(violated(&[&job, &[granted("b", 1900, 1910, 11)]]), NOTHING);
    assert_eq!(
        violated(&[&job, &[granted("b", 1200, 1210, 11)]]),
        [Property::Exclusion]
    );
}

#[test]
fn what_a_command_did_amiss_is_found_and_its_status_is_counted() {
    let exited = event(
        "a",
        0,
        900,
        What::Exited {
            status: "75".into(),
        },
    );
    let report = check(&[std::slice::from_ref(&exited)]);
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!(report.figures.commands["75"], 1);
    let amiss = event(
        "a",
        0,
        900,
        What::Amiss {
            text: "did_not_end".into(),
        },
    );
    assert_eq!(violated(&[&[exited, amiss.clone()]]), [Property::Command]);
    assert!(check(&[&[amiss]]).to_string().contains("did not end"));
}

#[test]
fn a_healthy_process_that_is_not_granted_its_key_often_enough_is_found() {
    let thrives = |least| {
        let actor = "a".to_owned();
        event("f", 1000, 4000, What::Thrives { actor, least })
    };
    let grants = [
        numbered("a", 0, 900, 910, 9),
        numbered("a", 1, 1950, 1960, 10),
        numbered("b", 0, 3000, 3010, 11),
        numbered("a", 2, 4050, 4060, 12),
    ];
    assert_eq!(violated(&[&grants, &[thrives(1)]]), NOTHING);
    assert_eq!(violated(&[&grants, &[thrives(2)]]), [Property::Thrives]);
    assert_eq!(check(&[&grants, &[thrives(1)]]).figures.thrived, 1);
}

#[test]
fn what_is_recorded_from_outside_is_read_back() {
    use std::fs::OpenOptions;

    use super::super::{JobRecord, Recorder};

    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::of_faults(folder.path(), "command", "s").unwrap();
    let path = |name: &str| folder.path().join(name);
    let history = OpenOptions::new()
        .append(true)
        .open(path("command.history"));
    let mut options = OpenOptions::new();
    let resource = options.read(true).append(true).create(true);
    let mut resource = resource.open(path("resource")).unwrap();
    let start = dlock_core::Clock::BOOTTIME.now();
    let mut job = JobRecord::begin(history.unwrap(), "s", "k", (7, ms(1000)), start);
    job.runs();
    assert!(job.write(&mut resource).unwrap());
    recorder.job_released("k", start);
    recorder.exited("k", start, "0");
    recorder.doomed("k", start, "two words");
    recorder.thrives("k", "command", 1, start, ms(60_000));
    let report = History::read(folder.path())
        .unwrap()
        .check(&Rules::default());
    // It ran after its end by two steps or three, which a busy machine may make of a kill.
    assert!(report.violations.is_empty(), "{report}");
    let figures = &report.figures;
    assert_eq!((figures.grants, figures.writes, figures.thrived), (1, 1, 1));
    assert_eq!(figures.commands["0"], 1);
    recorder.amiss("k", start, "some text");
    let report = History::read(folder.path())
        .unwrap()
        .check(&Rules::default());
    assert_eq!(report.violations.len(), 1, "{report}");
    assert!(!resource_takes(&mut resource, 6) && resource_takes(&mut resource, 7));
}

fn resource_takes(file: &mut std::fs::File, token: u64) -> bool {
    super::super::resource::append(file, token).unwrap()
}
