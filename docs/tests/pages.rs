//! What the pages say of the code is there: tests by their names, files by their text.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn page(name: &str) -> String {
    read(&root().join("docs/src").join(name))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every source file of the project.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What stands between backticks and reads like the name of a test: words joined by three or more underscores.
fn names(text: &str) -> BTreeSet<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter(|word| {
            let plain = word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            plain && word.matches('_').count() >= 3
        })
        .collect()
}

/// The code blocks with this mark, one after the other.
fn code(text: &str, mark: &str) -> String {
    let blocks = text.split("\n```").skip(1).step_by(2);
    blocks
        .filter_map(|block| block.strip_prefix(mark)?.strip_prefix('\n'))
        .map(|block| block.to_owned() + "\n")
        .collect()
}

fn without_blank_lines(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .collect()
}

#[test]
fn every_test_that_a_page_names_exists() {
    let mut files = Vec::new();
    sources(root(), &mut files);
    let code: String = files.iter().map(|file| read(file)).collect();
    let mut seen = 0;
    for page_name in ["guarantees.md", "write-an-adapter.md"] {
        let text = page(page_name);
        for name in names(&text) {
            let is_there =
                code.contains(&format!("fn {name}(")) || code.contains(&format!(" {name} = "));
            assert!(
                is_there,
                "{page_name} names `{name}`, and no test is called so"
            );
            seen += 1;
        }
    }
    assert!(seen > 80, "only {seen} names were found");
}

#[test]
fn the_adapter_on_the_page_is_the_adapter_in_the_examples() {
    let adapter = root().join("examples/custom-adapter");
    let (store, suite) = (
        read(&adapter.join("src/lib.rs")),
        read(&adapter.join("tests/conformance.rs")),
    );
    let shown = code(&page("write-an-adapter.md"), "rust,ignore");
    let suite = suite.split_once("\n\n").map_or("", |(_, rest)| rest);
    let real = format!("{suite}{store}");
    let (shown, real) = (without_blank_lines(&shown), without_blank_lines(&real));
    for (number, line) in real.iter().enumerate() {
        assert_eq!(shown.get(number), Some(line), "line {number} of the code");
    }
    assert_eq!(shown.len(), real.len());
}

#[test]
fn every_page_is_in_the_contents_and_every_link_leads_somewhere() {
    let contents = page("SUMMARY.md");
    for entry in fs::read_dir(root().join("docs/src"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            continue; // What a page shows: figures and pictures.
        }
        let text = page(&name);
        assert!(
            name == "SUMMARY.md" || contents.contains(&format!("({name})")),
            "{name}"
        );
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = link.split('#').next().unwrap_or_default();
            if (file.ends_with(".md") || file.ends_with(".svg")) && !file.contains("://") {
                let target = root().join("docs/src").join(file);
                assert!(target.is_file(), "{name} links to {link}");
            }
        }
    }
}
