//! The fields of a configuration file, read by the table of the command line.

use clap::{Args as _, Command, FromArgMatches as _};
use toml::{Table, Value};

use super::{LockSection, PlaceArgs, usage};
use crate::message::escaped;

/// The names that a table of a configuration file may have.
pub(crate) struct Fields(Vec<String>);

impl Fields {
    /// Those of the file itself.
    pub(crate) fn of_file() -> Self {
        let table = PlaceArgs::augment_args(Command::new("file"));
        let mut fields = names(&table);
        fields.extend(["store_file", "lock"].map(str::to_owned));
        Fields(fields)
    }

    fn of_section() -> Self {
        Fields(names(&LockSection::augment_args(Command::new("lock"))))
    }

    /// The fields of a table, with underscores for hyphens in their names, so that each is read by
    /// one name.
    ///
    /// # Errors
    ///
    /// The first name that is not known, with the nearest one that is; or a field that is there
    /// twice.
    pub(crate) fn of(&self, table: &Table) -> Result<Table, String> {
        self.check(table)?;
        let mut fields = Table::new();
        for (name, value) in table {
            let name = name.replace('-', "_");
            if fields.insert(name.clone(), value.clone()).is_some() {
                return Err(format!("the field `{name}` is set twice"));
            }
        }
        Ok(fields)
    }

    fn check(&self, table: &Table) -> Result<(), String> {
        let is_known = |name: &&String| self.0.contains(&name.replace('-', "_"));
        let Some(unknown) = table.keys().find(|name| !is_known(name)) else {
            return Ok(());
        };
        let distance = |known: &&String| distance(unknown, known);
        let nearest = self.0.iter().min_by_key(distance);
        Err(format!(
            "there is no field `{}`; did you mean `{}`?",
            escaped(unknown),
            nearest.map_or("store", String::as_str)
        ))
    }
}

/// Reads the options of one lock.
///
/// # Errors
///
/// What is wrong with a field.
pub(crate) fn section(table: &Table) -> Result<LockSection, String> {
    let table = Fields::of_section().of(table)?;
    let mut arguments = vec!["lock".to_owned()];
    for (name, value) in &table {
        let option = format!("--{}", name.replace('_', "-"));
        match value {
            Value::String(text) => arguments.push(format!("{option}={text}")),
            Value::Integer(number) => arguments.push(format!("{option}={number}")),
            Value::Boolean(true) => arguments.push(option),
            Value::Boolean(false) => {}
            other => {
                let kind = other.type_str();
                return Err(format!("{name} must be a text in quotes, not a {kind}"));
            }
        }
    }
    let table = LockSection::augment_args(Command::new("lock"));
    let parsed = table
        .try_get_matches_from(arguments)
        .and_then(|matches| LockSection::from_arg_matches(&matches));
    parsed.map_err(|error| {
        let text = usage::mistake(&error).to_string();
        let text = text.trim_start_matches("--");
        text.split("; see `dlock")
            .next()
            .unwrap_or_default()
            .to_owned()
    })
}

fn names(table: &Command) -> Vec<String> {
    let names = table.get_arguments().filter_map(clap::Arg::get_long);
    names.map(|name| name.replace('-', "_")).collect()
}

/// How many letters have to be added, removed or replaced to make one of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut before = row[0];
        row[0] = at + 1;
        for (place, there) in other.iter().enumerate() {
            let replaced = before + usize::from(letter != *there);
            before = row[place + 1];
            row[place + 1] = replaced.min(before + 1).min(row[place] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{LogFormat, Patience};
    use super::*;

    fn of(text: &str) -> Result<LockSection, String> {
        section(&text.parse().unwrap())
    }

    #[test]
    fn a_section_has_the_options_of_run() {
        let section = of("ttl = \"1m\"\nwait = \"forever\"\nmin_hold = \"5m\"\ncron = true\n\
                          verbose = false\nconflict-exit-code = 3\nlog = \"json\"\nprefix = \"app\"\n\
                          label = \"--odd\"\n").unwrap();
        let lock = &section.options.lock;
        assert_eq!(lock.ttl, Some(Duration::from_secs(60)));
        assert_eq!(lock.wait, Some(Patience::Forever));
        assert_eq!(lock.min_hold, Some(Duration::from_secs(300)));
        assert_eq!(lock.label.as_deref(), Some("--odd"));
        assert!(section.options.codes.cron && !section.options.report.verbose);
        assert_eq!(section.options.codes.conflict_exit_code, Some(3));
        assert_eq!(section.options.report.log, Some(LogFormat::Json));
        assert_eq!(section.place.prefix.as_deref(), Some("app"));
    }

    #[test]
    fn a_mistake_names_the_field() {
        for (text, expected) in [
            (
                "tll = \"1m\"",
                "there is no field `tll`; did you mean `ttl`?",
            ),
            ("maxhold = \"1m\"", "did you mean `max_hold`?"),
            ("zzz = 1", "there is no field `zzz`; did you mean "),
            ("help = true", "there is no field `help`"),
            ("config = \"x\"", "there is no field `config`"),
            ("ttl = 30", "ttl: `30` is not a duration"),
            ("ttl = 1.5", "ttl must be a text in quotes, not a float"),
            ("cron = \"yes\"", "cron takes no value"),
            ("ttl = true", "ttl needs a value"),
            (
                "lost_exit_code = 300",
                "lost-exit-code: `300` is not an exit code",
            ),
            (
                "log = \"xml\"",
                "`xml` is not a --log; write one of text, json",
            ),
        ] {
            let error = of(text).unwrap_err();
            assert!(
                error.starts_with(expected) || error.contains(expected),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn the_nearest_name_is_that_with_the_fewest_changes() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("stroe", "store"), 2);
        assert_eq!(distance("ttl", "ttl"), 0);
        let table: Table = "stor_file = 1".parse().unwrap();
        let error = Fields::of_file().check(&table).unwrap_err();
        assert!(error.ends_with("did you mean `store_file`?"), "{error}");
        let table: Table = "[locks.x]".parse().unwrap();
        assert!(
            Fields::of_file()
                .check(&table)
                .unwrap_err()
                .contains("`lock`?")
        );
    }
}
