//! Where the settings come from, and which of them wins.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::support::{Place, code, dlock, output, stderr};

/// `dlock run … job -c LINE` in the folder of the test, without a store.
fn run(place: &Place, arguments: &str, line: &str) -> Command {
    let mut command = dlock();
    command
        .args(["run", "job"])
        .args(arguments.split_whitespace())
        .args(["-c", line])
        .current_dir(place.path(""));
    command
}

fn write(place: &Place, name: &str, text: &str) -> String {
    let path = place.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// The folder of the store in which the command ran.
fn ran_in(place: &Place, command: &mut Command) -> String {
    for name in ["a", "b", "c", "d", "e"] {
        let _ = fs::remove_dir_all(place.path(name));
    }
    let ran = output(command);
    assert_eq!((code(&ran), stderr(&ran)), (0, String::new()));
    let used = ["a", "b", "c", "d", "e"]
        .into_iter()
        .filter(|name| place.path(name).exists());
    used.collect()
}

fn url(place: &Place, name: &str) -> String {
    format!("file:{}", place.path(name).display())
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let place = Place::new();
    let config = write(
        &place,
        "config.toml",
        &format!("store = \"{}\"\n", url(&place, "a")),
    );
    let store_file = write(&place, "store", &format!("{}\n", url(&place, "b")));
    let credentials = place.path("credentials");
    write(&place, "credentials/dlock.store", &url(&place, "c"));
    let of_file = || {
        let mut command = run(&place, "", "true");
        command.env("DLOCK_CONFIG", &config);
        command
    };
    assert_eq!(ran_in(&place, &mut of_file()), "a");
    assert_eq!(
        ran_in(&place, of_file().env("CREDENTIALS_DIRECTORY", &credentials)),
        "c"
    );
    let both = |command: &mut Command| {
        command
            .env("CREDENTIALS_DIRECTORY", &credentials)
            .env("DLOCK_STORE_FILE", &store_file);
    };
    let mut command = of_file();
    both(&mut command);
    assert_eq!(ran_in(&place, &mut command), "b");
    command.env("DLOCK_STORE", url(&place, "d"));
    assert_eq!(ran_in(&place, &mut command), "d");
    let mut command = run(&place, &format!("--store {}", url(&place, "e")), "true");
    both(&mut command);
    assert_eq!(
        ran_in(&place, command.env("DLOCK_STORE", url(&place, "d"))),
        "e"
    );
}

#[test]
fn the_file_is_that_of_the_option_or_of_the_environment_or_of_the_user() {
    let place = Place::new();
    let config = |name: &str, store: &str| {
        write(
            &place,
            name,
            &format!("store = \"{}\"\n", url(&place, store)),
        )
    };
    let home = place.path("home");
    config("xdg/dlock/config.toml", "a");
    config("home/.config/dlock/config.toml", "b");
    let (named, other) = (config("c.toml", "c"), config("d.toml", "d"));
    let mut command = run(&place, "", "true");
    assert_eq!(
        ran_in(
            &place,
            command.env_remove("XDG_CONFIG_HOME").env("HOME", &home)
        ),
        "b"
    );
    assert_eq!(
        ran_in(&place, command.env("XDG_CONFIG_HOME", place.path("xdg"))),
        "a"
    );
    assert_eq!(ran_in(&place, command.env("DLOCK_CONFIG", named)), "c");
    let mut command = run(&place, &format!("--config {other}"), "true");
    assert_eq!(
        ran_in(&place, command.env("DLOCK_CONFIG", place.path("c.toml"))),
        "d"
    );
}

#[test]
fn a_home_of_another_user_is_passed_over_and_a_file_that_cannot_be_read_is_not() {
    let place = Place::new();
    write(&place, "home/dlock/config.toml", "store = \"file:\"\n");
    let arguments = format!("job --store {}", url(&place, "a"));
    let as_user = || {
        let mut command = crate::support::dlock_as_user(&place, &arguments);
        command
            .env("XDG_CONFIG_HOME", place.path("home"))
            .args(["-c", "true"]);
        output(&mut command)
    };
    let failed = as_user();
    assert_eq!(code(&failed), 64, "{}", stderr(&failed));
    assert!(
        stderr(&failed).contains("dlock/config.toml: Permission denied"),
        "{}",
        stderr(&failed)
    );
    fs::set_permissions(place.path("home"), fs::Permissions::from_mode(0o700)).unwrap();
    let passed_over = as_user();
    assert_eq!(code(&passed_over), 0, "{}", stderr(&passed_over));
}

#[test]
fn a_lock_has_a_section_with_the_options_of_run_and_the_command_line_wins() {
    let place = Place::new();
    let text = format!(
        "store_file = \"store\"\nprefix = \"app\"\n[lock.job]\ncron = true\nmax_hold = \"200ms\"\n\
         [lock.other]\nstore = \"{}\"\nprefix = \"own\"\n",
        url(&place, "b")
    );
    let config = write(&place, "folder/config.toml", &text);
    // Beside the configuration, wherever dlock is started.
    write(&place, "folder/store", &url(&place, "a"));
    let with = |arguments: &str, line: &str| {
        output(&mut run(
            &place,
            &format!("--config {config} {arguments}"),
            line,
        ))
    };
    let key = with("--max-hold 60s", "echo $DLOCK_KEY");
    assert_eq!(String::from_utf8(key.stdout).unwrap(), "app:job\n");
    assert_eq!(code(&with("", "sleep 60")), 124);
    assert_eq!(code(&with("--max-hold 60s", "sleep 0.3")), 0);
    let refused = with(
        "--max-hold 60s",
        &format!(
            "{} run job --config {config} -c true; echo $?",
            env!("CARGO_BIN_EXE_dlock")
        ),
    );
    assert_eq!(
        String::from_utf8(refused.stdout).unwrap(),
        "0\n",
        "cron is set"
    );

    let ask = |verb: &str, name: &str| {
        let shown = output(dlock().args([verb, name, "--config", &config]));
        assert_eq!(code(&shown), 0, "{}", stderr(&shown));
        String::from_utf8(shown.stdout).unwrap()
    };
    assert!(ask("status", "job").contains("(key app:job in "));
    let other = ask("status", "other");
    assert!(
        other.contains(&format!("(key own:other in {})", url(&place, "b"))),
        "{other}"
    );
    assert!(ask("key", "other").starts_with("own:other\n"));
}

#[test]
fn a_field_is_read_with_hyphens_as_with_underscores() {
    let place = Place::new();
    let text = "store-file = \"store\"\n[lock.job]\nlost-exit-code = 3\n";
    let config = write(&place, "config.toml", text);
    write(&place, "store", &url(&place, "a"));
    let mut command = run(&place, &format!("--config {config}"), "true");
    assert_eq!(ran_in(&place, &mut command), "a");
}

#[test]
fn a_mistake_in_the_configuration_gives_64_and_says_where_and_what() {
    let place = Place::new();
    for (text, expected) in [
        (
            "stroe = \"file:\"",
            "there is no field `stroe`; did you mean `store`?",
        ),
        (
            "[lock.job]\nmax_hlod = \"1h\"",
            "[lock.\"job\"]: there is no field `max_hlod`; did you mean `max_hold`?",
        ),
        ("[lock.job]\nttl = \"30\"", "ttl: `30` is not a duration"),
        ("store = \"redis://:secret@h/", "line 1: "),
        ("store_file = \"none\"", "cannot read "),
        (
            "store = \"nowhere\"",
            "is not a store that this dlock knows",
        ),
    ] {
        let config = write(&place, "config.toml", text);
        let failed = output(&mut run(&place, &format!("--config {config}"), "touch ran"));
        let said = stderr(&failed);
        assert_eq!(code(&failed), 64, "{text}: {said}");
        assert!(
            said.contains(expected) && !said.contains("secret"),
            "{text}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let missing = output(&mut run(&place, "--config missing.toml", "touch ran"));
    assert_eq!(code(&missing), 64);
    assert!(
        stderr(&missing).contains("cannot read missing.toml: "),
        "{}",
        stderr(&missing)
    );
    let mut command = run(&place, "", "touch ran");
    let missing = output(command.env("DLOCK_STORE_FILE", place.path("missing")));
    assert_eq!(code(&missing), 64);
    assert!(
        stderr(&missing).contains("(DLOCK_STORE_FILE): "),
        "{}",
        stderr(&missing)
    );
    assert!(!place.path("ran").exists());
}

#[cfg(feature = "redis")]
#[test]
fn a_password_that_every_user_can_read_is_a_warning() {
    let place = Place::new();
    let server = dlock_test_servers::RedisServer::builder()
        .password("secret")
        .start();
    let url = format!("redis://:secret@{}/", server.address());
    let file = write(&place, "store", &url);
    let config = write(&place, "config.toml", &format!("store = \"{url}\"\n"));
    let of_file = || output(run(&place, "", "true").env("DLOCK_STORE_FILE", &file));
    let of_config = || output(&mut run(&place, &format!("--config {config}"), "true"));
    for (path, run) in [(&file, &of_file as &dyn Fn() -> _), (&config, &of_config)] {
        let quiet = run();
        assert_eq!((code(&quiet), stderr(&quiet)), (0, String::new()));
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        let warned = run();
        let said = stderr(&warned);
        assert_eq!(code(&warned), 0, "{said}");
        assert!(
            said.starts_with("dlock: warning: every user of this host can read "),
            "{said}"
        );
        assert!(
            said.contains(&format!("chmod o-r {path}")) && !said.contains("secret"),
            "{said}"
        );
    }
    // Without a password there is nothing to hide.
    let plain = write(
        &place,
        "plain",
        &format!("file:{}", place.path("a").display()),
    );
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let quiet = output(run(&place, "", "true").env("DLOCK_STORE_FILE", plain));
    assert_eq!((code(&quiet), stderr(&quiet)), (0, String::new()));
}

#[test]
fn a_credential_that_cannot_be_read_is_a_mistake_and_one_that_is_not_there_is_none() {
    let place = Place::new();
    fs::create_dir(place.path("credentials")).unwrap();
    let with = |folder: &str| {
        let mut command = run(&place, "", "true");
        command
            .env("DLOCK_CONFIG", "/dev/null")
            .env("CREDENTIALS_DIRECTORY", place.path(folder));
        output(&mut command)
    };
    assert_eq!(code(&with("credentials")), 0);
    fs::create_dir(place.path("credentials/dlock.store")).unwrap();
    fs::write(place.path("a-file"), "").unwrap();
    // A folder in its place, and a file in the place of the folder around it.
    for folder in ["credentials", "a-file"] {
        let failed = with(folder);
        assert_eq!(code(&failed), 64, "{}", stderr(&failed));
        assert!(
            stderr(&failed).contains("(the credential dlock.store): "),
            "{}",
            stderr(&failed)
        );
    }
}

#[test]
fn what_is_said_of_the_configuration_is_json_too() {
    let place = Place::new();
    for verb in ["run job -c true", "hold job"] {
        let mut command = dlock();
        command
            .args(verb.split(' '))
            .args(["--log", "json", "--config", "missing.toml"])
            .current_dir(place.path(""));
        let failed = output(&mut command);
        assert_eq!(code(&failed), 64, "{}", stderr(&failed));
        let said: serde_json::Value = serde_json::from_slice(&failed.stderr).unwrap();
        assert!(
            said["message"]
                .as_str()
                .unwrap()
                .starts_with("cannot read ")
        );
    }
}

#[test]
fn the_command_line_may_say_how_long_to_keep_the_job_that_the_file_names() {
    let place = Place::new();
    let text = format!(
        "store = \"{}\"\n[lock.job]\nonce = \"mon\"\n",
        url(&place, "a")
    );
    let config = write(&place, "config.toml", &text);
    let kept = output(&mut run(
        &place,
        &format!("--keep 2d --config {config}"),
        "true",
    ));
    assert_eq!(code(&kept), 0, "{}", stderr(&kept));
    let none = output(&mut run(&place, "--keep 2d --store file:", "touch ran"));
    assert_eq!(code(&none), 64);
    assert!(
        stderr(&none).contains("--keep has no effect without --once; give --once ID too"),
        "{}",
        stderr(&none)
    );
    assert!(!place.path("ran").exists());
}

#[test]
fn status_prints_what_it_found_before_an_error() {
    let place = Place::new();
    let text = format!(
        "[lock.a]\nstore = \"{}\"\n[lock.b]\nstore = \"nowhere\"\n",
        url(&place, "a")
    );
    let config = write(&place, "config.toml", &text);
    let failed = output(dlock().args(["status", "a", "b", "--config", &config]));
    assert_eq!(code(&failed), 64, "{}", stderr(&failed));
    let shown = String::from_utf8(failed.stdout.clone()).unwrap();
    assert!(shown.starts_with("a: free "), "{shown}");
    assert!(stderr(&failed).contains("is not a store that this dlock knows"));
}
