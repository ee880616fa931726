//! A server that answers a line with the same line, or misbehaves; and a client for it.

// Each test binary uses its part; a panic is how a helper of a test fails.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{DatastoreError, Time};
use dlock_net::{Connect, Endpoint, Link, Pool, PoolSettings, Socket, Wire, deadline_in};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Behaviour {
    Echo,
    /// One byte of the reply at a time.
    Drip(Duration),
    /// Reads what fits into its buffers, answers nothing.
    Silent,
    /// A reply without a line's end.
    Endless,
    /// Closes the connection on its second request.
    CutSecondRequest,
    CutEveryRequest,
    /// Closes the listener and the connection on the second request.
    StopAtSecondRequest,
    /// The first request of all is answered late.
    DelayFirst(Duration),
    /// Says something unasked after each reply.
    ShoutAfterReply,
    /// Answers all but this.
    HangOn(&'static str),
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
            shared.connections.fetch_add(1, Ordering::SeqCst);
            let copy = stream.try_clone().unwrap();
            shared.open.lock().unwrap().push_back(copy);
            let shared = Arc::clone(&shared);
            thread::spawn(move || converse(&stream, behaviour, &shared, address));
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
            // Only its beginning, so that the sender's buffers fill up.
            lines.fill_buf().unwrap();
            state.requests.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_secs(30));
            return;
        }
        line.clear();
        if lines.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let first_of_all = state.requests.fetch_add(1, Ordering::SeqCst) == 0;
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
            Behaviour::ShoutAfterReply => {
                let _ = writer.write_all(line.as_bytes());
                thread::sleep(Duration::from_millis(20));
                let _ = writer.write_all(b"unasked\r\n");
            }
            Behaviour::DelayFirst(pause) if first_of_all => {
                thread::sleep(pause);
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

    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Closes every connection, goes on listening.
    pub(crate) fn cut_all(&self) {
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Listens no more.
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
            .call(deadline_in(within), |lines| lines.ask(question))
    }

    pub(crate) fn ask_dedicated(
        &self,
        within: Duration,
        question: &str,
    ) -> Result<String, DatastoreError> {
        self.0
            .call_dedicated(deadline_in(within), |lines| lines.ask(question))
    }

    pub(crate) fn send_and_panic(&self, question: &str) {
        let within = deadline_in(Duration::from_secs(10));
        let _ = self.0.call(within, |lines| -> Result<(), DatastoreError> {
            lines.0.send(format!("{question}\r\n").as_bytes())?;
            panic!("in the middle of a call");
        });
    }

    pub(crate) fn send_and_panic_dedicated(&self, question: &str) {
        let within = deadline_in(Duration::from_secs(10));
        let _ = self
            .0
            .call_dedicated(within, |lines| -> Result<(), DatastoreError> {
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
