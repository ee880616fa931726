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
    for call in [
        Call::Acquire(&claim, ttl),
        Call::Extend(&lease, ttl),
        Call::Release(&claim),
        Call::Abandon(&claim),
        Call::Break("k", FencingToken::new(1)),
        Call::Holder("k"),
        Call::Held("k", ""),
    ] {
        let count = call.parameters(7, Duration::from_millis(9)).len();
        let (sql, last) = (call.sql(), format!("${count})"));
        assert!(sql.ends_with(&last), "{sql}");
    }
    let parameters = Call::Acquire(&claim, ttl).parameters(7, Duration::from_millis(9));
    assert_eq!(parameters[2], "1001", "rounded up");
    assert_eq!(&parameters[4..], ["7", "9"]);
}

#[test]
fn rows_are_read() {
    let claim = claim();
    let acquire = Call::Acquire(&claim, Duration::from_secs(1));
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
    let (freed, now) = Call::Release(&claim).read(&[row(&["t"])]).unwrap();
    assert!(matches!(freed, Answer::Freed(true)) && now.is_none());
}

#[test]
fn other_rows_than_expected_are_an_error() {
    let claim = claim();
    let acquire = Call::Acquire(&claim, Duration::from_secs(1));
    for rows in [
        vec![],
        vec![row(&["1", "55", "7", "1000000", ""]); 2],
        vec![row(&["1", "55", "7", "1000000"])],
        vec![row(&["1", "55", "-7", "1000000", ""])],
        vec![row(&["3", "55", "7", "1000000", ""])],
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
    assert!(hello(&["1", "5", "f"]).is_ok());
    let error = hello(&["2", "5", "f"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = hello(&["1", "5", "t"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("db:1"));
}
