//! A command that hangs in the kernel: it was killed, and does not end. The tests make one by
//! tracing it: a traced process stops in its exit until its tracer lets it go on.

use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::support::{
    Place, await_end_of, break_lock, code, output, runs, status_of, stderr, wait_until,
};

/// A process that does not end, although it is killed, until this value is dropped.
struct Hanging {
    pid: i32,
    let_go: Option<mpsc::Sender<()>>,
    tracer: Option<thread::JoinHandle<()>>,
}

impl Hanging {
    fn make(pid: i32) -> Self {
        let (let_go, ends) = mpsc::channel::<()>();
        let (send, traced) = mpsc::channel();
        // Only the thread that traces a process can let it go on.
        let tracer = thread::spawn(move || {
            // SAFETY: the call reads no memory of ours.
            #[allow(unsafe_code)]
            let seized =
                unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, libc::PTRACE_O_TRACEEXIT) };
            send.send(seized).unwrap();
            let _ = ends.recv();
            // SAFETY: as above. It is stopped in its exit, unless it was never killed.
            #[allow(unsafe_code)]
            unsafe {
                libc::ptrace(libc::PTRACE_CONT, pid, 0, 0)
            };
        });
        assert_eq!(traced.recv().unwrap(), 0, "{pid} cannot be traced");
        Hanging {
            pid,
            let_go: Some(let_go),
            tracer: Some(tracer),
        }
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        drop(self.let_go.take());
        // The end of its tracer lets it go on too.
        let _ = self.tracer.take().map(thread::JoinHandle::join);
        if !thread::panicking() {
            await_end_of(self.pid);
        }
    }
}

/// Its messages go to the file `said`: the command holds the pipes of its parent open.
fn quiet<'a>(place: &Place, command: &'a mut Command) -> &'a mut Command {
    let said = File::create(place.path("said")).unwrap();
    command.stdout(Stdio::null()).stderr(said)
}

#[test]
fn a_command_that_hangs_after_max_hold_is_given_up_and_its_lease_is_neither_renewed_nor_released() {
    for once in ["", "--once today"] {
        let place = Place::new();
        let options = format!("--ttl 16s --kill-after 300ms --max-hold 4s {once} job");
        let mut command = place.run(&options, "echo $$ >pid; exec sleep 60");
        let mut child = quiet(&place, &mut command).spawn().unwrap();
        let hanging = Hanging::make(place.await_pid("pid"));
        let status = status_of(&mut child);
        let said = place.read("said");
        assert_eq!(status.code(), Some(70), "{said}");
        assert!(
            said.contains("for longer than --max-hold 4s, was killed and does not end"),
            "{said}"
        );
        assert!(said.contains("it stays taken for at most "), "{said}");
        assert!(runs(hanging.pid));
        let refused = output(&mut place.run("job", "true"));
        assert_eq!(code(&refused), 75, "{}", stderr(&refused));
        if once.is_empty() {
            // The lease ends by itself.
            let next = output(&mut place.run("--wait 60s job", "true"));
            assert_eq!(code(&next), 0, "{}", stderr(&next));
        }
        assert!(runs(hanging.pid));
    }
}

#[test]
fn a_command_that_hangs_after_its_lease_was_lost_is_given_up() {
    let place = Place::new();
    let mut command = place.run("--ttl 12s job", "echo $$ >pid; exec sleep 60");
    let mut child = quiet(&place, &mut command).spawn().unwrap();
    let hanging = Hanging::make(place.await_pid("pid"));
    break_lock(&place);
    let status = wait_until("the end of dlock", || child.try_wait().unwrap());
    let said = place.read("said");
    assert_eq!(status.code(), Some(70), "{said}");
    assert!(
        said.contains("it was killed and does not end; it runs on without the lock"),
        "{said}"
    );
    assert!(runs(hanging.pid));
}
