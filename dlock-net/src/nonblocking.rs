//! Streams on a tokio runtime, on which nothing waits.

use std::io::{self, Read, Write};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
#[cfg(unix)]
use std::time::Duration;

#[cfg(unix)]
use dlock_core::Clock;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp;
#[cfg(unix)]
use tokio::net::unix;

#[cfg(unix)]
use crate::deadline_in;

/// How long a server that does not answer can delay the end of a runtime.
#[cfg(unix)]
const LONGEST_CLOSE: Duration = Duration::from_secs(1);

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
            let _ = shutdown(self.descriptor(), Shutdown::Both);
        }
    }

    /// Sends nothing more, and waits until the server has read everything and closes the
    /// connection, as [`close_with_server`](Self::close_with_server) does.
    pub(crate) fn close_when_read(&self) {
        #[cfg(unix)]
        {
            use rustix::net::{Shutdown, shutdown};
            // If this fails, the server is gone.
            let _ = shutdown(self.descriptor(), Shutdown::Write);
        }
        self.close_with_server();
    }

    /// Waits until the server closes the connection, but no longer than a second. If a reply finds
    /// that its reader is gone, the system ends the connection, and what the server has not read by
    /// then is lost. Replies are read and thrown away.
    ///
    /// It needs no runtime, and blocks the thread.
    pub(crate) fn close_with_server(&self) {
        #[cfg(unix)]
        {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            use rustix::io::Errno;
            use rustix::net::{RecvFlags, recv};

            let socket = self.descriptor();
            let end = deadline_in(LONGEST_CLOSE);
            let mut thrown_away = [0; 4096];
            let mut is_open = true;
            while is_open {
                let left = Clock::BOOTTIME.now().until(end);
                let timeout = Timespec::try_from(left).ok();
                let readable = &mut [PollFd::new(&socket, PollFlags::IN)];
                is_open = match poll(readable, timeout.as_ref()) {
                    Ok(0) => false,
                    Ok(_) => match recv(socket, &mut thrown_away, RecvFlags::DONTWAIT) {
                        Ok((count, _)) => count > 0,
                        Err(error) => error == Errno::AGAIN || error == Errno::INTR,
                    },
                    Err(error) => error == Errno::INTR,
                };
            }
        }
        self.shut_down();
    }

    #[cfg(unix)]
    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            WriteHalf::Tcp(half) => half.as_ref().as_fd(),
            WriteHalf::Unix(half) => half.as_ref().as_fd(),
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
