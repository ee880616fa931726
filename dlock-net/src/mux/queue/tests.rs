use super::*;
use proptest::prelude::*;

const CALL: Duration = Duration::from_secs(2);

fn at(millis: u64) -> Time {
    Time::from_nanos(1_000_000_000 + millis * 1_000_000)
}

type Answers = oneshot::Receiver<Result<(), Failure>>;

/// Adds a request of `length` bytes with a call's time from `millis` on.
fn push(queue: &mut Queue<usize, ()>, millis: u64, length: usize) -> Answers {
    let begun = at(millis);
    let write = |bytes: &mut Vec<u8>| {
        bytes.extend(std::iter::repeat_n(b'x', length));
        length
    };
    queue
        .push(begun, begun.saturating_add(CALL), false, write)
        .0
}

/// The outcome of a call, `None` while it waits.
fn outcome(answer: &mut Answers) -> Option<(bool, Reason)> {
    match answer.try_recv() {
        Ok(Err(failure)) => Some((failure.sent, failure.reason)),
        Ok(Ok(())) => panic!("a reply"),
        Err(_) => None,
    }
}

fn report(failed: Vec<(Outcome<()>, Failure)>) {
    for (to, failure) in failed {
        let _ = to.send(Err(failure));
    }
}

fn check(queue: &mut Queue<usize, ()>, millis: u64) -> (Verdict, Option<Time>) {
    let found = queue.check(at(millis), at(0), None);
    report(found.failed);
    (found.verdict, found.next)
}

#[test]
fn a_request_that_was_not_handed_on_is_taken_back_when_its_time_is_over() {
    let mut queue = Queue::default();
    let mut first = push(&mut queue, 0, 3);
    let mut second = push(&mut queue, 100, 5);
    check(&mut queue, 2000);
    assert!(matches!(
        outcome(&mut first),
        Some((false, Reason::TimedOut))
    ));
    assert!(outcome(&mut second).is_none());
    let mut bytes = Vec::new();
    queue.hand(&mut bytes);
    assert_eq!(bytes.len(), 5, "the second alone");
}

#[test]
fn a_request_that_was_handed_on_may_be_executed_and_its_reply_is_skipped() {
    let mut queue = Queue::default();
    let mut first = push(&mut queue, 0, 3);
    let mut bytes = Vec::new();
    queue.hand(&mut bytes);
    let mut second = push(&mut queue, 100, 5);
    check(&mut queue, 2000);
    assert!(matches!(
        outcome(&mut first),
        Some((true, Reason::TimedOut))
    ));

    bytes.clear();
    queue.hand(&mut bytes);
    queue.wrote(8);
    let mut slots = Vec::new();
    assert!(queue.answered(2, &mut slots));
    assert_eq!(slots[0].expected, 3);
    assert!(slots[0].to.is_none(), "nobody waits for the late reply");
    assert_eq!(slots[1].expected, 5);
    let _ = slots.remove(1).to.unwrap().send(Ok(()));
    assert!(matches!(second.try_recv(), Ok(Ok(()))));
}

#[test]
fn what_the_socket_has_not_got_to_its_end_was_not_executed() {
    let mut queue = Queue::default();
    let mut answers: Vec<_> = (0..3).map(|_| push(&mut queue, 0, 4)).collect();
    queue.hand(&mut Vec::new());
    answers.push(push(&mut queue, 0, 4));
    queue.wrote(7);
    let broken = Reason::broken(&io::ErrorKind::BrokenPipe.into());
    report(queue.fail_all(true, &broken));
    let sent: Vec<_> = answers
        .iter_mut()
        .map(|answer| outcome(answer).unwrap().0)
        .collect();
    assert_eq!(sent, [true, false, false, false]);
}

#[test]
fn while_the_driver_may_write_all_that_it_took_may_be_executed() {
    let mut queue = Queue::default();
    let mut first = push(&mut queue, 0, 4);
    queue.hand(&mut Vec::new());
    let mut second = push(&mut queue, 0, 4);
    report(queue.fail_all(false, &Reason::NotDriven));
    assert!(outcome(&mut first).unwrap().0);
    assert!(!outcome(&mut second).unwrap().0);
}

#[test]
fn a_reply_before_the_end_of_its_request_or_without_one_is_not_taken() {
    let mut queue = Queue::default();
    let mut slots = Vec::new();
    assert!(!queue.answered(1, &mut slots), "nothing was asked");
    let _first = push(&mut queue, 0, 4);
    assert!(!queue.answered(1, &mut slots), "not sent");
    queue.hand(&mut Vec::new());
    queue.wrote(3);
    assert!(!queue.answered(1, &mut slots), "not to its end");
    queue.wrote(1);
    assert!(!queue.answered(2, &mut slots), "one more than requests");
    assert_eq!(slots.len(), 1);
}

#[test]
fn pending_requests_are_written_here_unless_the_driver_has_something_to_write() {
    let mut queue = Queue::default();
    assert!(queue.unhanded().is_none(), "there is nothing to write");
    let _first = push(&mut queue, 0, 4);
    let _second = push(&mut queue, 0, 5);
    assert_eq!(queue.unhanded().unwrap().len(), 9);
    queue.wrote_pending(6);
    assert!(
        queue.unhanded().is_none(),
        "the rest is to be written first"
    );
    let mut bytes = Vec::new();
    queue.hand(&mut bytes);
    assert_eq!(bytes.len(), 3);
    let _third = push(&mut queue, 0, 7);
    assert!(queue.unhanded().is_none(), "the driver has not written it");
    queue.wrote(2);
    assert!(queue.unhanded().is_none(), "nor to its end");
    queue.wrote(1);
    assert_eq!(queue.unhanded().unwrap().len(), 7);
    queue.wrote_pending(7);
    let mut slots = Vec::new();
    assert!(queue.answered(3, &mut slots) && queue.is_empty());
}

#[test]
fn half_of_the_requests_and_no_fewer_than_four_are_worth_a_write() {
    let mut queue = Queue::default();
    let _first: Vec<_> = (0..3).map(|_| push(&mut queue, 0, 2)).collect();
    assert!(queue.worth_a_write().is_none(), "three of three");
    let _fourth = push(&mut queue, 0, 2);
    assert_eq!(queue.worth_a_write().unwrap().len(), 8, "four of four");

    let _fifth = push(&mut queue, 0, 2);
    queue.wrote_pending(10);
    let _more: Vec<_> = (0..4).map(|_| push(&mut queue, 0, 2)).collect();
    assert!(queue.worth_a_write().is_none(), "four of nine");
    let _tenth = push(&mut queue, 0, 2);
    assert_eq!(queue.worth_a_write().unwrap().len(), 10, "five of ten");

    queue.wrote_pending(9);
    let _many: Vec<_> = (0..20).map(|_| push(&mut queue, 0, 2)).collect();
    assert!(queue.worth_a_write().is_none(), "the rest is before them");
}

#[test]
fn a_request_that_is_alone_is_written_at_once_and_its_rest_later() {
    let mut queue = Queue::default();
    let mut first = push(&mut queue, 0, 4);
    assert_eq!(queue.alone().unwrap().len(), 4);
    queue.wrote_pending(3);
    assert!(queue.has_bytes());
    let _second = push(&mut queue, 0, 4);
    assert!(queue.alone().is_none());
    check(&mut queue, 3000);
    assert!(
        outcome(&mut first).unwrap().0,
        "its rest is still to be written"
    );
    let mut bytes = Vec::new();
    queue.hand(&mut bytes);
    assert_eq!(bytes.len(), 1, "the second was taken back");
}

#[test]
fn a_server_that_sends_nothing_for_a_whole_call_more_is_silent() {
    let mut queue = Queue::default();
    let _first = push(&mut queue, 1, 4);
    queue.hand(&mut Vec::new());
    queue.wrote(4);
    assert_eq!(check(&mut queue, 2001).0, Verdict::Well);
    let (verdict, next) = check(&mut queue, 4000);
    assert_eq!((verdict, next), (Verdict::Well, Some(at(4200))));
    assert_eq!(check(&mut queue, 4001).0, Verdict::Silent);
    let found = queue.check(at(4001), at(2), None);
    assert_eq!(found.verdict, Verdict::Well, "it sent something since");
}

#[test]
fn a_connection_that_rested_is_silent_after_half_of_a_call() {
    let mut queue: Queue<(), ()> = Queue::default();
    let (_answer, check_at) = queue.push(at(0), at(2000), true, |bytes| bytes.push(b'x'));
    assert_eq!(check_at, at(200), "a tenth of the call");
    queue.hand(&mut Vec::new());
    let before = Time::ZERO;
    assert_eq!(queue.check(at(999), before, None).verdict, Verdict::Well);
    assert_eq!(queue.check(at(1000), before, None).verdict, Verdict::Silent);
}

#[test]
fn a_driver_that_is_not_polled_for_a_tenth_of_a_call_is_not_driven() {
    let mut queue = Queue::default();
    let mut sent = push(&mut queue, 0, 4);
    queue.hand(&mut Vec::new());
    let mut pending = push(&mut queue, 0, 4);
    let verdict = |queue: &mut Queue<_, _>, woken| queue.check(at(300), at(0), woken).verdict;
    assert_eq!(verdict(&mut queue, None), Verdict::Well);
    assert_eq!(verdict(&mut queue, Some(at(101))), Verdict::Well);
    assert_eq!(verdict(&mut queue, Some(at(100))), Verdict::NotDriven);
    report(queue.give_up(&Reason::NotDriven));
    assert!(matches!(
        outcome(&mut sent),
        Some((true, Reason::NotDriven))
    ));
    assert!(matches!(
        outcome(&mut pending),
        Some((false, Reason::NotDriven))
    ));
    assert!(
        !queue.has_bytes() && !queue.is_empty(),
        "one reply is to come"
    );
    assert_eq!(
        verdict(&mut queue, Some(at(100))),
        Verdict::Well,
        "nobody waits"
    );
}

#[test]
fn a_panic_in_the_middle_of_a_request_leaves_nothing_of_it() {
    let mut queue = Queue::default();
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let write = |bytes: &mut Vec<u8>| {
            bytes.push(b'x');
            panic!("in a writer")
        };
        let _ = queue.push(at(0), at(1), false, write);
    }));
    assert!(panics.is_err());
    assert!(queue.is_empty() && !queue.has_bytes());
    let _next = push(&mut queue, 0, 4);
    assert_eq!(queue.alone().unwrap().len(), 4);
}

/// What may happen to a connection.
#[derive(Debug, Clone)]
enum Event {
    Push(usize),
    Hand,
    Write(usize),
    Answer(usize),
    Expire,
    Leave(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1_usize..9).prop_map(Event::Push),
        2 => Just(Event::Hand),
        3 => (1_usize..20).prop_map(Event::Write),
        3 => (1_usize..4).prop_map(Event::Answer),
        1 => Just(Event::Expire),
        1 => (0_usize..50).prop_map(Event::Leave),
    ];
    prop::collection::vec(event, 0..60)
}

proptest! {
    /// Against a plain list of what a server receives: each request is sent whole or not at all,
    /// each reply goes to its request, and "not sent" is never said of one that was.
    #[test]
    fn every_request_is_sent_whole_or_not_at_all_and_has_the_reply_of_its_own(events in events()) {
        let mut queue: Queue<u8, u8> = Queue::default();
        let (mut wire, mut writing) = (Vec::new(), Vec::new());
        let mut calls: Vec<Option<oneshot::Receiver<Result<u8, Failure>>>> = Vec::new();
        let mut now = 0;
        let mut answered = 0;
        for event in events {
            now += 1;
            match event {
                Event::Push(length) => {
                    let number = u8::try_from(calls.len()).unwrap();
                    let write = |bytes: &mut Vec<u8>| {
                        bytes.push(u8::try_from(length).unwrap());
                        bytes.extend(std::iter::repeat_n(number, length));
                        number
                    };
                    calls.push(Some(queue.push(at(now), at(now + 10_000), false, write).0));
                }
                Event::Hand if writing.is_empty() => queue.hand(&mut writing),
                Event::Hand => {}
                Event::Write(count) => {
                    let count = count.min(writing.len());
                    wire.extend(writing.drain(..count));
                    queue.wrote(count);
                }
                Event::Answer(count) => {
                    // The server answers what it has got to its end.
                    let count = count.min(requests(&wire).len() - answered);
                    let mut slots = Vec::new();
                    prop_assert!(queue.answered(count, &mut slots));
                    for slot in slots {
                        prop_assert_eq!(slot.expected, requests(&wire)[answered]);
                        answered += 1;
                        if let Some(to) = slot.to {
                            let _ = to.send(Ok(slot.expected));
                        }
                    }
                }
                Event::Expire => {
                    now += 10_000;
                    let found = queue.check(at(now), at(now), None);
                    for (to, failure) in found.failed {
                        let _ = to.send(Err(failure));
                    }
                }
                Event::Leave(at) => {
                    let left = calls.len().max(1);
                    if let Some(call) = calls.get_mut(at % left) {
                        *call = None;
                    }
                }
            }
        }
        for (to, failure) in queue.fail_all(true, &Reason::NotDriven) {
            let _ = to.send(Err(failure));
        }
        let received = requests(&wire);
        for (number, call) in calls.into_iter().enumerate() {
            let Some(mut call) = call else { continue };
            let number = u8::try_from(number).unwrap();
            match call.try_recv().expect("every call has an outcome") {
                Ok(reply) => prop_assert_eq!(reply, number),
                Err(failure) if !failure.sent => prop_assert!(!received.contains(&number)),
                Err(_) => {}
            }
        }
    }
}

/// The numbers of the whole requests on the wire.
fn requests(mut wire: &[u8]) -> Vec<u8> {
    let mut requests = Vec::new();
    while let [length, rest @ ..] = wire {
        let Some((body, after)) = rest.split_at_checked(usize::from(*length)) else {
            break;
        };
        assert!(body.iter().all(|byte| *byte == body[0]), "torn: {body:?}");
        requests.push(body[0]);
        wire = after;
    }
    requests
}

#[test]
fn a_queue_at_rest_gives_back_what_many_requests_at_once_needed() {
    const MANY: usize = 10_000;
    let mut queue = Queue::default();
    // As a driver does it: both buffers grow.
    let mut bytes = Vec::new();
    for _ in 0..2 {
        let answers: Vec<_> = (0..MANY).map(|_| push(&mut queue, 0, 100)).collect();
        bytes.clear();
        queue.hand(&mut bytes);
        queue.wrote(bytes.len());
        assert!(queue.answered(MANY, &mut Vec::new()));
        drop(answers);
    }
    bytes.clear();
    let large = [bytes.capacity(), queue.out.capacity()];
    assert!(large.iter().all(|bytes| *bytes > MANY), "{large:?}");
    assert!(queue.slots.capacity() >= MANY);

    assert!(queue.rest(), "the handed buffer is large");
    queue.hand(&mut bytes);
    let kept = [bytes.capacity(), queue.out.capacity()];
    assert!(kept.iter().all(|bytes| *bytes <= KEPT_BYTES), "{kept:?}");
    assert!(queue.slots.capacity() <= 2 * KEPT_SLOTS);
    assert!(!queue.rest(), "nothing is left to give back");
}

#[test]
fn a_queue_that_gives_memory_back_loses_no_byte() {
    let mut queue = Queue::default();
    let mut bytes = Vec::new();
    let first = push(&mut queue, 0, 2 * KEPT_BYTES);
    queue.hand(&mut bytes);
    queue.wrote(bytes.len());
    assert!(queue.answered(1, &mut Vec::new()));
    drop(first);
    assert!(queue.rest());
    // More comes before the driver is polled.
    let _second = push(&mut queue, 0, 3 * KEPT_BYTES);
    bytes.clear();
    queue.hand(&mut bytes);
    assert_eq!(bytes.len(), 3 * KEPT_BYTES);
    queue.wrote(bytes.len());
    assert!(queue.answered(1, &mut Vec::new()));
    bytes.clear();
    queue.hand(&mut bytes);
    assert!(bytes.capacity() <= KEPT_BYTES, "when nothing more comes");
}
