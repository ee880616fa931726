//! The configuration file.
//!
//! ```toml
//! store_file = "store"    # or: store = "redis://locks.example/"
//! prefix = "app"
//!
//! [lock."hourly-import"]
//! wait = "50m"
//! cron = true
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{set, shown, usual_files};
use crate::args::{Fields, LockSection, section};
use crate::message::escaped;

/// Names the file.
const CONFIG: &str = "DLOCK_CONFIG";

/// A configuration file that was read.
#[derive(Debug)]
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) store: Option<String>,
    pub(super) store_file: Option<PathBuf>,
    pub(super) prefix: Option<String>,
    /// By lock, its options, which are read when the lock is used: a mistake in those of one lock
    /// does not stop the others.
    locks: Table,
}

impl ConfigFile {
    /// Reads the file that is named, or else the first of the usual ones that exists.
    pub(super) fn find(named: Option<&Path>) -> Result<Option<Self>, String> {
        let named = named
            .map(Path::to_owned)
            .or_else(|| set(CONFIG).map(PathBuf::from));
        if let Some(path) = named {
            let text = fs::read_to_string(&path)
                .map_err(|error| format!("cannot read {}: {error}", shown(&path)))?;
            return Self::parse(path, &text).map(Some);
        }
        for path in usual_files() {
            match fs::read_to_string(&path) {
                Ok(text) => return Self::parse(path, &text).map(Some),
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                // The folder of another user, which HOME may name after a change of the user. A
                // file that is there and cannot be read is a mistake: without it the wrong store
                // would be used.
                Err(error)
                    if error.kind() == ErrorKind::PermissionDenied
                        && fs::metadata(&path).is_err() => {}
                Err(error) => return Err(format!("cannot read {}: {error}", shown(&path))),
            }
        }
        Ok(None)
    }

    fn parse(path: PathBuf, text: &str) -> Result<Self, String> {
        let file = shown(&path);
        // The error's own text shows the line, which may hold a password.
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(0, |before| before.matches('\n').count()) + 1;
            format!("{file}, line {line}: {}", escaped(error.message()))
        })?;
        let mut table = Fields::of_file()
            .of(&table)
            .map_err(|error| format!("{file}: {error}"))?;
        let mut text = |name: &str| match table.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => {
                let kind = other.type_str();
                Err(format!(
                    "{file}: {name} must be a text in quotes, not a {kind}"
                ))
            }
        };
        let (store, store_file, prefix) = (text("store")?, text("store_file")?, text("prefix")?);
        if store.is_some() && store_file.is_some() {
            return Err(format!("{file}: store and store_file exclude each other"));
        }
        let locks = match table.remove("lock") {
            None => Table::new(),
            Some(Value::Table(locks)) => locks,
            Some(_) => return Err(format!("{file}: write a section [lock.\"NAME\"]")),
        };
        // TOML reads a name with a dot and without quotes as a section in a section, which does not
        // show where the name was meant to end.
        for (name, section) in &locks {
            let inner = section.as_table().into_iter().flatten();
            if let Some((inner, _)) = inner.into_iter().find(|(_, value)| value.is_table()) {
                let (name, inner) = (escaped(name), escaped(inner));
                return Err(format!(
                    "{file}: a section cannot be in another; a name with a dot needs quotes: \
                     [lock.\"{name}.{inner}\"]"
                ));
            }
        }
        if let Some(unread) = table.keys().next() {
            return Err(format!(
                "{file}: the field `{unread}` belongs into a section"
            ));
        }
        Ok(ConfigFile {
            store,
            store_file: store_file.map(PathBuf::from),
            prefix,
            locks,
            path,
        })
    }

    /// The options of a lock.
    pub(super) fn section(&self, name: &str) -> Result<LockSection, String> {
        let place = || format!("{}, [lock.\"{}\"]", shown(&self.path), escaped(name));
        match self.locks.get(name) {
            None => Ok(LockSection::default()),
            Some(Value::Table(table)) => {
                section(table).map_err(|error| format!("{}: {error}", place()))
            }
            Some(_) => Err(format!("{}: it is no section", place())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<ConfigFile, String> {
        ConfigFile::parse("/x/config.toml".into(), text)
    }

    #[test]
    fn a_mistake_names_file_and_place_and_shows_no_secret() {
        for (text, expected) in [
            ("a = 1\nb b", "/x/config.toml, line 2: "),
            ("x = 1\nstore = redis://:secret@host/", "line 2: "),
            (
                "stor = \"x\"",
                "/x/config.toml: there is no field `stor`; did you mean `store`?",
            ),
            (
                "store = 1",
                "/x/config.toml: store must be a text in quotes, not a integer",
            ),
            ("store = \"a\"\nstore_file = \"b\"", "exclude each other"),
            (
                "store-file = \"a\"\nstore_file = \"b\"",
                "the field `store_file` is set twice",
            ),
            ("store = \"a\"\nstore-file = \"b\"", "exclude each other"),
            (
                "[lock.my.job]\nttl = \"1m\"",
                "a name with a dot needs quotes: [lock.\"my.job\"]",
            ),
            ("lock = \"x\"", "write a section [lock.\"NAME\"]"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(
                !error.contains("secret") && error.lines().count() == 1,
                "{error}"
            );
        }
    }

    #[test]
    fn a_mistake_in_the_section_of_one_lock_does_not_stop_another() {
        let file = parsed("[lock.\"a b\"]\nttl = \"1m\"\n[lock.other]\ntll = \"1m\"").unwrap();
        assert!(file.section("a b").unwrap().options.lock.ttl.is_some());
        assert_eq!(file.section("none").unwrap(), LockSection::default());
        let error = file.section("other").unwrap_err();
        assert_eq!(
            error,
            "/x/config.toml, [lock.\"other\"]: there is no field `tll`; did you mean `ttl`?"
        );
    }
}
