//! The description of the holder of a lock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dlock_core::{AcquireError, Holder, Lock, LockOptions, MemoryDatastore};

/// The holder in the refusal of a lock with this label.
fn holder_in_refusal(label: Option<&str>) -> Holder {
    let mut options = LockOptions::builder();
    if let Some(label) = label {
        options = options.label(label);
    }
    let lock = Lock::with_options(MemoryDatastore::new(), "job", options).unwrap();
    let _guard = lock.try_acquire().unwrap();
    let Err(AcquireError::Held(held)) = lock.try_acquire() else {
        panic!("two holders")
    };
    held.holder().unwrap().clone()
}

fn at(millis: u64) -> Option<Holder> {
    Holder::from_text(&format!("dlock1 h 1 0000000000000001 {millis} running"))
}

#[test]
fn a_refusal_says_which_process_holds_the_lock_and_since_when() {
    let before = SystemTime::now() - Duration::from_secs(1);
    let holder = holder_in_refusal(Some("nightly"));
    assert_eq!(holder.pid(), std::process::id());
    assert_eq!(holder.label(), Some("nightly"));
    assert!(before < holder.since() && holder.since() <= SystemTime::now());
    assert!(holder.is_this_process() && !holder.is_done());
    assert_eq!(holder_in_refusal(None).label(), None);
    #[cfg(target_os = "linux")]
    assert_eq!(
        holder.host(),
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap()
            .trim_end()
    );
}

#[test]
fn a_stored_text_is_read_as_it_was_written() {
    let text = "dlock1 web-3 4121 00000000000000aa 1764000271000 done a%20b";
    let holder = Holder::from_text(text).unwrap();
    assert_eq!((holder.host(), holder.pid()), ("web-3", 4121));
    assert_eq!(holder.label(), Some("a b"));
    assert_eq!(
        holder.since(),
        UNIX_EPOCH + Duration::from_millis(1_764_000_271_000)
    );
    assert!(holder.is_done() && !holder.is_this_process());
    assert_eq!(holder.to_text(), text);
}

#[test]
fn another_process_with_the_same_number_is_not_this_one() {
    let text = holder_in_refusal(None).to_text();
    let fields: Vec<&str> = text.split(' ').collect();
    let [tag, host, pid, process, since, phase] = fields[..] else {
        panic!("{text}")
    };
    let is_this = |pid: &str, process: &str| {
        let text = format!("{tag} {host} {pid} {process} {since} {phase}");
        Holder::from_text(&text).unwrap().is_this_process()
    };
    assert!(is_this(pid, process));
    assert!(!is_this(pid, "00000000000000aa"), "in another container");
    assert!(!is_this("1", process), "a forked child");
}

#[test]
fn a_label_is_cut_where_it_gets_too_long() {
    for (length, kept) in [(179, 179), (180, 180), (181, 180), (10_000, 180)] {
        let holder = holder_in_refusal(Some(&"x".repeat(length)));
        assert_eq!(holder.label().map(str::len), Some(kept), "{length}");
    }
    let umlauts = holder_in_refusal(Some(&"\u{fc}".repeat(100)));
    assert_eq!(
        umlauts.label().unwrap(),
        "\u{fc}".repeat(30),
        "six bytes each"
    );
}

#[test]
fn years_end_with_9999() {
    let last = at(253_402_300_799_999).unwrap();
    assert_eq!(last.to_string(), "h pid 1 since 9999-12-31 23:59:59 UTC");
    assert_eq!(at(253_402_300_800_000), None);
}

#[test]
fn each_day_follows_the_one_before() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let today = now.as_secs() / 86_400;
    let (mut year, mut month, mut day) = (1970, 1, 1);
    // A little more than four centuries, after which the calendar repeats itself.
    for days in 0..150_000_u64 {
        // Today's date is not shown.
        if days.abs_diff(today) > 1 {
            assert_eq!(
                at(days * 86_400_000).unwrap().to_string(),
                format!("h pid 1 since {year:04}-{month:02}-{day:02} 00:00:00 UTC")
            );
        }
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        day += 1;
        if day > length {
            (day, month) = (1, month + 1);
        }
        if month > 12 {
            (month, year) = (1, year + 1);
        }
    }
}

#[test]
fn a_time_of_today_is_shown_without_the_date() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let today = u64::try_from(now.as_millis()).unwrap();
    let shown = at(today).unwrap().to_string();
    // Repeat if midnight has just passed.
    let (since, time) = shown.split_once(" since ").unwrap();
    assert_eq!((since, time.len()), ("h pid 1", "12:04:31 UTC".len()));
    let yesterday = at(today - 86_400_000).unwrap().to_string();
    assert_eq!(yesterday.len(), shown.len() + "2026-11-24 ".len());
}
