//! A server that echoes lines, or misbehaves, and a client for it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{DatastoreError, Time};
use dlock_net::{Connect, Endpoint, Link, Pool, PoolSettings, Socket, Wire, deadline_in};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Behaviour {
    Echo,
    /// Sends the reply one byte at a time.
    Drip(Duration),
    /// Reads what fits into its buffers and never answers.
    Silent,
    /// Sends a reply without the end of a line.
    Endless,
    /// Closes the connection on its second request.
    CutSecondRequest,
    CutEveryRequest,
    /// Closes the listener and the connection on the second request.
    StopAtSecondRequest,
    /// Sends no reply while the test [holds](Server::hold) them.
    Held,
    /// Sends an unrequested line after each reply.
    ShoutAfterReply,
    /// Answers all requests except this one.
    HangOn(&'static str),
    /// Answers only the first request of each connection.
    MuteAfterFirst,
    /// Sends each reply this late.
    #[cfg(feature = "tokio")]
    Late(Duration),
}

pub(crate) struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    stopped: AtomicBool,
    connections: AtomicUsize,
    requests: AtomicUsize,
    /// The unrequested lines that were sent.
    shouts: AtomicUsize,
    /// Connections that were not closed yet, by either side.
    live: AtomicUsize,
    /// Whether replies are held back.
    holds: Mutex<bool>,
    let_go: Condvar,
    open: Mutex<VecDeque<TcpStream>>,
}

pub(crate) fn serve(behaviour: Behaviour) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let state = Arc::new(State::default());
    let shared = Arc::clone(&state);
    thread::spawn(move || {
        for stream in listener.incoming() {
            if shared.stopped.load(Ordering::SeqCst) {
                return;
            }
            let stream = stream.unwrap();
            shared.live.fetch_add(1, Ordering::SeqCst);
            shared.connections.fetch_add(1, Ordering::SeqCst);
            let copy = stream.try_clone().unwrap();
            shared.open.lock().unwrap().push_back(copy);
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                converse(&stream, behaviour, &shared, address);
                shared.live.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    Server { address, state }
}

fn converse(stream: &TcpStream, behaviour: Behaviour, state: &State, address: SocketAddr) {
    let mut lines = BufReader::new(stream);
    let mut writer = stream;
    let mut line = String::new();
    for request in 1.. {
        if matches!(behaviour, Behaviour::Silent) {
            // Read only the beginning, so that the sender's buffers fill up.
            lines.fill_buf().unwrap();
            state.requests.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_secs(30));
            return;
        }
        line.clear();
        if lines.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        state.requests.fetch_add(1, Ordering::SeqCst);
        let cut = match behaviour {
            Behaviour::CutEveryRequest => true,
            Behaviour::CutSecondRequest | Behaviour::StopAtSecondRequest => request == 2,
            _ => false,
        };
        if cut {
            if matches!(behaviour, Behaviour::StopAtSecondRequest) {
                stop(state, address);
            }
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
        match behaviour {
            Behaviour::Drip(pause) => {
                for byte in line.bytes() {
                    thread::sleep(pause);
                    if writer.write_all(&[byte]).is_err() {
                        return;
                    }
                }
            }
            Behaviour::Endless => while writer.write_all(&[b'x'; 1024]).is_ok() {},
            Behaviour::HangOn(text) if line.trim() == text => {}
            Behaviour::MuteAfterFirst if request > 1 => {}
            #[cfg(feature = "tokio")]
            Behaviour::Late(pause) => {
                thread::sleep(pause);
                let _ = writer.write_all(line.as_bytes());
            }
            Behaviour::ShoutAfterReply => {
                let _ = writer.write_all(line.as_bytes());
                thread::sleep(Duration::from_millis(20));
                let _ = writer.write_all(b"unasked\r\n");
                state.shouts.fetch_add(1, Ordering::SeqCst);
            }
            Behaviour::Held => {
                let holds = state.holds.lock().unwrap();
                drop(state.let_go.wait_while(holds, |holds| *holds).unwrap());
                let _ = writer.write_all(line.as_bytes());
            }
            _ => {
                let _ = writer.write_all(line.as_bytes());
            }
        }
    }
}

fn stop(state: &State, address: SocketAddr) {
    state.stopped.store(true, Ordering::SeqCst);
    // Wakes the accept, which ends and closes the listener.
    let _ = TcpStream::connect(address);
    while TcpStream::connect(address).is_ok() {
        thread::sleep(Duration::from_millis(1));
    }
}

impl Server {
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.address.to_string().parse().unwrap()
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn open(&self) -> usize {
        self.state.live.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// How many unrequested lines it has sent.
    pub(crate) fn shouts(&self) -> usize {
        self.state.shouts.load(Ordering::SeqCst)
    }

    /// Holds back the replies of a server that does so.
    pub(crate) fn hold(&self) {
        *self.state.holds.lock().unwrap() = true;
    }

    /// Sends the replies that were held back.
    pub(crate) fn let_go(&self) {
        *self.state.holds.lock().unwrap() = false;
        self.state.let_go.notify_all();
    }

    /// Closes every connection, but keeps listening.
    pub(crate) fn cut_all(&self) {
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Stops listening.
    pub(crate) fn stop(&self) {
        stop(&self.state, self.address);
    }
}

pub(crate) struct Lines(Wire<Socket>);

impl Lines {
    pub(crate) fn ask(&mut self, question: &str) -> Result<String, DatastoreError> {
        self.0.send(format!("{question}\r\n").as_bytes())?;
        let answer = String::from_utf8_lossy(self.0.line(4096)?).into_owned();
        self.0.finish();
        Ok(answer)
    }
}

impl Link for Lines {
    fn set_deadline(&mut self, deadline: Time) {
        self.0.set_deadline(deadline);
    }

    fn is_usable(&mut self) -> bool {
        self.0.is_usable()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct LinesManager(pub(crate) Endpoint);

impl Connect for LinesManager {
    type Link = Lines;

    fn connect(&self, deadline: Time) -> Result<Lines, DatastoreError> {
        let socket = Socket::connect(&self.0, deadline)?;
        Ok(Lines(Wire::new(socket, &self.0)))
    }
}

dlock_net::impl_manage_connection!(LinesManager);

pub(crate) struct Shared(pub(crate) Pool<LinesManager>);

pub(crate) fn pool(server: &Server, size: u32) -> Shared {
    let settings = PoolSettings::default().with_max_size(size);
    Shared(Pool::new(LinesManager(server.endpoint()), settings))
}

impl Shared {
    pub(crate) fn ask(&self, within: Duration, question: &str) -> Result<String, DatastoreError> {
        self.0
            .call(deadline_in(within), |lines, _| lines.ask(question))
    }

    pub(crate) fn ask_urgent(
        &self,
        within: Duration,
        question: &str,
    ) -> Result<String, DatastoreError> {
        self.0
            .call_urgent(deadline_in(within), |lines, _| lines.ask(question))
    }

    pub(crate) fn ask_dedicated(
        &self,
        within: Duration,
        question: &str,
    ) -> Result<String, DatastoreError> {
        self.0
            .call_dedicated(deadline_in(within), |lines, _| lines.ask(question))
    }

    pub(crate) fn send_and_panic(&self, question: &str) {
        let within = deadline_in(Duration::from_secs(10));
        let _ = self
            .0
            .call(within, |lines, _| -> Result<(), DatastoreError> {
                lines.0.send(format!("{question}\r\n").as_bytes())?;
                panic!("in the middle of a call");
            });
    }

    pub(crate) fn send_and_panic_dedicated(&self, question: &str) {
        let within = deadline_in(Duration::from_secs(10));
        let _ = self
            .0
            .call_dedicated(within, |lines, _| -> Result<(), DatastoreError> {
                lines.0.send(format!("{question}\r\n").as_bytes())?;
                panic!("in the middle of a call");
            });
    }
}

pub(crate) fn timed<T>(f: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = f();
    (start.elapsed(), value)
}

/// The seconds after which the system ends a child that hangs, so that its test fails.
#[cfg(target_os = "linux")]
const CHILD_LIMIT: u32 = 60;

/// Runs `child` in a forked process. Returns whether it returned true. For a test that
/// [is alone](is_alone), and panics elsewhere.
///
/// Rust's standard library holds a lock while a thread starts and while one ends. In a child that
/// is forked meanwhile, this lock is never released, and no thread gets beyond its start. So no
/// other test may run in this process, and this waits until all its other threads sleep.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub(crate) fn in_child(child: impl FnOnce() -> bool) -> bool {
    assert!(
        std::env::var_os(ALONE).is_some(),
        "a test that forks runs alone"
    );
    // SAFETY: it only returns a number.
    let this_thread = unsafe { libc::gettid() }.to_string();
    let is_busy = |task: &std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
        task.file_name() != *this_thread && state.is_some_and(|state| !state.starts_with('S'))
    };
    let tasks = || std::fs::read_dir("/proc/self/task").unwrap();
    while tasks().any(|task| task.is_ok_and(|task| is_busy(&task))) {
        thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: the child runs `child` and leaves by `_exit`, without unwinding into the parent's
    // test harness. The C library makes the allocator usable in the child of a process with
    // threads.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0, "fork");
        if pid == 0 {
            libc::alarm(CHILD_LIMIT);
            let kept = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            libc::_exit(i32::from(!matches!(kept, Ok(true))));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        assert!(
            !libc::WIFSIGNALED(status),
            "the child hung, or was killed: {status}"
        );
        libc::WEXITSTATUS(status) == 0
    }
}

/// Set in the process of a test that runs alone.
#[cfg(target_os = "linux")]
const ALONE: &str = "DLOCK_TEST_ALONE";

/// Runs a test again in its own process, where no other test has threads or files. Returns whether
/// this is that process; in the first one the test does nothing more.
#[cfg(target_os = "linux")]
pub(crate) fn is_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", test]).env(ALONE, "1").output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    false
}
