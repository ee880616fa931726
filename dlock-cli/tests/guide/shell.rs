//! Each shell block has a kind, the second word behind its fence, which says how it is run.

use std::net::TcpListener;
use std::process::{Command, Output};

use dlock_test_servers::RedisServer;

use crate::pages::{Block, blocks};
use crate::sandbox::Sandbox;
use crate::support::{code, ended, output, spawn, wait_until};

/// What the kinds mean. A block may also be `parsed`: see [`NOT_RUN`].
const KINDS: [(&str, &str); 5] = [
    ("run", "it is run"),
    (
        "held",
        "it is run while another process holds `hourly-import`",
    ),
    ("done", "it is run after the job that it names"),
    ("serves", "it starts a Redis that the command can use"),
    (
        "hosts",
        "`scripts/check-package` runs it, on two hosts that it makes",
    ),
];

/// The blocks that are only parsed: the page, how they begin, and why nothing runs them here.
const NOT_RUN: [(&str, &str, &str); 11] = [
    (
        "README.md",
        "scripts/test\n",
        "it runs all tests, this one too",
    ),
    (
        "docs/src/first-lock.md",
        "cargo new first-lock && cd first-lock\ncargo add dlock-core dlock-redis\n",
        "the crates come from the registry",
    ),
    (
        "docs/src/first-lock.md",
        "cargo new first-lock && cd first-lock\ncargo add dlock-core dlock-redis --features",
        "the crates come from the registry",
    ),
    (
        "docs/src/command.md",
        "dlock doctor --store",
        "the server of this test has no disk, of which doctor warns; it has tests of its own",
    ),
    (
        "docs/src/operating.md",
        "dlock doctor\n",
        "the server of this test has no disk, of which doctor warns; it has tests of its own",
    ),
    (
        "docs/src/recipes.md",
        "mkdir -p /etc/dlock/jobs\n",
        "it changes the system; `scripts/check-package` tries the units",
    ),
    (
        "docs/src/recipes.md",
        "docker run",
        "there is no container; a test of the recipes runs the command as process 1",
    ),
    (
        "docs/src/recipes.md",
        "#!/bin/sh\n# Takes its own lock.",
        "the file of the package with this text is run by a test of the recipes",
    ),
    (
        "docs/src/install.md",
        "cargo install --locked --path dlock-cli",
        "it would compile the command again, and install it for this user",
    ),
    (
        "docs/src/install.md",
        "cargo add --path",
        "it is for a program beside a clone",
    ),
    (
        "docs/src/performance.md",
        "cargo run --release -p dlock-bench",
        "it takes fifteen minutes; the tests of that crate run it for some seconds",
    ),
];

/// What a block with this line must print.
const PRINTED: [(&str, &str); 6] = [
    ("-- echo \"importing, ", "importing, alone on this host\n"),
    ("first-try -- echo", "dlock 0."),
    ("dlock status hourly-import\n", "hourly-import: held by "),
    ("dlock break hourly-import", "freed hourly-import, "),
    ("dlock status hourly-import --once", ": done by "),
    ("dlock forget hourly-import", "it can run again\n"),
];

/// The files that a block with this line must leave behind, with something in them.
const LEFT: [(&str, &str); 3] = [
    ("dlock man >", "dlock.1"),
    ("dlock man run >", "dlock-run.1"),
    ("dlock completions bash", "completions/dlock"),
];

fn shell_blocks() -> Vec<Block> {
    let mut blocks = blocks();
    blocks.retain(|block| ["sh", "bash", "shell", "console"].contains(&&*block.language));
    assert!(blocks.len() > 10, "only {} blocks were found", blocks.len());
    blocks
}

/// Returns the reason why the block is not run, if it is one of [`NOT_RUN`].
fn reason(block: &Block) -> Option<&'static str> {
    NOT_RUN.iter().find_map(|(page, start, reason)| {
        let is_it = block.place.starts_with(&format!("{page}:")) && block.text.starts_with(start);
        is_it.then_some(*reason)
    })
}

#[test]
fn every_shell_block_has_a_kind_and_parses() {
    let blocks = shell_blocks();
    for block in &blocks {
        let (place, kind) = (&block.place, &*block.kind);
        let is_run = KINDS.iter().any(|(known, _)| *known == kind);
        assert!(
            is_run || kind == "parsed",
            "{place}: write the kind of this block behind its fence, as in ```sh run. \
             The kinds: {KINDS:?}, or \"parsed\" with a line in NOT_RUN. Found: {kind:?}"
        );
        assert_eq!(
            kind == "parsed",
            reason(block).is_some(),
            "{place}: a block that is only parsed has its reason in NOT_RUN, and no other"
        );
        let parsed = output(Command::new("bash").args(["-n", "-c", &block.text]));
        assert!(parsed.status.success(), "{place}: {parsed:?}");
    }
    let not_run = blocks.iter().filter(|block| reason(block).is_some());
    assert_eq!(not_run.count(), NOT_RUN.len(), "a line of NOT_RUN is stale");
}

#[test]
fn every_shell_block_that_can_be_run_does_what_the_page_says() {
    let redis = RedisServer::start();
    let mut printed = [false; PRINTED.len()];
    for (number, block) in shell_blocks().iter().enumerate() {
        let sandbox = Sandbox::new(&redis, number);
        let run = match &*block.kind {
            "run" => sandbox.run(&block.text),
            "held" => sandbox.run_while_held(&block.text),
            "done" => run_after_the_job(&sandbox, block),
            _ => continue,
        };
        assert_eq!(code(&run), 0, "{}: {run:?}", block.place);
        check(&sandbox, block, &run, &mut printed);
    }
    assert_eq!(printed, [true; PRINTED.len()], "a line of PRINTED is stale");
}

fn check(sandbox: &Sandbox<'_>, block: &Block, run: &Output, printed: &mut [bool]) {
    let shown = String::from_utf8_lossy(&run.stdout);
    for (at, (line, words)) in PRINTED.iter().enumerate() {
        if block.text.contains(line) {
            assert!(shown.contains(words), "{}: {run:?}", block.place);
            printed[at] = true;
        }
    }
    for (line, file) in LEFT {
        if block.text.contains(line) {
            let length = std::fs::metadata(sandbox.path(file)).unwrap().len();
            assert!(length > 100, "{}: {file} has {length} bytes", block.place);
        }
    }
}

fn run_after_the_job(sandbox: &Sandbox<'_>, block: &Block) -> Output {
    let job = block.text.split("--once ").nth(1).unwrap();
    let job = job.split_whitespace().next().unwrap();
    let first = sandbox.run(&format!("dlock run --once {job} hourly-import -- true"));
    assert_eq!(code(&first), 0, "{first:?}");
    sandbox.run(&block.text)
}

#[test]
fn the_server_of_the_first_page_serves_the_command() {
    let redis = RedisServer::start();
    let blocks = shell_blocks();
    let servers: Vec<_> = blocks.iter().filter(|b| b.kind == "serves").collect();
    assert!(!servers.is_empty());
    for (number, block) in servers.into_iter().enumerate() {
        assert!(block.text.contains(" --port 6379 "), "{}", block.place);
        let sandbox = Sandbox::new(&redis, number);
        // Another process may take the port first: then the server ends, and another one is taken.
        let has_served = (0..5).any(|_| serves(&sandbox, &block.text));
        assert!(has_served, "{}: the server does not start", block.place);
    }
}

/// A port on which nothing listens now.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Starts the server on another port and locks in it. Returns whether it could be started.
fn serves(sandbox: &Sandbox<'_>, text: &str) -> bool {
    let port = free_port();
    let line = text.replace("--port 6379", &format!("--port {port} --save ''"));
    let mut server = spawn(
        sandbox
            .command("bash")
            .args(["-c", &format!("exec {line}")]),
    );
    let served = wait_until("an answer of the server", || {
        let url = format!("redis://127.0.0.1:{port}/");
        let words = ["run", "--store", &url, "job", "--", "true"];
        let run = ended(spawn(sandbox.command("dlock").args(words)));
        let has_ended = server.try_wait().unwrap().is_some();
        (has_ended || run.status.success()).then_some(!has_ended)
    });
    let _ = server.kill();
    ended(server);
    served
}
