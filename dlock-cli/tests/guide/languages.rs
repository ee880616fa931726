//! Each block of the pages has a language, and a test that reads what is written in it.

use crate::pages::blocks;

/// The first words behind the fences, and what is done with such blocks.
const LANGUAGES: [(&str, &str); 13] = [
    ("bash", "`shell` runs or parses it"),
    ("cron", "`crontab` runs each line"),
    ("dockerfile", "it is a file of the package, which has tests"),
    (
        "ini",
        "`units` reads it as systemd does, and runs its command",
    ),
    ("php", "it is the code that the page replaces, not ours"),
    (
        "rust",
        "the documentation tests compile it, or it is compared with an example",
    ),
    (
        "rust,ignore",
        "it is compared with an example that is compiled",
    ),
    ("rust,no_run", "the documentation tests compile it"),
    ("sh", "`shell` runs or parses it"),
    ("sql", "`sql` runs it on a server"),
    ("text", "it is a form or an output, and nothing to be run"),
    ("toml", "`configuration` or the tests of the guide read it"),
    ("yaml", "`kubernetes` reads it and runs its command"),
];

#[test]
fn every_block_has_a_language_that_a_test_reads() {
    let found = blocks();
    for block in &found {
        let is_known = LANGUAGES.iter().any(|(known, _)| *known == block.language);
        assert!(is_known, "{}: ```{}", block.place, block.language);
    }
    for (known, _) in LANGUAGES {
        let is_used = found.iter().any(|block| block.language == known);
        assert!(is_used, "no block is {known}");
    }
}
