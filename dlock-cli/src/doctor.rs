//! `dlock doctor`: looks for what endangers the locks in a store.
//!
//! What is wrong with a store the store itself knows. The command asks it, and tries whether a lock
//! can be acquired, waited for, handed over and released.

mod probe;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dlock_core::{Datastore, ErrorKind, Finding, Inspect, Severity};
use serde_json::{Value, json};

use crate::args::Doctor;
use crate::config::Settings;
use crate::exit_code;
use crate::exit_reason::ExitReason;
use crate::message::{escaped, with_causes};
use crate::print;
use crate::store::{self, OpenError};

/// What was found.
struct Examined {
    /// The store, without secrets.
    url: String,
    findings: Vec<Finding>,
    /// Whether the store checked itself.
    checks_itself: bool,
    /// How long the store takes to answer.
    answers_in: Option<Duration>,
}

/// Prints what was found. Returns the exit code.
pub(crate) fn doctor(arguments: &Doctor) -> u8 {
    let examined = match examined(arguments) {
        Ok(examined) => examined,
        Err(reason) => return reason.reported(),
    };
    let text = match arguments.json {
        true => format!("{:#}\n", examined.as_json()),
        false => examined.as_text(),
    };
    match print(text.as_bytes()) {
        0 => examined.code(),
        code => code,
    }
}

fn examined(arguments: &Doctor) -> Result<Examined, ExitReason> {
    let settings = Settings::find(&arguments.store, None)?;
    let opened = match store::open(settings.url.as_deref()) {
        Ok(opened) => opened,
        Err(error @ OpenError::Usage(_)) => return Err(error.into()),
        Err(OpenError::Unusable(message)) => {
            let url = settings.url.as_deref().unwrap_or("file:");
            return Ok(Examined {
                url: dlock_url::redacted(url),
                findings: vec![Finding::danger(
                    message,
                    "no lock can be acquired in this store",
                    "as the message says",
                )],
                checks_itself: false,
                answers_in: None,
            });
        }
    };
    let datastore: Arc<dyn Datastore> = Arc::from(opened.datastore);
    let probed = probe::probe(&datastore, settings.prefix.as_deref())?;
    let own = datastore.inspect().map(Inspect::findings);
    let (own, checks_itself) = match own {
        Some(Ok(findings)) => (findings, true),
        // The store does not answer: the probe has said so.
        Some(Err(_)) if !probed.findings.is_empty() => (Vec::new(), false),
        Some(Err(error)) if error.kind() != ErrorKind::Unsupported => {
            let finding = Finding::warning(
                format!("the store could not be checked: {}", with_causes(&error)),
                "settings that endanger locks are not found",
                "mend that, and ask again",
            );
            (vec![finding], false)
        }
        Some(Err(_)) | None => (Vec::new(), false),
    };
    let mut findings = probed.findings;
    findings.extend(own);
    // The worst first, otherwise as they were found.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(Examined {
        url: opened.redacted_url,
        findings,
        checks_itself,
        answers_in: probed.answers_in,
    })
}

impl Examined {
    fn code(&self) -> u8 {
        match self.findings.iter().map(|finding| finding.severity).max() {
            None => 0,
            Some(Severity::Warning) => exit_code::DOCTOR_WARNING,
            Some(_) => exit_code::DOCTOR_DANGER,
        }
    }

    fn as_text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let Finding {
                what, why, remedy, ..
            } = finding;
            let [what, why, remedy] = [what, why, remedy].map(|text| escaped(text));
            let word = finding.severity.as_str();
            text.push_str(&format!("{word}: {what}\n  why: {why}\n  do: {remedy}\n"));
        }
        let count = |severity| {
            let all = self.findings.iter();
            all.filter(|finding| finding.severity == severity).count()
        };
        let (dangers, warnings) = (count(Severity::Danger), count(Severity::Warning));
        let found = match self.findings.is_empty() {
            true => "nothing that endangers locks was found".to_owned(),
            false => format!("dangers: {dangers}, warnings: {warnings}"),
        };
        text.push_str(&format!("{}: {found}", self.url));
        if let Some(time) = self.answers_in {
            text.push_str(&format!(
                "; it answers in {:.1} ms",
                time.as_secs_f64() * 1e3
            ));
        }
        if !self.checks_itself {
            text.push_str("; its settings were not checked");
        }
        text.push('\n');
        text
    }

    fn as_json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "severity": finding.severity.as_str(),
                "what": finding.what,
                "why": finding.why,
                "remedy": finding.remedy,
            })
        };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |time| {
            u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
        });
        json!({
            "store": self.url,
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
            "settings_checked": self.checks_itself,
            "answers_in_us": self.answers_in.map(micros),
            "as_of_unix_ms": now,
        })
    }
}
