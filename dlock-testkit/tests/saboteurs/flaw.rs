//! The ways in which the reference store can be broken.

/// One broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    // Law 1.
    ChecksThenSets,
    TakesOverWithoutALock,
    RemembersInItsHandle,
    RemembersInItsProcess,
    // Law 2.
    FoldsCase,
    CutsKeysAt200Bytes,
    TrimsDots,
    HashesKeysTo12Bits,
    ReleasesByPrefix,
    DecodesPercents,
    // Law 3.
    RefusalLengthens,
    RefusalShortens,
    RefusalRenames,
    RefusalQueues,
    RefusalPromisesTooSoon,
    KeepsNoHolder,
    // Law 4.
    ReleaseComparesNothing,
    ReleaseOfStrangersIsDoneAndDenied,
    ExtendComparesNothing,
    ExtendOfStrangersIsDoneAndDenied,
    ExtendOfStrangersShortens,
    BatchComparesNothing,
    BatchAnswersBackwards,
    AbandonFreesWhateverIsThere,
    ReleaseDoesNothing,
    // Law 5.
    RefusesRepeats,
    RepeatsGetANewFence,
    RepeatsDoNotRaise,
    RepeatsShorten,
    RepeatsRename,
    RepeatedReleaseFreesTheNext,
    RepeatedReleaseFails,
    OnlyTheLatestGrantWorks,
    // Law 6.
    EndsAFifthEarly,
    NeverEnds,
    EndsASecondLate,
    ExtendKeepsTheOldEnd,
    CutsTimesTo100Milliseconds,
    ExpiresOnlyWhenAsked,
    ExpiresForItsOwnerOnly,
    TakesZeroForEver,
    TakesAMonthForNothing,
    ReleasesExpired,
    // Law 7.
    ExtendAdds,
    ExtendAddsAndSaysSo,
    ExtendIgnoresItsNumber,
    ExtendRepeatsItsNumber,
    ExtendRevivesExpired,
    ExtendRevivesReleased,
    ExtendNeverShortens,
    ReadsItsClockBeforeItsTurn,
    RepeatsForgetTheNumber,
    NumbersOutliveTheirOwner,
    ExtendKeepsTheHolder,
    LateExtendIsToldWhatItAsked,
    BatchIgnoresNumbers,
    // Law 8.
    OneFenceForAll,
    FencesEndWithTheLease,
    FencesEndWithTheRelease,
    FencesOfItsHandle,
    FencesWrapAround,
    DrawsFencesBeforeItsTurn,
    HidesItsFences,
    // Law 9.
    TakesItsTime,
    WaitsForTheHolder,
    ExtendTakesItsTime,
    LateCallsAreInvalid,
    LateCallsPanic,
    WaitsForItsTurnForEver,
    WaitsLongerThanItSays,
    KeepsACrowdWaiting,
    // Law 10.
    AbandonDoesNothing,
    AbandonClaims,
    LateClaimsAreGranted,
    LateClaimsAreDoneAndDenied,
    LateExtendsAreDone,
    QueuesWhoGaveUp,
    LeaksThreads,
    LeaksFiles,
    ShowsReleasedKeys,
    // What is declared.
    WakesNobody,
    WakesUndeclared,
    ConfirmsWhatIsGone,
    WakesWhoLeft,
    OverwritesForeignKeys,
    HoldsForeignKeys,
    BreaksAnyLease,
    DeclaresNoTime,
    // The queue.
    ServesTheLast,
    QueuesInItsProcess,
    LetsNewcomersOvertake,
    ForgetsThatALeaseWasShortened,
    KeepsThePlaceOfWhoGaveUp,
    KeepsTheLockOfWhoGaveUp,
    HandsOverWithoutEnd,
    TrustsTheDead,
    BuriesTheLivingWithTheDead,
}

impl Flaw {
    /// The flaw that [`Debug`] prints as `name`; what another process is told.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        super::SABOTEURS
            .iter()
            .map(|saboteur| saboteur.flaw)
            .find(|flaw| format!("{flaw:?}") == name)
    }
}
