//! The flaws, the cases that catch them, and the messages.

use dlock_testkit::laws;

use super::flaw::Flaw;
use super::{Saboteur, assert_caught, opened, shared, subject};

saboteurs! {
    check_then_set = ChecksThenSets, atomic::one_of_many_claims_wins,
        "law 1 (atomic)", "concurrent claims on a free key were granted";
    check_then_set_between_turns = ChecksThenSets, atomic::holders_never_overlap,
        "law 1 (atomic)", "holders at once";
    unlocked_takeover = TakesOverWithoutALock, atomic::one_takes_over_an_expired_lease,
        "law 1 (atomic)", "claimants took over one expired lease";
    memory_in_the_handle = RemembersInItsHandle in folder, atomic::one_of_many_handles_wins,
        "law 1 (atomic)", "concurrent claims on a free key were granted";
    memory_in_the_process = RemembersInItsProcess in folder, process::another_process_is_refused,
        "law 1 (atomic)", "but another process's claim was answered `granted";
    folded_case = FoldsCase, independent::similar_keys_are_different_locks,
        "law 2 (independent)", "were claimed, but a claim was refused";
    cut_keys = CutsKeysAt200Bytes, independent::long_keys_differ_by_any_byte,
        "law 2 (independent)", "were claimed, but a claim was refused";
    trimmed_keys = TrimsDots, independent::similar_keys_are_different_locks,
        "law 2 (independent)", "were claimed, but a claim was refused";
    hashed_keys = HashesKeysTo12Bits, independent::many_keys_are_many_locks,
        "law 2 (independent)", "were claimed, but a claim was refused";
    release_by_pattern = ReleasesByPrefix, independent::similar_keys_are_different_locks,
        "law 2 (independent)", "were released, but";
    decoded_keys = DecodesPercents, independent::similar_keys_are_different_locks,
        "law 2 (independent)", "were claimed, but a claim was refused";
    lengthening_refusal = RefusalLengthens, held::refused_claims_do_not_lengthen_the_lease,
        "law 3 (held)", "claims that asked for more were refused, then the lease ended, but a claim was refused";
    shortening_refusal = RefusalShortens, held::refused_claims_do_not_shorten_the_lease,
        "law 3 (held)", "claims that asked for less were refused, but somebody else was granted the key";
    renaming_refusal = RefusalRenames, held::refused_claims_leave_the_holder,
        "law 3 (held)", "the refusal shows the holder Some(\"a-stranger\")";
    queueing_refusal = RefusalQueues, held::a_refused_claim_holds_nothing_later,
        "law 3 (held)", "a refused claimant went away, but a claim was refused";
    hasty_refusal = RefusalPromisesTooSoon, held::a_refusal_says_the_remaining_time,
        "law 3 (held)", "the refusal says that the key is free in 1ms";
    nameless_refusal = KeepsNoHolder, held::refused_claims_leave_the_holder,
        "law 3 (held)", "a store keeps `Claim::holder` beside the key";
    blind_release = ReleaseComparesNothing, own::a_strangers_release_frees_nothing,
        "law 4 (own)", "a release by another owner freed the key";
    lying_release = ReleaseOfStrangersIsDoneAndDenied, own::a_strangers_release_frees_nothing,
        "law 4 (own)", "a release by another owner freed the key";
    blind_extend = ExtendComparesNothing, own::a_strangers_extend_changes_nothing,
        "law 4 (own)", "an extend by another owner was answered `Extended`";
    lying_extend = ExtendOfStrangersIsDoneAndDenied, own::a_strangers_extend_changes_nothing,
        "law 4 (own)", "then the holder's lease ended, but a claim was refused";
    shortening_stranger = ExtendOfStrangersShortens, own::a_strangers_extend_shortens_nothing,
        "law 4 (own)", "an extend by another owner came, but somebody else was granted the key";
    blind_batch = BatchComparesNothing, own::a_batch_extends_only_what_is_held,
        "law 4 (own)", "was answered as extended, though its owner does not hold the key";
    backward_batch = BatchAnswersBackwards, own::a_batch_extends_only_what_is_held,
        "law 4 (own)", "in a batch the lease at place";
    blind_abandon = AbandonFreesWhateverIsThere, own::abandoning_a_refused_claim_frees_nothing,
        "law 4 (own)", "another owner abandoned its claim, but somebody else was granted the key";
    idle_release = ReleaseDoesNothing, own::a_key_is_taken_and_freed,
        "law 4 (own)", "the key was free, but a claim was refused";
    blind_release_of_the_expired = ReleaseComparesNothing, own::an_expired_owner_touches_nobody_elses_lease,
        "law 4 (own)", "the lease had ended and somebody else holds the key, but a release was answered `Released`";
    refused_repeat = RefusesRepeats, idempotent::a_repeated_claim_is_the_same_grant,
        "law 5 (idempotent)", "was repeated, but a claim was refused";
    fresh_fence_for_a_repeat = RepeatsGetANewFence, idempotent::a_repeated_claim_is_the_same_grant,
        "law 5 (idempotent)", "a repeated claim got the fencing token";
    concurrent_repeats = RepeatsGetANewFence, idempotent::concurrent_repeats_are_one_grant,
        "law 5 (idempotent)", "concurrent repeats of one claim got the fencing tokens";
    unraised_repeat = RepeatsDoNotRaise, idempotent::a_repeated_claim_holds_for_as_long_as_granted,
        "law 5 (idempotent)", "a claim repeated at 0.8 of its lease was granted for";
    shortening_repeat = RepeatsShorten, idempotent::a_repeated_claim_takes_nothing_away,
        "law 5 (idempotent)", "was repeated for a shorter time, but somebody else was granted the key";
    renaming_repeat = RepeatsRename, idempotent::a_repeated_claim_leaves_the_holder,
        "law 5 (idempotent)", "a copy of its claim came late, and the refusal shows the holder Some(\"first\")";
    release_of_the_next = RepeatedReleaseFreesTheNext, idempotent::a_repeated_release_is_harmless,
        "law 5 (idempotent)", "a repeated release freed the key of somebody else";
    failing_repeat_of_release = RepeatedReleaseFails, idempotent::a_repeated_release_is_harmless,
        "law 5 (idempotent)", "release failed";
    late_copy_of_a_release = ReleaseComparesNothing, idempotent::a_copied_release_is_harmless,
        "law 5 (idempotent)", "a copy of a former holder's release arrived, but an extend was answered `Lost`";
    latest_grant_only = OnlyTheLatestGrantWorks, idempotent::an_older_grant_still_works,
        "law 5 (idempotent)", "a newer grant of the same claim was made, but an extend was answered `Lost`";
    old_fence_after_a_release = OneFenceForAll, idempotent::a_claim_repeated_after_its_release_is_a_new_grant,
        "law 5 (idempotent)", "a claim repeated after its release got the fencing token";
    early_end = EndsAFifthEarly, expiry::a_lease_ends_when_granted,
        "law 6 (expiry)", "was given away";
    early_end_without_a_look = EndsAFifthEarly, expiry::an_extended_lease_ends_when_granted,
        "law 6 (expiry)", "was given away";
    no_end = NeverEnds, expiry::an_expired_key_is_free_for_anyone,
        "law 6 (expiry)", "the lease had ended by itself, but a claim was refused";
    late_end = EndsASecondLate, expiry::a_lease_ends_when_granted,
        "law 6 (expiry)", "still barred others";
    forgotten_extend = ExtendKeepsTheOldEnd, expiry::an_extended_lease_ends_when_granted,
        "law 6 (expiry)", "was given away";
    cut_time = CutsTimesTo100Milliseconds, expiry::an_uneven_time_is_not_rounded_down,
        "law 6 (expiry)", "was given away";
    end_on_request = ExpiresOnlyWhenAsked, expiry::an_expired_key_is_free_for_anyone,
        "law 6 (expiry)", "the lease had ended by itself, but a claim was refused";
    end_for_its_owner = ExpiresForItsOwnerOnly, expiry::an_expired_key_is_free_for_anyone,
        "law 6 (expiry)", "the lease had ended by itself, but a claim was refused";
    zero_for_ever = TakesZeroForEver, expiry::an_impossible_time_is_refused_or_kept,
        "law 6 (expiry)", "a claim for 0ns was granted";
    month_for_nothing = TakesAMonthForNothing, expiry::a_grant_is_for_what_was_asked,
        "law 6 (expiry)", "a long lease had just begun, but somebody else was granted the key";
    release_of_the_expired = ReleasesExpired, expiry::an_expired_lease_cannot_be_released,
        "law 6 (expiry)", "the lease had ended by itself, but a release was answered `Released`";
    early_end_of_a_killed_process = EndsAFifthEarly in folder, process::a_killed_process_keeps_the_key_until_its_lease_ends,
        "law 6 (expiry)", "the lease of a killed process was given away";
    adding_extend = ExtendAdds, extend::extend_replaces_the_remaining_time,
        "law 7 (extend)", "and that had passed, but a claim was refused";
    adding_and_honest_extend = ExtendAddsAndSaysSo, extend::extend_replaces_the_remaining_time,
        "law 7 (extend)", "was extended to";
    unnumbered_extend = ExtendIgnoresItsNumber, extend::a_late_older_extend_does_not_shorten,
        "law 7 (extend)", "but the true remaining time was";
    unnumbered_lengthening = ExtendIgnoresItsNumber, extend::a_late_older_extend_does_not_lengthen,
        "law 7 (extend)", "but the true remaining time was";
    twice_numbered_extend = ExtendRepeatsItsNumber, extend::a_late_older_extend_does_not_shorten,
        "law 7 (extend)", "but the true remaining time was";
    revived_expired = ExtendRevivesExpired, extend::extend_revives_no_expired_lease,
        "law 7 (extend)", "the lease had ended by itself, but an extend was answered `Extended`";
    revived_released = ExtendRevivesReleased, extend::extend_revives_no_released_lease,
        "law 7 (extend)", "the lease had been released, but an extend was answered `Extended`";
    no_shortening = ExtendNeverShortens, extend::extend_replaces_the_remaining_time,
        "law 7 (extend)", "and that had passed, but a claim was refused";
    stale_clock = ReadsItsClockBeforeItsTurn, extend::an_extend_that_waited_revives_nothing,
        "law 7 (extend)", "an extend waited for the writer past the end of its lease and revived it";
    stale_clock_of_a_row = ReadsItsClockBeforeTheRowIsFree, extend::an_extend_that_waited_revives_nothing,
        "law 7 (extend)", "an extend waited for its record past the end of its lease and revived it";
    forgotten_number = RepeatsForgetTheNumber, extend::a_repeated_claim_does_not_forget_the_order,
        "law 7 (extend)", "and a repeat of the claim, but somebody else was granted the key";
    inherited_number = NumbersOutliveTheirOwner, extend::the_order_of_calls_ends_with_its_owner,
        "law 7 (extend)", "after a former one's millionth, but somebody else was granted the key";
    unnamed_extend = ExtendKeepsTheHolder, extend::extend_stores_the_holder,
        "law 7 (extend)", "an extend called the holder \"second\", and the refusal shows the holder Some(\"first\")";
    flattering_answer = LateExtendIsToldWhatItAsked, extend::a_late_older_extend_does_not_lengthen,
        "law 7 (extend)", "but the true remaining time was";
    unnumbered_batch = BatchIgnoresNumbers, extend::a_batch_keeps_the_order_of_calls,
        "law 7 (extend)", "but somebody else was granted the key";
    idle_extend = ExtendKeepsTheOldEnd, extend::extend_lengthens,
        "law 7 (extend)", "the lease was extended to half an hour, but somebody else was granted the key";
    equal_fences = OneFenceForAll, fencing::tokens_rise_after_a_release,
        "law 8 (fencing)", "and the next grant got the fencing token 1 after 1";
    fences_lost_at_the_end = FencesEndWithTheLease, fencing::tokens_rise_after_an_expiry,
        "law 8 (fencing)", "and the next grant got the fencing token";
    fences_lost_at_the_release = FencesEndWithTheRelease, fencing::tokens_rise_after_a_release,
        "law 8 (fencing)", "and the next grant got the fencing token 1 after 1";
    fences_of_a_handle = FencesOfItsHandle in folder, fencing::tokens_rise_over_reconnects,
        "law 8 (fencing)", "and closed its handle, and the next grant got the fencing token 1 after 1";
    fences_of_a_process = FencesOfItsHandle in folder, fencing::tokens_rise_among_many_claimants,
        "law 8 (fencing)", "the later was granted the fencing token";
    small_fences = FencesWrapAround, fencing::tokens_rise_after_a_release,
        "law 8 (fencing)", "and the next grant got the fencing token 0 after 15";
    early_fences = DrawsFencesBeforeItsTurn, fencing::tokens_rise_among_many_claimants,
        "law 8 (fencing)", "the later was granted the fencing token";
    undeclared_fences = HidesItsFences, fencing::tokens_rise_after_a_release,
        "law 8 (fencing)", "the store declares no fencing tokens, but a grant has";
    changed_fence = RepeatsGetANewFence, fencing::a_token_is_one_grants_alone,
        "law 8 (fencing)", "the repeated claim of the holder got the fencing token 2 after 1";
    fences_that_start_again = FencesOfItsHandle in folder, process::tokens_rise_from_process_to_process,
        "law 8 (fencing)", "processes took turns, and the fencing token 1 came after 1";
    slow_refusal = TakesItsTime, bounded::every_call_ends_by_its_deadline,
        "law 9 (bounded)", "with 200ms left took ";
    blocking_claim = WaitsForTheHolder, bounded::every_call_ends_by_its_deadline,
        "law 9 (bounded)", "by a claimant who would wait for a minute with 200ms left had not returned after";
    slow_extend = ExtendTakesItsTime, bounded::every_call_ends_by_the_stores_own_limit,
        "law 9 (bounded)", "an extend took ";
    wrong_kind = LateCallsAreInvalid, bounded::every_call_ends_by_its_deadline,
        "law 9 (bounded)", "failed with an error that is not transient";
    panic_when_late = LateCallsPanic, bounded::every_call_ends_by_its_deadline,
        "law 9 (bounded)", "panicked instead of returning an error";
    endless_wait_for_the_writer = WaitsForItsTurnForEver, bounded::a_busy_writer_does_not_delay_calls_beyond_their_deadline,
        "law 9 (bounded)", "while the store's writer was busy, with 300ms left had not returned after";
    ignored_limit = WaitsLongerThanItSays, bounded::a_busy_writer_does_not_delay_calls_beyond_their_deadline,
        "law 9 (bounded)", "though the store declares that a call takes at most 2s";
    endless_queue = KeepsACrowdWaiting, bounded::many_calls_at_once_end_in_time,
        "law 9 (bounded)", "of 32 claimants at once one waited";
    idle_abandon = AbandonDoesNothing, clean::an_abandoned_grant_is_gone,
        "law 10 (clean)", "a granted claim had been abandoned, but a claim was refused";
    claiming_abandon = AbandonClaims, clean::abandoning_an_unsent_claim_takes_nothing,
        "law 10 (clean)", "only claims that were never made were abandoned, but a claim was refused";
    granted_late = LateClaimsAreGranted, clean::a_late_claim_leaves_nothing,
        "law 10 (clean)", "after its end, though the store declares that it refuses late calls";
    done_late = LateClaimsAreDoneAndDenied, clean::a_late_claim_leaves_nothing,
        "law 10 (clean)", "after its end, but a claim was refused";
    extended_late = LateExtendsAreDone, clean::a_late_extend_changes_nothing,
        "law 10 (clean)", "an extend that came after its end was answered with";
    forgotten_waiter = QueuesWhoGaveUp, clean::a_claimant_that_gives_up_gets_nothing,
        "law 10 (clean)", "and all who waited had given up, but a claim was refused";
    leaked_threads = LeaksThreads in folder, process::nothing_stays_open,
        "law 10 (clean)", "threads became";
    leaked_files = LeaksFiles in folder, process::nothing_stays_open,
        "law 10 (clean)", "open files became";
    shown_after_its_release = ShowsReleasedKeys, clean::a_released_key_has_no_holder,
        "law 10 (clean)", "the key had been released, but was shown as held by this process";
    model_of_other_names = FoldsCase, model::any_calls_are_answered_as_by_the_model,
        "model", "calls breaks ";
    model_of_refusals = RefusalShortens, model::any_calls_are_answered_as_by_the_model,
        "model", "calls breaks ";
    model_of_strangers = ExtendOfStrangersIsDoneAndDenied, model::any_calls_are_answered_as_by_the_model,
        "model", "calls breaks ";
    model_of_repeats = RepeatsGetANewFence, model::any_calls_are_answered_as_by_the_model,
        "model", "calls breaks ";
    model_of_the_end = ExpiresOnlyWhenAsked, model::any_calls_are_answered_as_by_the_model,
        "model", "calls breaks ";
    model_of_the_order = ExtendIgnoresItsNumber, model::any_calls_are_answered_as_by_the_model,
        "model", "calls breaks ";
    model_of_batches = BatchIgnoresNumbers, model::any_calls_are_answered_as_by_the_model,
        "model", "calls breaks ";
    model_of_fences = FencesEndWithTheRelease, model::any_calls_are_answered_as_by_the_model,
        "model", "calls breaks ";
    model_of_looks = ShowsReleasedKeys, model::any_calls_are_answered_as_by_the_model,
        "model", "calls breaks ";
    no_wake_up = WakesNobody, declared::a_release_wakes_the_watcher,
        "declaration", "the store declares wake-ups, but a release did not wake who watched";
    undeclared_wake_up = WakesUndeclared, declared::a_release_wakes_the_watcher,
        "declaration", "the store declares no wake-ups, but a watch was answered with one";
    untrue_confirm = ConfirmsWhatIsGone, declared::confirm_tells_the_truth,
        "declaration", "a released lease was answered `Extended` by a confirm";
    wake_up_after_the_watch = WakesWhoLeft, declared::a_dropped_watch_wakes_nobody,
        "declaration", "a waiter was woken after it had dropped its watch";
    overwritten_foreign_key = OverwritesForeignKeys, declared::a_foreign_key_is_left_alone,
        "declaration", "a claim of a key that holds something foreign was answered with Granted";
    foreign_key_that_looks_held = HoldsForeignKeys, declared::a_foreign_key_is_left_alone,
        "declaration", "a claim of a key that holds something foreign was answered with Held";
    break_of_the_next = BreaksAnyLease, declared::a_broken_lease_is_lost,
        "declaration", "a lease was broken by a fencing token that its holder does not have";
    no_time_to_live = DeclaresNoTime, declared::characteristics_make_sense,
        "declaration", "times to live from 0ns";
    threads_without_turns = ChecksThenSets, exclusion::a_hundred_threads_take_turns,
        "lock (exclusion)", "holders at once";
    processes_without_turns = RemembersInItsProcess in folder, exclusion::processes_take_turns,
        "lock (exclusion)", "overlap in turn";
    names_without_case = FoldsCase, names::unusual_names_are_different_locks,
        "lock (names)", "were held, but the lock was not acquired: held by";
    unnamed_holder = KeepsNoHolder, names::a_refusal_names_the_holder,
        "lock (names)", "the refusal does not show who holds the lock";
    wait_cut_short = EndsAFifthEarly, waiting::the_end_of_a_lease_ends_the_wait,
        "lock (waiting)", "before the holder's lease ended";
    wait_that_goes_on = QueuesWhoGaveUp, waiting::a_cancelled_wait_ends_and_leaves_nothing,
        "lock (waiting)", "the only wait was cancelled, but a claim was refused";
    wait_for_an_old_fence = FencesEndWithTheRelease, waiting::a_release_ends_the_wait,
        "lock (waiting)", "the waiter got the fencing token";
    wait_that_goes_on_after_its_end = QueuesWhoGaveUp, waiting::a_wait_ends_by_its_deadline,
        "lock (waiting)", "all who waited had given up, but a claim was refused";
    waiters_out_of_turn = ServesTheLast, queue::waiters_are_served_in_turn,
        "lock (waiting)", "of 10 waiters were not served in the order of their coming";
    processes_out_of_turn = QueuesInItsProcess in folder, queue::processes_are_served_in_turn,
        "lock (waiting)", "of 12 waiters were not served in the order of their coming";
    overtaking_newcomer = LetsNewcomersOvertake, queue::a_newcomer_does_not_overtake,
        "lock (waiting)", "a newcomer that only tried was granted the key before one who waited for it";
    unheard_shortening = ForgetsThatALeaseWasShortened, queue::a_shortened_lease_lets_the_next_in,
        "lock (waiting)", "the holder's lease was shortened and ended, but the next one did not get its turn: held by";
    queue_of_who_gave_up = KeepsThePlaceOfWhoGaveUp, leaving::a_waiter_that_gives_up_is_passed_over,
        "lock (waiting)", "the first waiter had given up, then the key was released, and the next one was not woken";
    lock_of_who_gave_up = KeepsTheLockOfWhoGaveUp, leaving::a_waiter_that_gives_up_is_passed_over,
        "lock (waiting)", "the first waiter gave up when it was woken, and the next one was not woken";
    place_of_a_wait_that_ended = KeepsThePlaceOfWhoGaveUp, leaving::a_wait_that_ends_at_the_release_delays_nobody,
        "lock (waiting)", "a wait ended when the lock was released, and the next waiter did not get its turn: held by";
    endless_hand_over = HandsOverWithoutEnd in folder, leaving::a_dead_waiter_costs_the_others_a_moment,
        "lock (waiting)", "and a waiter did not get the lock: held by";
    hand_overs_to_the_dead = TrustsTheDead in folder, leaving::a_dead_waiter_costs_the_others_a_moment,
        "lock (waiting)", "the process before it was killed, and a waiter did not get the lock: held by";
    dead_before_the_living = TrustsTheDead in folder, leaving::dead_waiters_keep_no_key,
        "lock (waiting)", "the key was free behind dead waiters, and after ";
    living_among_the_dead = BuriesTheLivingWithTheDead in folder, leaving::dead_waiters_keep_no_key,
        "lock (waiting)", "the key was free behind dead waiters, and the next one, who lived, did not get it: held by";
    renewal_without_effect = ExtendKeepsTheOldEnd, loss::a_held_lock_is_renewed,
        "lock (renewal)", "a guard was valid, but somebody else was granted its key";
    renewal_that_blocks = ExtendTakesItsTime, stores::a_stopped_store_does_not_disturb_another,
        "lock (renewal)", "one store did not answer, and on another";
    release_of_a_lost_lock = ReleaseComparesNothing, loss::a_lost_lock_is_reported_once,
        "lock (loss)", "a lost lock was released";
    killed_holder_of_another_memory = RemembersInItsProcess in folder, loss::a_killed_holder_is_taken_over,
        "lock (loss)", "another process's guard was valid, but this one acquired its lock";
    stopped_holder_of_another_memory = RemembersInItsProcess in folder, loss::a_stopped_holder_finds_its_lock_lost,
        "lock (loss)", "but its guard's `is_valid` is true";
    hold_cut_short = EndsAFifthEarly, hold::min_hold_keeps_the_key,
        "lock (hold)", "before `min_hold`";
    hold_without_end = ExtendNeverShortens, hold::min_hold_keeps_the_key,
        "lock (hold)", "its key was still taken";
    hold_undone_by_a_renewal = ExtendIgnoresItsNumber, hold::a_late_renewal_does_not_undo_min_hold,
        "lock (hold)", "and an older renewal came after, but somebody else was granted the key";
    hold_for_ever = NeverEnds, hold::max_hold_ends_the_lease,
        "lock (hold)", "the lock's `max_hold` was over, but a claim was refused";
    done_that_reads_running = ExtendKeepsTheHolder, once::a_job_runs_once,
        "lock (once)", "not to `already done`";
    done_undone_by_a_renewal = ExtendIgnoresItsNumber, once::a_late_renewal_does_not_undo_the_mark,
        "lock (once)", "and older renewals came after, and the next try came to `ran`";
    done_in_another_process = RemembersInItsProcess in folder, once::another_process_sees_what_runs_and_what_is_done,
        "lock (once)", "but another process's try came to";
    failed_but_kept = ReleaseDoesNothing, once::a_failed_job_runs_again,
        "lock (once)", "the job panicked, and `once` returned Ok(\"held\")";
    lost_and_unmarked = ExpiresForItsOwnerOnly, once::a_lost_lease_still_marks_the_job,
        "lock (once)", "came to `ran unmarked`, not to `ran`";
    release_in_two_steps = ReleaseComparesThenDeletes, crossing::a_release_at_the_end_frees_nobody_elses_key,
        "law 4 (own)", "after a release of the former one, whose lease ended then, but an extend was answered `Lost`";
    short_owners = ComparesOwnersBy32Bits, own::owners_differ_by_any_bit,
        "law 4 (own)", "by another owner, whose token differs at digit 8";
    extend_to_zero = ExtendTakesZeroForEver, expiry::an_impossible_extend_is_refused_or_kept,
        "law 6 (expiry)", "an extend to 0ns was answered with";
    extend_to_any_time = ExtendTakesAnyTime, expiry::an_impossible_extend_is_refused_or_kept,
        "law 6 (expiry)", "that is for ever, and the store declares at most";
    longest_time_cut_to_an_hour = CutsToAnHour, expiry::the_longest_time_is_kept,
        "law 6 (expiry)", "and a moment later the store says that it has";
    longest_time_cut_to_32_bits = CutsTo32BitsOfMilliseconds, expiry::the_longest_time_is_kept,
        "law 6 (expiry)", "and a moment later the store says that it has";
    extend_in_two_steps = ExtendChecksThenWrites, crossing::an_extend_at_the_end_takes_nobody_elses_key,
        "law 7 (extend)", "meanwhile somebody else was granted its key";
    revived_just_after_the_end = ExtendRevivesFor50Milliseconds, crossing::an_extend_just_after_the_end_is_lost,
        "law 7 (extend)", "ms before, but an extend was answered `Extended`";
    numbers_as_text = ComparesNumbersAsText, order::the_order_is_kept_beyond_small_numbers,
        "law 7 (extend)", "the extend 10 to ";
    numbers_in_8_bits = KeepsNumbersIn8Bits, order::the_order_is_kept_beyond_small_numbers,
        "law 7 (extend)", "the extend 256 to ";
    numbers_in_16_bits = KeepsNumbersIn16Bits, order::the_order_is_kept_beyond_small_numbers,
        "law 7 (extend)", "the extend 65536 to ";
    handed_over_number = HandsOverTheNumber, order::a_hand_over_starts_a_new_order,
        "law 7 (extend)", "after the former holder's millionth extend, and its first, to a short time, and was answered with";
    batch_cut_at_64 = CutsBatchesAt64, batch::a_long_batch_extends_each_of_its_leases,
        "law 7 (extend)", "this lease as its 65th, and that time had passed, but a claim was refused";
    batch_cut_at_1000 = CutsBatchesAt1000, batch::a_long_batch_extends_each_of_its_leases,
        "law 7 (extend)", "this lease as its 1001th, and that time had passed, but a claim was refused";
    granted_just_after_the_end = GrantsJustAfterTheEnd, late::a_claim_just_after_its_end_is_not_granted,
        "law 9 (bounded)", "a claim was granted ";
    released_late = LateReleasesAreDone, late::a_late_release_frees_nothing,
        "law 10 (clean)", "a release came after its end, but somebody else was granted the key";
    batch_done_late = LateBatchesAreDone, late::a_late_batch_changes_nothing,
        "law 10 (clean)", "came after its end, but somebody else was granted the key";
    done_and_denied = DeniesWhatItDidInTheLastMoment, late::a_claim_reported_as_not_done_was_not_done,
        "law 10 (clean)", "left failed and said that nothing was done, but a claim was refused";
    denied_and_done_later = DoesInTheBackgroundWhatItDenied, late::a_claim_reported_as_not_done_was_not_done,
        "law 10 (clean)", "left failed and said that nothing was done, ";
    taken_twice_in_one_of_500 = IsTakenTwiceInOneOf500, atomic::one_of_many_claims_wins,
        "law 1 (atomic)", "concurrent claims on a free key were granted";
    break_that_wakes_nobody = BreaksWithoutWaking, declared::a_broken_lease_wakes_the_next,
        "declaration", "a lease was broken, and the next one, who waited for it, was not woken";
    waiter_that_is_not_counted = CountsOneWaiter, inspected::waiters_are_counted,
        "declaration", "two claimants wait for a key, and Some(1) are counted";
    counted_after_it_left = CountsWhoGaveUp, inspected::waiters_are_counted,
        "declaration", "two claimants have left the queue, and Some(2) are counted";
    free_key_in_the_list = ListsReleasedKeys, inspected::held_keys_are_listed,
        "declaration", "the list has a key that is free";
    strange_key_in_the_list = ListsOtherKeys, inspected::held_keys_are_listed,
        "declaration", "the list has a key that is free or does not start with the prefix";
    list_that_is_cut = ListsTheFirstKeys, inspected::held_keys_are_listed,
        "declaration", "the list lacks a key that is held";
    list_without_end = ListsWithoutEnd, inspected::held_keys_are_listed,
        "declaration", "a list of keys has more than";
    finding_without_a_remedy = FindsWithoutARemedy, found::findings_help_the_operator,
        "declaration", "`remedy` of a finding is empty";
    finding_in_two_lines = FindsInTwoLines, found::findings_help_the_operator,
        "declaration", "`what` of a finding has a control character";
    finding_with_a_secret = ShowsItsOwners, found::findings_help_the_operator,
        "declaration", "`why` of a finding shows a secret";
    danger_in_a_good_store = FindsADanger, found::findings_help_the_operator,
        "declaration", "the store is set up well, but a danger was found in it: ";
    check_that_frees = FreesWhatItChecks, found::a_check_changes_nothing,
        "declaration", "a look at a held key was answered with Ok(None)";
    check_that_holds = HoldsWhatItChecks, found::a_check_changes_nothing,
        "declaration", "the store checked itself, and a look at a free key was answered with Ok(Some";
    check_that_draws_tokens = RaisesTokensInACheck, found::a_check_changes_nothing,
        "declaration", "the store checked itself, and shows a held key differently";
    check_that_loses_waiters = ForgetsWaitersInACheck, found::a_check_changes_nothing,
        "declaration", "waiting: Some(0)";
    crashed_in_another_memory = RemembersInItsProcess in folder, once::a_crashed_job_runs_again,
        "lock (once)", "a process crashed in the job a moment ago, and the next try came to `ran`, not to `held`";
}
