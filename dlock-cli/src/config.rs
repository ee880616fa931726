//! Where the settings come from that the command line does not give: the environment, a credential
//! of systemd, a configuration file.

mod file;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use dlock_url::redacted;

use crate::args::{LockSection, PlaceArgs, RunOptions, StoreArgs};
use crate::exit_code;
use crate::exit_reason::ExitReason;
use crate::message::{escaped, report};
use file::ConfigFile;

/// The URL of the store.
const STORE: &str = "DLOCK_STORE";
/// A file with it.
const STORE_FILE: &str = "DLOCK_STORE_FILE";
/// Where systemd puts the credentials of a unit, and the name of ours.
const CREDENTIALS: (&str, &str) = ("CREDENTIALS_DIRECTORY", "dlock.store");

/// What the command line, the environment and the configuration file say together.
pub(crate) struct Settings {
    /// The URL of the store; `None` if nothing says it.
    pub(crate) url: Option<String>,
    pub(crate) prefix: Option<String>,
    /// What the file says of this lock.
    pub(crate) options: RunOptions,
}

impl Settings {
    /// The settings for the lock `name`, or for no lock in particular.
    pub(crate) fn find(arguments: &StoreArgs, name: Option<&str>) -> Result<Self, ExitReason> {
        let file = ConfigFile::find(arguments.config.as_deref()).map_err(wrong)?;
        let section = match (&file, name) {
            (Some(file), Some(name)) => file.section(name).map_err(wrong)?,
            _ => LockSection::default(),
        };
        let LockSection { place, options } = section;
        let PlaceArgs { store, prefix } = arguments.place.clone();
        let url = match store {
            Some(url) => Some(url),
            None => match of_environment().map_err(wrong)? {
                Some(url) => Some(url),
                None => of_file(place.store, file.as_ref()).map_err(wrong)?,
            },
        };
        let file_prefix = file.and_then(|file| file.prefix);
        Ok(Settings {
            url,
            prefix: prefix.or(place.prefix).or(file_prefix),
            options,
        })
    }
}

fn wrong(message: String) -> ExitReason {
    ExitReason::new(exit_code::USAGE, message)
}

/// The URL that the environment names.
fn of_environment() -> Result<Option<String>, String> {
    match env::var(STORE) {
        Ok(url) if !url.is_empty() => return Ok(Some(url)),
        Ok(_) | Err(env::VarError::NotPresent) => {}
        Err(env::VarError::NotUnicode(_)) => return Err(format!("{STORE} is not UTF-8 text")),
    }
    if let Some(path) = set(STORE_FILE) {
        return url_in(Path::new(&path), STORE_FILE).map(Some);
    }
    let (folder, name) = CREDENTIALS;
    let credential = set(folder).map(|folder| Path::new(&folder).join(name));
    match credential {
        // One that is there and cannot be read is a mistake: without it the wrong store would be
        // used.
        Some(credential) if !matches!(credential.try_exists(), Ok(false)) => {
            url_in(&credential, "the credential dlock.store").map(Some)
        }
        _ => Ok(None),
    }
}

/// The URL that the configuration file names, for this lock or for all.
fn of_file(of_lock: Option<String>, file: Option<&ConfigFile>) -> Result<Option<String>, String> {
    let Some(file) = file else { return Ok(None) };
    if let Some(url) = of_lock.or_else(|| file.store.clone()) {
        warn_if_readable(&file.path, &url);
        return Ok(Some(url));
    }
    match &file.store_file {
        Some(path) => {
            // Beside the file that names it.
            let folder = file.path.parent().unwrap_or(Path::new(""));
            let what = format!("store_file of {}", shown(&file.path));
            url_in(&folder.join(path), &what).map(Some)
        }
        None => Ok(None),
    }
}

/// The URL in a file: its only line.
fn url_in(path: &Path, what: &str) -> Result<String, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("cannot read {} ({what}): {error}", shown(path)))?;
    let url = text.trim();
    if url.is_empty() || url.contains('\n') {
        return Err(format!(
            "{} ({what}) must hold the URL of a store on a line, and nothing else",
            shown(path)
        ));
    }
    warn_if_readable(path, url);
    Ok(url.to_owned())
}

/// A password that every user of the host can read is none.
fn warn_if_readable(path: &Path, url: &str) {
    const OTHERS_READ: u32 = 0o004;
    let is_secret = redacted(url) != url;
    let mode = fs::metadata(path).map(|found| found.permissions().mode());
    if is_secret && mode.is_ok_and(|mode| mode & OTHERS_READ != 0) {
        let path = shown(path);
        report(format_args!(
            "warning: every user of this host can read {path}, which holds a password; write: chmod o-r {path}"
        ));
    }
}

fn shown(path: &Path) -> String {
    escaped(&path.to_string_lossy())
}

/// A variable of the environment that is set, and not to nothing.
fn set(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The files that are looked for without `--config` and `DLOCK_CONFIG`; the first that exists
/// counts.
fn usual_files() -> impl Iterator<Item = PathBuf> {
    let of_user = set("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".config")));
    // The standard has relative ones ignored.
    let of_user = of_user.filter(|folder| folder.is_absolute());
    let folders = of_user.into_iter().chain([PathBuf::from("/etc")]);
    folders.map(|folder| folder.join("dlock/config.toml"))
}
