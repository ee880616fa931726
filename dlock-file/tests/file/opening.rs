//! If a folder cannot be used, the error says why and what to do, even for root, whom permission
//! bits do not stop.

use std::env;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{Scratch, acquire, claim, held};
use dlock_core::{Datastore, ErrorKind, ReleaseOutcome};
use dlock_file::{FileDatastore, FileError, OpenError};
use rustix::fs::{Gid, Mode, Uid};

const TTL: Duration = Duration::from_secs(30);
const NOBODY: u32 = 65534;

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The text of an error with all its causes.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[test]
fn a_folder_is_made_and_is_private() {
    let scratch = Scratch::new();
    let folder = scratch.path();
    let store = FileDatastore::open(&folder).unwrap();
    acquire(&store, "x", TTL);
    assert_eq!((mode(&folder), store.path()), (0o700, folder.as_path()));
    for file in folder.read_dir().unwrap() {
        assert_eq!(mode(file.unwrap().path()) & 0o177, 0);
    }
}

#[test]
fn only_the_last_folder_of_a_path_is_made() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("a/b");
    let error = FileDatastore::open(&folder).unwrap_err();
    assert!(matches!(error, OpenError::NoParent { .. }), "{error}");
    assert!(error.to_string().contains("make that one first"), "{error}");
    assert!(!scratch.path().exists());
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    FileDatastore::open(&folder).unwrap();
}

#[test]
fn a_folder_in_which_users_cannot_replace_each_others_files_is_refused() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path()).unwrap();
    for mode in [0o1777, 0o1770, 0o3770, 0o1707] {
        set_mode(scratch.path(), mode);
        let error = FileDatastore::open(scratch.path()).unwrap_err();
        assert!(matches!(error, OpenError::Sticky { .. }), "{error}");
        assert!(
            error.to_string().contains("name a folder inside"),
            "{error}"
        );
        assert_eq!(scratch.path().read_dir().unwrap().count(), 0);
        FileDatastore::open(scratch.path().join(format!("{mode:o}"))).unwrap();
        fs::remove_dir_all(scratch.path().join(format!("{mode:o}"))).unwrap();
    }
    set_mode(scratch.path(), 0o1755);
    FileDatastore::open(scratch.path()).unwrap();
}

#[test]
fn a_shared_folder_gets_shared_files_whatever_the_umask() {
    let scratch = Scratch::new();
    let store = FileDatastore::builder(scratch.path())
        .folder_mode(0o2770)
        .open()
        .unwrap();
    acquire(&store, "x", TTL);
    assert_eq!(mode(scratch.path()), 0o2770);
    for file in scratch.path().read_dir().unwrap() {
        let file = file.unwrap().path();
        assert_eq!(mode(&file), 0o660, "{}", file.display());
    }
}

#[test]
fn a_folder_that_is_there_keeps_its_mode() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path()).unwrap();
    set_mode(scratch.path(), 0o750);
    FileDatastore::builder(scratch.path())
        .folder_mode(0o777)
        .open()
        .unwrap();
    assert_eq!(mode(scratch.path()), 0o750);
}

#[test]
fn a_path_below_a_file_is_refused_and_the_file_named() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path()).unwrap();
    let file = scratch.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("locks"), file.join("a/b/c")] {
        let error = FileDatastore::open(&path).unwrap_err();
        let OpenError::NotAFolder { part, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!((part, error.path()), (&file, Some(path.as_path())));
        assert!(error.to_string().contains("choose another path"), "{error}");
    }
}

#[test]
fn a_link_to_nowhere_is_refused() {
    let scratch = Scratch::new();
    std::os::unix::fs::symlink("/nowhere/at/all", scratch.path()).unwrap();
    assert!(FileDatastore::open(scratch.path()).is_err());
}

#[test]
fn a_folder_of_another_version_is_refused() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path()).unwrap();
    fs::write(
        scratch.path().join("layout"),
        "dlock file store, layout 2\n",
    )
    .unwrap();
    let error = FileDatastore::open(scratch.path()).unwrap_err();
    assert!(
        matches!(&error, OpenError::Layout { found, .. } if found.ends_with("layout 2")),
        "{error}"
    );
}

#[test]
fn a_layout_that_a_crash_left_half_written_is_completed() {
    let scratch = Scratch::new();
    drop(scratch.open());
    let layout = scratch.path().join("layout");
    let whole = fs::read(&layout).unwrap();
    for length in [0, 1, whole.len() - 1] {
        fs::write(&layout, &whole[..length]).unwrap();
        drop(scratch.open());
        assert_eq!(fs::read(&layout).unwrap(), whole);
    }
}

#[test]
fn a_folder_that_is_deleted_while_open_is_an_error_that_says_so() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "x", TTL);
    fs::remove_dir_all(scratch.path()).unwrap();
    let error = store.release(&ours).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    let source = std::error::Error::source(&error).unwrap();
    assert!(
        matches!(source.downcast_ref(), Some(FileError::FolderGone { .. })),
        "{source}"
    );
    assert!(!scratch.path().exists());
    // After it is opened again, the old handle works too.
    drop(scratch.open());
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::NotHeld);
}

#[test]
fn shard_files_that_are_deleted_by_hand_come_back() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "x", TTL);
    for file in scratch.path().read_dir().unwrap() {
        let file = file.unwrap().path();
        if file.to_string_lossy().contains("shard-") {
            fs::remove_file(file).unwrap();
        }
    }
    held(store.acquire(&claim("x"), TTL));
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
}

/// Not a test by itself: opens the store that the environment names and prints the outcome.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn opener() {
    if env::var_os("DLOCK_TEST_UNPRIVILEGED").is_some() {
        drop_privileges();
    }
    if env::var_os("DLOCK_TEST_NO_RIGHTS_BY_UMASK").is_some() {
        rustix::process::umask(Mode::from_raw_mode(0o777));
    }
    let outcome = match env::var("DLOCK_TEST_URL").as_deref() {
        Ok("default") => FileDatastore::open_default(),
        Ok(url) => FileDatastore::from_url(url),
        Err(_) => panic!("run by another test"),
    };
    let outcome = match outcome {
        Err(error) => text(&error),
        Ok(store) => match store.acquire(&claim("x"), TTL) {
            Err(error) => text(&error),
            Ok(attempt) => format!("{} {attempt:?}", store.path().display()),
        },
    };
    writeln!(std::io::stdout(), "outcome: {outcome}").unwrap();
}

/// Drops root's rights in this thread. Another user stays as it is.
fn drop_privileges() {
    if rustix::process::geteuid().is_root() {
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_gid(Gid::from_raw(NOBODY)).unwrap();
        rustix::thread::set_thread_uid(Uid::from_raw(NOBODY)).unwrap();
    }
}

/// The outcome of opening and using the store, in a process with this environment.
fn outcome(url: &str, environment: &[(&str, &Path)]) -> String {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "opening::opener", "--ignored", "--nocapture"]);
    child.env_clear().env("DLOCK_TEST_URL", url);
    child.envs(environment.iter().copied());
    let output = child.output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let (_, outcome) = output.split_once("outcome: ").expect("it ran");
    outcome.lines().next().unwrap().to_owned()
}

fn unprivileged_outcome(folder: &Path) -> String {
    let url = format!("file:{}", folder.display());
    outcome(&url, &[("DLOCK_TEST_UNPRIVILEGED", Path::new("1"))])
}

/// A folder that every user can reach.
fn public_scratch() -> Scratch {
    let scratch = Scratch::new();
    set_mode(scratch.path().parent().unwrap(), 0o755);
    fs::create_dir(scratch.path()).unwrap();
    scratch
}

#[test]
fn the_error_names_the_rights_that_the_user_lacks() {
    let scratch = public_scratch();
    // All but one of the three rights, and none, for the owner and for others.
    for mode in [0o505, 0o303, 0o606, 0o000] {
        set_mode(scratch.path(), mode);
        let error = unprivileged_outcome(&scratch.path());
        for what in [
            "cannot keep locks in",
            "may not read, write and search it",
            "choose another folder",
        ] {
            assert!(error.contains(what), "{mode:o}: {error}");
        }
    }
    let error = unprivileged_outcome(&scratch.path().join("a/b"));
    set_mode(scratch.path(), 0o700);
    assert!(error.contains("may not look at it"), "{error}");
}

#[test]
fn the_error_says_that_the_user_may_not_create_the_folder() {
    let scratch = public_scratch();
    set_mode(scratch.path(), 0o555);
    let error = unprivileged_outcome(&scratch.path().join("locks"));
    set_mode(scratch.path(), 0o755);
    assert!(error.contains("may not make it"), "{error}");
}

#[test]
fn a_record_that_this_user_may_not_read_is_an_error_that_names_the_file() {
    let scratch = public_scratch();
    acquire(&scratch.open(), "x", TTL);
    set_mode(scratch.path(), 0o777);
    let shut = |name: &str| {
        for file in scratch.path().read_dir().unwrap() {
            let file = file.unwrap().path();
            let shut = file.to_string_lossy().contains(name);
            set_mode(&file, if shut { 0o000 } else { 0o666 });
        }
        unprivileged_outcome(&scratch.path())
    };
    let error = shut("/x.");
    assert!(
        error.contains("to read") && error.contains(".lease"),
        "{error}"
    );
    let error = shut("/shard-");
    assert!(
        error.contains("to lock") && error.contains("shard-"),
        "{error}"
    );
    let refused = shut("/none");
    assert!(refused.contains("Held"), "{refused}");
}

#[test]
fn an_unusual_umask_does_not_lock_a_user_out_of_the_own_folder() {
    let scratch = Scratch::new();
    set_mode(scratch.place(), 0o777);
    let url = format!("file:{}", scratch.path().display());
    let one = Path::new("1");
    let environment = [
        ("DLOCK_TEST_UNPRIVILEGED", one),
        ("DLOCK_TEST_NO_RIGHTS_BY_UMASK", one),
    ];
    let first = outcome(&url, &environment);
    assert!(first.contains("Granted"), "{first}");
    let second = outcome(&url, &environment);
    assert!(second.contains("Held"), "{second}");
}

#[test]
fn the_default_folder_follows_the_environment() {
    let scratch = public_scratch();
    let (home, state) = (scratch.path().join("home"), scratch.path().join("state"));
    let got = outcome("default", &[("HOME", &home)]);
    let folder = home.join(".local/state/dlock");
    assert!(
        got.starts_with(&format!("{} Granted", folder.display())),
        "{got}"
    );
    assert_eq!(mode(folder), 0o700);
    let got = outcome("file:", &[("HOME", &home), ("XDG_STATE_HOME", &state)]);
    assert!(
        got.starts_with(&format!("{} Granted", state.join("dlock").display())),
        "{got}"
    );
    let error = outcome("default", &[]);
    assert!(
        error.contains("--store") && error.contains("HOME"),
        "{error}"
    );
}

#[test]
fn a_default_folder_that_others_may_write_is_refused() {
    let scratch = public_scratch();
    let folder = scratch.path().join("dlock");
    fs::create_dir(&folder).unwrap();
    for bits in [0o1777, 0o720, 0o702] {
        set_mode(&folder, bits);
        let error = outcome("default", &[("XDG_STATE_HOME", &scratch.path())]);
        assert!(error.contains("others than its owner may write"), "{error}");
        assert!(error.contains("chmod go-w"), "{error}");
    }
    // If it is named explicitly, it is accepted.
    let url = format!("file:{}", folder.display());
    assert!(outcome(&url, &[]).contains("Granted"));
}

#[test]
fn a_default_folder_of_a_stranger_is_refused() {
    let scratch = public_scratch();
    let folder = scratch.path().join("dlock");
    if rustix::process::geteuid().is_root() {
        fs::create_dir(&folder).unwrap();
        chown(&folder, Some(NOBODY), None).unwrap();
    } else {
        // This folder belongs to root.
        std::os::unix::fs::symlink("/", &folder).unwrap();
    }
    let error = outcome("default", &[("XDG_STATE_HOME", &scratch.path())]);
    assert!(
        error.contains("belongs to user") && error.contains("run as its owner"),
        "{error}"
    );
}
