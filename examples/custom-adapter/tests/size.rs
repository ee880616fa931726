//! What the guide says of it.

#[test]
fn the_adapter_is_shorter_than_a_hundred_lines() {
    let lines = include_str!("../src/lib.rs").lines().count();
    assert!(lines < 100, "{lines} lines");
}
