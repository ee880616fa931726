//! What a builder takes and what it refuses.

#[cfg(feature = "serde")]
mod files;

use super::*;

#[test]
fn each_setter_sets_its_own_option() {
    let second = Duration::from_secs(1);
    let options = LockOptions::builder()
        .key_prefix("p")
        .ttl(second * 8)
        .renew(false)
        .min_hold(second * 2)
        .max_hold(second * 7)
        .grace(second * 3)
        .label("nightly")
        .retry(second * 4, second * 5)
        .build()
        .unwrap();
    assert_eq!(options.key_prefix(), "p");
    assert_eq!(options.ttl(), second * 8);
    assert!(!options.renew());
    assert_eq!(options.min_hold(), Some(second * 2));
    assert_eq!(options.max_hold(), Some(second * 7));
    assert_eq!(options.grace(), second * 3);
    assert_eq!(options.label(), Some("nightly"));
    let retry = options.retry();
    assert_eq!((retry.initial(), retry.max()), (second * 4, second * 5));

    let again = LockOptionsBuilder::from(options.clone()).label("daily");
    assert_ne!(again.clone().build().unwrap(), options);
    assert_eq!(again.label("nightly").build().unwrap(), options);
}

#[test]
fn without_a_word_options_are_these() {
    let options = LockOptions::default();
    assert_eq!(LockOptions::builder().build().unwrap(), options);
    assert_eq!(options.key_prefix(), "dlock");
    assert_eq!(options.ttl(), Duration::from_secs(30));
    assert!(options.renew());
    assert_eq!((options.min_hold(), options.max_hold()), (None, None));
    assert_eq!(options.label(), None);
    let millis = Duration::from_millis;
    let retry = options.retry();
    assert_eq!((retry.initial(), retry.max()), (millis(10), millis(250)));
}

#[test]
fn what_is_wrong_is_named() {
    let (milli, second) = (Duration::from_millis(1), Duration::from_secs(1));
    let options = LockOptions::builder;
    let long = LONGEST + milli;
    for (wrong, option) in [
        (options().ttl(milli), OptionName::Ttl),
        (options().min_hold(milli), OptionName::MinHold),
        (options().min_hold(long), OptionName::MinHold),
        (options().max_hold(milli), OptionName::MaxHold),
        (options().max_hold(long), OptionName::MaxHold),
        (
            options().min_hold(second * 2).max_hold(second),
            OptionName::MinHold,
        ),
        (
            options().ttl(second).grace(second * 2 / 3),
            OptionName::Grace,
        ),
        (options().retry(milli / 2, second), OptionName::RetryInitial),
        (options().retry(long, long), OptionName::RetryInitial),
        (
            options().retry(second, second - milli),
            OptionName::RetryMax,
        ),
        (options().retry(second, long), OptionName::RetryMax),
    ] {
        match wrong.build().unwrap_err() {
            OptionsError::OutOfRange { option: named, .. } => assert_eq!(named, option),
            error => panic!("{option}: {error}"),
        }
    }
    let fits = options()
        .ttl(second)
        .grace(second / 2)
        .min_hold(second)
        .max_hold(second);
    fits.retry(milli, milli).build().unwrap();
}

#[test]
fn the_grace_is_a_sixth_of_the_longest_lease_unless_it_is_set() {
    let seconds = Duration::from_secs;
    let grace = |options: LockOptionsBuilder| options.build().unwrap().grace();
    let options = LockOptions::builder;
    assert_eq!(grace(options()), seconds(5));
    assert_eq!(grace(options().max_hold(seconds(60))), seconds(5));
    let shorter = options().max_hold(seconds(12));
    assert_eq!(grace(shorter.clone()), seconds(2));
    assert_eq!(grace(shorter.grace(seconds(1))), seconds(1));
}

#[test]
fn a_time_may_be_ten_milliseconds_to_ten_years() {
    let (least, most) = (
        Duration::from_millis(10),
        Duration::from_secs(3650 * 24 * 60 * 60),
    );
    let instant = Duration::from_nanos(1);
    let of = |ttl| LockOptions::builder().ttl(ttl).build();
    assert!(of(least).is_ok() && of(most).is_ok());
    assert!(of(least - instant).is_err() && of(most + instant).is_err());
}

#[test]
fn a_store_narrows_what_is_possible() {
    let store =
        Characteristics::default().with_ttl(Duration::from_secs(1), Duration::from_secs(60));
    let error = |options: LockOptionsBuilder| {
        let error = options.build().unwrap().check_for(&store).unwrap_err();
        error.to_string()
    };
    assert_eq!(
        error(LockOptions::builder().ttl(Duration::from_millis(500))),
        "ttl 500ms is outside 1s to 1m"
    );
    assert_eq!(
        error(LockOptions::builder().min_hold(Duration::from_secs(61))),
        "min_hold 1m1s is outside 1s to 1m"
    );
}
