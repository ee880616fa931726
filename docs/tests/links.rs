//! Links inside the project lead somewhere: to a file that exists, and to a heading in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// All pages of the project, but for what is built.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", ".git", "corpus", "book", "seeds"].contains(&&*name) {
                pages(&path, found);
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines outside of code blocks.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// The text without what stands between backticks: links in there are none.
fn without_code(text: &str) -> String {
    text.split('`').step_by(2).collect()
}

/// The targets of links and pictures, `[text](target)` and `[text]: target`.
fn links(text: &str) -> Vec<String> {
    let text = without_code(&prose(text));
    let inline = text.split("](").skip(1).filter_map(|rest| {
        let target = rest.split(')').next()?;
        Some(target.split_whitespace().collect::<String>())
    });
    let definitions = text.lines().filter_map(|line| {
        let (_, target) = line.strip_prefix('[')?.split_once("]: ")?;
        Some(target.trim().to_owned())
    });
    inline.chain(definitions).collect()
}

/// The anchors of a page's headings, as mdBook and the public forges make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in prose(text).lines() {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let anchor: String = title
            .trim()
            .to_lowercase()
            .chars()
            .filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                _ => None,
            })
            .collect();
        // A second heading with the same words gets a number.
        let numbered = (1..).map(|number| format!("{anchor}-{number}"));
        let mut names = std::iter::once(anchor.clone()).chain(numbered);
        let free = names.find(|name| !found.contains(name));
        found.extend(free);
    }
    found
}

/// What is wrong with the link on the page at `path`, if something is.
fn mistake(path: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None; // Not in this project.
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => path.to_owned(),
        file => path.parent().expect("a folder").join(file),
    };
    if !target.exists() {
        return Some("there is no such file".to_owned());
    }
    if anchor.is_empty() {
        return None;
    }
    let anchors = anchors(&read(&target));
    (!anchors.contains(anchor)).then(|| format!("the page has the headings {anchors:?}"))
}

#[test]
fn every_link_inside_the_project_leads_to_a_file_and_a_heading() {
    let mut all = Vec::new();
    pages(root(), &mut all);
    let mut checked = 0;
    let mut mistakes = Vec::new();
    for path in &all {
        // Rustdoc reads the READMEs of the crates too; it knows items by paths.
        let links = links(&read(path));
        for link in links.iter().filter(|link| !link.contains("::")) {
            checked += 1;
            if let Some(mistake) = mistake(path, link) {
                mistakes.push(format!("{} links to {link}: {mistake}", path.display()));
            }
        }
    }
    assert!(checked > 150, "only {checked} links were found");
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn links_and_anchors_are_found_and_code_is_none() {
    let text = "# A `b_c` d?\n[x](y.md#z) `[no](no.md)` ![p](q.svg)\n```\n# no\n[no](no)\n```\n## A\n## A\n\
                [two\nlines](a.md)\n[r]: s.md\n";
    assert_eq!(links(text), ["y.md#z", "q.svg", "a.md", "s.md"]);
    assert_eq!(
        anchors(text).into_iter().collect::<Vec<_>>(),
        ["a", "a-1", "a-b_c-d"]
    );
    assert!(mistake(&root().join("README.md"), "no-such-file.md").is_some());
    assert!(mistake(&root().join("README.md"), "README.md#no-such-heading").is_some());
    assert!(mistake(&root().join("README.md"), "README.md#the-library").is_none());
}
