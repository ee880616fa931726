//! Comments and pages fit a window of 100 columns.

use std::fs;
use std::path::{Path, PathBuf};

const COLUMNS: usize = 100;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// All files below `folder` that people read, but for what is built, and what a machine wrote.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", ".git", "corpus", "book", "seeds"].contains(&&*name) {
                files(&path, found);
            }
        } else if path
            .extension()
            .is_some_and(|extension| extension == "rs" || extension == "lua" || extension == "md")
            || folder.ends_with("scripts") && path.extension().is_none()
        {
            found.push(path);
        }
    }
}

/// Whether a line of this file is prose: all of a page, and the comments of code.
fn is_prose(path: &Path, line: &str) -> bool {
    let text = line.trim_start();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("md") => true,
        Some("lua") => text.starts_with("--"),
        Some("rs") => text.starts_with("//"),
        _ => text.starts_with('#'),
    }
}

/// Whether it cannot be wrapped: a row of a table, or one long word.
fn is_whole(line: &str) -> bool {
    let text = prose_of(line);
    text.starts_with('|') || !text.trim_end().contains(' ')
}

/// A line without the mark of a comment.
fn prose_of(line: &str) -> &str {
    line.trim_start()
        .trim_start_matches(['/', '!', '-', '#'])
        .trim_start()
}

#[test]
fn no_comment_and_no_line_of_a_page_is_longer_than_100_columns() {
    let mut all = Vec::new();
    files(root(), &mut all);
    assert!(all.len() > 300, "only {} files were found", all.len());
    let mut long = Vec::new();
    for path in all {
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut is_code = false;
        for (number, line) in text.lines().enumerate() {
            // Code has its own rules, and its own formatter.
            is_code ^= prose_of(line).starts_with("```");
            if is_code {
                continue;
            }
            let columns = line.chars().count();
            if columns > COLUMNS && is_prose(&path, line) && !is_whole(line) {
                let path = path.strip_prefix(root()).unwrap_or(&path).display();
                long.push(format!("{path}:{}: {columns} columns", number + 1));
            }
        }
    }
    assert!(long.is_empty(), "wrap these lines:\n{}", long.join("\n"));
}
