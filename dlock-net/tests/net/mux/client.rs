//! A client that asks a line and is answered a line, many at a time.

use std::future::Future;
use std::io::{self, Read, Write};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use dlock_core::{DatastoreError, Time};
use dlock_net::mux::{
    Answered, Layer, Multiplexer, Open, Opened, Plain, Replied, Replies, Sending,
};
use dlock_net::{Endpoint, Socket, deadline_in};
use tokio::runtime::{Builder, Runtime};

use crate::support::Server;

/// Long enough for a machine with more work than cores. A runtime counts as not driven after a
/// tenth of it, which a stall must not last.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// Long enough for a request to be on its way, and for its runtime to count as driven: that is
/// checked after each tenth of a call.
pub(crate) const SOON: Duration = Duration::from_secs(4);
/// How late a reply is, or an opened connection.
pub(crate) const LATE: Duration = Duration::from_millis(300);

const LONGEST: usize = 512;

/// Opens connections to a server of lines.
pub(crate) struct Lines {
    pub(crate) endpoint: Endpoint,
    pub(crate) opened: Arc<AtomicUsize>,
    /// How many bytes are read at a time at most.
    pub(crate) piece: usize,
    /// How long opening takes.
    pub(crate) delay: Duration,
}

impl Lines {
    pub(crate) fn to(server: &Server) -> Self {
        Lines {
            endpoint: server.endpoint(),
            opened: Arc::default(),
            piece: usize::MAX,
            delay: Duration::ZERO,
        }
    }
}

impl Open for Lines {
    type Writer = ();
    type Replies = LineReplies;

    fn open(&self, deadline: Time) -> Result<Opened<(), LineReplies>, DatastoreError> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        thread::sleep(self.delay);
        let layer: Box<dyn Layer> = match self.piece {
            usize::MAX => Box::new(Plain),
            piece => Box::new(Pieces(piece)),
        };
        Ok(Opened {
            socket: Socket::connect(&self.endpoint, deadline)?,
            layer,
            peer: self.endpoint.to_string(),
            writer: (),
            replies: LineReplies,
        })
    }
}

/// Lines of at most 512 bytes. One that begins with `?` is no reply, and one that begins with `!`
/// ends the connection.
pub(crate) struct LineReplies;

impl Replies for LineReplies {
    type Expected = ();
    type Reply = String;

    fn split(&mut self, received: &[u8]) -> io::Result<Option<usize>> {
        match received.iter().position(|byte| *byte == b'\n') {
            Some(end) => Ok(Some(end + 1)),
            None if received.len() > LONGEST => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a line that is too long",
            )),
            None => Ok(None),
        }
    }

    fn read(&mut self, reply: &[u8], (): &(), _: Time) -> io::Result<Answered<String>> {
        let text = std::str::from_utf8(reply).unwrap().trim_end();
        if text.starts_with('?') {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no answer"));
        }
        Ok(Answered {
            reply: text.to_owned(),
            retires: text.starts_with('!'),
        })
    }
}

/// Reads and writes a few bytes at a time.
struct Pieces(usize);

impl Layer for Pieces {
    fn read(&self, socket: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.0);
        socket.read(&mut buffer[..most])
    }

    fn write(&self, socket: &mut dyn Write, bytes: &[u8]) -> io::Result<usize> {
        socket.write(&bytes[..bytes.len().min(self.0)])
    }

    fn flush(&self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) type Mux = Arc<Multiplexer<Lines>>;

pub(crate) fn mux(server: &Server) -> Mux {
    Arc::new(Multiplexer::new(Lines::to(server)))
}

/// Asks, and returns also whether an earlier copy may have been executed.
pub(crate) async fn asked(
    mux: &Multiplexer<Lines>,
    within: Duration,
    question: &str,
) -> Result<Replied<String>, DatastoreError> {
    let write = |(): &mut (), bytes: &mut Vec<u8>, sending: Sending| {
        let mark = if sending.again { "again " } else { "" };
        bytes.extend_from_slice(format!("{mark}{question}\r\n").as_bytes());
    };
    mux.call(deadline_in(within), write).await
}

pub(crate) async fn ask(
    mux: &Multiplexer<Lines>,
    within: Duration,
    question: &str,
) -> Result<String, DatastoreError> {
    asked(mux, within, question)
        .await
        .map(|replied| replied.reply)
}

/// Both kinds of runtime.
pub(crate) fn runtimes() -> [Runtime; 2] {
    let many = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    [current_thread(), many.unwrap()]
}

pub(crate) fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls a future on this thread, which drives no runtime.
pub(crate) fn by_hand<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
        thread::park();
    }
}
