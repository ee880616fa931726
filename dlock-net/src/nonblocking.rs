//! Streams on a tokio runtime, on which nothing waits.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp;
#[cfg(unix)]
use tokio::net::unix;

/// What is between the calls and the socket. None of its methods waits: they fail with
/// [`io::ErrorKind::WouldBlock`] where the socket does.
///
/// Requests are written while replies are read, so it is shared.
pub trait Layer: Send + Sync + 'static {
    /// Reads what has arrived into `buffer`; 0 means that the server has closed the connection.
    ///
    /// # Errors
    ///
    /// Those of the socket; [`io::ErrorKind::InvalidData`] for bytes that are not of this layer.
    fn read(&self, socket: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize>;

    /// Takes some of `bytes`; returns how many.
    ///
    /// # Errors
    ///
    /// Those of the socket, if nothing was taken.
    fn write(&self, socket: &mut dyn Write, bytes: &[u8]) -> io::Result<usize>;

    /// Gives the socket what was taken and is still here.
    ///
    /// # Errors
    ///
    /// Those of the socket, if it has not taken all.
    fn flush(&self, socket: &mut dyn Write) -> io::Result<()>;
}

/// No layer: the calls' bytes are the socket's.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Layer for Plain {
    fn read(&self, socket: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
        socket.read(buffer)
    }

    fn write(&self, socket: &mut dyn Write, bytes: &[u8]) -> io::Result<usize> {
        socket.write(bytes)
    }

    fn flush(&self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    #[cfg(unix)]
    Unix(unix::OwnedReadHalf),
}

pub(crate) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    #[cfg(unix)]
    Unix(unix::OwnedWriteHalf),
}

impl WriteHalf {
    /// Waits until the socket may take more.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            WriteHalf::Tcp(half) => half.as_ref().poll_write_ready(cx),
            #[cfg(unix)]
            WriteHalf::Unix(half) => half.as_ref().poll_write_ready(cx),
        }
    }

    /// Ends the connection in both directions, which wakes its driver.
    pub(crate) fn shut_down(&self) {
        #[cfg(unix)]
        {
            use rustix::net::{Shutdown, shutdown};
            // It may be closed already.
            let _ = match self {
                WriteHalf::Tcp(half) => shutdown(half.as_ref(), Shutdown::Both),
                WriteHalf::Unix(half) => shutdown(half.as_ref(), Shutdown::Both),
            };
        }
    }
}

/// Several threads write, one at a time.
impl Write for &WriteHalf {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            WriteHalf::Tcp(half) => half.try_write(bytes),
            #[cfg(unix)]
            WriteHalf::Unix(half) => half.try_write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A read that wakes the task of `cx` when there is more.
pub(crate) struct Reading<'a, 'b> {
    pub(crate) half: &'a mut ReadHalf,
    pub(crate) cx: &'a mut Context<'b>,
}

impl Read for Reading<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        let read = match self.half {
            ReadHalf::Tcp(half) => Pin::new(half).poll_read(self.cx, &mut buffer),
            #[cfg(unix)]
            ReadHalf::Unix(half) => Pin::new(half).poll_read(self.cx, &mut buffer),
        };
        match read {
            Poll::Ready(done) => done.map(|()| buffer.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}
