//! The list of cases, from which `#[test]` functions and a table are generated.

use crate::{Subject, Verdict, laws};

/// One case of the suite.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Promise {
    /// The name of its `#[test]` function.
    pub name: &'static str,
    /// The promise, as a sentence.
    pub sentence: &'static str,
    /// Runs the case. Panics if the promise is broken.
    pub check: fn(&Subject) -> Verdict,
}

/// Passes the list of cases to the macro `$callback`, after the given arguments.
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
                "Many claimants take turns with a key, and never two of them hold it at once.";
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
            law_3_a_refusal_says_the_remaining_time = held::a_refusal_says_the_remaining_time,
                "A refusal does not overstate how long the holder's lease lasts, if it says anything about it.";
            law_4_a_key_is_taken_and_freed = own::a_key_is_taken_and_freed,
                "An owner claims a key, others are refused, the owner extends and releases, and the key is free.";
            law_4_a_strangers_release_frees_nothing = own::a_strangers_release_frees_nothing,
                "A release by another owner frees nothing, however often it is tried.";
            law_4_a_strangers_extend_changes_nothing = own::a_strangers_extend_changes_nothing,
                "An extend by another owner is answered `Lost` and changes neither the holder nor the end of its lease.";
            law_4_a_strangers_extend_shortens_nothing = own::a_strangers_extend_shortens_nothing,
                "An extend for a shorter time by another owner does not free the key early.";
            law_4_an_expired_owner_touches_nobody_elses_lease = own::an_expired_owner_touches_nobody_elses_lease,
                "An owner whose lease has ended can neither extend nor release the lease of the next holder.";
            law_4_a_batch_extends_only_what_is_held = own::a_batch_extends_only_what_is_held,
                "In a batch each lease is judged by its own owner, and the answers are in the order of the leases.";
            law_4_a_release_at_the_end_frees_nobody_elses_key = crossing::a_release_at_the_end_frees_nobody_elses_key,
                "A release that is carried out after its lease has ended does not free the key of the next holder.";
            law_4_owners_differ_by_any_bit = own::owners_differ_by_any_bit,
                "Owners whose tokens differ in one bit are different owners.";
            law_4_abandoning_a_refused_claim_frees_nothing = own::abandoning_a_refused_claim_frees_nothing,
                "Abandoning a refused claim does not free the key of its holder.";
            law_5_a_repeated_claim_is_the_same_grant = idempotent::a_repeated_claim_is_the_same_grant,
                "The same claim repeated is granted again with the same fencing token, on any handle.";
            law_5_concurrent_repeats_are_one_grant = idempotent::concurrent_repeats_are_one_grant,
                "Repeats of one claim that arrive together are all granted, with one fencing token.";
            law_5_a_repeated_claim_holds_for_as_long_as_granted = idempotent::a_repeated_claim_holds_for_as_long_as_granted,
                "A claim repeated late in its lease holds for as long as the repeated grant says.";
            law_5_a_repeated_claim_takes_nothing_away = idempotent::a_repeated_claim_takes_nothing_away,
                "A claim repeated for less time does not shorten its lease.";
            law_5_a_repeated_claim_leaves_the_holder = idempotent::a_repeated_claim_leaves_the_holder,
                "A late copy of a claim does not replace the holder's description that an extend has stored since.";
            law_5_an_older_grant_still_works = idempotent::an_older_grant_still_works,
                "A lease made of an older grant of the same claim extends and releases like the latest.";
            law_5_a_repeated_release_is_harmless = idempotent::a_repeated_release_is_harmless,
                "A release repeated is harmless, while the key is free and when somebody else holds it by then.";
            law_5_a_copied_release_is_harmless = idempotent::a_copied_release_is_harmless,
                "Copies of a release free the key once, and a late copy frees nobody else's.";
            law_5_a_claim_repeated_after_its_release_is_a_new_grant = idempotent::a_claim_repeated_after_its_release_is_a_new_grant,
                "A claim repeated after its release is a new grant.";
            law_6_a_lease_ends_when_granted = expiry::a_lease_ends_when_granted,
                "A lease keeps others out until it ends, and no longer than the store's granularity after that.";
            law_6_an_uneven_time_is_not_rounded_down = expiry::an_uneven_time_is_not_rounded_down,
                "A time to live that is not a multiple of the store's unit is not rounded down.";
            law_6_an_extended_lease_ends_when_granted = expiry::an_extended_lease_ends_when_granted,
                "An extended lease keeps others out until its new end, and no longer than the granularity after that.";
            law_6_an_expired_key_is_free_for_anyone = expiry::an_expired_key_is_free_for_anyone,
                "A key whose lease has ended is free for anyone, by itself.";
            law_6_an_expired_lease_cannot_be_released = expiry::an_expired_lease_cannot_be_released,
                "A lease that has ended cannot be released.";
            law_6_a_grant_is_for_what_was_asked = expiry::a_grant_is_for_what_was_asked,
                "A fresh grant is for the time that was asked for, from the shortest to the longest that the store declares.";
            law_6_an_impossible_time_is_refused_or_kept = expiry::an_impossible_time_is_refused_or_kept,
                "A time outside the declared range is refused with a typed error, or kept: it never gives no lease or an endless one.";
            law_6_an_impossible_extend_is_refused_or_kept = expiry::an_impossible_extend_is_refused_or_kept,
                "An extend to a time outside the declared range is refused with a typed error, or kept.";
            law_6_the_longest_time_is_kept = expiry::the_longest_time_is_kept,
                "A lease of the longest time that the store declares is kept for that time.";
            law_6_a_killed_process_keeps_the_key_until_its_lease_ends = process::a_killed_process_keeps_the_key_until_its_lease_ends,
                "The lease of a killed process ends by itself, but not before its time.";
            law_7_extend_replaces_the_remaining_time = extend::extend_replaces_the_remaining_time,
                "An extend sets the remaining time: it is not added to what was left, and a shorter time shortens.";
            law_7_extend_lengthens = extend::extend_lengthens,
                "An extended lease lasts beyond its first end.";
            law_7_extend_revives_no_expired_lease = extend::extend_revives_no_expired_lease,
                "A lease that has ended is lost and stays lost, even if nobody else has claimed the key.";
            law_7_extend_revives_no_released_lease = extend::extend_revives_no_released_lease,
                "A released lease is lost, and the key stays free.";
            law_7_an_extend_that_waited_revives_nothing = extend::an_extend_that_waited_revives_nothing,
                "An extend that waited inside the store past the end of its lease revives nothing.";
            law_7_an_extend_at_the_end_takes_nobody_elses_key = crossing::an_extend_at_the_end_takes_nobody_elses_key,
                "An extend that is carried out after its lease has ended does not take the key from the next holder.";
            law_7_an_extend_just_after_the_end_is_lost = crossing::an_extend_just_after_the_end_is_lost,
                "An extend sent just after its lease has ended is `Lost`, even if nobody else has taken the key.";
            law_7_the_order_is_kept_beyond_small_numbers = order::the_order_is_kept_beyond_small_numbers,
                "The ten-thousandth extend of a lease counts as the first does.";
            law_7_a_hand_over_starts_a_new_order = order::a_hand_over_starts_a_new_order,
                "A waiter that is handed the key starts its own order of calls.";
            law_7_a_long_batch_extends_each_of_its_leases = batch::a_long_batch_extends_each_of_its_leases,
                "In a long batch every lease is extended, the last like the first, or its answer is an error.";
            law_7_a_late_older_extend_does_not_shorten = extend::a_late_older_extend_does_not_shorten,
                "An older extend that arrives after a newer one does not shorten the lease, and is answered with the true remaining time.";
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
                "Under contention, too, a later grant has the greater token.";
            law_8_a_token_is_one_grants_alone = fencing::a_token_is_one_grants_alone,
                "A refused claim, a repeat or an extend does not change the holder's token.";
            law_8_tokens_rise_from_process_to_process = process::tokens_rise_from_process_to_process,
                "The fencing token rises from process to process.";
            law_9_every_call_ends_by_its_deadline = bounded::every_call_ends_by_its_deadline,
                "Each call returns by its `not_after`, however little time is left, even none.";
            law_9_every_call_ends_by_the_stores_own_limit = bounded::every_call_ends_by_the_stores_own_limit,
                "A call with a minute left takes no longer than the store's own limit for a call.";
            law_9_many_calls_at_once_end_in_time = bounded::many_calls_at_once_end_in_time,
                "Many calls at once also end in time.";
            law_9_a_busy_writer_does_not_delay_calls_beyond_their_deadline = bounded::a_busy_writer_does_not_delay_calls_beyond_their_deadline,
                "While the store's writer is busy each call still ends by its deadline.";
            law_9_a_claim_just_after_its_end_is_not_granted = late::a_claim_just_after_its_end_is_not_granted,
                "A claim whose end has just passed is not granted, where the store declares that it refuses late calls.";
            law_10_an_abandoned_grant_is_gone = clean::an_abandoned_grant_is_gone,
                "A claim that was granted and is abandoned holds nothing.";
            law_10_abandoning_an_unsent_claim_takes_nothing = clean::abandoning_an_unsent_claim_takes_nothing,
                "A claim that never reached the store is abandoned without a trace.";
            law_10_a_claimant_that_gives_up_gets_nothing = clean::a_claimant_that_gives_up_gets_nothing,
                "A claimant that waited, was refused and gave up is not handed the key later.";
            law_10_a_late_claim_leaves_nothing = clean::a_late_claim_leaves_nothing,
                "A claim that reaches the store after its end takes nothing, or at most for its time to live where the store cannot refuse it.";
            law_10_a_late_extend_changes_nothing = clean::a_late_extend_changes_nothing,
                "An extend that reaches the store after its end changes nothing, where the store declares that it refuses late calls.";
            law_10_a_late_release_frees_nothing = late::a_late_release_frees_nothing,
                "A release that reaches the store after its end frees nothing, where the store declares that it refuses late calls.";
            law_10_a_late_batch_changes_nothing = late::a_late_batch_changes_nothing,
                "A batch that reaches the store after the end of its calls changes nothing, where the store declares that it refuses late calls.";
            law_10_a_claim_reported_as_not_done_was_not_done = late::a_claim_reported_as_not_done_was_not_done,
                "A claim that failed with `nothing was done` has not taken the key and does not take it later, however little time it had.";
            law_10_a_released_key_has_no_holder = clean::a_released_key_has_no_holder,
                "A released key is shown as free, where the store can be inspected.";
            law_10_nothing_stays_open = process::nothing_stays_open,
                "A process that opens, uses and closes the store again and again has no more threads and open files than before.";
            model_any_calls_are_answered_as_by_the_model = model::any_calls_are_answered_as_by_the_model,
                "Random calls by a few claimants on a few keys, in any order, are answered as by the store in memory.";
            declared_characteristics_make_sense = declared::characteristics_make_sense,
                "The declared characteristics are consistent, the same on every handle, and leave room for core's keys.";
            declared_a_release_wakes_the_watcher = declared::a_release_wakes_the_watcher,
                "A release wakes a waiter, if the store declares wake-ups; otherwise a watch says at once that there are none.";
            declared_a_dropped_watch_wakes_nobody = declared::a_dropped_watch_wakes_nobody,
                "A waiter that has dropped its watch is not woken.";
            declared_confirm_tells_the_truth = declared::confirm_tells_the_truth,
                "`confirm` does not overstate the remaining time of a lease, and reports a lost lease as lost.";
            declared_a_foreign_key_is_left_alone = declared::a_foreign_key_is_left_alone,
                "A value that no lock client wrote gives an error of kind `ForeignKey`, and is not overwritten.";
            declared_a_broken_lease_is_lost = declared::a_broken_lease_is_lost,
                "Where operators can inspect the store, they see the holder and can break exactly that holder's lease.";
            declared_a_broken_lease_wakes_the_next = declared::a_broken_lease_wakes_the_next,
                "Where operators can break a lease, the next waiter is woken and gets the key.";
            declared_waiters_are_counted = inspected::waiters_are_counted,
                "Where operators can count the waiters of a key, those that were refused are counted until they leave.";
            declared_held_keys_are_listed = inspected::held_keys_are_listed,
                "Where operators can list the keys that are held, the list has those with the prefix, each with its holder, and no others.";
            declared_findings_help_the_operator = found::findings_help_the_operator,
                "Where a store checks itself, each finding says what, why and what to do, and shows no secret; a store that is set up well has no danger.";
            declared_a_check_changes_nothing = found::a_check_changes_nothing,
                "Where a store checks itself, that changes nothing: a held lock, its waiters and a free lock stay as they were.";
            lock_a_hundred_threads_take_turns = exclusion::a_hundred_threads_take_turns,
                "A hundred threads take turns with a lock, and no update of the guarded data is lost.";
            lock_processes_take_turns = exclusion::processes_take_turns,
                "Processes take turns with a lock, and never two of them hold it at once.";
            lock_unusual_names_are_different_locks = names::unusual_names_are_different_locks,
                "Ids with any characters, of any length, are locks of their own.";
            lock_joined_names_are_one_lock = names::joined_names_are_one_lock,
                "A prefix and an id that join to the same text are the same lock, and an empty id is none.";
            lock_a_refusal_names_the_holder = names::a_refusal_names_the_holder,
                "A refusal names the holder of the lock: host, process, label, since when, its fencing token, and the longest remaining time.";
            lock_a_release_ends_the_wait = waiting::a_release_ends_the_wait,
                "A waiter gets the lock when it is released.";
            lock_the_end_of_a_lease_ends_the_wait = waiting::the_end_of_a_lease_ends_the_wait,
                "A waiter gets the lock when the holder's lease ends, not before and not long after.";
            lock_a_wait_ends_by_its_deadline = waiting::a_wait_ends_by_its_deadline,
                "A wait ends at its deadline, not before and not long after; a wait of zero is a single try.";
            lock_a_cancelled_wait_ends_and_leaves_nothing = waiting::a_cancelled_wait_ends_and_leaves_nothing,
                "A cancelled wait ends at once and leaves nothing behind.";
            queue_waiters_are_served_in_turn = queue::waiters_are_served_in_turn,
                "Waiters are served one after the other in the order of their arrival, however many they are.";
            queue_processes_are_served_in_turn = queue::processes_are_served_in_turn,
                "Waiters of several processes are served in the order of their arrival.";
            queue_a_newcomer_does_not_overtake = queue::a_newcomer_does_not_overtake,
                "A newcomer that only tries does not get the key before a waiter, whether the key was released or its lease has ended.";
            queue_a_shortened_lease_lets_the_next_in = queue::a_shortened_lease_lets_the_next_in,
                "When a lease is shortened, the next waiter gets the key at the new end, not at the old one.";
            queue_a_waiter_that_gives_up_is_passed_over = leaving::a_waiter_that_gives_up_is_passed_over,
                "A waiter that gives up, before its turn or after it was handed the lock, does not keep it from the next waiter.";
            queue_a_wait_that_ends_at_the_release_delays_nobody = leaving::a_wait_that_ends_at_the_release_delays_nobody,
                "A wait that ends at about the moment of the release, by its deadline or a cancel, leaves the lock to the next waiter.";
            queue_a_dead_waiter_costs_the_others_a_moment = leaving::a_dead_waiter_costs_the_others_a_moment,
                "Waiters of a killed or stopped process delay the next waiter for a moment, not for their whole wait.";
            queue_dead_waiters_keep_no_key = leaving::dead_waiters_keep_no_key,
                "A free key behind dead waiters soon goes to the first waiter that is alive, or to the next claimant if none is.";
            lock_a_held_lock_is_renewed = loss::a_held_lock_is_renewed,
                "A lock is renewed for as long as its guard lives.";
            lock_a_lost_lock_is_reported_once = loss::a_lost_lock_is_reported_once,
                "A guard whose lease has ended stays lost, calls each callback once, and its release is harmless.";
            lock_a_killed_holder_is_taken_over = loss::a_killed_holder_is_taken_over,
                "The lock of a killed process is taken over when its lease ends.";
            lock_a_stopped_holder_finds_its_lock_lost = loss::a_stopped_holder_finds_its_lock_lost,
                "A process that was stopped past the end of its lease finds the lock lost, and its release does not affect the next holder.";
            lock_min_hold_keeps_the_key = hold::min_hold_keeps_the_key,
                "An early release keeps the key until `min_hold` has passed since the grant, and not long after.";
            lock_a_late_renewal_does_not_undo_min_hold = hold::a_late_renewal_does_not_undo_min_hold,
                "A renewal that arrives after `min_hold` set a longer time changes nothing.";
            lock_max_hold_ends_the_lease = hold::max_hold_ends_the_lease,
                "The lease ends when `max_hold` has passed since the grant, even if it could still be renewed.";
            once_a_job_runs_once = once::a_job_runs_once,
                "A job that was done does not run again while its mark is kept, and runs again afterwards.";
            once_a_failed_job_runs_again = once::a_failed_job_runs_again,
                "A job that failed or panicked runs again at once.";
            once_an_impossible_keep_is_refused_before_the_job = once::an_impossible_keep_is_refused_before_the_job,
                "A time that the store cannot keep is refused before the job starts.";
            once_a_lost_lease_still_marks_the_job = once::a_lost_lease_still_marks_the_job,
                "A job whose lease was lost while it ran is still marked as done.";
            once_a_late_renewal_does_not_undo_the_mark = once::a_late_renewal_does_not_undo_the_mark,
                "A renewal that arrives after the job was marked as done changes nothing.";
            once_another_process_sees_what_runs_and_what_is_done = once::another_process_sees_what_runs_and_what_is_done,
                "Another process is refused while the job runs, and does not run it afterwards.";
            once_a_crashed_job_runs_again = once::a_crashed_job_runs_again,
                "A job whose process crashed before the mark was set runs again when its lease has ended.";
            fork_a_child_has_no_lock = fork::a_child_has_no_lock,
                "In a forked child an inherited guard is lost, its drop frees nothing, and a new owner token is not the parent's.";
            stores_a_stopped_store_does_not_disturb_another = stores::a_stopped_store_does_not_disturb_another,
                "While one store does not answer, no lease on another store is lost, whatever the callbacks of lost locks do.";
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
            let verdict = $crate::laws::$module::$case(&__subject());
            $crate::__counted(module_path!(), stringify!($name), verdict)
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

/// All cases of the suite, for another test harness or for documentation.
pub const LAWS: &[Promise] = __for_each_law!(__table! {});

/// Generates a module with one `#[test]` for each case of the suite. Each runs on a fresh
/// [`Subject`].
///
/// The first argument names the module. The second is a function or closure that returns the
/// [`Subject`] or, for a store that lives in its value, just the store. `reopen = …` says how
/// another process opens the store at the subject's [place](Subject::at). It is required for a
/// store that declares a [`Reach`](dlock_core::Reach) beyond the process. For such processes the
/// test binary starts itself with the module's `other_process`, which is otherwise ignored. There
/// `reopen` is called in place of the second argument, if the subject has a place.
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
        $crate::__module! {
            $name,
            $crate::Subject::__built($build, module_path!(), $reopen),
            __for_each_law
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __module {
    ($name:ident, $subject:expr, $($list:ident),+) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            // A closure works for every store.
            #[allow(clippy::redundant_closure)]
            fn __subject() -> $crate::Subject {
                $subject
            }

            $($crate::$list! { __tests! {} })+

            /// Cases with a second process start this. It does nothing if it is run by itself.
            #[test]
            #[ignore = "the suite starts it in processes of its own"]
            fn other_process() {
                $crate::other_process(__subject);
            }
        }
    };
}
