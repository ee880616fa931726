//! What the registry and the package say of each crate is there and true.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use toml::{Table, Value};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(name: &str) -> String {
    let path = root().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn manifest(folder: &str) -> Table {
    read(&format!("{folder}/Cargo.toml"))
        .parse()
        .expect("a manifest")
}

/// The folders of the crates that are published, each with its `[package]`.
fn published() -> Vec<(String, Table)> {
    let workspace = manifest(".");
    let members = workspace["workspace"]["members"]
        .as_array()
        .expect("a list");
    let members = members
        .iter()
        .map(|member| member.as_str().expect("a path").to_owned());
    let packages = members.map(|folder| {
        let package = manifest(&folder)["package"]
            .as_table()
            .expect("a table")
            .clone();
        (folder, package)
    });
    packages
        .filter(|(_, package)| package.get("publish") != Some(&Value::Boolean(false)))
        .collect()
}

/// The categories of the registry that the crates use. It refuses any other slug.
const CATEGORIES: [&str; 9] = [
    "caching",
    "command-line-utilities",
    "concurrency",
    "database",
    "development-tools::testing",
    "encoding",
    "filesystem",
    "network-programming",
    "os::unix-apis",
];

#[test]
fn each_crate_says_what_the_registry_asks_for() {
    let packages = published();
    assert!(packages.len() > 9, "{}", packages.len());
    let mut categories = BTreeSet::new();
    for (folder, package) in &packages {
        let inherited = Value::Table(Table::from_iter([("workspace".into(), true.into())]));
        for field in [
            "version",
            "license",
            "authors",
            "repository",
            "rust-version",
        ] {
            assert_eq!(package.get(field), Some(&inherited), "{field} of {folder}");
        }
        let text = |field: &str| {
            let value = package.get(field).and_then(Value::as_str);
            value.unwrap_or_else(|| panic!("{folder} has no {field}"))
        };
        assert!(!text("description").is_empty() && !text("description").ends_with('.'));
        assert_eq!(
            text("documentation"),
            format!("https://docs.rs/{}", text("name"))
        );
        assert!(
            root().join(folder).join(text("readme")).is_file(),
            "{folder}"
        );
        let list = |field: &str| {
            let values = package.get(field).and_then(Value::as_array);
            let values = values.unwrap_or_else(|| panic!("{folder} has no {field}"));
            assert!((1..=5).contains(&values.len()), "{field} of {folder}");
            values
                .iter()
                .map(|value| value.as_str().expect("a text").to_owned())
        };
        for keyword in list("keywords") {
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_-+".contains(c);
            assert!(
                keyword.len() <= 20 && keyword.chars().all(is_allowed),
                "{keyword}"
            );
        }
        categories.extend(list("categories"));
    }
    let categories: Vec<&str> = categories.iter().map(String::as_str).collect();
    assert_eq!(categories, CATEGORIES);
}

#[test]
fn the_address_for_vulnerabilities_is_that_of_the_authors() {
    let workspace = manifest(".");
    let author = workspace["workspace"]["package"]["authors"][0].as_str();
    let (_, address) = author
        .and_then(|author| author.split_once('<'))
        .expect("an address");
    let address = address.trim_end_matches('>');
    assert!(address.contains('@'), "{address}");
    assert!(read("SECURITY.md").contains(&format!("<{address}>")));
}

/// The archive of a release is made by `scripts/package` under the name that is asked for.
#[test]
fn the_archive_has_the_name_that_binstall_looks_for() {
    let package = &manifest("dlock-cli")["package"];
    let binstall = &package["metadata"]["binstall"];
    let script = read("scripts/package");
    let name = "{ name }-{ version }-{ target }";
    assert_eq!(
        binstall["pkg-url"].as_str(),
        Some(&*format!(
            "{{ repo }}/releases/download/v{{ version }}/{name}.{{ archive-format }}"
        ))
    );
    assert_eq!(
        binstall["bin-dir"].as_str(),
        Some(&*format!("{name}/{{ bin }}{{ binary-ext }}"))
    );
    assert_eq!(binstall["pkg-fmt"].as_str(), Some("tgz"));
    assert!(script.contains("name=dlock-cli-$(\"$dlock\" --version | cut -d' ' -f2)-$target\n"));
    assert!(script.contains("--file \"$packages/$name.tgz\""));
}

#[test]
fn the_package_lists_each_file_that_the_repository_has_for_it() {
    let package = &manifest("dlock-cli")["package"];
    let assets = package["metadata"]["deb"]["assets"]
        .as_array()
        .expect("a list");
    let sources: Vec<&str> = assets
        .iter()
        .filter_map(|asset| asset[0].as_str())
        .collect();
    for source in &sources {
        let is_made = source.contains("target/") || source.contains('*');
        let path = root().join("dlock-cli").join(source);
        assert!(is_made || path.is_file(), "{source}");
    }
    let listed = |path: &str| sources.contains(&path);
    for entry in fs::read_dir(root().join("dlock-cli/packaging"))
        .expect("a folder")
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_listed = listed(&format!("packaging/{name}"))
            || listed(&format!("packaging/{name}/*"))
            || name == "debian";
        assert!(is_listed, "{name}");
    }
}
