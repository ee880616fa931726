//! Where a block is run: a folder of its own, a store of its own, and scripts that leave a trace.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use dlock_test_servers::RedisServer;

use crate::support::{
    Place, ended, kill_child, spawn, status_of, wait_until, with_default_signals,
};

/// The store of the examples.
const STORE: &str = "redis://locks.example/";
/// The token of the examples.
const TOKEN: &str = "1795476271000000";

/// The cargo of the examples runs the command that is built already, and installs nothing.
const CARGO: &str = r#"
cargo() {
  case "$*" in
    "run -q -p dlock-cli -- "*) shift 5; dlock "$@" ;;
    "install dlock-cli") ;;
    *) echo "no cargo $*" >&2; return 99 ;;
  esac
}
"#;

/// The commands of the pages that are started as `./name` here only say that they were started.
/// The shell makes them: this process, in which other tests fork, writes no program.
const SCRIPTS: &str = r#"
for script in $SCRIPTS; do
  printf '#!/bin/sh\necho "%s" >>ran\n' "$script" >"$script"
  chmod +x "$script"
done
"#;

pub(crate) struct Sandbox<'a> {
    place: Place,
    redis: &'a RedisServer,
}

impl<'a> Sandbox<'a> {
    /// A new one. Its locks in the server have the prefix `prefix`, and no other sandbox's.
    pub(crate) fn new(redis: &'a RedisServer, prefix: usize) -> Self {
        let place = Place::new();
        for folder in ["bin", "state", "completions"] {
            fs::create_dir(place.path(folder)).unwrap();
        }
        symlink(env!("CARGO_BIN_EXE_dlock"), place.path("bin/dlock")).unwrap();
        fs::write(
            place.path("config.toml"),
            format!("prefix = \"block-{prefix}\"\n"),
        )
        .unwrap();
        Sandbox { place, redis }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// A program in the environment of the blocks.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let bin = self.path("bin");
        command
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("HOME", self.path(""))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("DLOCK_CONFIG", self.path("config.toml"))
            .env("DLOCK_STORE", self.redis.url())
            .current_dir(self.path(""))
            .stdin(Stdio::null());
        // SAFETY: system calls, nothing else.
        #[allow(unsafe_code)]
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, with_default_signals)
        };
        command
    }

    /// What stands for something that only the reader has is replaced.
    pub(crate) fn adapt(&self, text: &str) -> String {
        let group = format!("-g {}", rustix::process::getegid().as_raw());
        text.replace(STORE, &self.redis.url())
            .replace("/etc/bash_completion.d/", "completions/")
            .replace("-g shop", &group)
            .replace("/var/lib/shop/locks", "shared-locks")
    }

    /// Runs the text in bash, which ends at the first command that fails. Each script that it
    /// names must have been started.
    pub(crate) fn run(&self, text: &str) -> Output {
        let text = self.adapt(text);
        let scripts: Vec<&str> = text
            .split_whitespace()
            .filter(|word| word.starts_with("./"))
            .collect();
        let output = ended(spawn(
            self.command("bash")
                .args(["-e", "-o", "pipefail", "-c"])
                .arg(format!("{CARGO}{SCRIPTS}{text}"))
                .env("SCRIPTS", scripts.join(" ")),
        ));
        let ran = self.place.read("ran");
        for script in scripts {
            let has_run = ran.lines().any(|line| line == script);
            assert!(has_run, "{script} was not started by\n{text}\n{output:?}");
        }
        output
    }

    /// Makes a script that leaves a trace when it is started. A shell makes it, see `SCRIPTS`.
    pub(crate) fn script(&self, name: &str) {
        let made = ended(spawn(
            self.command("bash")
                .args(["-e", "-c", SCRIPTS])
                .env("SCRIPTS", name),
        ));
        assert!(made.status.success(), "{made:?}");
    }

    /// How often such scripts were started.
    pub(crate) fn started(&self) -> usize {
        self.place.read("ran").lines().count()
    }

    /// Waits until the file has a line, and returns it.
    pub(crate) fn await_text(&self, name: &str) -> String {
        self.place.await_text(name)
    }

    /// Runs the text while another process holds `hourly-import`, whose token takes the place of
    /// the one in the text.
    pub(crate) fn run_while_held(&self, text: &str) -> Output {
        let mut holder = self.holder();
        let token = wait_until("the holder", || self.token());
        let output = self.run(&text.replace(TOKEN, &token));
        kill_child(&holder, rustix::process::Signal::TERM);
        status_of(&mut holder);
        output
    }

    fn holder(&self) -> Child {
        let words = ["run", "hourly-import", "--", "sleep", "300"];
        spawn(self.command("dlock").args(words))
    }

    fn token(&self) -> Option<String> {
        let words = ["status", "--json", "hourly-import"];
        let status = ended(spawn(self.command("dlock").args(words)));
        let entries: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        entries[0]["token"].as_u64().map(|token| token.to_string())
    }
}
