//! The bytes' way: a socket, with TLS or without.

use std::io::{self, Read, Write};

use dlock_net::{Deadline, Socket, Transport};

#[cfg(feature = "tls")]
use crate::tls::TlsSocket;

/// A stream to the server.
pub(crate) enum Stream {
    Plain(Socket),
    #[cfg(feature = "tls")]
    Tls(Box<TlsSocket>),
    #[cfg(any(test, fuzzing))]
    Pieces(crate::fuzzing::Pieces),
}

impl Transport for Stream {
    fn deadline(&self) -> &Deadline {
        match self {
            Stream::Plain(socket) => socket.deadline(),
            #[cfg(feature = "tls")]
            Stream::Tls(socket) => socket.deadline(),
            #[cfg(any(test, fuzzing))]
            Stream::Pieces(pieces) => pieces.deadline(),
        }
    }

    fn is_quiet(&mut self) -> bool {
        match self {
            Stream::Plain(socket) => socket.is_quiet(),
            #[cfg(feature = "tls")]
            Stream::Tls(socket) => socket.is_quiet(),
            #[cfg(any(test, fuzzing))]
            Stream::Pieces(pieces) => pieces.is_quiet(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buf),
            #[cfg(feature = "tls")]
            Stream::Tls(socket) => socket.read(buf),
            #[cfg(any(test, fuzzing))]
            Stream::Pieces(pieces) => pieces.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(buf),
            #[cfg(feature = "tls")]
            Stream::Tls(socket) => socket.write(buf),
            #[cfg(any(test, fuzzing))]
            Stream::Pieces(pieces) => pieces.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            #[cfg(feature = "tls")]
            Stream::Tls(socket) => socket.flush(),
            #[cfg(any(test, fuzzing))]
            Stream::Pieces(pieces) => pieces.flush(),
        }
    }
}
