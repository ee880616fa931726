//! Other users replace the folder's files by arbitrary things. Each call ends by its deadline, with
//! a typed error or a repaired file, and no message shows the content of a foreign file.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::{CALL, Scratch, acquire, claim};
use dlock_core::{Datastore, DatastoreError, ErrorKind, ReleaseOutcome};
use dlock_file::{FileDatastore, FileError, OpenError};

const TTL: Duration = Duration::from_secs(30);
const SECRET: &str = "root:x:s3cret";

/// What another user may put in the place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thing {
    Pipe,
    Socket,
    Folder,
    FullFolder,
    LinkToFile,
    LinkToNowhere,
    LinkToItself,
    LinkToEndlessDevice,
    EndlessDevice,
    GiantFile,
    File,
}

const THINGS: [Thing; 11] = [
    Thing::Pipe,
    Thing::Socket,
    Thing::Folder,
    Thing::FullFolder,
    Thing::LinkToFile,
    Thing::LinkToNowhere,
    Thing::LinkToItself,
    Thing::LinkToEndlessDevice,
    Thing::EndlessDevice,
    Thing::GiantFile,
    Thing::File,
];

/// Puts the thing there. Returns whether this user may.
fn put(thing: Thing, at: &Path, beside: &Path) -> bool {
    let ran = |program: &str, words: &[&str]| {
        let command = Command::new(program).args(words).output().unwrap();
        command.status.success()
    };
    let text = at.to_str().unwrap();
    match thing {
        Thing::Pipe => assert!(ran("mkfifo", &[text])),
        Thing::Socket => drop(UnixListener::bind(at).unwrap()),
        Thing::Folder => fs::create_dir(at).unwrap(),
        Thing::FullFolder => fs::create_dir_all(at.join("inner")).unwrap(),
        Thing::LinkToFile => symlink(foreign(beside), at).unwrap(),
        Thing::LinkToNowhere => symlink(beside.join("nowhere"), at).unwrap(),
        Thing::LinkToItself => symlink(at, at).unwrap(),
        Thing::LinkToEndlessDevice => symlink("/dev/zero", at).unwrap(),
        // Only root may do this.
        Thing::EndlessDevice => return ran("mknod", &[text, "c", "1", "5"]),
        Thing::GiantFile => File::create(at).unwrap().set_len(1 << 40).unwrap(),
        Thing::File => fs::write(at, SECRET.repeat(100)).unwrap(),
    }
    true
}

/// A foreign file.
fn foreign(beside: &Path) -> PathBuf {
    let file = beside.join("foreign");
    fs::write(&file, SECRET.repeat(100)).unwrap();
    file
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// Runs the function and returns its result. Panics after a time that only a call without a
/// deadline needs.
#[track_caller]
fn in_time<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (sent, received) = mpsc::channel();
    thread::spawn(move || sent.send(body()));
    received.recv_timeout(CALL).expect("it ends")
}

/// The text of an error with all its causes, and its `Debug` text.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error} {error:?}");
        cause = error.source();
    }
    text
}

/// Makes each call once on the key.
fn try_all(store: &FileDatastore, key: &str) -> Result<(), DatastoreError> {
    let claim = claim(key);
    let grant = match store.acquire(&claim, TTL)? {
        dlock_core::AcquireOutcome::Granted(grant) => grant,
        dlock_core::AcquireOutcome::Held(held) => panic!("{held}"),
    };
    let lease = dlock_core::Lease::new(claim, grant);
    assert_eq!(store.release(&lease)?, ReleaseOutcome::Released);
    Ok(())
}

#[test]
fn whatever_replaces_the_layout_file_opening_ends_and_shows_none_of_it() {
    for thing in THINGS {
        let scratch = Scratch::new();
        fs::create_dir(scratch.path()).unwrap();
        if !put(thing, &scratch.path().join("layout"), scratch.place()) {
            continue;
        }
        let folder = scratch.path();
        let error = in_time(move || FileDatastore::open(folder)).unwrap_err();
        assert!(
            matches!(error, OpenError::NoLayout { .. }),
            "{thing:?} {error}"
        );
        let text = text(&error);
        assert!(
            !text.contains("s3cret") && text.contains("choose another"),
            "{text}"
        );
    }
}

#[test]
fn a_layout_that_names_another_version_and_more_is_not_shown() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path()).unwrap();
    for content in [
        "dlock file store, layout 2 s3cret\n",
        "dlock file store, layout 1\ns3cret\n",
        "dlock file store, layout 99999999999\ns3cret",
        "s3cret",
    ] {
        fs::write(scratch.path().join("layout"), content).unwrap();
        let error = FileDatastore::open(scratch.path()).unwrap_err();
        assert!(matches!(error, OpenError::NoLayout { .. }), "{error}");
        assert!(!text(&error).contains("s3cret"), "{error}");
    }
}

/// The files of the folder that calls on the key use.
fn files_of(scratch: &Scratch, key: &str) -> Vec<PathBuf> {
    let files = scratch.path().read_dir().unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| !file.ends_with("layout")).collect();
    let shard = files.iter().find(|file| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name.starts_with("shard-") && !name.contains('.')
    });
    let fence = shard.unwrap().with_extension("fence");
    files.push(fence);
    assert!(
        files.len() >= 5,
        "shard, spare, record, fence, swept: {files:?} of {key}"
    );
    files
}

#[test]
fn whatever_replaces_a_file_each_call_ends_and_shows_none_of_it() {
    for thing in THINGS {
        let scratch = Scratch::new();
        let store = scratch.open();
        for _ in 0..2 {
            try_all(&store, "x").unwrap();
        }
        for file in files_of(&scratch, "x") {
            let case = format!("{thing:?} at {}", file.display());
            remove(&file);
            let made = put(thing, &file, scratch.place());
            if !made {
                continue;
            }
            let is_record = file.extension().is_some_and(|end| end == "lease");
            let is_fence = file.extension().is_some_and(|end| end == "fence");
            if is_fence {
                // The file is read when a key has no record.
                remove(&crate::support::record_file(&scratch.path(), "x"));
            }
            // A new handle, which also sweeps.
            let fresh = scratch.open();
            let outcome = in_time(move || try_all(&fresh, "x"));
            if let Err(error) = &outcome {
                assert!(!error.may_have_executed(), "{case}");
                let kinds = [ErrorKind::Refused, ErrorKind::ForeignKey];
                assert!(kinds.contains(&error.kind()), "{case}: {error}");
                let source = std::error::Error::source(error).unwrap();
                let named = match source.downcast_ref() {
                    Some(FileError::NotPlain { path }) => path,
                    Some(FileError::Unreadable { record }) => record,
                    _ => panic!("{case}: {source}"),
                };
                assert_eq!(named, &file, "{case}");
                assert!(!text(error).contains("s3cret"), "{case}: {error}");
            }
            if is_record || is_fence {
                assert!(outcome.is_err(), "{case}: dlock must not replace it");
            }
            let at_spare = file.extension().is_some_and(|end| end == "spare");
            if at_spare && thing != Thing::FullFolder {
                assert!(outcome.is_ok(), "{case}: it is created again");
            }
            remove(&file);
            try_all(&store, "x").unwrap();
        }
        let foreign = scratch.place().join("foreign");
        if foreign.exists() {
            assert_eq!(fs::read_to_string(foreign).unwrap(), SECRET.repeat(100));
        }
        assert!(!scratch.place().join("nowhere").exists());
        assert!(
            fs::metadata("/dev/zero")
                .unwrap()
                .file_type()
                .is_char_device()
        );
    }
}

#[test]
fn a_call_does_not_wait_for_the_other_end_of_a_pipe() {
    let scratch = Scratch::new();
    let store = scratch.open();
    acquire(&store, "x", TTL);
    let record = crate::support::record_file(&scratch.path(), "x");
    remove(&record);
    assert!(put(Thing::Pipe, &record, scratch.place()));
    let _end = File::options()
        .read(true)
        .write(true)
        .open(&record)
        .unwrap();
    let error = in_time(move || try_all(&store, "x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForeignKey);
}

#[test]
fn a_file_that_grows_while_it_is_read_is_read_in_part_only() {
    let scratch = Scratch::new();
    let store = scratch.open();
    acquire(&store, "x", TTL);
    let record = crate::support::record_file(&scratch.path(), "x");
    let (stop, stopped) = mpsc::channel::<()>();
    let grower = thread::spawn(move || {
        use std::io::Write;
        let mut file = File::options().append(true).open(record).unwrap();
        for _ in 0..100_000 {
            if stopped.try_recv().is_ok() {
                return;
            }
            file.write_all(&[b' '; 512]).unwrap();
        }
    });
    for _ in 0..100 {
        let store = store.clone();
        let outcome = in_time(move || store.acquire(&claim("x"), TTL).map(drop));
        if let Err(error) = outcome {
            assert_eq!(error.kind(), ErrorKind::ForeignKey);
        }
    }
    let _ = stop.send(());
    grower.join().unwrap();
}
