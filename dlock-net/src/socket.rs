//! TCP and Unix sockets on which no operation outlasts the call.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::Duration;

use dlock_core::{DatastoreError, Time};

#[cfg(feature = "tokio")]
use crate::nonblocking::{Layer, Plain, ReadHalf, WriteHalf};
use crate::{Deadline, Endpoint, NetError, Resolver, failed_before_sending};

/// The time without traffic after which the system checks whether the peer is still there.
#[cfg(any(target_os = "linux", target_os = "android"))]
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A TCP or Unix stream on which every read and write ends by the [`Deadline`].
///
/// A plain read timeout starts again with every byte, so a server that sends a byte now and then
/// keeps a call alive for ever. Here each read and write may take only the remaining time of the
/// call.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    deadline: Deadline,
    read_within: Duration,
    write_within: Duration,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// The state of a connection that is not in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Open, and nothing has arrived.
    Quiet,
    /// Open, and something has arrived that was not requested or belongs to an earlier call.
    Pending,
    /// Closed by the peer, or broken.
    Closed,
}

/// A stream for a [`Wire`](crate::Wire): a [`Socket`], or a layer over one.
pub trait Transport: Read + Write + Send + 'static {
    /// The deadline of its reads and writes.
    fn deadline(&self) -> &Deadline;

    /// Returns whether it can take another request, as far as is known without blocking: it is
    /// open, and nothing has arrived that would be taken for the next reply.
    fn is_quiet(&mut self) -> bool;

    /// The socket below, for a thread that waits for it and for an [`Alert`](crate::Alert); `None`
    /// if there is none. Bytes that have left the socket and were not read yet are not waited for:
    /// [`is_quiet`](Self::is_quiet) is asked before.
    fn socket(&self) -> Option<&Socket> {
        None
    }

    /// Takes it apart for a [multiplexer](crate::mux), between two calls; `None` if it cannot be
    /// shared.
    #[cfg(feature = "tokio")]
    fn into_shared(self: Box<Self>) -> Option<(Box<dyn Layer>, Socket)> {
        None
    }
}

/// Of a kind that is known only when the connection is opened: with TLS or without.
impl Transport for Box<dyn Transport> {
    fn deadline(&self) -> &Deadline {
        (**self).deadline()
    }

    fn is_quiet(&mut self) -> bool {
        (**self).is_quiet()
    }

    fn socket(&self) -> Option<&Socket> {
        (**self).socket()
    }

    #[cfg(feature = "tokio")]
    fn into_shared(self: Box<Self>) -> Option<(Box<dyn Layer>, Socket)> {
        (*self).into_shared()
    }
}

impl Socket {
    /// Connects by `deadline`, which is also the socket's deadline until another is set. The system
    /// resolves the host's name. If it has several addresses, each gets a share of the time.
    ///
    /// # Errors
    ///
    /// Not executed: the name could not be resolved, or the reason why the last address failed.
    pub fn connect(endpoint: &Endpoint, deadline: Time) -> Result<Self, DatastoreError> {
        Self::connect_with(&Resolver::system(), endpoint, deadline)
    }

    /// The same with another resolver.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn connect_with(
        resolver: &Resolver,
        endpoint: &Endpoint,
        deadline: Time,
    ) -> Result<Self, DatastoreError> {
        let deadline = Deadline::at(deadline);
        let stream = match endpoint {
            Endpoint::Tcp { host, port } => resolver
                .resolve(host, *port, &deadline)
                .and_then(|addresses| connect_tcp(&addresses, &deadline))
                .map(Stream::Tcp),
            #[cfg(unix)]
            Endpoint::Unix(path) => connect_unix(path, &deadline).map(Stream::Unix),
        };
        let stream = stream
            .map_err(|error| failed_before_sending(NetError::new(endpoint, "connect", error)))?;
        Ok(Socket {
            stream,
            deadline,
            read_within: Duration::ZERO,
            write_within: Duration::ZERO,
        })
    }

    /// Sets the end of the next call.
    pub fn set_deadline(&self, deadline: Time) {
        self.deadline.set(deadline);
    }

    /// Puts it on the tokio runtime that is entered. From then on nothing it does waits.
    ///
    /// # Errors
    ///
    /// If the runtime is being shut down, or the system says no.
    #[cfg(feature = "tokio")]
    pub(crate) fn into_halves(self) -> io::Result<(ReadHalf, WriteHalf)> {
        match self.stream {
            Stream::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                let (read, write) = tokio::net::TcpStream::from_std(stream)?.into_split();
                Ok((ReadHalf::Tcp(read), WriteHalf::Tcp(write)))
            }
            #[cfg(unix)]
            Stream::Unix(stream) => {
                stream.set_nonblocking(true)?;
                let (read, write) = tokio::net::UnixStream::from_std(stream)?.into_split();
                Ok((ReadHalf::Unix(read), WriteHalf::Unix(write)))
            }
        }
    }

    /// Checks the socket without blocking and without consuming input. If the system cannot do
    /// that, the socket counts as quiet.
    pub fn idle(&self) -> Idle {
        #[cfg(unix)]
        {
            use rustix::net::{RecvFlags, recv};
            let mut byte = [0; 1];
            match recv(self, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok((_, 0)) => Idle::Closed,
                Ok(_) => Idle::Pending,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Idle::Quiet,
                Err(_) => Idle::Closed,
            }
        }
        #[cfg(not(unix))]
        Idle::Quiet
    }

    /// The timeout of one system call: every second power of two, and never more than the remaining
    /// time. So a claim, which has the whole time of a call, and a release, which has half of it
    /// before it is sent again, need no system call to set another one. The loop around the read
    /// checks the deadline again.
    fn within(left: Duration) -> Duration {
        let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        match millis.checked_ilog2() {
            Some(0) => Duration::from_millis(1),
            Some(exponent) => Duration::from_millis(1 << ((exponent - 1) | 1).min(15)),
            None => left,
        }
    }

    fn arm_read(&mut self) -> io::Result<()> {
        let within = Self::within(self.deadline.left()?);
        if within != self.read_within {
            match &self.stream {
                Stream::Tcp(stream) => stream.set_read_timeout(Some(within)),
                #[cfg(unix)]
                Stream::Unix(stream) => stream.set_read_timeout(Some(within)),
            }?;
            self.read_within = within;
        }
        Ok(())
    }

    fn arm_write(&mut self) -> io::Result<()> {
        let within = Self::within(self.deadline.left()?);
        if within != self.write_within {
            match &self.stream {
                Stream::Tcp(stream) => stream.set_write_timeout(Some(within)),
                #[cfg(unix)]
                Stream::Unix(stream) => stream.set_write_timeout(Some(within)),
            }?;
            self.write_within = within;
        }
        Ok(())
    }
}

impl Transport for Socket {
    fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    fn is_quiet(&mut self) -> bool {
        self.idle() == Idle::Quiet
    }

    fn socket(&self) -> Option<&Socket> {
        Some(self)
    }

    #[cfg(feature = "tokio")]
    fn into_shared(self: Box<Self>) -> Option<(Box<dyn Layer>, Socket)> {
        Some((Box::new(Plain), *self))
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            self.arm_read()?;
            let read = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(buf),
                #[cfg(unix)]
                Stream::Unix(stream) => stream.read(buf),
            };
            match read {
                Err(error) if is_system_timeout(&error) => {}
                done => return done,
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            self.arm_write()?;
            let written = match &mut self.stream {
                Stream::Tcp(stream) => stream.write(buf),
                #[cfg(unix)]
                Stream::Unix(stream) => stream.write(buf),
            };
            match written {
                Err(error) if is_system_timeout(&error) => {}
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(unix)]
impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

/// Returns whether the system's timeout is over; the call may still have time.
fn is_system_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn connect_tcp(addresses: &[SocketAddr], deadline: &Deadline) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (tried, address) in addresses.iter().enumerate() {
        let remaining = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.left()? / remaining;
        match TcpStream::connect_timeout(address, share.max(Duration::from_micros(1))) {
            // A connection to a port without a listener, in the range of outgoing ports, may be
            // connected to itself.
            Ok(stream) if stream.local_addr()? == *address => {
                last = io::ErrorKind::ConnectionRefused.into();
            }
            Ok(stream) => {
                stream.set_nodelay(true)?;
                #[cfg(unix)]
                rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
                #[cfg(any(target_os = "linux", target_os = "android"))]
                rustix::net::sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The standard library's connect waits without a limit if the backlog of a stopped server is full.
#[cfg(unix)]
fn connect_unix(path: &std::path::Path, deadline: &Deadline) -> io::Result<UnixStream> {
    use rustix::io::{Errno, FdFlags, fcntl_setfd};
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};

    const TRY_AGAIN: Duration = Duration::from_millis(5);

    let address = SocketAddrUnix::new(path)?;
    let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    loop {
        match connect(&stream, &address) {
            Ok(()) | Err(Errno::ISCONN) => break,
            Err(Errno::AGAIN) => std::thread::sleep(deadline.left()?.min(TRY_AGAIN)),
            Err(Errno::INTR) => {
                deadline.left()?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_inside_the_system_is_never_longer_than_the_call() {
        for millis in [1, 2, 3, 4, 7, 500, 1999, 2000, 100_000_000] {
            let left = Duration::from_millis(millis);
            let within = Socket::within(left);
            assert!(within <= left && !within.is_zero(), "{left:?} {within:?}");
        }
        let short = Duration::from_micros(300);
        assert_eq!(Socket::within(short), short);
        assert_eq!(
            Socket::within(Duration::from_millis(1999)),
            Socket::within(Duration::from_millis(1500)),
            "no system call for calls with about the same remaining time"
        );
    }
}
