//! The pictures of the guide: each is shown, is well-formed, and can be read without eyes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of the files with this ending, with the folder below the pages.
fn files(below: &str, ending: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder().join(below)).expect("a folder");
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.ends_with(ending))
        .map(|name| format!("{below}{name}"))
        .collect()
}

/// Checks that the text is well-formed XML, in the part of XML that these pictures use: elements,
/// attributes in double quotes, text and the named references. Returns the names of the elements.
fn elements(text: &str) -> Result<Vec<&str>, String> {
    let mut open: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    let mut pieces = text.split('<');
    let before = pieces.next().unwrap_or_default();
    if !before.trim().is_empty() {
        return Err(format!("text before the first element: {before}"));
    }
    for piece in pieces {
        let (tag, text) = piece
            .split_once('>')
            .ok_or_else(|| format!("no > behind <{piece}"))?;
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes what is not open"));
            }
        } else {
            if open.is_empty() && !found.is_empty() {
                return Err(format!("a second root: {tag}"));
            }
            let (tag, is_closed) = match tag.strip_suffix('/') {
                Some(tag) => (tag, true),
                None => (tag, false),
            };
            let name = tag.split_whitespace().next().unwrap_or_default();
            let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic());
            if !is_name || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return Err(format!("no name of an element: {tag}"));
            }
            attributes(&tag[name.len()..])?;
            found.push(name);
            if !is_closed {
                open.push(name);
            }
        }
        references(text)?;
        if open.is_empty() && !text.trim().is_empty() {
            return Err(format!("text behind the last element: {text}"));
        }
    }
    match open.last() {
        Some(name) => Err(format!("<{name}> is not closed")),
        None => Ok(found),
    }
}

/// Checks what stands behind the name of an element: ` name="value"`, no name twice.
fn attributes(text: &str) -> Result<(), String> {
    let mut names = BTreeSet::new();
    let mut rest = text;
    while !rest.trim().is_empty() {
        let is_apart = rest.starts_with(char::is_whitespace);
        let (name, value) = rest
            .trim_start()
            .split_once("=\"")
            .ok_or_else(|| format!("no attribute: {rest}"))?;
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b':';
        if !is_apart || name.is_empty() || !name.bytes().all(is_name) || !names.insert(name) {
            return Err(format!("a wrong attribute: {name}"));
        }
        let (value, behind) = value
            .split_once('"')
            .ok_or_else(|| format!("no end of the value of {name}"))?;
        references(value)?;
        rest = behind;
    }
    Ok(())
}

/// Checks that each ampersand begins a named reference.
fn references(text: &str) -> Result<(), String> {
    for part in text.split('&').skip(1) {
        let name = part.split(';').next().unwrap_or_default();
        if !["amp", "lt", "gt", "quot", "apos"].contains(&name) {
            return Err(format!("no reference: &{part}"));
        }
    }
    Ok(())
}

/// The text of the first element of this name.
fn text_of<'a>(picture: &'a str, name: &str) -> &'a str {
    let (_, rest) = picture
        .split_once(&format!("<{name} "))
        .unwrap_or_else(|| panic!("no <{name}>"));
    let (_, text) = rest.split_once('>').expect("the end of the tag");
    text.split('<').next().unwrap_or_default()
}

#[test]
fn each_picture_is_well_formed() {
    let mut all = files("pictures/", ".svg");
    all.extend(files("performance/", ".svg"));
    assert!(all.len() >= 8, "{all:?}");
    for name in all {
        let picture = read(&folder().join(&name));
        let found = elements(&picture);
        let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found[0], "svg", "{name}");
    }
}

#[test]
fn each_picture_has_a_title_and_a_description_and_two_sets_of_colours() {
    for name in files("pictures/", ".svg") {
        let picture = read(&folder().join(&name));
        assert!(
            picture.contains(" role=\"img\" aria-labelledby=\"t d\""),
            "{name}"
        );
        for (element, at_least) in [("title id=\"t\"", 10), ("desc id=\"d\"", 80)] {
            let (element, id) = element.split_once(' ').expect("two words");
            assert!(picture.contains(&format!("<{element} {id}>")), "{name}");
            assert!(
                text_of(&picture, element).len() >= at_least,
                "{name}: {element}"
            );
        }
        assert!(picture.contains("prefers-color-scheme:dark"), "{name}");
        assert!(
            picture.contains("<rect class=\"paper\""),
            "{name}: no background of its own"
        );
    }
}

/// The page with the picture says the same in words, right below it.
#[test]
fn each_picture_is_shown_on_a_page_with_its_title_and_in_words() {
    let mut shown = BTreeSet::new();
    for page in files("", ".md") {
        let text = read(&folder().join(&page));
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let Some(link) = line.strip_prefix("![") else {
                continue;
            };
            let (title, rest) = link.split_once("](").expect("a target");
            let name = rest.split(')').next().unwrap_or_default();
            assert!(folder().join(name).is_file(), "{page} shows {name}");
            shown.insert(name.to_owned());
            if name.starts_with("pictures/") {
                let picture = read(&folder().join(name));
                assert_eq!(title, text_of(&picture, "title"), "{page}: {name}");
                let words = lines.get(number + 2).copied().unwrap_or_default();
                assert!(words.starts_with("In words: "), "{page}: {name}: {words}");
            }
        }
    }
    let mut all = files("pictures/", ".svg");
    all.extend(files("performance/", ".svg"));
    assert_eq!(shown, all);
}

#[test]
fn what_is_not_well_formed_is_found() {
    for wrong in [
        "<svg>",
        "<svg></g></svg>",
        "<svg><g></svg></g>",
        "<svg/><svg/>",
        "<svg/>x",
        "x<svg/>",
        "<svg a=1/>",
        "<svg a=\"1\" a=\"2\"/>",
        "<svg a=\"1\"b=\"2\"/>",
        "<svg>a & b</svg>",
        "<svg a=\"&x;\"/>",
        "<svg>< g/></svg>",
        "<svg a=\"1/>",
        "<svg><",
    ] {
        assert!(elements(wrong).is_err(), "{wrong}");
    }
    let right = "<svg a=\"1\" b-c=\"2\">\n<g>x &amp; y</g><g/>\n</svg>\n";
    assert_eq!(elements(right), Ok(vec!["svg", "g", "g"]));
}
