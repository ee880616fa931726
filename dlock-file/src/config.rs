//! Which folder, and how it is opened.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use dlock_url::{percent_decoded_bytes, redacted};

use crate::folder::{Folder, OpenMode};
use crate::{FileDatastore, OpenError};

/// The options of a file store; made by [`FileDatastore::builder`].
///
/// ```
/// use std::time::Duration;
/// use dlock_file::FileDatastore;
///
/// # let scratch = tempfile::tempdir()?;
/// # let folder = scratch.path().join("locks");
/// // Shared by the members of a group: the folder's group is inherited by what is made in it.
/// let store = FileDatastore::builder(folder)
///     .folder_mode(0o2770)
///     .call_timeout(Duration::from_secs(1))
///     .open()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct FileBuilder {
    path: PathBuf,
    open_mode: OpenMode,
    call_timeout: Duration,
}

impl FileBuilder {
    pub(crate) fn new(path: PathBuf) -> Self {
        FileBuilder {
            path,
            open_mode: OpenMode {
                mode: None,
                private: false,
            },
            call_timeout: Duration::from_secs(2),
        }
    }

    /// The folder that is private to this user; see [`FileDatastore::open_default`].
    pub(crate) fn private() -> Result<Self, OpenError> {
        let folder = default_folder(env::var_os("XDG_STATE_HOME"), env::var_os("HOME"))?;
        let mut builder = FileBuilder::new(folder);
        builder.open_mode.private = true;
        Ok(builder)
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    pub(crate) fn from_url(url: &str) -> Result<Self, OpenError> {
        let wrong = |why| OpenError::Url {
            url: redacted(url),
            why,
        };
        let rest = url
            .strip_prefix("file:")
            .ok_or_else(|| wrong("it does not start with `file:`"))?;
        let path = match rest.strip_prefix("//") {
            None => rest,
            Some(rest) => match rest.find('/') {
                Some(0) => rest,
                Some(_) if rest.starts_with("localhost/") => &rest["localhost".len()..],
                _ => return Err(wrong("it names a host, and a folder is on this one")),
            },
        };
        if path.contains(['?', '#']) {
            return Err(wrong(
                "it has options, and a folder has none (write ? as %3F, # as %23)",
            ));
        }
        if path.is_empty() {
            return Self::private();
        }
        let path = percent_decoded_bytes(path)
            .filter(|path| !path.contains(&0))
            .ok_or_else(|| wrong("a % stands before two hex digits that name a byte"))?;
        Ok(FileBuilder::new(OsString::from_vec(path).into()))
    }

    /// The permission bits of the folder if it has to be made, whatever the umask: `0o2770`, say,
    /// to share it with a group. By default only this user has rights in it. A folder that is there
    /// keeps its own.
    #[must_use]
    pub fn folder_mode(mut self, mode: u32) -> Self {
        self.open_mode.mode = Some(mode);
        self
    }

    /// The most that one call may wait for its turn, whatever its caller's deadline. Default 2 s.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Opens the folder, after making it if it is not there.
    ///
    /// # Errors
    ///
    /// A folder in which locks cannot be kept; the error's text says what to do.
    pub fn open(self) -> Result<FileDatastore, OpenError> {
        let folder = Folder::open(&self.path, self.open_mode)?;
        Ok(FileDatastore::new(folder, self.call_timeout))
    }
}

/// `dlock` in the state directory, as the XDG base directory specification says: relative paths are
/// ignored.
fn default_folder(state: Option<OsString>, home: Option<OsString>) -> Result<PathBuf, OpenError> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let state = state.and_then(absolute).or_else(|| {
        let home = home.and_then(absolute)?;
        Some(home.join(".local/state"))
    });
    state
        .map(|state| state.join("dlock"))
        .ok_or(OpenError::NoHome)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::*;

    fn path_of(url: &str) -> Result<PathBuf, String> {
        let builder = FileBuilder::from_url(url);
        builder.map(|b| b.path).map_err(|error| error.to_string())
    }

    #[test]
    fn the_default_folder_is_in_the_state_directory() {
        let folder = |state: Option<&str>, home: Option<&str>| {
            default_folder(state.map(Into::into), home.map(Into::into)).ok()
        };
        let in_home = Some(PathBuf::from("/home/ann/.local/state/dlock"));
        assert_eq!(
            folder(Some("/state"), Some("/home/ann")),
            Some("/state/dlock".into())
        );
        assert_eq!(folder(None, Some("/home/ann")), in_home);
        assert_eq!(folder(Some("relative"), Some("/home/ann")), in_home);
        assert_eq!(folder(Some(""), Some("/home/ann")), in_home);
        for (state, home) in [(None, None), (None, Some("")), (Some("a"), Some("b"))] {
            assert_eq!(folder(state, home), None);
        }
    }

    #[test]
    fn without_a_home_the_error_says_what_to_name() {
        let text = default_folder(None, None).unwrap_err().to_string();
        assert!(
            text.contains("--store") && text.contains("FileDatastore::open"),
            "{text}"
        );
    }

    #[test]
    fn a_url_names_a_folder() {
        for (url, path) in [
            ("file:/var/lib/locks", "/var/lib/locks"),
            ("file:///var/lib/locks", "/var/lib/locks"),
            ("file://localhost/var/lib/locks", "/var/lib/locks"),
            ("file:locks", "locks"),
            ("file:/my%20locks%3f", "/my locks?"),
        ] {
            assert_eq!(path_of(url).as_deref(), Ok(Path::new(path)), "{url}");
        }
        assert_eq!(
            path_of("file:/%FF").unwrap().as_os_str(),
            OsStr::from_bytes(b"/\xff")
        );
    }

    #[test]
    fn a_wrong_url_is_refused_with_the_reason() {
        for (url, why) in [
            ("/var/lib/locks", "does not start with"),
            ("file://server/share", "names a host"),
            ("file://server", "names a host"),
            ("file:/a?mode=1", "has options"),
            ("file:/a#b", "has options"),
            ("file:/a%", "hex digits"),
            ("file:/a%+1", "hex digits"),
            ("file:/a%00", "hex digits"),
        ] {
            let error = path_of(url).unwrap_err();
            assert!(error.contains(why) && error.contains(url), "{error}");
        }
    }

    #[test]
    fn the_url_of_another_store_is_refused_without_its_password() {
        for (url, shown) in [
            ("redis://app:s3cret@db/0", "`redis://***@db/0`"),
            ("redis://db?pass=s3cret", "`redis://db?***`"),
            ("app:s3cret@db", "`***`"),
            ("app:s3cret://x@db", "`***`"),
            ("redis://app:s3cret", "`redis://***`"),
            ("/:s3cret@db", "`***`"),
            ("/db?pass=s3cret", "`***`"),
            ("redis://db", "`redis://db`"),
            ("/home/me/locks", "`/home/me/locks`"),
        ] {
            let error = FileBuilder::from_url(url).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains(shown) && !text.contains("s3cret"), "{text}");
        }
    }
}
