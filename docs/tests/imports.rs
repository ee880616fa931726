//! The modules of a crate form no circle, and those of core stand in floors.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of a crate, each with the modules that it names outside of its tests. The root,
/// which names all of them, is left out.
type Imports = BTreeMap<String, BTreeSet<String>>;

const CRATES: [&str; 15] = [
    "dlock-bench",
    "dlock-cli",
    "dlock-core",
    "dlock-etcd",
    "dlock-file",
    "dlock-history",
    "dlock-memcache",
    "dlock-net",
    "dlock-postgres",
    "dlock-process",
    "dlock-redis",
    "dlock-test-servers",
    "dlock-testkit",
    "dlock-torture",
    "dlock-url",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// `contract::lease` for `src/contract/lease.rs`.
fn module_of(file: &Path, source: &Path) -> String {
    let path = file.strip_prefix(source).expect("a file of the crate");
    let path = path.with_extension("");
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("::")
}

/// The source without comments, and without its tests, which stand last.
fn code_of(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("a source file");
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
    let lines = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""));
    lines.collect::<Vec<_>>().join(" ")
}

/// The paths in a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn leaves(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((prefix, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree);
        return vec![path.trim().to_owned()];
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in inner.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("one at least").push(c);
    }
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts
        .flat_map(|part| leaves(part))
        .map(|path| format!("{prefix}{path}"))
        .collect()
}

/// Every path that begins with `crate`, `super` or `self`.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for begin in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(begin) {
            let before = &code[..at];
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let is_use = before.trim_end().ends_with("use");
            let rest = &code[at..];
            let end = match is_use {
                true => rest.find(';'),
                false => rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')),
            };
            found.extend(leaves(&rest[..end.unwrap_or(rest.len())]));
        }
    }
    found
}

fn imports_of(source: &Path) -> Imports {
    let files = source_files(source);
    let is_test = |module: &str| module.split("::").any(|part| part == "tests");
    let modules: BTreeMap<String, PathBuf> = files
        .into_iter()
        .map(|file| (module_of(&file, source), file))
        .filter(|(module, _)| !["lib", "main"].contains(&&**module) && !is_test(module))
        .collect();
    let imports = modules.iter().map(|(module, file)| {
        let targets = paths(&code_of(file))
            .into_iter()
            .filter_map(|path| resolved(&path, module, &modules))
            .filter(|target| target != module)
            .collect();
        (module.clone(), targets)
    });
    imports.collect()
}

/// The module that a path from `module` leads to.
fn resolved(path: &str, module: &str, modules: &BTreeMap<String, PathBuf>) -> Option<String> {
    let mut parts: Vec<&str> = path.split("::").collect();
    let mut full: Vec<&str> = module.split("::").collect();
    match parts.first() {
        Some(&"crate") => full.clear(),
        Some(&"self") => {}
        _ => {
            while parts.first() == Some(&"super") {
                full.pop();
                parts.remove(0);
            }
            parts.insert(0, "");
        }
    }
    full.extend(&parts[1..]);
    (1..=full.len())
        .rev()
        .map(|length| full[..length].join("::"))
        .find(|candidate| modules.contains_key(candidate))
}

/// A path through modules that ends where it began.
fn circle(imports: &Imports) -> Option<Vec<&str>> {
    fn visit<'a>(
        module: &'a str,
        imports: &'a Imports,
        path: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> bool {
        if path.contains(&module) {
            path.push(module);
            return true;
        }
        if !done.contains(module) {
            path.push(module);
            let found = imports[module]
                .iter()
                .any(|next| visit(next, imports, path, done));
            if found {
                return true;
            }
            path.pop();
            done.insert(module);
        }
        false
    }
    let mut done = BTreeSet::new();
    imports.keys().find_map(|module| {
        let mut path = Vec::new();
        visit(module, imports, &mut path, &mut done).then_some(path)
    })
}

#[test]
fn the_modules_of_a_crate_form_no_circle() {
    for name in CRATES {
        let imports = imports_of(&root().join(name).join("src"));
        let circle = circle(&imports);
        assert!(
            circle.is_none(),
            "{name}: {}",
            circle.unwrap_or_default().join(" -> ")
        );
    }
}

#[test]
fn a_circle_is_found() {
    let imports = Imports::from([
        ("a".into(), BTreeSet::from(["b".into()])),
        ("b".into(), BTreeSet::from(["c".into()])),
        ("c".into(), BTreeSet::from(["b".into()])),
    ]);
    assert_eq!(circle(&imports), Some(vec!["a", "b", "c", "b"]));
    let code = "use crate::a::{b, c::{D as E, f}}; let x = super::y::Z::new(); self::w();";
    let expected = [
        "crate::a::b",
        "crate::a::c::D",
        "crate::a::c::f",
        "super::y::Z::new",
        "self::w",
    ];
    assert_eq!(paths(code), expected);
}

/// From the ground up. What stands on none of the four is the face, which names all of them.
const FLOORS: [&str; 3] = ["time", "contract", "engine"];
/// Words of the face that the engine speaks too: errors, events, options. They name no engine.
const VOCABULARY: [&str; 6] = [
    "acquire_error",
    "duration",
    "observer",
    "options",
    "outcome_word",
    "trace",
];

#[test]
fn core_stands_in_floors() {
    let imports = imports_of(&root().join("dlock-core/src"));
    let floor_of = |module: &str| {
        let first = module.split("::").next().unwrap_or(module);
        match FLOORS.iter().position(|floor| *floor == first) {
            Some(2) => 3,
            Some(floor) => floor,
            None if VOCABULARY.contains(&first) => 2,
            None => 4,
        }
    };
    for (module, targets) in &imports {
        for target in targets {
            // How long options wait, and how a store says what it can keep, are durations.
            if target == "duration" {
                continue;
            }
            assert!(
                floor_of(target) <= floor_of(module),
                "`{module}` names `{target}` of a higher floor"
            );
        }
    }
    assert!(imports.len() > 30, "{}", imports.len());
}
