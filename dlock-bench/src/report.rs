//! The report: Markdown, and charts in files of their own.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::Failure;

/// The widest line of a page, but for tables.
const COLUMNS: usize = 100;

/// The whole report.
pub(crate) struct Report {
    machine: String,
    sections: Vec<Section>,
}

/// The results of one measurement.
#[derive(Default)]
pub(crate) struct Section {
    pub(crate) title: String,
    /// What was measured, in a sentence or two.
    pub(crate) text: String,
    pub(crate) tables: Vec<Table>,
    /// The names and contents of files.
    pub(crate) charts: Vec<(String, String)>,
}

/// A table with a caption.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) caption: String,
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Report {
    pub(crate) fn new(machine: String) -> Self {
        Report {
            machine,
            sections: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// Writes `results.md` and the charts.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Failure> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("results.md"), self.to_string())?;
        for (name, svg) in self.sections.iter().flat_map(|section| &section.charts) {
            fs::write(folder.join(name), svg)?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# The figures of one run\n")?;
        writeln!(
            f,
            "Written by `dlock-bench`; do not edit.\n\n{}",
            self.machine
        )?;
        for section in &self.sections {
            write!(f, "{section}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n\n{}\n", self.title, wrapped(&self.text))?;
        for (name, _) in &self.charts {
            writeln!(f, "![{}]({name})\n", self.title)?;
        }
        self.tables
            .iter()
            .try_for_each(|table| write!(f, "{table}"))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "**{}**\n", self.caption)?;
        writeln!(f, "| {} |", self.head.join(" | "))?;
        writeln!(f, "|{}", " --- |".repeat(self.head.len()))?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        writeln!(f)
    }
}

/// The same words in lines of at most [`COLUMNS`], as all pages have them.
fn wrapped(text: &str) -> String {
    let mut wrapped = String::with_capacity(text.len());
    let mut columns = 0;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if columns > 0 && columns + 1 + width > COLUMNS {
            wrapped.push('\n');
            columns = 0;
        } else if columns > 0 {
            wrapped.push(' ');
            columns += 1;
        }
        wrapped.push_str(word);
        columns += width;
    }
    wrapped
}

/// Formats nanoseconds as microseconds or milliseconds, to three digits.
pub(crate) fn time(nanos: f64) -> String {
    let micros = nanos / 1e3;
    match micros.abs() {
        _ if micros.is_nan() => "–".to_owned(),
        0.0..1e4 => format!("{} µs", three_digits(micros)),
        _ => format!("{} ms", three_digits(micros / 1e3)),
    }
}

pub(crate) fn three_digits(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "–".to_owned(),
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

pub(crate) fn or_dash(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "–".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_wrapped_as_the_pages_are_and_keeps_its_words() {
        let text = "*raw*: ".to_owned() + &"`µ` zzzz ".repeat(40);
        let wrapped = wrapped(&text);
        assert!(wrapped.split_whitespace().eq(text.split_whitespace()));
        let widths: Vec<_> = wrapped.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths.iter().max(), Some(&COLUMNS), "{wrapped}");
        assert!(widths[..widths.len() - 1].iter().all(|width| *width > 90));
        assert_eq!(super::wrapped(""), "");
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(time(1_234.0), "1.23 µs");
        assert_eq!(time(123_456.0), "123 µs");
        assert_eq!(time(-47_000_000.0), "-47.0 ms");
        assert_eq!(time(f64::NAN), "–");
    }
}
