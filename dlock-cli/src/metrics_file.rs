//! The figures of the last run of each lock, as text for the textfile collector of Prometheus.
//!
//! The file is replaced as a whole, so that nobody reads half of it. What other locks have written
//! there stays. Two processes of different locks that write at the same time take turns by a lock
//! on the folder, which leaves no file behind.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, Permissions};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::message::escaped;

/// How long another process may take to write before this one writes as well.
const TURN: Duration = Duration::from_secs(1);

/// The figures, each with what it says.
const FIGURES: [(&str, &str); 6] = [
    (
        "dlock_run_last_start_time_seconds",
        "When the command was started last.",
    ),
    (
        "dlock_run_last_end_time_seconds",
        "When a command has ended last.",
    ),
    (
        "dlock_run_last_success_time_seconds",
        "When a command has ended last with exit status 0, and with its lease.",
    ),
    (
        "dlock_run_last_duration_seconds",
        "How long the command ran that has ended last.",
    ),
    (
        "dlock_run_last_wait_seconds",
        "How long the lock was waited for before the last start.",
    ),
    (
        "dlock_run_last_exit_status",
        "The exit status of the command that has ended last.",
    ),
];
const START: usize = 0;
const END: usize = 1;
const SUCCESS: usize = 2;
const DURATION: usize = 3;
const WAIT: usize = 4;
const STATUS: usize = 5;

/// What is known of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) start: SystemTime,
    pub(crate) waited: Duration,
    pub(crate) end: Option<End>,
}

/// What is known of the end of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) at: SystemTime,
    pub(crate) ran: Duration,
    pub(crate) status: u8,
    /// Whether the command exited with 0 and the lease lasted until then.
    pub(crate) is_success: bool,
}

/// The figures of one lock in a file.
pub(crate) struct MetricsFile {
    path: PathBuf,
    /// The lock's name, as it stands between quotes.
    label: String,
    /// The time of the last success that the present run has replaced.
    success_before: RefCell<Option<String>>,
}

/// By lock, the text of each figure that is known.
type Known = BTreeMap<String, [Option<String>; FIGURES.len()]>;

/// The file as it was found.
struct Old {
    /// The turn to replace it.
    turn: File,
    known: Known,
    /// The permissions of a file that exists, which the new one gets.
    mode: Option<Permissions>,
}

impl MetricsFile {
    pub(crate) fn new(path: &Path, name: &str) -> Self {
        MetricsFile {
            path: path.to_owned(),
            label: as_label(name),
            success_before: RefCell::default(),
        }
    }

    /// What the file says, and the turn to replace it.
    fn read(&self) -> io::Result<Old> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let turn = turn(folder)?;
        let mut old = String::new();
        let mut mode = None;
        // Opening a pipe must not wait for its other end.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let opened = File::options()
            .read(true)
            .custom_flags(flags)
            .open(&self.path);
        match opened {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => {
                let mut file = opened?;
                let found = file.metadata()?;
                if !found.is_file() {
                    return Err(io::Error::new(
                        ErrorKind::InvalidInput,
                        "it is not a regular file",
                    ));
                }
                mode = Some(found.permissions());
                file.read_to_string(&mut old)?;
            }
        }
        let known = parse(&old).ok_or_else(|| {
            io::Error::new(
                ErrorKind::InvalidData,
                "it holds something that dlock did not write",
            )
        })?;
        Ok(Old { turn, known, mode })
    }

    /// Writes the figures. Those of an earlier run that this one does not replace stay.
    ///
    /// # Errors
    ///
    /// If the file cannot be written, or holds something that dlock did not write.
    pub(crate) fn write(&self, figures: &Figures) -> io::Result<()> {
        let Old {
            turn: _turn,
            mut known,
            mode,
        } = self.read()?;
        let ours = known.entry(self.label.clone()).or_default();
        ours[START] = Some(seconds_since_1970(figures.start));
        ours[WAIT] = Some(seconds(figures.waited));
        if let Some(end) = figures.end {
            let at = Some(seconds_since_1970(end.at));
            if end.is_success {
                self.success_before.replace(ours[SUCCESS].take());
                ours[SUCCESS].clone_from(&at);
            }
            ours[END] = at;
            ours[DURATION] = Some(seconds(end.ran));
            ours[STATUS] = Some(end.status.to_string());
        }
        self.replace(&known, mode)
    }

    /// Corrects the end that was written last: the lease had been lost, as was found out later.
    /// Does nothing if another run has written since.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub(crate) fn correct(&self, written: &Figures, status: u8) -> io::Result<()> {
        let Some(end) = written.end else {
            return Ok(());
        };
        let Old {
            turn: _turn,
            mut known,
            mode,
        } = self.read()?;
        let Some(ours) = known.get_mut(&self.label) else {
            return Ok(());
        };
        let is_as_written = ours[START] == Some(seconds_since_1970(written.start))
            && ours[END] == Some(seconds_since_1970(end.at));
        if !is_as_written {
            return Ok(());
        }
        ours[STATUS] = Some(status.to_string());
        if end.is_success {
            ours[SUCCESS] = self.success_before.take();
        }
        self.replace(&known, mode)
    }

    fn replace(&self, known: &Known, mode: Option<Permissions>) -> io::Result<()> {
        // The collector reads files that end with .prom. Nobody who can write in the folder can
        // prepare a file of this name.
        let random = RandomState::new().hash_one(std::process::id());
        let new = self.path.with_extension(format!("{random:016x}.new"));
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&new)?;
        let written = mode
            .map_or(Ok(()), |mode| file.set_permissions(mode))
            .and_then(|()| file.write_all(text(known).as_bytes()))
            .and_then(|()| fs::rename(&new, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }
}

impl fmt::Display for MetricsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(&self.path.to_string_lossy()))
    }
}

/// Waits for other processes that write in this folder, but not for ever.
fn turn(folder: &Path) -> io::Result<File> {
    let folder = File::open(folder)?;
    let end = Instant::now() + TURN;
    while flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() && Instant::now() < end
    {
        thread::sleep(Duration::from_millis(2));
    }
    Ok(folder)
}

fn as_label(name: &str) -> String {
    name.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn text(known: &Known) -> String {
    let mut text = String::new();
    for (at, (name, help)) in FIGURES.iter().enumerate() {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
        for (label, figures) in known {
            if let Some(figure) = &figures[at] {
                text.push_str(&format!("{name}{{lock=\"{label}\"}} {figure}\n"));
            }
        }
    }
    text
}

/// Reads what [`text`] wrote; `None` for anything else.
fn parse(text: &str) -> Option<Known> {
    let mut known = Known::new();
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (name, rest) = line.split_once("{lock=\"")?;
        let (label, figure) = rest.rsplit_once("\"} ")?;
        let at = FIGURES.iter().position(|(known, _)| *known == name)?;
        figure.parse::<f64>().ok()?;
        known.entry(label.to_owned()).or_default()[at] = Some(figure.to_owned());
    }
    Some(known)
}

fn seconds_since_1970(time: SystemTime) -> String {
    seconds(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, end: Option<(u64, u8)>) -> Figures {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        Figures {
            start: at(start),
            waited: Duration::from_millis(1500),
            end: end.map(|(end, status)| End {
                at: at(end),
                ran: Duration::from_secs(end - start),
                status,
                is_success: status == 0,
            }),
        }
    }

    #[test]
    fn a_failure_keeps_the_time_of_the_last_success_and_other_locks_keep_theirs() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("dlock.prom");
        let (one, other) = (
            MetricsFile::new(&path, "one"),
            MetricsFile::new(&path, "a \"b\"\\\n"),
        );
        one.write(&run(100, Some((160, 0)))).unwrap();
        other.write(&run(110, None)).unwrap();
        one.write(&run(200, Some((230, 3)))).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for line in [
            "dlock_run_last_start_time_seconds{lock=\"one\"} 200.000",
            "dlock_run_last_end_time_seconds{lock=\"one\"} 230.000",
            "dlock_run_last_success_time_seconds{lock=\"one\"} 160.000",
            "dlock_run_last_duration_seconds{lock=\"one\"} 30.000",
            "dlock_run_last_wait_seconds{lock=\"one\"} 1.500",
            "dlock_run_last_exit_status{lock=\"one\"} 3",
            "dlock_run_last_start_time_seconds{lock=\"a \\\"b\\\"\\\\\\n\"} 110.000",
            "# TYPE dlock_run_last_exit_status gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert_eq!(text.lines().count(), 2 * FIGURES.len() + 8);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_success_is_taken_back_unless_another_run_has_written_since() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("dlock.prom");
        let read = || fs::read_to_string(&path).unwrap();
        let success = |time| format!("success_time_seconds{{lock=\"one\"}} {time}.000\n");
        let status = |status| format!("exit_status{{lock=\"one\"}} {status}\n");
        let file = MetricsFile::new(&path, "one");
        file.write(&run(100, Some((160, 0)))).unwrap();
        let second = run(200, Some((230, 0)));
        file.write(&second).unwrap();
        file.correct(&second, 70).unwrap();
        assert!(read().contains(&success(160)) && read().contains(&status(70)));

        file.write(&run(300, Some((330, 0)))).unwrap();
        file.correct(&second, 70).unwrap();
        assert!(read().contains(&success(330)) && read().contains(&status(0)));
    }

    #[test]
    fn the_file_keeps_its_permissions_and_a_pipe_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("dlock.prom");
        let file = MetricsFile::new(&path, "one");
        file.write(&run(1, None)).unwrap();
        for mode in [0o600, 0o664] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            file.write(&run(2, None)).unwrap();
            let now = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(now & 0o777, mode);
        }
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        let error = file.write(&run(3, None)).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_of_somebody_else_is_left_as_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("node.prom");
        fs::write(&path, "node_load1 0.5\n").unwrap();
        let error = MetricsFile::new(&path, "one")
            .write(&run(1, None))
            .unwrap_err();
        assert!(error.to_string().contains("dlock did not write"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "node_load1 0.5\n");
    }
}
