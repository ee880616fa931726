//! Options in files.

use std::time::Duration;

use crate::options::{LockOptions, LockOptionsBuilder};

#[test]
fn options_survive_json_and_toml() {
    let options = LockOptions::builder()
        .key_prefix("p")
        .ttl(Duration::from_millis(1500))
        .renew(false)
        .min_hold(Duration::from_secs(1))
        .max_hold(Duration::from_secs(2))
        .grace(Duration::from_millis(5))
        .label("nightly")
        .retry(Duration::from_millis(2), Duration::from_secs(1))
        .build()
        .unwrap();
    let json = serde_json::to_string(&options).unwrap();
    assert_eq!(
        serde_json::from_str::<LockOptions>(&json).unwrap(),
        options,
        "{json}"
    );
    let toml = toml::to_string(&options).unwrap();
    assert_eq!(
        toml::from_str::<LockOptions>(&toml).unwrap(),
        options,
        "{toml}"
    );
    assert_eq!(
        toml::from_str::<LockOptions>("").unwrap(),
        LockOptions::default()
    );
}

#[test]
fn a_wrong_file_is_refused_with_the_reason() {
    for (text, reason) in [
        ("ttl = '0s'", "ttl 0s is outside 10ms to"),
        ("ttl = 30", "expected a string"),
        ("ttl = '30'", "no unit"),
        ("tll = '30s'", "unknown field `tll`, expected one of"),
        (
            "min_hold = '2s'\nmax_hold = '1s'",
            "min_hold 2s is outside 10ms to 1s",
        ),
        ("[retry]\nmin = '1s'", "unknown field `min`"),
        ("grace = '29s'", "grace 29s is outside 0s to 15s"),
        (
            "grace = '3s'\nmax_hold = '4s'",
            "grace 3s is outside 0s to 2s",
        ),
    ] {
        let error = toml::from_str::<LockOptions>(text).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn what_a_file_says_can_be_changed_before_it_is_checked() {
    let file = "ttl = '5s'\ngrace = '4s'";
    let read: LockOptionsBuilder = toml::from_str(file).unwrap();
    assert!(read.clone().build().is_err());
    let options = read.ttl(Duration::from_secs(10)).build().unwrap();
    assert_eq!(options.grace(), Duration::from_secs(4));
}
