//! The dependencies that the pages and the READMEs show are right: the crates are those of this
//! workspace, in its version, and have the features.

use std::fs;
use std::path::Path;

use toml::{Table, Value};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn manifest(folder: &str) -> Table {
    let text = read(&root().join(folder).join("Cargo.toml"));
    text.parse().expect("a manifest")
}

/// Every page, and the README of each crate, with its path in the project.
fn pages() -> Vec<(String, String)> {
    let mut paths = vec!["README.md".to_owned()];
    for (folder, name) in [(".", "README.md"), ("docs/src", "")] {
        let entries = fs::read_dir(root().join(folder)).expect("a folder");
        for entry in entries.flatten() {
            let entry = entry.file_name().to_string_lossy().into_owned();
            let path = match name {
                "" => format!("{folder}/{entry}"),
                name => format!("{entry}/{name}"),
            };
            if path.ends_with(".md") && root().join(&path).is_file() {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let texts = paths.into_iter().map(|path| {
        let text = read(&root().join(&path));
        (path, text)
    });
    texts.collect()
}

/// The blocks of TOML in a page that list dependencies.
fn dependencies(page: &str, text: &str) -> Vec<Table> {
    let blocks = text.split("\n```").skip(1).step_by(2);
    let listed = blocks.filter_map(|block| block.strip_prefix("toml\n"));
    let tables = listed.map(|block| {
        let table = block.parse::<Table>();
        table.unwrap_or_else(|error| panic!("{page}: {error}\n{block}"))
    });
    // The test of the command's guide reads the other one, its configuration.
    let tables =
        tables.filter(|table| page != "docs/src/command.md" || table.contains_key("dependencies"));
    tables.collect()
}

/// Checks one of our crates against its manifest.
fn check(page: &str, name: &str, wanted: &Value, version: &str) {
    let package = manifest(name);
    let shown = wanted.get("version").unwrap_or(wanted).as_str();
    let minor = version.rsplit_once('.').map(|(minor, _)| minor);
    assert_eq!(shown, minor, "{page}: {name}");
    let known = package.get("features").and_then(Value::as_table);
    let features = wanted.get("features").and_then(Value::as_array);
    for feature in features.into_iter().flatten() {
        let feature = feature.as_str().expect("a text");
        let is_known = known.is_some_and(|known| known.contains_key(feature));
        assert!(is_known, "{page}: {name} has no feature `{feature}`");
    }
}

#[test]
fn each_dependency_on_a_page_is_a_crate_of_this_version_with_these_features() {
    let workspace = manifest(".");
    let version = workspace["workspace"]["package"]["version"]
        .as_str()
        .expect("a version");
    let mut checked = 0;
    for (page, text) in pages() {
        for table in dependencies(&page, &text) {
            for (section, entries) in &table {
                let is_section = ["dependencies", "dev-dependencies"].contains(&section.as_str());
                assert!(is_section, "{page}: [{section}]");
                for (name, wanted) in entries.as_table().expect("a section") {
                    let is_full = wanted.is_str() || wanted.get("version").is_some();
                    assert!(is_full, "{page}: {name} has no version");
                    if name.starts_with("dlock-") {
                        check(&page, name, wanted, version);
                        checked += 1;
                    }
                }
            }
        }
    }
    assert!(checked > 30, "only {checked} dependencies were found");
}
