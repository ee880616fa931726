//! The list of cases, and the two things made of it: `#[test]` functions and a table.

use crate::{Subject, Verdict, laws};

/// One case of the suite.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Promise {
    /// The name of its `#[test]` function.
    pub name: &'static str,
    /// What it shows, as a sentence.
    pub sentence: &'static str,
    /// The case itself; panics if the promise is broken.
    pub check: fn(&Subject) -> Verdict,
}

/// Hands the list of cases to the macro `$callback`, after the arguments that it is given.
#[doc(hidden)]
#[macro_export]
macro_rules! __for_each_law {
    ($callback:ident! { $($arguments:tt)* }) => {
        $crate::$callback! { { $($arguments)* }
            law_1_one_of_many_claims_wins = atomic::one_of_many_claims_wins,
                "Of many claims at the same moment on a free key exactly one is granted.";
            law_1_one_of_many_handles_wins = atomic::one_of_many_handles_wins,
                "Of many claims through different handles at the same moment exactly one is granted.";
            law_1_one_takes_over_an_expired_lease = atomic::one_takes_over_an_expired_lease,
                "Of many claims on a key whose lease ends, or has ended, exactly one is granted.";
            law_1_holders_never_overlap = atomic::holders_never_overlap,
                "Many claimants take turns with a key, and never two hold it at once.";
            law_1_another_process_is_refused = process::another_process_is_refused,
                "A key that one process holds is refused to another, which sees who holds it.";
            law_2_similar_keys_are_different_locks = independent::similar_keys_are_different_locks,
                "Keys that look alike are different locks.";
            law_2_long_keys_differ_by_any_byte = independent::long_keys_differ_by_any_byte,
                "Keys up to the longest that the store takes differ by any one of their bytes.";
            law_2_many_keys_are_many_locks = independent::many_keys_are_many_locks,
                "A thousand keys are a thousand locks.";
            law_3_refused_claims_do_not_lengthen_the_lease = held::refused_claims_do_not_lengthen_the_lease,
                "A refused claim, for however long, does not keep the key beyond the end of the holder's lease.";
            law_3_refused_claims_do_not_shorten_the_lease = held::refused_claims_do_not_shorten_the_lease,
                "A refused claim, for however short, does not free the key before the end of the holder's lease.";
            law_3_refused_claims_leave_the_holder = held::refused_claims_leave_the_holder,
                "After refused claims the holder is who it was: its text, its fencing token, its right to extend and to release.";
            law_3_a_refused_claim_holds_nothing_later = held::a_refused_claim_holds_nothing_later,
                "A claim that was refused and not repeated does not get the key when it becomes free.";
            law_3_a_refusal_tells_the_remaining_time = held::a_refusal_tells_the_remaining_time,
                "A refusal says how long the holder's lease lasts at the most, if it says anything about that.";
            law_4_a_key_is_taken_and_freed = own::a_key_is_taken_and_freed,
                "Claim, refusal of others, extend, release, and the key is free.";
            law_4_a_strangers_release_frees_nothing = own::a_strangers_release_frees_nothing,
                "A release by another owner frees nothing, however often it is tried.";
            law_4_a_strangers_extend_changes_nothing = own::a_strangers_extend_changes_nothing,
                "An extend by another owner is answered `Lost` and changes neither the holder nor the end of its lease.";
            law_4_a_strangers_extend_shortens_nothing = own::a_strangers_extend_shortens_nothing,
                "An extend for a shorter time by another owner does not free the key early.";
            law_4_an_expired_owner_touches_nobody_elses_lease = own::an_expired_owner_touches_nobody_elses_lease,
                "Whose lease ended can neither extend nor release what somebody else holds by then.";
            law_4_a_batch_extends_only_what_is_held = own::a_batch_extends_only_what_is_held,
                "In a batch each lease is judged by its own owner, and the answers are in the order of the leases.";
            law_4_abandoning_a_refused_claim_frees_nothing = own::abandoning_a_refused_claim_frees_nothing,
                "Who gives up a claim does not free what somebody else holds.";
            law_5_a_repeated_claim_is_the_same_grant = idempotent::a_repeated_claim_is_the_same_grant,
                "The same claim repeated is granted again with the same fencing token, on any handle.";
            law_5_concurrent_repeats_are_one_grant = idempotent::concurrent_repeats_are_one_grant,
                "Repeats of one claim that arrive together are all granted, with one fencing token.";
            law_5_a_repeated_claim_holds_as_long_as_it_says = idempotent::a_repeated_claim_holds_as_long_as_it_says,
                "A claim repeated late in its lease holds for as long as the repeated grant says.";
            law_5_a_repeated_claim_takes_nothing_away = idempotent::a_repeated_claim_takes_nothing_away,
                "A claim repeated for less time does not take away what it had.";
            law_5_a_repeated_claim_leaves_the_holder = idempotent::a_repeated_claim_leaves_the_holder,
                "A late copy of a claim leaves the description of the holder that an extend stored since.";
            law_5_an_older_grant_still_works = idempotent::an_older_grant_still_works,
                "A lease made of an older grant of the same claim extends and releases like the latest.";
            law_5_a_repeated_release_is_harmless = idempotent::a_repeated_release_is_harmless,
                "A release repeated is harmless, while the key is free and when somebody else holds it by then.";
            law_5_a_copied_release_is_harmless = idempotent::a_copied_release_is_harmless,
                "Copies of a release free the key once, and a late copy frees nobody else's.";
            law_5_a_claim_repeated_after_its_release_is_a_new_grant = idempotent::a_claim_repeated_after_its_release_is_a_new_grant,
                "A claim repeated after its release is a new grant.";
            law_6_a_lease_ends_when_it_says = expiry::a_lease_ends_when_it_says,
                "A lease bars others until it ends, and no longer than the store's granularity after.";
            law_6_an_odd_time_is_not_cut = expiry::an_odd_time_is_not_cut,
                "A time that is no whole number of the store's units is not cut to one.";
            law_6_an_extended_lease_ends_when_it_says = expiry::an_extended_lease_ends_when_it_says,
                "An extended lease bars others until its new end, and no longer than the granularity after.";
            law_6_an_expired_key_is_free_for_anyone = expiry::an_expired_key_is_free_for_anyone,
                "A key whose lease ended is free for anyone, without anybody's help.";
            law_6_an_expired_lease_cannot_be_released = expiry::an_expired_lease_cannot_be_released,
                "A lease that ended is not there to be released.";
            law_6_a_grant_is_for_what_was_asked = expiry::a_grant_is_for_what_was_asked,
                "A fresh grant is for the time that was asked for, from the shortest to the longest that the store declares.";
            law_6_an_impossible_time_is_refused_or_kept = expiry::an_impossible_time_is_refused_or_kept,
                "A time outside what the store declares is refused with a typed error, or kept: never no lease, never one for ever.";
            law_6_a_killed_process_bars_others_until_its_lease_ends = process::a_killed_process_bars_others_until_its_lease_ends,
                "The lease of a process that was killed ends by itself, and not before its time.";
            law_7_extend_replaces_the_remaining_time = extend::extend_replaces_the_remaining_time,
                "An extend sets the remaining time: it is not added to what was left, and a shorter time shortens.";
            law_7_extend_lengthens = extend::extend_lengthens,
                "An extended key is held beyond its first end.";
            law_7_extend_revives_no_expired_lease = extend::extend_revives_no_expired_lease,
                "A lease that ended is lost, though nobody else came, and stays so.";
            law_7_extend_revives_no_released_lease = extend::extend_revives_no_released_lease,
                "A released lease is lost, and the key stays free.";
            law_7_an_extend_that_waited_revives_nothing = extend::an_extend_that_waited_revives_nothing,
                "An extend that waited inside the store past the end of its lease revives nothing.";
            law_7_a_late_older_extend_does_not_shorten = extend::a_late_older_extend_does_not_shorten,
                "An older extend that arrives after a newer one does not shorten the lease, and tells its true remaining time.";
            law_7_a_late_older_extend_does_not_lengthen = extend::a_late_older_extend_does_not_lengthen,
                "An older extend that arrives after a newer one does not lengthen the lease.";
            law_7_a_repeated_claim_does_not_forget_the_order = extend::a_repeated_claim_does_not_forget_the_order,
                "The order of a lease's calls is kept through a repeated claim, on every handle.";
            law_7_the_order_of_calls_ends_with_its_owner = extend::the_order_of_calls_ends_with_its_owner,
                "The next owner's calls are numbered from one again.";
            law_7_a_batch_keeps_the_order_of_calls = extend::a_batch_keeps_the_order_of_calls,
                "In a batch, too, a call that is not the newest of its lease changes nothing.";
            law_7_extend_stores_the_holder = extend::extend_stores_the_holder,
                "An extend stores the holder's description; an older one does not.";
            law_8_tokens_rise_after_a_release = fencing::tokens_rise_after_a_release,
                "The fencing token rises from grant to grant, whichever handle is used.";
            law_8_tokens_rise_after_an_expiry = fencing::tokens_rise_after_an_expiry,
                "The fencing token rises after a lease that nobody released.";
            law_8_tokens_rise_over_reconnects = fencing::tokens_rise_over_reconnects,
                "The fencing token rises when handles are closed and opened again in between.";
            law_8_tokens_rise_among_many_claimants = fencing::tokens_rise_among_many_claimants,
                "Under contention, too, who is granted the key later has the greater token.";
            law_8_a_token_is_one_grants_alone = fencing::a_token_is_one_grants_alone,
                "Neither a refused claim, nor a repeat, nor an extend changes the token that the holder has.";
            law_8_tokens_rise_from_process_to_process = process::tokens_rise_from_process_to_process,
                "The fencing token rises from process to process.";
            law_9_every_call_ends_by_its_deadline = bounded::every_call_ends_by_its_deadline,
                "Each call returns by the end that it is given, however little time is left, none included.";
            law_9_every_call_ends_by_the_stores_own_limit = bounded::every_call_ends_by_the_stores_own_limit,
                "A call with a minute left takes no longer than the store's own limit for a call.";
            law_9_a_crowd_of_calls_ends_in_time = bounded::a_crowd_of_calls_ends_in_time,
                "Calls that come together end in time as well.";
            law_9_a_busy_writer_does_not_hold_calls_up = bounded::a_busy_writer_does_not_hold_calls_up,
                "While the store's writer is busy each call still ends by its deadline.";
            law_10_an_abandoned_grant_is_gone = clean::an_abandoned_grant_is_gone,
                "A claim that was granted and is abandoned holds nothing.";
            law_10_abandoning_an_unsent_claim_takes_nothing = clean::abandoning_an_unsent_claim_takes_nothing,
                "A claim that never reached the store is abandoned without a trace.";
            law_10_who_gives_up_waiting_gets_nothing = clean::who_gives_up_waiting_gets_nothing,
                "A claimant who waited, was refused and gave up is not handed the key later.";
            law_10_a_late_claim_leaves_nothing = clean::a_late_claim_leaves_nothing,
                "A claim that reaches the store after its end takes nothing, or at most for its time to live where the store cannot refuse it.";
            law_10_a_late_extend_changes_nothing = clean::a_late_extend_changes_nothing,
                "An extend that reaches the store after its end changes nothing, where the store declares that it refuses late calls.";
            law_10_a_released_key_has_no_holder = clean::a_released_key_has_no_holder,
                "A released key is not shown as held by anybody, where the store can be looked into.";
            law_10_nothing_stays_open = process::nothing_stays_open,
                "A process that opens, uses and closes the store again and again has no more threads and open files than before.";
            model_any_calls_are_answered_as_by_the_model = model::any_calls_are_answered_as_by_the_model,
                "Whatever calls a few claimants make on a few keys, in whatever order, they are answered as by the store in memory.";
            declared_characteristics_make_sense = declared::characteristics_make_sense,
                "What the store declares can be true at all, is the same on every handle, and leaves room for core's names.";
            declared_a_release_wakes_who_watches = declared::a_release_wakes_who_watches,
                "A waiter is woken by the release, if the store declares that it wakes; else it says at once that it does not.";
            declared_a_dropped_watch_wakes_nobody = declared::a_dropped_watch_wakes_nobody,
                "Who does not watch any more is not woken.";
            declared_confirm_tells_the_truth = declared::confirm_tells_the_truth,
                "`confirm` tells how long a lease lives at the least, and that one which is gone is lost.";
            declared_a_foreign_key_is_left_alone = declared::a_foreign_key_is_left_alone,
                "What no lock client wrote is an error of kind `ForeignKey`, and stays.";
            declared_a_broken_lease_is_lost = declared::a_broken_lease_is_lost,
                "Where operators can look in, they see the holder, and can break exactly the lease that they saw.";
            lock_a_hundred_threads_take_turns = exclusion::a_hundred_threads_take_turns,
                "A hundred threads take a lock in turn, and no update of what it guards is lost.";
            lock_processes_take_turns = exclusion::processes_take_turns,
                "Processes take a lock in turn, and never two hold it at once.";
            lock_odd_names_are_different_locks = names::odd_names_are_different_locks,
                "Ids with any characters, of any length, are locks of their own.";
            lock_joined_names_are_one_lock = names::joined_names_are_one_lock,
                "A prefix and an id that join to the same text are the same lock, and an empty id is none.";
            lock_a_refusal_names_the_holder = names::a_refusal_names_the_holder,
                "A refusal says who holds the lock: host, process, label, since when, with which fencing token, for how long at the most.";
            lock_a_release_ends_the_wait = waiting::a_release_ends_the_wait,
                "Who waits gets the lock when it is released.";
            lock_the_end_of_a_lease_ends_the_wait = waiting::the_end_of_a_lease_ends_the_wait,
                "Who waits gets the lock when the holder's lease ends, not before, and not a long pause after.";
            lock_a_wait_ends_by_its_deadline = waiting::a_wait_ends_by_its_deadline,
                "A wait ends by its deadline, not before and not long after; no wait is a single try.";
            lock_a_cancelled_wait_ends_and_leaves_nothing = waiting::a_cancelled_wait_ends_and_leaves_nothing,
                "A cancelled wait ends at once and leaves nothing behind.";
            queue_waiters_are_served_in_turn = queue::waiters_are_served_in_turn,
                "Waiters are served one after the other in the order of their coming, however many they are.";
            queue_processes_are_served_in_turn = queue::processes_are_served_in_turn,
                "Waiters of several processes are served in the order of their coming.";
            queue_a_newcomer_does_not_overtake = queue::a_newcomer_does_not_overtake,
                "Who comes later and only tries does not get the key before one who waits, be it released or its lease over.";
            queue_a_shortened_lease_lets_the_next_in = queue::a_shortened_lease_lets_the_next_in,
                "A lease that is made shorter lets the next one in when it ends, not when it would have ended.";
            queue_who_gives_up_is_passed_over = leaving::who_gives_up_is_passed_over,
                "Who gives up before its turn, or with the lock in its hand, does not keep it from the next one.";
            queue_a_wait_that_ends_at_the_release_holds_nobody_up = leaving::a_wait_that_ends_at_the_release_holds_nobody_up,
                "A wait that ends, by its time or by a cancel, at about the moment of the release leaves the lock to the next one.";
            queue_a_dead_waiter_costs_the_others_a_moment = leaving::a_dead_waiter_costs_the_others_a_moment,
                "Waiters of a process that is killed, or stopped, cost the next one a moment, not their wait.";
            queue_the_dead_keep_no_key = leaving::the_dead_keep_no_key,
                "A key that is free behind dead waiters goes to the first that lives, soon; if nobody lives there, to whoever claims it.";
            lock_a_held_lock_is_renewed = loss::a_held_lock_is_renewed,
                "A lock is renewed for as long as its guard lives.";
            lock_a_lost_lock_is_told_once = loss::a_lost_lock_is_told_once,
                "A guard whose lease ended is lost for ever, tells everyone who asked once, and its release is harmless.";
            lock_a_killed_holder_is_taken_over = loss::a_killed_holder_is_taken_over,
                "The lock of a process that was killed is taken over when its lease ends.";
            lock_a_stopped_holder_finds_its_lock_lost = loss::a_stopped_holder_finds_its_lock_lost,
                "A process that was stopped past its lease finds the lock lost, and its release does not touch the next holder's.";
            lock_min_hold_keeps_the_key = hold::min_hold_keeps_the_key,
                "An early release keeps the key until `min_hold` has passed since the grant, and not long after.";
            lock_a_late_renewal_does_not_undo_min_hold = hold::a_late_renewal_does_not_undo_min_hold,
                "A renewal that arrives after `min_hold` set a longer time changes nothing.";
            lock_max_hold_ends_the_lease = hold::max_hold_ends_the_lease,
                "The lease ends when `max_hold` has passed since the grant, whatever renewal could do.";
            once_a_job_runs_once = once::a_job_runs_once,
                "A job that was done is not run again while its mark is kept, and is after.";
            once_a_failed_job_runs_again = once::a_failed_job_runs_again,
                "A job that failed or panicked runs again at once.";
            once_an_impossible_keep_is_refused_before_the_job = once::an_impossible_keep_is_refused_before_the_job,
                "A time that the store cannot keep is refused before the job starts.";
            once_a_lost_lease_still_marks_the_job = once::a_lost_lease_still_marks_the_job,
                "A job whose lease was lost while it ran is marked as done all the same.";
            once_a_late_renewal_does_not_undo_the_mark = once::a_late_renewal_does_not_undo_the_mark,
                "A renewal that arrives after the job was marked as done changes nothing.";
            once_another_process_sees_what_runs_and_what_is_done = once::another_process_sees_what_runs_and_what_is_done,
                "Another process is refused while the job runs, and does not run it after.";
            once_a_crashed_job_runs_again = once::a_crashed_job_runs_again,
                "A job whose process crashed before the mark was set runs again when its lease is over.";
            fork_a_child_has_no_lock = fork::a_child_has_no_lock,
                "In a forked child an inherited guard is lost, its drop frees nothing, and a new owner token is not the parent's.";
            stores_a_stopped_store_does_not_disturb_another = stores::a_stopped_store_does_not_disturb_another,
                "While one store does not answer, no lease on another is lost, whatever the callbacks of lost locks do.";
        }
    };
}

/// One `#[test]` for each case.
#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ({} $($name:ident = $module:ident::$case:ident, $sentence:literal;)+) => {$(
        #[doc = $sentence]
        #[test]
        fn $name() -> $crate::Verdict {
            $crate::laws::$module::$case(&__subject())
        }
    )+};
}

/// The table.
#[doc(hidden)]
#[macro_export]
macro_rules! __table {
    ({} $($name:ident = $module:ident::$case:ident, $sentence:literal;)+) => {
        &[$(Promise {
            name: stringify!($name),
            sentence: $sentence,
            check: laws::$module::$case,
        }),+]
    };
}

/// All cases of the suite, for a harness of one's own or a page of documentation.
pub const LAWS: &[Promise] = __for_each_law!(__table! {});

/// Makes a module with one `#[test]` for each case of the suite, run on a fresh [`Subject`] each.
///
/// The first argument names the module, the second is a function or closure that gives the [`Subject`] or, for a store that lives in its
/// value, just the store. With `reopen = …` it is said how another process opens the store at the subject's
/// [place](Subject::at); a store that declares a [`Reach`](dlock_core::Reach) beyond the process must say it. The module's
/// `other_process` is what those processes run: the test binary calls itself. It is ignored otherwise.
///
/// See the [crate's page](crate) for an example.
#[macro_export]
macro_rules! conformance {
    ($name:ident, $build:expr $(,)?) => {
        $crate::__suite! { $name, $build, ::core::option::Option::None }
    };
    ($name:ident, $build:expr, reopen = $reopen:expr $(,)?) => {
        $crate::__suite! { $name, $build, ::core::option::Option::Some($crate::__Reopen::__new($reopen)) }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __suite {
    ($name:ident, $build:expr, $reopen:expr) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            // A closure is the form that every store can use.
            #[allow(clippy::redundant_closure)]
            fn __subject() -> $crate::Subject {
                $crate::Subject::__built($build, module_path!(), $reopen)
            }

            $crate::__for_each_law! { __tests! {} }

            /// What the cases with a second process start. It does nothing when it is run by itself.
            #[test]
            #[ignore = "the suite starts it in processes of its own"]
            fn other_process() {
                $crate::other_process(__subject);
            }
        }
    };
}
