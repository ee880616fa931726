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

/// What stands between backticks and reads like the name of a test: words joined by three or more
/// underscores.
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
        .filter_map(|block| {
            // Behind the mark, a block for a shell has the kind by which a test runs it.
            let (kind, code) = block.strip_prefix(mark)?.split_once('\n')?;
            (kind.is_empty() || kind.starts_with(' ')).then_some(code)
        })
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
    for page_name in ["faults.md", "guarantees.md", "write-an-adapter.md"] {
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

/// The lines of a text without their indentation, and without blank ones.
fn trimmed_lines(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_code_on_the_page_of_the_service_is_in_the_example() {
    let mut files = Vec::new();
    sources(&root().join("examples/service/src"), &mut files);
    let files: Vec<String> = files.iter().map(|file| read(file)).collect();
    let page = page("service.md");
    let blocks = page.split("\n```").skip(1).step_by(2);
    let shown: Vec<_> = blocks
        .map(|block| trimmed_lines(block.strip_prefix("rust,ignore\n").expect("the mark")))
        .collect();
    assert!(shown.len() > 5, "only {} blocks were found", shown.len());
    for block in shown {
        let is_in = |file: &String| {
            let lines = trimmed_lines(file);
            lines.windows(block.len()).any(|part| part == block)
        };
        assert!(files.iter().any(is_in), "not in the example: {block:#?}");
    }
}

/// The options of the hourly job in a crontab, as cron passes them to a shell.
fn recipe(text: &str) -> Option<String> {
    let words: Vec<&str> = text
        .split_whitespace()
        .filter(|word| *word != "\\")
        .collect();
    let start = words
        .windows(2)
        .position(|two| two[0] == "--once" && two[1].contains("$(date"))?;
    let length = words[start..]
        .iter()
        .position(|word| *word == "hourly-import")?;
    Some(words[start..start + length].join(" ").replace("\\%", "%"))
}

/// The command's own tests run the one in its README.
#[test]
fn the_crontab_line_of_each_page_is_the_one_in_the_readme_of_the_command() {
    let readme = recipe(&read(&root().join("dlock-cli/README.md")));
    assert!(readme.is_some());
    assert_eq!(recipe(&read(&root().join("README.md"))), readme);
    for name in ["command.md", "recipes.md", "tour.md"] {
        assert_eq!(recipe(&page(name)), readme, "{name}");
    }
}

/// The command's own tests run them.
#[test]
fn each_recipe_on_the_page_is_a_file_of_the_package_or_the_example_of_the_help() {
    let package = root().join("dlock-cli/packaging");
    let files = [package.clone(), package.join("examples")]
        .into_iter()
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten())
        .filter(|entry| entry.path().is_file() && !entry.path().ends_with("config.toml"));
    let page = page("recipes.md");
    let mut number = 0;
    for file in files {
        let text = read(&file.path());
        assert!(page.contains(&format!("\n{text}```\n")), "{file:?}");
        number += 1;
    }
    assert_eq!(number, 6);
    let help = read(&root().join("dlock-cli/src/help_hold.txt"));
    for page in [page, self::page("command.md")] {
        let example = trimmed_lines(&code(&page, "bash")).join("\n");
        assert!(trimmed_lines(&help).join("\n").contains(&example));
    }
}

/// The crate's own tests show that these rights are enough.
#[test]
fn the_rights_on_the_page_of_redis_are_those_of_the_readme() {
    let readme = read(&root().join("dlock-redis/README.md"));
    let rights: Vec<&str> = readme
        .lines()
        .skip_while(|line| !line.starts_with("user dlock "))
        .take_while(|line| !line.starts_with("```"))
        .collect();
    assert_eq!(rights.len(), 2, "{rights:?}");
    assert!(page("redis.md").contains(&rights.join("\n")), "{rights:?}");
}

#[test]
fn every_page_is_in_the_contents() {
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
        assert!(
            name == "SUMMARY.md" || contents.contains(&format!("({name})")),
            "{name}"
        );
    }
}

#[test]
fn the_glossary_is_the_same_in_the_guide_and_for_contributors() {
    let guide = page("glossary.md");
    let (_, table) = guide.split_once("| word |").expect("a table of words");
    assert!(table.lines().count() > 12, "{table}");
    let contributing = read(&root().join("CONTRIBUTING.md"));
    assert!(contributing.contains(table.trim_end()));
}

/// The text of all sources, with what a backslash continues on the next line put together.
fn all_code() -> String {
    let mut files = Vec::new();
    sources(root(), &mut files);
    let text: String = files.iter().map(|file| read(file)).collect();
    let mut pieces = text.split("\\\n");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |whole, piece| whole + piece.trim_start())
}

#[test]
fn each_message_on_the_page_of_troubleshooting_is_one_of_ours() {
    let (page, code) = (page("troubleshooting.md"), all_code());
    let messages = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let messages: Vec<_> = messages
        .filter(|words| !words.starts_with("dlock "))
        .collect();
    assert!(messages.len() > 20, "{messages:?}");
    for words in messages {
        assert!(code.contains(words), "no message has the words `{words}`");
    }
}
