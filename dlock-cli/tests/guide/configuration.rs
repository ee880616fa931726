//! The configuration file on the page of the command is one that the command reads.

use std::fs;

use dlock_test_servers::RedisServer;

use crate::pages::blocks;
use crate::sandbox::Sandbox;
use crate::support::{code, ended, spawn, stderr};

#[test]
fn the_configuration_on_the_page_is_read_and_its_options_count() {
    let redis = RedisServer::start();
    let mut found = blocks();
    found.retain(|b| b.language == "toml" && b.place.starts_with("docs/src/command.md:"));
    assert_eq!(found.len(), 1);
    let text = &found[0].text;
    for option in ["store_file = \"store\"", "[lock.\"hourly-import\"]"] {
        assert!(text.contains(option), "{option}");
    }

    let sandbox = Sandbox::new(&redis, 0);
    let folder = sandbox.path("");
    let text = text.replace("/var/lib/node_exporter", folder.to_str().unwrap());
    fs::write(sandbox.path("page.toml"), text).unwrap();
    fs::write(sandbox.path("store"), redis.url()).unwrap();
    let mut run = sandbox.command("dlock");
    run.env_remove("DLOCK_STORE")
        .env("DLOCK_CONFIG", sandbox.path("page.toml"))
        .args(["run", "hourly-import", "--", "sh", "-c", "echo $DLOCK_KEY"]);
    let run = ended(spawn(&mut run));
    assert_eq!((code(&run), stderr(&run)), (0, String::new()));
    assert_eq!(String::from_utf8_lossy(&run.stdout), "app:hourly-import\n");
    let figures = fs::read_to_string(sandbox.path("dlock.prom")).unwrap();
    assert!(figures.contains("{lock=\"hourly-import\"}"), "{figures}");
    let keys = redis.keys();
    assert!(keys.iter().any(|key| key.contains("app:")), "{keys:?}");
}
