//! What `dlock run` says about a run: two lines if it is asked to, and figures in a file.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use dlock_core::{FencingToken, duration};
use serde_json::json;

use crate::args::ReportArgs;
use crate::message::{escaped, report, report_with};
use crate::metrics_file::{End, Figures, MetricsFile};

/// What is said about one run.
pub(crate) struct RunReport {
    name: String,
    is_verbose: bool,
    metrics: Option<MetricsFile>,
    begun: Cell<Option<Begun>>,
    /// How long the command ran, and what was written of its end.
    ended: Cell<Option<(Duration, Figures)>>,
}

/// A run that has begun.
#[derive(Clone, Copy)]
struct Begun {
    at: Instant,
    waited: Duration,
    token: Option<FencingToken>,
    figures: Figures,
}

impl RunReport {
    pub(crate) fn new(name: &str, arguments: &ReportArgs) -> Self {
        let file = arguments.metrics_file.as_deref();
        RunReport {
            name: name.to_owned(),
            is_verbose: arguments.verbose,
            metrics: file.map(|file| MetricsFile::new(file, name)),
            begun: Cell::default(),
            ended: Cell::default(),
        }
    }

    /// The lock was acquired, and the command is about to start.
    pub(crate) fn begins(&self, waited: Duration, token: Option<FencingToken>) {
        let name = escaped(&self.name);
        if self.is_verbose {
            report_with(
                format_args!(
                    "acquired {name} after {}, {}",
                    rounded(waited),
                    token_text(token)
                ),
                json!({
                    "event": "acquired",
                    "lock": self.name,
                    "waited_ms": millis(waited),
                    "token": token.map(FencingToken::get),
                }),
            );
        }
        let figures = Figures {
            start: SystemTime::now(),
            waited,
            end: None,
        };
        self.write(&figures);
        self.begun.set(Some(Begun {
            at: Instant::now(),
            waited,
            token,
            figures,
        }));
    }

    /// The command has ended with this status, or was not started. The lock is still held, so that
    /// nobody else writes the figures of this lock.
    pub(crate) fn ended(&self, status: u8, is_success: bool) {
        let Some(begun) = self.begun.get() else {
            return;
        };
        let ran = begun.at.elapsed();
        let figures = Figures {
            end: Some(End {
                at: SystemTime::now(),
                ran,
                status,
                is_success,
            }),
            ..begun.figures
        };
        self.ended.set(Some((ran, figures)));
        self.write(&figures);
    }

    /// The release has found that the lease was lost before the command ended.
    pub(crate) fn was_lost(&self, code: u8) {
        if let (Some(file), Some((_, figures))) = (&self.metrics, self.ended.get()) {
            Self::written(file, file.correct(&figures, code));
        }
    }

    /// dlock exits with this code.
    pub(crate) fn exits(&self, code: u8) {
        let (Some(begun), Some((ran, _))) = (self.begun.get(), self.ended.get()) else {
            return;
        };
        if !self.is_verbose {
            return;
        }
        report_with(
            format_args!(
                "{}: waited {}, ran {}, exit status {code}, {}",
                escaped(&self.name),
                rounded(begun.waited),
                rounded(ran),
                token_text(begun.token)
            ),
            json!({
                "event": "ended",
                "lock": self.name,
                "waited_ms": millis(begun.waited),
                "ran_ms": millis(ran),
                "exit_status": code,
                "token": begun.token.map(FencingToken::get),
            }),
        );
    }

    fn write(&self, figures: &Figures) {
        let Some(file) = &self.metrics else { return };
        Self::written(file, file.write(figures));
    }

    fn written(file: &MetricsFile, result: io::Result<()>) {
        if let Err(error) = result {
            report(format_args!(
                "cannot write the metrics file {file}: {error}"
            ));
        }
    }
}

fn token_text(token: Option<FencingToken>) -> String {
    token.map_or_else(
        || "without a token".to_owned(),
        |token| format!("token {token}"),
    )
}

/// Whole milliseconds, and above a minute whole seconds.
fn rounded(time: Duration) -> String {
    let time = match time.as_secs() {
        0..60 => Duration::from_millis(millis(time)),
        seconds => Duration::from_secs(seconds),
    };
    duration::format(time)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
