//! TCP and Unix sockets on which nothing outlasts the call.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::Duration;

use dlock_core::{DatastoreError, Time};

use crate::{Deadline, Endpoint, NetError, failed_before_sending};

/// After how long without traffic the system asks whether the peer is still there.
#[cfg(any(target_os = "linux", target_os = "android"))]
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A TCP or Unix stream whose every read and write ends by the [`Deadline`].
///
/// A plain read timeout starts again with every byte, so a server that sends one now and then keeps a call alive for
/// ever. Here each read and write may take only what is left of the call.
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

/// What a connection that nobody uses at the moment looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Open, and nothing has arrived.
    Quiet,
    /// Open, and something has arrived that nobody asked for, or that belongs to an earlier call.
    Pending,
    /// Closed by the peer, or broken.
    Closed,
}

/// What [`Wire`](crate::Wire) needs of a stream: [`Socket`], or a layer over one.
pub trait Transport: Read + Write + Send + 'static {
    /// The deadline that its reads and writes keep.
    fn deadline(&self) -> &Deadline;

    /// Whether it is fit for another request as far as can be told without blocking: open, and with nothing in it that would be
    /// taken for the next reply.
    fn is_quiet(&mut self) -> bool;
}

impl Socket {
    /// Connects by `deadline`, which also is the socket's until it is set anew. If the host has several addresses, each gets its
    /// share of the time. Name resolution is the system's and keeps its own time.
    ///
    /// # Errors
    ///
    /// Not executed: the last address's reason.
    pub fn connect(endpoint: &Endpoint, deadline: Time) -> Result<Self, DatastoreError> {
        let deadline = Deadline::at(deadline);
        let stream = match endpoint {
            Endpoint::Tcp { host, port } => connect_tcp(host, *port, &deadline).map(Stream::Tcp),
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

    /// Looks at it without blocking and without taking anything out of it. Where the system has no such look it is taken to
    /// be quiet.
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

    /// Waits at most this long inside the system. Powers of two, so that calls with about the same time left need no system call to
    /// set it; the loop around the read looks at the deadline again.
    fn within(left: Duration) -> Duration {
        let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        match millis.checked_ilog2() {
            Some(exponent) => Duration::from_millis(1 << exponent.min(16)),
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
                Err(error) if is_look_again(&error) => {}
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
                Err(error) if is_look_again(&error) => {}
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

/// The system's wait is over, not necessarily the call's time.
fn is_look_again(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn connect_tcp(host: &str, port: u16, deadline: &Deadline) -> io::Result<TcpStream> {
    let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (tried, address) in addresses.iter().enumerate() {
        let remaining = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.left()? / remaining;
        match TcpStream::connect_timeout(address, share.max(Duration::from_micros(1))) {
            // A port of the range that outgoing connections use, without a listener, can be connected to itself.
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

/// The standard library's connect waits without limit while the backlog of a stopped server is full.
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
            "no system call for calls with about the same time left"
        );
    }
}
