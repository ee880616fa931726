//! What is written without the driver, and what is left of a connection when its runtime ends.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::runtime::{Builder, Runtime};

use super::super::connection::{Receiver, Until};
use super::super::protocol::{Answered, Sending};
use super::*;
use crate::nonblocking::Plain;
use crate::{Endpoint, Socket, deadline_in};

/// Far longer than anything takes here.
const LONG: Duration = Duration::from_secs(20);

/// Each reply is one byte.
struct Bytes;

impl Replies for Bytes {
    type Expected = ();
    type Reply = ();

    fn split(&mut self, received: &[u8]) -> io::Result<Option<usize>> {
        Ok((!received.is_empty()).then_some(1))
    }

    fn read(&mut self, _: &[u8], (): &(), _: dlock_core::Time) -> io::Result<Answered<()>> {
        Ok(Answered {
            reply: (),
            retires: false,
        })
    }
}

fn runtimes() -> [Runtime; 2] {
    [
        Builder::new_current_thread().enable_io().build().unwrap(),
        Builder::new_multi_thread().enable_io().build().unwrap(),
    ]
}

/// A connection on this runtime over which a request was answered, and the server's end of it.
fn connected(runtime: &Runtime) -> (Arc<Connection<(), Bytes>>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let endpoint = Endpoint::Tcp {
        host: "127.0.0.1".to_owned(),
        port,
    };
    let opened = Opened {
        socket: Socket::connect(&endpoint, deadline_in(LONG)).unwrap(),
        layer: Box::new(Plain),
        peer: "server".to_owned(),
        writer: (),
        replies: Bytes,
    };
    let keeps: Weak<NoKeeper> = Weak::new();
    let connection = start(opened, runtime.handle(), false, keeps).unwrap();
    let mut server = listener.accept().unwrap().0;
    // The runtime finds out here that the socket takes bytes.
    let answer = send_now(&connection);
    thread::scope(|scope| {
        scope.spawn(|| {
            server.read_exact(&mut [0]).unwrap();
            server.write_all(b".").unwrap();
        });
        runtime.block_on(answer).unwrap().unwrap();
    });
    (connection, server)
}

fn send(connection: &Arc<Connection<(), Bytes>>) -> Receiver<Bytes> {
    connection
        .send(Until::End(deadline_in(LONG * 100)), false, write)
        .unwrap()
}

fn send_now(connection: &Arc<Connection<(), Bytes>>) -> Receiver<Bytes> {
    connection
        .send_now(Until::End(deadline_in(LONG)), false, write)
        .unwrap()
}

struct NoKeeper;

impl Keeps<(), Bytes> for NoKeeper {
    fn forget(&self, _: &Arc<Connection<(), Bytes>>) {}
}

fn write((): &mut (), bytes: &mut Vec<u8>, _: Sending) {
    bytes.push(b'x');
}

#[test]
fn what_is_worth_a_write_does_not_wait_for_the_driver() {
    // Nobody drives it.
    let runtime = Builder::new_current_thread().enable_io().build().unwrap();
    let (connection, mut server) = connected(&runtime);
    // The first is alone, and the other four are more than half.
    let _answers: Vec<_> = (0..5).map(|_| send(&connection)).collect();
    server.set_read_timeout(Some(LONG)).unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
}

/// A program whose `main` returns with several guards in scope: the server has answered one
/// release and not read the last when the runtime ends.
#[test]
fn a_server_that_writes_a_reply_before_it_reads_the_last_request_still_reads_it() {
    for runtime in runtimes() {
        let (connection, mut server) = connected(&runtime);
        thread::scope(|scope| {
            let _answers = [send_now(&connection), send_now(&connection)];
            scope.spawn(|| drop(runtime));
            // The client has closed its end, or said that it sends no more.
            let closed = PollFd::new(&server, PollFlags::RDHUP);
            poll(&mut [closed], None).unwrap();
            server.write_all(b".").unwrap();
            // Time for the answer to a reply that has no reader.
            thread::sleep(Duration::from_millis(20));
            server.write_all(b".").unwrap();
            let mut requests = Vec::new();
            server.read_to_end(&mut requests).unwrap();
            assert_eq!(requests, b"xx");
            drop(server);
        });
    }
}

#[test]
fn a_server_that_does_not_answer_does_not_keep_a_runtime_from_ending() {
    for runtime in runtimes() {
        let (connection, server) = connected(&runtime);
        let _answer = send_now(&connection);
        drop(runtime);
        drop(server);
    }
}
