//! Hard-linked copies of the folder (`cp -al`, `rsync --link-dest`), and foreign files that were
//! linked into it: their content is never overwritten.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{CALL, Scratch, acquire, claim, held};
use dlock_core::{Clock, Datastore, ErrorKind, Extension, Lease, ReleaseOutcome};
use dlock_file::FileDatastore;

const TTL: Duration = Duration::from_secs(30);

/// Copies the folder as `cp -al` does.
fn linked_copy(scratch: &Scratch, name: &str) -> PathBuf {
    let copy = scratch.place().join(name);
    fs::create_dir(&copy).unwrap();
    for entry in scratch.path().read_dir().unwrap() {
        let entry = entry.unwrap();
        let linked = fs::hard_link(entry.path(), copy.join(entry.file_name()));
        // A file may be deleted during the copy.
        let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        assert!(linked.as_ref().is_ok() || linked.as_ref().is_err_and(gone));
    }
    copy
}

/// The records, by name.
fn records(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let records = files.filter(|file| file.extension().is_some_and(|end| end == "lease"));
    records
        .map(|file| (file.clone(), fs::read(&file).unwrap()))
        .collect()
}

fn extend(store: &FileDatastore, lease: &Lease, sequence: u64) -> bool {
    let end = Clock::BOOTTIME.now().saturating_add(CALL);
    let extended = store.extend(&lease.for_call(sequence, end), TTL).unwrap();
    matches!(extended, Extension::Extended(_))
}

/// Acquires, extends and releases all the keys, in turns.
fn use_all(store: &FileDatastore, keys: &[&str]) {
    for _ in 0..3 {
        for key in keys {
            let lease = acquire(store, key, TTL);
            assert!(extend(store, &lease, 1));
            assert_eq!(store.release(&lease).unwrap(), ReleaseOutcome::Released);
        }
    }
}

#[test]
fn a_hard_linked_copy_never_writes_into_the_original() {
    let scratch = Scratch::new();
    let store = scratch.open();
    // Three states: held, free, and free with a longer record as the shard's spare.
    let ours = acquire(&store, "held", TTL);
    assert!(extend(&store, &ours, 1));
    use_all(&store, &["free", "other"]);
    let copy = FileDatastore::open(linked_copy(&scratch, "copy")).unwrap();
    let before = records(&scratch.path());
    // The copy has the holder's record too, but its locks are independent of the original's.
    assert_eq!(copy.release(&ours).unwrap(), ReleaseOutcome::Released);
    use_all(&copy, &["held", "free", "other", "new"]);
    let theirs = acquire(&copy, "held", TTL);
    assert_eq!(records(&scratch.path()), before);

    held(store.acquire(&claim("held"), TTL));
    assert!(extend(&store, &ours, 2));
    let before = records(copy.path());
    use_all(&store, &["free", "other", "new"]);
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    use_all(&store, &["held"]);
    assert_eq!(records(copy.path()), before);
    assert!(extend(&copy, &theirs, 1));
    assert_eq!(copy.release(&theirs).unwrap(), ReleaseOutcome::Released);
}

/// Sets the flag when it is dropped, even by a panic.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Frees a key whose holder is a process of the original.
fn free_in_copy(copy: &FileDatastore, key: &str) {
    let inspect = copy.inspect().unwrap();
    match inspect.holder(key) {
        Ok(Some(held)) => {
            let freed = inspect.break_lease(key, held.fence().unwrap()).unwrap();
            assert_eq!(freed, ReleaseOutcome::Released);
        }
        Ok(None) => {}
        // If the link took longer than a call on the original, the file was reused for its next
        // content.
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ForeignKey, "{error}");
            fs::remove_file(crate::support::record_file(copy.path(), key)).unwrap();
        }
    }
}

#[test]
fn copies_made_while_locks_are_taken_and_freed_do_no_harm_either_way() {
    let scratch = Scratch::new();
    let store = scratch.open();
    use_all(&store, &["a", "b", "c"]);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends_them = SetAtEnd(&over);
        for key in ["a", "b", "c"] {
            let (store, over) = (&store, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    use_all(store, &[key]);
                    // Until a shard file of the copy is replaced, it is the original's too, and
                    // its waiters get their turns by chance.
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
        for number in 0..30 {
            let copy = linked_copy(&scratch, &format!("copy-{number}"));
            let copy = FileDatastore::builder(copy).call_timeout(CALL);
            let copy = copy.open().unwrap();
            for key in ["a", "b", "c"] {
                free_in_copy(&copy, key);
            }
            use_all(&copy, &["a", "b", "c"]);
        }
    });
    use_all(&store, &["a", "b", "c"]);
}

#[test]
fn a_file_that_is_linked_into_the_folder_is_not_written_over() {
    for content in [
        "",
        "dlock file",
        "somebody's letter, longer than a record\n",
    ] {
        let scratch = Scratch::new();
        let letter = scratch.place().join("letter");
        fs::write(&letter, content.repeat(30)).unwrap();
        let length = content.len();
        drop(scratch.open());
        for shard in 0..64 {
            let spare = scratch.path().join(format!("shard-{shard:02}.spare"));
            fs::hard_link(&letter, spare).unwrap();
            let lock = scratch.path().join(format!("shard-{shard:02}"));
            fs::hard_link(&letter, lock).unwrap();
        }
        fs::hard_link(&letter, scratch.path().join("swept")).unwrap();
        if length == 0 {
            fs::remove_file(scratch.path().join("layout")).unwrap();
            fs::hard_link(&letter, scratch.path().join("layout")).unwrap();
        }
        let store = scratch.open();
        for number in 0..100 {
            use_all(&store, &[&format!("key-{number}")]);
        }
        assert_eq!(fs::read_to_string(&letter).unwrap(), content.repeat(30));
    }
}

#[test]
fn a_folder_that_is_deleted_while_a_copy_of_it_is_there_is_locked_anew() {
    let scratch = Scratch::new();
    let store = scratch.open();
    acquire(&store, "x", TTL);
    let copy = linked_copy(&scratch, "copy");
    let shards = crate::support::AllShards::lock(&scratch.path());
    fs::remove_dir_all(scratch.path()).unwrap();
    // The old shard files live on in the copy only.
    let again = scratch.open();
    let ours = acquire(&again, "x", TTL);
    assert_eq!(again.release(&ours).unwrap(), ReleaseOutcome::Released);
    drop(shards);
    assert!(copy.exists());
}
