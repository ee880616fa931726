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
fn a_process_that_is_granted_its_key_too_rarely_beside_crashing_ones_is_found() {
    let paced = |before, after, share| {
        let actor = "a".to_owned();
        event("f", before, after, What::Paced { actor, share })
    };
    // Two seconds alone and four beside others: of nine grants alone, one third of the rate is six.
    let times = [
        paced(0, 1000, None),
        paced(1000, 3000, Some(3)),
        paced(4000, 5000, None),
        paced(5000, 7000, Some(3)),
    ];
    let mut number = 0;
    let mut grants = |actor, from: u64, count: u64| {
        let grants = (0..count).map(|at| {
            let (before, fence) = (from + at * 100 + 10, from + at + 1);
            number += 1;
            let [begin, end] = released(actor, before + 20, before + 30, End::Freed);
            let mut all = [
                numbered(actor, number, before, before + 10, fence),
                begin,
                end,
            ];
            for event in &mut all[1..] {
                match &mut event.what {
                    What::Releasing { holding } | What::Released { holding, .. } => {
                        *holding = number;
                    }
                    other => unreachable!("{other}"),
                }
            }
            all
        });
        grants.flatten().collect::<Vec<_>>()
    };
    let alone = [grants("a", 0, 5), grants("a", 4000, 4)].concat();
    // One turn may be slow. What is granted between the times, or to others, does not count.
    let slow = [
        grants("a", 1000, 1),
        grants("b", 1500, 9),
        grants("a", 3000, 9),
    ]
    .concat();
    let (four, five) = (grants("a", 5000, 4), grants("a", 5000, 5));
    let history = |last: &[Event]| check(&[&times, &alone, &slow, last]);
    let report = history(&five);
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!(report.figures.thrived, 1);
    let report = history(&four);
    let found: Vec<_> = report.violations.iter().map(|v| v.property).collect();
    assert_eq!(found, [Property::Thrives], "{report}");
    let text = report.to_string();
    assert!(text.contains("5 times in 4s"), "{text}");
    assert!(
        text.contains("9 times in 2s alone: at least 6 are wanted"),
        "{text}"
    );
    // Once, also where it was granted nothing alone.
    assert_eq!(violated(&[&times]), [Property::Thrives]);
    assert_eq!(violated(&[&times, &grants("a", 1000, 1)]), NOTHING);
    // Alone it owes nothing.
    assert_eq!(violated(&[&[paced(0, 1000, None)]]), NOTHING);
}

#[test]
fn the_time_of_the_dead_is_not_that_of_the_living() {
    let paced = |before, after, share| {
        let actor = "a".to_owned();
        event("f", before, after, What::Paced { actor, share })
    };
    let orphaned = |before, until| {
        let until = at(until);
        event("f", before, before + 1, What::Orphaned { until })
    };
    // Ten times in a second alone; half of that would be five in a second beside others.
    let times = [paced(0, 1000, None), paced(10_000, 12_000, Some(2))];
    let grant = |number: u64, before| numbered("a", number, before, before + 10, before);
    let released = |number, before| {
        let end = What::Releasing { holding: number };
        event("a", before, before, end)
    };
    let holds = |number, from| [grant(number, from), released(number, from + 20)];
    let alone: Vec<_> = (0..10).flat_map(|at| holds(at, at * 100)).collect();
    let beside: Vec<_> = (0..5)
        .flat_map(|at| holds(100 + at, 10_500 + at * 20))
        .collect();
    let found = |dead: &[Event]| violated(&[&times, &alone, &beside, dead]);
    assert_eq!(found(&[]), [Property::Thrives]);
    // A second less, whether or not two overlap, or begin before.
    let second = [orphaned(10_600, 11_300), orphaned(11_200, 11_600)];
    assert_eq!(found(&second), NOTHING);
    let less = [orphaned(10_600, 11_300), orphaned(11_200, 11_390)];
    assert_eq!(found(&less), [Property::Thrives]);
    // It ends with the next grant, and with the time itself.
    assert_eq!(found(&[orphaned(10_400, 11_600)]), [Property::Thrives]);
    assert_eq!(found(&[orphaned(11_800, 12_800)]), [Property::Thrives]);
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
    recorder.paced("k", "command", None, start);
    recorder.orphaned("k", start, ms(5));
    recorder.paced("k", "command", Some(6), start);
    let report = History::read(folder.path())
        .unwrap()
        .check(&Rules::default());
    // It ran after its end by two steps or three, which a busy machine may make of a kill.
    assert!(report.violations.is_empty(), "{report}");
    let figures = &report.figures;
    assert_eq!((figures.grants, figures.writes, figures.thrived), (1, 1, 2));
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
