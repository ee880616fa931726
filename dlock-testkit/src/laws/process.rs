//! The laws between processes.

use dlock_core::Reach;

use crate::case::{Case, Law, Sample, broken, check};
use crate::child_process::ChildProcess;
use crate::{Subject, Verdict};

const WITHIN: &str = "the store declares that it keeps apart only the threads of one process";

/// Returns whether a second process can open this store. Unless the store declares that none can,
/// the subject must say how.
pub(crate) fn is_shared(case: &Case<'_>) -> Result<(), Verdict> {
    if case.subject.is_reopenable() {
        return Ok(());
    }
    check!(
        case,
        case.traits.reach == Reach::Process,
        "not shown: the store declares that it keeps apart processes ({:?}), but the subject does not say how another process \
         opens it: add `.at(place)` to the `Subject`, and `reopen = |place: &str| …` to `conformance!`; or declare \
         `with_reach(Reach::Process)`, if only one process at a time can open it",
        case.traits.reach
    );
    Err(Verdict::NotApplicable(WITHIN))
}

/// A key that one process holds is refused to another, which sees who holds it.
pub fn another_process_is_refused(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Atomic);
    if let Err(verdict) = is_shared(&case) {
        return verdict;
    }
    let mut other = ChildProcess::start(&case);
    let key = case.key();
    let holder = case.client(&key);
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let claim = format!("claim {key} {}", case.long().as_millis());
    let answer = other.ask(&claim);
    check!(
        case,
        answer == format!("held {}", std::process::id()),
        "this process {} holds the key, but another process's claim was answered `{answer}`",
        std::process::id()
    );
    holder.frees(&lease, "another process's claim was refused");
    let answer = other.ask(&claim);
    check!(
        case,
        answer.starts_with("granted"),
        "this process released the key, but another process's claim was answered `{answer}`"
    );
    let held = case
        .client(&key)
        .refused(case.long(), "another process holds the key");
    let pid = held.holder().map(dlock_core::Holder::pid);
    check!(
        case,
        pid == Some(other.pid()),
        "process {} holds the key, but the refusal shows {pid:?}",
        other.pid()
    );
    let answer = other.ask(&format!("release {key}"));
    check!(
        case,
        answer == "ours",
        "another process released its key and was answered `{answer}`"
    );
    case.client(&key)
        .take(case.long(), "another process released the key");
    Verdict::Kept
}

/// The fencing token rises from process to process.
pub fn tokens_rise_from_process_to_process(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Fencing);
    if let Err(verdict) = is_shared(&case) {
        return verdict;
    }
    if case.traits.fencing == dlock_core::Fencing::None {
        return super::fencing::tokens_rise_after_a_release(subject);
    }
    let mut others = [ChildProcess::start(&case), ChildProcess::start(&case)];
    let key = case.key();
    let mut last = 0;
    for turn in 0..9 {
        let fence = if turn % 3 == 2 {
            let holder = case.client(&key);
            let lease = holder
                .take(case.long(), "another process released the key")
                .lease;
            holder.frees(&lease, "the lease had half an hour left");
            lease.fence().map_or(0, dlock_core::FencingToken::get)
        } else {
            let other = &mut others[turn % 3];
            let answer = other.ask(&format!("claim {key} {}", case.long().as_millis()));
            let fence = answer
                .strip_prefix("granted ")
                .and_then(|fence| fence.parse().ok());
            let Some(fence) = fence else {
                broken!(
                    case,
                    "another process claimed a free key and was answered `{answer}`"
                )
            };
            other.ask(&format!("release {key}"));
            fence
        };
        check!(
            case,
            fence > last,
            "processes took turns, and the fencing token {fence} came after {last}"
        );
        last = fence;
    }
    Verdict::Kept
}

/// The lease of a killed process ends by itself, but not before its time.
pub fn a_killed_process_keeps_the_key_until_its_lease_ends(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Expiry);
    if let Err(verdict) = is_shared(&case) {
        return verdict;
    }
    case.sampled(
        "the lease of a killed process shortly before it ended",
        || {
            let mut other = ChildProcess::start(&case);
            let key = case.key();
            // Long enough to check after the process is gone.
            let ttl = case.short() * 3;
            let sent = crate::case::now();
            let answer = other.ask(&format!("claim {key} {}", ttl.as_millis()));
            let received = crate::case::now();
            check!(
                case,
                answer.starts_with("granted"),
                "another process claimed a free key and was answered `{answer}`"
            );
            other.kill();
            let stranger = case.client(&key);
            let barred = sent.saturating_add(ttl - dlock_core::drift(ttl));
            let mut seen = false;
            loop {
                let answer = stranger.ask(case.traits.ttl_min);
                if let dlock_core::AcquireOutcome::Granted(_) = answer.value {
                    check!(
                        case,
                        answer.received >= barred,
                        "the lease of a killed process was given away {:?} before its end",
                        answer.received.until(barred)
                    );
                    break;
                }
                // This detects stores that end leases early by a tenth or more.
                seen |= answer.received < barred
                    && answer.sent >= received.saturating_add(ttl * 9 / 10);
                check!(
                    case,
                    answer.sent <= received.saturating_add(ttl + case.tail(ttl)),
                    "the lease of {ttl:?} of a killed process still barred others after {:?}",
                    received.until(answer.sent)
                );
                std::thread::sleep(ttl / 100);
            }
            if seen {
                Sample::Judged
            } else {
                Sample::TooSlow
            }
        },
    );
    Verdict::Kept
}

/// A process that opens, uses and closes the store again and again has no more threads and open
/// files than before.
pub fn nothing_stays_open(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Clean);
    let mut other = ChildProcess::start(&case);
    match &*other.ask("leaks") {
        "clean" => Verdict::Kept,
        // On a system that does not show a process's threads nothing else can be tested.
        "uncountable" => Verdict::NotApplicable(
            "this system does not show the threads and open files of a process",
        ),
        left => broken!(case, "{left}"),
    }
}
