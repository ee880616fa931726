//! What the multiplexer must know of a protocol, and how a connection is handed to it.

use std::io;

use dlock_core::{DatastoreError, Time};

use crate::Socket;
use crate::nonblocking::Layer;

/// Opens connections for a [`Multiplexer`](super::Multiplexer).
pub trait Open: Send + Sync + 'static {
    /// What writes requests on one connection. The multiplexer lends it to each call in turn.
    type Writer: Send + 'static;
    /// What reads the replies of one connection.
    type Replies: Replies;

    /// Opens one connection and logs in, by `deadline` on
    /// [`Clock::BOOTTIME`](dlock_core::Clock::BOOTTIME). It runs on a thread of its own and may
    /// block.
    ///
    /// # Errors
    ///
    /// Not executed, with the reason. It must not name credentials.
    fn open(&self, deadline: Time) -> Result<Opened<Self::Writer, Self::Replies>, DatastoreError>;

    /// Returns whether the server with this name, which is that of [`Opened::peer`], is still the
    /// one to call. If not, its connection takes no more calls. It must be quick and must not
    /// block.
    fn is_current(&self, peer: &str) -> bool {
        let _ = peer;
        true
    }

    /// Returns whether the connection with this writer may begin another
    /// [session](super::Session). If not, the session goes over a new one. It must be
    /// quick and must not block.
    fn takes_more(&self, writer: &mut Self::Writer) -> bool {
        let _ = writer;
        true
    }
}

/// A connection that is logged in, with nothing under way.
pub struct Opened<W, R> {
    /// The socket.
    pub socket: Socket,
    /// What is between the calls and the socket: [`Plain`](super::Plain), or TLS.
    pub layer: Box<dyn Layer>,
    /// The server, as errors name it, without credentials.
    pub peer: String,
    /// Writes its requests.
    pub writer: W,
    /// Reads its replies.
    pub replies: R,
}

/// The replies of one connection, which come in the order of the requests.
pub trait Replies: Send + 'static {
    /// What must be known of a request to read its reply.
    type Expected: Send + 'static;
    /// A reply.
    type Reply: Send + 'static;

    /// A last request, after whose reply the server closes the connection. It is sent when a
    /// runtime ends and the server must still carry out what was sent before.
    ///
    /// `None` if the server carries out everything that it has read, though its client sends
    /// nothing more.
    const FAREWELL: Option<&'static [u8]> = None;

    /// Returns the length of the first reply in `received`, or `None` if its end has not arrived.
    /// Must not wait for more than the reply needs, and must limit its length: everything up to its
    /// end is kept in memory.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] if no reply begins like this, and any other kind if replies
    /// can be told apart no longer. The text must not repeat what was received. The connection is
    /// closed.
    fn split(&mut self, received: &[u8]) -> io::Result<Option<usize>>;

    /// Reads one reply, which is all of `reply` and was received at `received`. It is also called
    /// for a reply whose call has ended meanwhile.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] if this is no reply to such a request. Any other kind says
    /// that the reply is lost, as if the connection had broken: the call may be repeated over a new
    /// one. The connection is closed.
    fn read(
        &mut self,
        reply: &[u8],
        expected: &Self::Expected,
        received: Time,
    ) -> io::Result<Answered<Self::Reply>>;
}

/// The circumstances in which a request is written.
#[derive(Debug, Clone, Copy)]
pub struct Sending {
    /// The time, on [`Clock::BOOTTIME`](dlock_core::Clock::BOOTTIME).
    pub now: Time,
    /// Whether an earlier copy may have been executed.
    pub again: bool,
}

/// A reply, and what becomes of the connection.
#[derive(Debug)]
pub struct Answered<R> {
    /// The reply.
    pub reply: R,
    /// Whether a new connection may fare better. Calls that are under way end on the old one.
    pub retires: bool,
}

/// What a call was answered.
#[derive(Debug)]
pub struct Replied<R> {
    /// The reply.
    pub reply: R,
    /// Whether an earlier copy of the request, on a connection that broke, may have been executed.
    pub in_doubt: bool,
    /// Which connection the reply came over: no two of a process have the same number. What a
    /// server answers about its connection is of use only if that is known.
    pub connection: u64,
}
