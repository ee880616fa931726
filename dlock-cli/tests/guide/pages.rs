//! The code blocks of the pages.

use std::fs;
use std::path::Path;

/// A code block.
pub(crate) struct Block {
    /// The page and the line that opens the block, for messages.
    pub(crate) place: String,
    /// The first word behind the fence.
    pub(crate) language: String,
    /// The other words behind the fence.
    pub(crate) kind: String,
    pub(crate) text: String,
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The text of a page, by its path in the project.
pub(crate) fn page(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The code blocks of the guide and of the two READMEs that users of the command read.
pub(crate) fn blocks() -> Vec<Block> {
    let mut paths = vec!["README.md".to_owned(), "dlock-cli/README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs/src")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            paths.push(format!("docs/src/{name}"));
        }
    }
    paths.sort();
    paths
        .iter()
        .flat_map(|path| blocks_of(path, &page(path)))
        .collect()
}

fn blocks_of(path: &str, text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        // In a list, the block is indented as its item is.
        let indent = line.len() - line.trim_start().len();
        let code = lines
            .by_ref()
            .map(|(_, line)| line.get(indent..).unwrap_or_default())
            .take_while(|line| !line.starts_with("```"));
        let text = code.map(|line| format!("{line}\n")).collect();
        let (language, kind) = info.split_once(' ').unwrap_or((info, ""));
        found.push(Block {
            place: format!("{path}:{}", number + 1),
            language: language.to_owned(),
            kind: kind.to_owned(),
            text,
        });
    }
    found
}

#[test]
fn blocks_are_found_with_their_kinds_also_in_lists() {
    let text = "a\n```sh run\nx\n\ny\n```\n- b\n\n  ```text\n  z\n  ```\n";
    let found = blocks_of("p.md", text);
    let shown: Vec<_> = found
        .iter()
        .map(|b| (&*b.place, &*b.language, &*b.kind, &*b.text))
        .collect();
    assert_eq!(
        shown,
        [
            ("p.md:2", "sh", "run", "x\n\ny\n"),
            ("p.md:9", "text", "", "z\n")
        ]
    );
}
