//! A quick run shows that all measurements work. Their figures are not checked.

use std::fs;
use std::process::Command;

#[test]
fn a_quick_run_measures_everything_and_writes_it_down() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dlock-bench"))
        .args(["--quick", "--out"])
        .arg(folder.path())
        .output()
        .expect("the program is built");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let results = fs::read_to_string(folder.path().join("results.md")).unwrap();
    assert_eq!(results, String::from_utf8_lossy(&output.stdout));
    for title in [
        "A pair on Redis",
        "Async pairs on Redis",
        "Async waiters",
        "Memory of async locks",
        "A pair on memcached",
        "Async pairs on memcached",
        "A pair in a folder",
        "PostgreSQL",
        "etcd",
        "Core's own cost",
        "Hand-over",
        "Waiting while nothing happens",
        "A crashed holder",
        "Renewal of many locks",
        "The command's start-up",
        "The next job",
    ] {
        assert!(results.contains(&format!("\n## {title}\n")), "{title}");
    }
    for part in ["NaN", "inf"] {
        assert!(!results.contains(part), "{part} in\n{results}");
    }
}
