//! Processes that wait are served in the order of their coming, whatever dies, and whatever another
//! user does to the files by which they are woken.

use std::env;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Scratch, acquire, claim, forking};
use dlock_core::{
    AcquireOutcome, Claim, Clock, Datastore, Lock, LockEvent, LockOptions, ReleaseError,
    ReleaseOutcome, Signal, Store, Wait,
};
use dlock_file::FileDatastore;
use rustix::fs::{Gid, Mode, Uid};
use rustix::process::{Pid, Signal as Kill, kill_process};

const KEY: &str = "dlock:job";
const TTL: Duration = Duration::from_secs(30);
/// The lease of a process that may be killed while it holds the lock.
const SHORT: Duration = Duration::from_secs(8);
/// How long a look at the lock may wait for a process that may be stopped in a call.
const LOOK: Duration = Duration::from_secs(2);
/// A group that no user of this machine is in.
const GROUP: u32 = 12_000;
/// Far more than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// Another process, which waits for the lock, holds it until it is ordered to release it, and ends.
struct Waiter {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    had_to_wait: bool,
}

impl Waiter {
    /// Starts it. Returns when it is in the queue, or holds the lock.
    fn start(scratch: &Scratch) -> Self {
        Self::start_by(Command::new(env::current_exe().unwrap()), scratch)
    }

    /// The same with a short lease, since it is killed while it holds the lock.
    fn start_to_die(scratch: &Scratch) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.env("DLOCK_TEST_SHORT", "1");
        Self::start_by(command, scratch)
    }

    /// The same by a command that takes the arguments of this binary.
    fn start_by(mut command: Command, scratch: &Scratch) -> Self {
        command.args(["--exact", "wakes::waiter", "--ignored", "--nocapture"]);
        command.env("DLOCK_TEST_PLACE", scratch.place());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut waiter = Waiter {
            process,
            input,
            lines,
            had_to_wait: false,
        };
        waiter.had_to_wait = waiter.says(&["queued", "granted"]) == "queued";
        waiter
    }

    /// Waits until it says one of the words.
    #[track_caller]
    fn says(&self, words: &[&str]) -> String {
        loop {
            let line = self.lines.recv_timeout(LONG).expect(words[0]);
            if words.contains(&line.as_str()) {
                return line;
            }
        }
    }

    /// Since it did not have to wait, that was the first that it said.
    fn is_granted_at_once(&self) {
        assert!(!self.had_to_wait);
    }

    #[track_caller]
    fn is_granted(&self) {
        self.says(&["granted"]);
    }

    /// Lets it release the lock.
    #[track_caller]
    fn ends(mut self) {
        self.input.write_all(b"end\n").unwrap();
        self.says(&["released"]);
        assert!(self.process.wait().unwrap().success());
    }

    /// Stops it between two calls: in the middle of one it may keep the shard from all others.
    fn stops(&self, store: &FileDatastore) {
        loop {
            self.gets(Kill::STOP);
            while !self.is_stopped() {
                thread::sleep(Duration::from_millis(1));
            }
            let look = Claim::new(KEY, &Clock::BOOTTIME, LOOK).unwrap();
            match store.acquire(&look, TTL) {
                Ok(AcquireOutcome::Held(_)) => return,
                Err(error) if error.kind() == dlock_core::ErrorKind::Timeout => {
                    self.gets(Kill::CONT);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Returns whether all its threads have stopped.
    fn is_stopped(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        tasks.map(|task| task.unwrap()).all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
            state.is_some_and(|state| state.starts_with('T'))
        })
    }

    fn gets(&self, signal: Kill) {
        let pid = i32::try_from(self.process.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    fn dies(mut self) {
        self.gets(Kill::KILL);
        self.process.wait().unwrap();
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Not a test by itself.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn waiter() {
    let place = env::var_os("DLOCK_TEST_PLACE").expect("run by another test");
    if let Ok(user) = env::var("DLOCK_TEST_USER") {
        becomes(user.parse().unwrap());
    }
    let refusals = AtomicU32::new(0);
    let store = Store::builder(Scratch::at(place.into()).open())
        .observer(move |event: &LockEvent<'_>| {
            // The second refusal is the answer to a claimant that is in the queue.
            if matches!(event, LockEvent::Refused { .. })
                && refusals.fetch_add(1, Ordering::Relaxed) == 1
            {
                say("queued");
            }
        })
        .build();
    let ttl = if env::var_os("DLOCK_TEST_SHORT").is_some() {
        SHORT
    } else {
        TTL
    };
    let options = LockOptions::builder().ttl(ttl).build().unwrap();
    let lock = Lock::with_options(store, "job", options).unwrap();
    let guard = lock.acquire_with(&Wait::within(LONG * 5)).unwrap();
    say("granted");
    let _ = std::io::stdin().read_line(&mut String::new());
    match guard.release() {
        // It had the lock all the same, on a machine too slow to renew a short lease.
        Ok(()) | Err(ReleaseError::Lost) => say("released"),
        Err(error) => panic!("{error:?}"),
    }
}

fn say(word: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "\n{word}").unwrap();
    output.flush().unwrap();
}

/// Makes this thread, and those that it starts, another user of the group, with a umask that
/// excludes the group.
fn becomes(user: u32) {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test needs root, to become another user"
    );
    rustix::process::umask(Mode::from_raw_mode(0o077));
    rustix::thread::set_thread_groups(&[]).unwrap();
    rustix::thread::set_thread_gid(Gid::from_raw(GROUP)).unwrap();
    rustix::thread::set_thread_uid(Uid::from_raw(user)).unwrap();
}

/// The files in the folder by which waiters are woken.
fn pipes(scratch: &Scratch) -> Vec<PathBuf> {
    let files = fs::read_dir(scratch.path()).unwrap();
    let files = files.map(|file| file.unwrap().path());
    files
        .filter(|file| {
            file.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("wake-")
        })
        .collect()
}

/// The bytes of all queues that count: 0 if nobody waits.
fn queued(scratch: &Scratch) -> u64 {
    (0..64)
        .filter_map(|shard| fs::metadata(scratch.path().join(format!("shard-{shard:02}"))).ok())
        .map(|found| found.len())
        .sum()
}

/// Lets each waiter release the lock when it has it. It does not matter who comes first: a process
/// that the machine starves misses its turn. (The conformance suite judges the order.)
fn are_served(mut waiters: Vec<Waiter>) {
    while let Some(mut waiter) = next_of(&mut waiters) {
        waiter.input.write_all(b"end\n").unwrap();
        waiter.says(&["released"]);
        assert!(waiter.process.wait().unwrap().success());
    }
}

/// Waits until one of the waiters has the lock, and takes it out; `None` if none is left.
fn next_of(waiters: &mut Vec<Waiter>) -> Option<Waiter> {
    let pause = Duration::from_millis(10);
    let end = Instant::now() + LONG;
    while !waiters.is_empty() {
        assert!(Instant::now() < end, "no waiter got the lock");
        let granted = waiters.iter().position(|waiter| {
            let line = waiter.lines.recv_timeout(pause);
            line.is_ok_and(|line| line == "granted")
        });
        if let Some(at) = granted {
            return Some(waiters.remove(at));
        }
    }
    None
}

#[test]
fn waiting_processes_are_all_served_and_leave_nothing() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, KEY, TTL);
    let waiters: Vec<_> = (0..5).map(|_| Waiter::start(&scratch)).collect();
    assert_eq!(pipes(&scratch).len(), 5);
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    are_served(waiters);
    assert_eq!((pipes(&scratch).len(), queued(&scratch)), (0, 0));
}

#[test]
fn when_the_holder_is_killed_a_waiter_is_next() {
    let scratch = Scratch::new();
    let holder = Waiter::start_to_die(&scratch);
    holder.is_granted_at_once();
    let mut waiters = vec![
        Waiter::start_to_die(&scratch),
        Waiter::start_to_die(&scratch),
    ];
    holder.dies();
    next_of(&mut waiters).unwrap().dies();
    are_served(waiters);
    assert_eq!(queued(&scratch), 0);
}

#[test]
fn when_the_first_waiter_is_killed_the_second_is_next() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, KEY, TTL);
    let (first, second) = (Waiter::start(&scratch), Waiter::start(&scratch));
    first.dies();
    // Its process cannot be told from one that is alive but by its pipe.
    assert_eq!(pipes(&scratch).len(), 2);
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    second.is_granted();
    assert_eq!((pipes(&scratch).len(), queued(&scratch)), (0, 0));
    second.ends();
}

#[test]
fn when_all_are_killed_the_key_is_free_after_the_lease() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let holder = Waiter::start_to_die(&scratch);
    holder.is_granted_at_once();
    let waiters: Vec<_> = (0..3).map(|_| Waiter::start(&scratch)).collect();
    waiters.into_iter().for_each(Waiter::dies);
    holder.dies();
    let lock = Lock::new(store, "job");
    let guard = lock.acquire_within(LONG).unwrap();
    guard.release().unwrap();
    assert_eq!((pipes(&scratch).len(), queued(&scratch)), (0, 0));
}

#[test]
fn a_stopped_waiter_misses_its_turn_and_is_served_when_it_continues() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, KEY, TTL);
    let (first, second) = (Waiter::start(&scratch), Waiter::start(&scratch));
    first.stops(&store);
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    second.is_granted();
    first.gets(Kill::CONT);
    second.ends();
    first.is_granted();
    first.ends();
    assert_eq!((pipes(&scratch).len(), queued(&scratch)), (0, 0));
}

#[test]
fn whatever_a_member_does_to_the_pipes_the_waiters_are_served() {
    let foreign_text = "somebody's";
    type Harm = fn(&Path, &Path);
    let harms: [(&str, Harm); 6] = [
        ("gone", |_, _| {}),
        ("a file", |pipe, _| fs::write(pipe, "").unwrap()),
        ("a link", |pipe, foreign| symlink(foreign, pipe).unwrap()),
        ("a link to itself", |pipe, _| symlink(pipe, pipe).unwrap()),
        ("a second name", |pipe, foreign| {
            fs::hard_link(foreign, pipe).unwrap();
        }),
        ("a folder", |pipe, _| fs::create_dir(pipe).unwrap()),
    ];
    for (what, harm) in harms {
        let scratch = Scratch::new();
        let foreign = scratch.place().join("foreign");
        fs::write(&foreign, foreign_text).unwrap();
        let store = scratch.open();
        let ours = acquire(&store, KEY, TTL);
        let waiters = [Waiter::start(&scratch), Waiter::start(&scratch)];
        for pipe in pipes(&scratch) {
            fs::remove_file(&pipe).unwrap();
            harm(&pipe, &foreign);
        }
        assert_eq!(
            store.release(&ours).unwrap(),
            ReleaseOutcome::Released,
            "{what}"
        );
        // Nobody can wake them, so each claims when it has slept.
        are_served(waiters.into_iter().collect());
        assert_eq!(
            fs::read_to_string(&foreign).unwrap(),
            foreign_text,
            "{what}"
        );
        assert_eq!(queued(&scratch), 0, "{what}");
    }
}

#[test]
fn users_of_a_group_wake_each_other_whatever_their_umask() {
    let scratch = Scratch::new();
    fs::set_permissions(scratch.place(), Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(scratch.path()).unwrap();
    let group = Some(GROUP);
    std::os::unix::fs::chown(scratch.path(), None, group).unwrap();
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o2770)).unwrap();
    let started = |user: u32| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.env("DLOCK_TEST_USER", user.to_string());
        Waiter::start_by(command, &scratch)
    };
    let holder = started(12_001);
    holder.is_granted_at_once();
    let mut waiters = vec![started(12_002), started(12_001)];
    for pipe in pipes(&scratch) {
        let found = fs::metadata(pipe).unwrap();
        assert_eq!((found.mode() & 0o777, found.gid()), (0o660, GROUP));
    }
    holder.ends();
    waiters.push(started(12_002));
    are_served(waiters);
    assert_eq!((pipes(&scratch).len(), queued(&scratch)), (0, 0));
}

#[test]
fn processes_in_other_pid_namespaces_wake_each_other() {
    let scratch = Scratch::new();
    let isolated = || {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.arg(env::current_exe().unwrap());
        Waiter::start_by(command, &scratch)
    };
    let holder = isolated();
    holder.is_granted_at_once();
    let waiters = vec![isolated(), isolated()];
    holder.ends();
    are_served(waiters);
    assert_eq!((pipes(&scratch).len(), queued(&scratch)), (0, 0));
}

#[test]
fn a_forked_child_neither_waits_in_the_queue_nor_ends_the_wait_of_its_parent() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, KEY, TTL);
    let signal = Signal::new();
    let waits = claim(KEY).with_deadline(Clock::BOOTTIME.now().saturating_add(LONG));
    let watch = store.watch(&waits, &signal).unwrap();
    assert!(watch.is_some());
    crate::support::held(store.acquire(&waits, TTL));
    let (inherited, childs) = (store.clone(), claim(KEY));
    let mut inherited_watch = Mutex::new(watch);
    let mut child = forking(move || {
        let polls = matches!(inherited.watch(&childs, &Signal::new()), Ok(None));
        // As when the child drops its copy of what the parent has.
        drop(inherited_watch.get_mut().map(Option::take));
        match polls {
            true => Ok(()),
            false => Err(ErrorKind::Other.into()),
        }
    });
    assert!(child.status().unwrap().success());
    assert_eq!(pipes(&scratch).len(), 1);
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    assert!(Clock::BOOTTIME.sleep_until(&signal, Clock::BOOTTIME.now().saturating_add(LONG)));
    // Here the parent's own watch ends.
    drop(child);
    acquire(&store, KEY, TTL);
    assert_eq!((pipes(&scratch).len(), queued(&scratch)), (0, 0));
}
