//! The description of a lock's holder that a refusal shows.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::ProcessId;
use crate::contract::key::{decode, push_encoded};

/// The first word of the text, so that a record of other software is not mistaken for ours.
const TAG: &str = "dlock1";
/// The most bytes of the encoded host, and of the encoded label, so that the whole stays below
/// [`Holder::MAX_TEXT`].
const MAX_FIELD: usize = 180;

/// Who holds a lock: host, process, label, since when.
///
/// Stores keep it as the opaque text of [`Claim::holder`](crate::Claim::holder), and a refusal
/// reads it back: [`HeldBy::holder`](crate::HeldBy::holder). It is a description for people, and
/// only as true as the clock and the host name of the machine that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    host: String,
    pid: u32,
    process: u64,
    since_millis: u64,
    phase: Phase,
    label: Option<String>,
}

/// What a record means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(dlock_model), allow(unreachable_pub))]
pub enum Phase {
    /// A process holds the lock, or runs the job.
    Running,
    /// The job was done at `since`; only run-once marks say so.
    Done,
    /// The holder released the lock, which its `min_hold` keeps taken.
    Kept,
}

impl Phase {
    const ALL: [Phase; 3] = [Phase::Running, Phase::Done, Phase::Kept];

    fn word(self) -> &'static str {
        match self {
            Phase::Running => "running",
            Phase::Done => "done",
            Phase::Kept => "kept",
        }
    }
}

impl Holder {
    /// The most bytes that [`to_text`](Self::to_text) returns.
    pub const MAX_TEXT: usize = 512;

    /// The [text](Self::to_text) of this process, which is `process`, as a holder from now on.
    /// Every acquire writes one.
    pub(crate) fn text_of_this_process(
        process: ProcessId,
        label: Option<&str>,
        phase: Phase,
    ) -> String {
        let who = text_of_process(process);
        text(&who, millis(SystemTime::now()), phase, label)
    }

    /// The name of the host, as it calls itself.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The process id on that host.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The label of the lock's options, if there was one.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// When it was written, by the wall clock of the holder's host.
    pub fn since(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.since_millis)
    }

    /// Returns whether the holder is the calling process.
    pub fn is_this_process(&self) -> bool {
        let pid = std::process::id();
        self.process == number(ProcessId::current(), pid) && self.pid == pid
    }

    /// Returns whether this is the mark of a job that was done, see
    /// [`Lock::once`](crate::Lock::once).
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Returns whether the holder has released the lock and only its
    /// [`min_hold`](crate::LockOptions::min_hold) keeps it taken. The process may be gone.
    pub fn is_kept(&self) -> bool {
        self.phase == Phase::Kept
    }

    /// The stored text of a holder that releases the lock and leaves it to its `min_hold`; `None`
    /// for a text that dlock did not write.
    pub(crate) fn kept_text(text: &str) -> Option<String> {
        let holder = Holder {
            phase: Phase::Kept,
            ..Self::from_text(text)?
        };
        Some(holder.to_text())
    }

    /// The text that stores keep: one line of printable ASCII, at most [`MAX_TEXT`](Self::MAX_TEXT)
    /// bytes.
    pub fn to_text(&self) -> String {
        let who = who(&self.host, self.pid, self.process);
        text(&who, self.since_millis, self.phase, self.label.as_deref())
    }

    /// Reads a stored text; `None` for one that [`to_text`](Self::to_text) did not write.
    pub fn from_text(text: &str) -> Option<Self> {
        if text.len() > Self::MAX_TEXT {
            return None;
        }
        let mut fields = text.split(' ');
        if fields.next() != Some(TAG) {
            return None;
        }
        let host = decode(fields.next()?)?.into_owned();
        let pid = fields.next()?.parse().ok()?;
        let process = u64::from_str_radix(fields.next()?, 16).ok()?;
        // Bounded to the year 9999, so that adding it to the epoch cannot overflow on any platform.
        let since_millis = fields
            .next()?
            .parse()
            .ok()
            .filter(|ms| *ms < 253_402_300_800_000)?;
        let word = fields.next()?;
        let phase = Phase::ALL.into_iter().find(|phase| phase.word() == word)?;
        let label = match fields.next() {
            Some(label) => Some(decode(label)?.into_owned()),
            None => None,
        };
        let holder = Holder {
            host,
            pid,
            process,
            since_millis,
            phase,
            label,
        };
        // Each holder has exactly one text: no signs, no leading zeros, no needless escapes, no
        // trailing fields.
        (holder.to_text() == text).then_some(holder)
    }
}

/// Prints "web-3 pid 4121 (label) since 12:04:31 UTC", or "this process since …" for the calling
/// process. Control characters are escaped.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_this_process() {
            f.write_str("this process")?;
        } else {
            write!(f, "{} pid {}", self.host.escape_debug(), self.pid)?;
        }
        if let Some(label) = &self.label {
            write!(f, " ({})", label.escape_debug())?;
        }
        write!(
            f,
            " since {}",
            ClockTime {
                millis: self.since_millis,
                now: millis(SystemTime::now())
            }
        )
    }
}

/// The time of day that is `left` from now, rounded up, in the format of [`Holder`].
pub(crate) fn clock_time_in(left: Duration) -> impl fmt::Display {
    let now = millis(SystemTime::now());
    let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    ClockTime {
        // Bounded to the year 9999, as in `from_text`.
        millis: now
            .saturating_add(left)
            .saturating_add(999)
            .min(253_402_300_799_000),
        now,
    }
}

/// The time of day, with the date if it is not today. In UTC, since the reader may be in another
/// time zone than the holder.
struct ClockTime {
    millis: u64,
    now: u64,
}

impl fmt::Display for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAY: u64 = 86_400;
        let seconds = self.millis / 1000;
        if seconds / DAY != self.now / 1000 / DAY {
            let (year, month, day) = civil_date(seconds / DAY);
            write!(f, "{year:04}-{month:02}-{day:02} ")?;
        }
        let time = seconds % DAY;
        write!(
            f,
            "{:02}:{:02}:{:02} UTC",
            time / 3600,
            time / 60 % 60,
            time % 60
        )
    }
}

/// Year, month and day of a day counted from 1970-01-01, after Howard Hinnant's `civil_from_days`
/// ("chrono-compatible low-level date algorithms").
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The part of a text that is the same for all claims of a process.
fn who(host: &str, pid: u32, process: u64) -> String {
    let mut who = format!("{TAG} ");
    push_clipped(&mut who, host);
    // Writing to a String cannot fail.
    let _ = write!(who, " {pid} {process:016x}");
    who
}

fn text(who: &str, since_millis: u64, phase: Phase, label: Option<&str>) -> String {
    let mut text = String::with_capacity(who.len() + 64);
    text.push_str(who);
    text.push(' ');
    // `write!` would take a sixteenth of a pair in memory.
    text.push_str(itoa::Buffer::new().format(since_millis));
    text.push(' ');
    text.push_str(phase.word());
    if let Some(label) = label {
        text.push(' ');
        push_clipped(&mut text, label);
    }
    text
}

/// Appends the field encoded, cut between characters so that it takes at most [`MAX_FIELD`] bytes.
fn push_clipped(text: &mut String, field: &str) {
    let most = text.len() + MAX_FIELD;
    for character in field.chars() {
        let before = text.len();
        push_encoded(text, character.encode_utf8(&mut [0; 4]));
        if text.len() > most {
            text.truncate(before);
            break;
        }
    }
}

/// The host's name, read once: it hardly changes, and reading it is a system call.
fn host_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(ask_host_name)
}

#[cfg(unix)]
fn ask_host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(not(unix))]
fn ask_host_name() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "unknown".to_owned())
}

/// [`who`] of this process, which is `process`. It is formatted once in the first process that
/// asks, and each time in a forked child.
fn text_of_process(process: ProcessId) -> Cow<'static, str> {
    static FIRST: OnceLock<(ProcessId, String)> = OnceLock::new();
    let text = || {
        let pid = std::process::id();
        who(host_name(), pid, number(process, pid))
    };
    match FIRST.get_or_init(|| (process, text())) {
        (first, who) if *first == process => Cow::Borrowed(who),
        _ => Cow::Owned(text()),
    }
}

/// A number that no other process has. Host and pid are not enough: two containers may share both.
/// A forked child has the memory of its parent, and in a new pid namespace its pid too. The random
/// part is the only state that dlock keeps for a whole process.
fn number(process: ProcessId, pid: u32) -> u64 {
    static RANDOM: OnceLock<u64> = OnceLock::new();
    // Without random numbers the rest must do: this number only describes the process.
    let random = RANDOM.get_or_init(|| getrandom::u64().unwrap_or(0));
    random ^ u64::from(pid) ^ (process.get() << 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn web_3() -> Holder {
        Holder {
            host: "web-3".to_owned(),
            pid: 4121,
            process: 7,
            since_millis: 1_764_000_271_000,
            phase: Phase::Running,
            label: None,
        }
    }

    #[test]
    fn a_holder_reads_like_a_sentence() {
        assert_eq!(
            web_3().to_string(),
            "web-3 pid 4121 since 2025-11-24 16:04:31 UTC"
        );
        let label = Some("nightly\n".to_owned());
        assert_eq!(
            Holder { label, ..web_3() }.to_string(),
            "web-3 pid 4121 (nightly\\n) since 2025-11-24 16:04:31 UTC"
        );
        let now = 1_764_000_275_000;
        assert_eq!(
            ClockTime {
                millis: 1_764_000_271_000,
                now
            }
            .to_string(),
            "16:04:31 UTC"
        );
    }

    #[test]
    fn a_kept_lock_says_who_released_it() {
        let text = Holder::kept_text(&web_3().to_text()).unwrap();
        assert_eq!(
            text,
            "dlock1 web-3 4121 0000000000000007 1764000271000 kept"
        );
        let kept = Holder::from_text(&text).unwrap();
        assert!(kept.is_kept() && !kept.is_done() && !web_3().is_kept());
        assert_eq!(kept.since(), web_3().since());
        assert_eq!(Holder::kept_text("somebody else's"), None);
        assert!(
            clock_time_in(Duration::MAX)
                .to_string()
                .starts_with("9999-12-31 ")
        );
    }

    #[test]
    fn this_process_is_recognised() {
        let me = Holder::from_text(&Holder::text_of_this_process(
            ProcessId::current(),
            None,
            Phase::Running,
        ))
        .unwrap();
        assert!(me.is_this_process());
        assert!(me.to_string().starts_with("this process since "), "{me}");
        assert!(!web_3().is_this_process());

        let child = text_of_process(ProcessId::other());
        let child = Holder::from_text(&text(&child, 5, Phase::Running, None)).unwrap();
        assert!(!child.is_this_process(), "though its pid is the same");
    }

    #[test]
    fn two_processes_never_have_the_same_number() {
        let numbers: std::collections::HashSet<u64> = (0..64)
            .map(|pid| number(ProcessId::current(), pid))
            .collect();
        assert_eq!(numbers.len(), 64);
    }

    #[test]
    fn a_foreign_text_is_no_holder() {
        for text in [
            "",
            "dlock1",
            "1",
            "dlock1 a b c d e",
            "{\"json\":1}",
            "dlock1 h 1 1 99999999999999999 running",
            "dlock1 h 1 1 1 running",
            "dlock1 h +1 0000000000000001 1 running",
            "dlock1 h 1 000000000000000A 1 running",
            "dlock1 %68 1 0000000000000001 1 running",
            "dlock1 a{b} 1 0000000000000001 1 running",
        ] {
            assert_eq!(Holder::from_text(text), None, "{text}");
        }
        assert_eq!(Holder::from_text(&"x".repeat(600)), None);
        assert_eq!(
            Holder::from_text(&(web_3().to_text() + " label more")),
            None
        );
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(11_016), (2000, 2, 29));
        assert_eq!(civil_date(20_781), (2026, 11, 24));
    }

    proptest! {
        #[test]
        fn text_is_short_one_line_and_survives(host in any::<String>(), label in any::<Option<String>>(), pid: u32) {
            let holder = Holder { host, label, pid, ..web_3() };
            let text = holder.to_text();
            prop_assert!(text.len() <= Holder::MAX_TEXT);
            prop_assert!(text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
            let read = Holder::from_text(&text).unwrap();
            prop_assert!(holder.host.starts_with(&read.host));
            prop_assert_eq!(read.to_text(), text);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = Holder::from_text(&text).map(|holder| holder.to_string());
        }
    }
}
