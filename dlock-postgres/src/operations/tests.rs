use std::collections::HashSet;

use dlock_core::Clock;

use super::*;

fn row(columns: &[&str]) -> Row {
    let column = |text: &&str| (*text != "NULL").then(|| (*text).to_owned());
    columns.iter().map(column).collect()
}

fn claim() -> Claim {
    Claim::new("dlock:x", &Clock::BOOTTIME, Duration::from_secs(2)).unwrap()
}

#[test]
fn a_call_has_as_many_parameters_as_its_statement_has_places() {
    let claim = claim();
    let lease = Lease::new(claim.clone(), dlock_core::Grant::new(Duration::ZERO));
    let ttl = Duration::from_nanos(1_000_001);
    let mut names = HashSet::new();
    for call in [
        Call::Acquire(&claim, ttl, None),
        Call::Leave(claim.owner(), Duration::ZERO),
        Call::Heartbeat("p", true),
        Call::Waiting("k"),
        Call::Extend(&lease, ttl),
        Call::Release(&claim),
        Call::Abandon(&claim),
        Call::Break("k", FencingToken::new(1)),
        Call::Holder("k"),
        Call::Held("k", ""),
    ] {
        let count = call.parameters(7, Duration::from_millis(9)).len();
        let (Statement { name, sql }, last) = (call.statement(), format!("${count})"));
        assert!(sql.ends_with(&last), "{sql}");
        let version = format!("dlock{}_", Hello::VERSION);
        assert!(name.starts_with(&version) && names.insert(name), "{name}");
    }
    let (Statement { name, sql }, facts) = (Call::Facts.statement(), Facts::SQL);
    assert!(sql == facts && names.insert(name), "{name}");
    let process = Some("5ca1ab1e");
    let parameters = Call::Acquire(&claim, ttl, process).parameters(7, Duration::from_millis(9));
    let parameters: Vec<_> = parameters.iter().map(Option::as_deref).collect();
    assert_eq!(parameters[2], Some("1001"), "rounded up");
    assert_eq!(&parameters[4..], [Some("7"), Some("9"), process]);
    let most = Call::Break("k", FencingToken::new(u64::MAX)).parameters(7, Duration::MAX);
    let most: Vec<_> = most.iter().map(Option::as_deref).collect();
    let (bigint, int) = (i64::MAX.to_string(), i32::MAX.to_string());
    assert_eq!(&most[1..], [Some(&*bigint), Some(&*int)]);
}

#[test]
fn rows_are_read() {
    let claim = claim();
    let acquire = Call::Acquire(&claim, Duration::from_secs(1), None);
    let (granted, now) = acquire
        .read(&[row(&["1", "55", "7", "1000000", "NULL"])])
        .unwrap();
    assert_eq!(now, Some(55));
    assert!(matches!(granted, Answer::Granted { fence, left }
            if fence.get() == 7 && left == Duration::from_secs(1)));
    let (held, _) = acquire.read(&[row(&["0", "55", "7", "3", "who"])]).unwrap();
    assert!(matches!(held, Answer::Held(held)
            if held.expires_in() == Some(Duration::from_micros(3)) && held.fence().is_some()));
    let late = acquire.read(&[row(&["2", "55", "NULL", "NULL", "NULL"])]);
    assert!(matches!(late, Ok((Answer::TooLate, Some(55)))));
    let queued = acquire.read(&[row(&["4", "55", "7", "3", "who"])]);
    assert!(matches!(queued, Ok((Answer::Queued(held, true), _))
            if held.expires_in() == Some(Duration::from_micros(3))));
    let (freed, now) = Call::Release(&claim).read(&[row(&["t"])]).unwrap();
    assert!(matches!(freed, Answer::Freed(true)) && now.is_none());
}

#[test]
fn other_rows_than_expected_are_an_error() {
    let claim = claim();
    let acquire = Call::Acquire(&claim, Duration::from_secs(1), None);
    for rows in [
        vec![],
        vec![row(&["1", "55", "7", "1000000", ""]); 2],
        vec![row(&["1", "55", "7", "1000000"])],
        vec![row(&["1", "55", "-7", "1000000", ""])],
        vec![row(&["5", "55", "7", "1000000", ""])],
        vec![row(&["3", "55", "7", "NULL", ""])],
        vec![row(&["1", "NULL", "7", "1000000", ""])],
    ] {
        let error = acquire.read(&rows).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{rows:?}");
        assert!(error.may_have_executed());
    }
}

#[test]
fn another_schema_and_a_standby_are_refused() {
    let hello = |columns: &[&str]| Hello::read(&[row(columns)]).unwrap().check("db:1");
    assert!(hello(&["2", "5", "f", "77", "read committed"]).is_ok());
    for (version, advice) in [("1", "migration"), ("3", "too old")] {
        let error = hello(&[version, "5", "f", "77", "read committed"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(advice), "{error}");
    }
    let error = hello(&["2", "5", "t", "77", "read committed"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("db:1"));
}

#[test]
fn the_answer_to_a_heartbeat_is_read() {
    let [one, other] = [(); 2].map(|()| OwnerToken::random().unwrap());
    let beat = Call::Heartbeat("p", true);
    let handed = format!("{one} {other}");
    let (answer, _) = beat.read(&[row(&["77", "t", "5", &handed])]).unwrap();
    let expected = Heartbeat {
        backend: 77,
        is_known: true,
        next: Some(Duration::from_micros(5)),
        handed: vec![one, other],
    };
    assert!(matches!(answer, Answer::Heartbeat(read) if read == expected));
    let (answer, _) = beat.read(&[row(&["77", "f", "NULL", "NULL"])]).unwrap();
    assert!(matches!(answer, Answer::Heartbeat(read)
            if !read.is_known && read.next.is_none() && read.handed.is_empty()));
    assert!(beat.read(&[row(&["77", "t", "NULL", "nobody"])]).is_err());
}
