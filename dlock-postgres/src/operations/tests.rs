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
fn a_call_states_what_it_is_about() {
    let claim = claim();
    let lease = Lease::new(claim.clone(), dlock_core::Grant::new(Duration::ZERO));
    let lease = lease.for_call(5, Clock::BOOTTIME.now());
    let owner = claim.owner().to_string();
    let ttl = Duration::from_secs(1);
    let rows = MOST_ROWS.to_string();
    let (key, holder) = (claim.key(), claim.holder());
    let own = Some(&*owner);
    for (call, expected) in [
        (
            Call::Acquire(&claim, ttl, None),
            &[
                Some(key),
                own,
                Some("1000000"),
                Some(holder),
                Some("7"),
                Some("9"),
                None,
            ][..],
        ),
        (
            Call::Extend(&lease, ttl),
            &[
                Some(key),
                own,
                Some("1000000"),
                Some(holder),
                Some("5"),
                Some("7"),
                Some("9"),
            ],
        ),
        (Call::Release(&claim), &[Some(key), own, Some("9")]),
        (Call::Abandon(&claim), &[Some(key), own, Some("9")]),
        (
            Call::Leave(claim.owner(), Duration::from_millis(4)),
            &[own, Some("4")],
        ),
        (
            Call::Leave(claim.owner(), Duration::from_millis(10)),
            &[own, Some("9")],
        ),
        (Call::Heartbeat("p", true), &[Some("p"), Some("t")]),
        (Call::Heartbeat("p", false), &[Some("p"), Some("f")]),
        (Call::Waiting("k"), &[Some("k")]),
        (Call::Facts, &[]),
        (
            Call::Break("k", FencingToken::new(3)),
            &[Some("k"), Some("3"), Some("9")],
        ),
        (Call::Holder("k"), &[Some("k")]),
        (
            Call::Held("k", "ka"),
            &[Some("k"), Some("ka"), Some(&*rows)],
        ),
    ] {
        let parameters = call.parameters(7, Duration::from_millis(9));
        let parameters: Vec<_> = parameters.iter().map(Option::as_deref).collect();
        assert_eq!(parameters, expected, "{call:?}");
    }
}

#[test]
fn what_keeps_or_frees_a_lock_comes_before_what_asks_for_one() {
    let claim = claim();
    let lease = Lease::new(claim.clone(), dlock_core::Grant::new(Duration::ZERO));
    for urgent in [
        Call::Extend(&lease, Duration::ZERO),
        Call::Release(&claim),
        Call::Abandon(&claim),
        Call::Leave(claim.owner(), Duration::ZERO),
        Call::Heartbeat("p", true),
        Call::Break("k", FencingToken::new(1)),
    ] {
        assert!(urgent.is_urgent(), "{urgent:?}");
    }
    for other in [
        Call::Acquire(&claim, Duration::ZERO, None),
        Call::Holder("k"),
        Call::Held("k", ""),
        Call::Waiting("k"),
        Call::Facts,
    ] {
        assert!(!other.is_urgent(), "{other:?}");
    }
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
    for (outcome, next) in [("3", false), ("4", true)] {
        let queued = acquire.read(&[row(&[outcome, "55", "7", "3", "who"])]);
        assert!(
            matches!(queued, Ok((Answer::Queued(held, is_next), Some(55)))
                if held.expires_in() == Some(Duration::from_micros(3)) && is_next == next)
        );
    }
    for call in [
        Call::Release(&claim),
        Call::Abandon(&claim),
        Call::Leave(claim.owner(), Duration::ZERO),
        Call::Break("k", FencingToken::new(1)),
    ] {
        for (truth, expected) in [("t", true), ("f", false)] {
            let (freed, now) = call.read(&[row(&[truth])]).unwrap();
            assert!(matches!(freed, Answer::Freed(done) if done == expected) && now.is_none());
        }
        for other in [
            vec![],
            vec![row(&["x"])],
            vec![row(&["NULL"])],
            vec![row(&["t", "t"])],
        ] {
            assert!(call.read(&other).is_err(), "{other:?}");
        }
    }
}

#[test]
fn the_answer_to_an_extend_is_read() {
    let lease = Lease::new(claim(), dlock_core::Grant::new(Duration::ZERO));
    let extend = Call::Extend(&lease, Duration::from_secs(1));
    let read = |columns: &[&str]| extend.read(&[row(columns)]);
    let lost = read(&["0", "55", "NULL"]);
    assert!(matches!(lost, Ok((Answer::Lost, Some(55)))));
    let extended = read(&["1", "56", "1000000"]);
    assert!(matches!(extended, Ok((Answer::Extended(left), Some(56)))
            if left == Duration::from_secs(1)));
    let late = read(&["2", "57", "NULL"]);
    assert!(matches!(late, Ok((Answer::TooLate, Some(57)))));
    for other in [
        &["3", "55", "1"][..],
        &["1", "55", "NULL"],
        &["1", "55", "-1"],
        &["0", "NULL", "1"],
        &["NULL", "55", "1"],
        &["0", "55"],
    ] {
        assert!(read(other).is_err(), "{other:?}");
    }
    assert!(extend.read(&[]).is_err());
}

#[test]
fn what_operators_ask_for_is_read() {
    let who = "dlock1 web-3 4121 00000000000000aa 1764000271000 running";
    let is_it = |held: &HeldBy| {
        held.fence() == Some(FencingToken::new(7))
            && held.expires_in() == Some(Duration::from_micros(3))
            && held.holder().is_some_and(|holder| holder.to_text() == who)
    };
    let holder = |rows: &[Row]| Call::Holder("k").read(rows);
    let held = row(&["7", "3", who]);
    assert!(matches!(holder(&[]), Ok((Answer::Holder(None), None))));
    let one = holder(std::slice::from_ref(&held));
    assert!(matches!(one, Ok((Answer::Holder(Some(held)), None)) if is_it(&held)));
    assert!(holder(&[held.clone(), held]).is_err() && holder(&[row(&["7", "3"])]).is_err());

    let waiting = |columns: &[&str]| Call::Waiting("k").read(&[row(columns)]);
    assert!(matches!(waiting(&["12"]), Ok((Answer::Waiting(12), None))));
    assert!(waiting(&["-1"]).is_err() && waiting(&["1", "2"]).is_err());

    let keys = |rows: &[Row]| Call::Held("k", "").read(rows);
    let rows = ["ka", "kb"].map(|key| row(&[key, "7", "3", who]));
    let Ok((Answer::Keys(found), None)) = keys(&rows) else {
        panic!("these are keys")
    };
    assert!(found.iter().all(|(_, held)| is_it(held)));
    assert_eq!(
        found.iter().map(|(key, _)| key).collect::<Vec<_>>(),
        ["ka", "kb"]
    );
    assert!(matches!(keys(&[]), Ok((Answer::Keys(none), None)) if none.is_empty()));
    assert!(keys(&[row(&["ka", "7", "3"])]).is_err());
    assert!(keys(&[row(&["ka", "7", "NULL", who])]).is_err());
}

#[test]
fn what_a_server_says_of_itself_is_read() {
    let hello = |columns: &[&str]| Hello::read(&[row(columns)]);
    let read = hello(&["2", "5", "f", "77", "read committed"]).unwrap();
    assert_eq!(
        (read.now, read.backend, read.is_read_committed),
        (5, 77, true)
    );
    let other = hello(&["2", "5", "f", "77", "repeatable read"]).unwrap();
    assert!(!other.is_read_committed);
    for wrong in [
        &["2", "5", "f", "77"][..],
        &["2", "5", "x", "77", "read committed"],
    ] {
        let error = hello(wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{wrong:?}");
    }
    assert!(Hello::read(&[]).is_err());
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
