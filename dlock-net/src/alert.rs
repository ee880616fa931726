//! Wakes a thread that waits for a socket.

#[cfg(unix)]
use std::io::{Read as _, Write as _};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::{fmt, io};

use dlock_core::{Clock, Time};

use crate::Socket;

/// Lets other threads wake the one thread that waits for bytes of a [`Socket`].
///
/// An alert that is raised while nobody waits ends the next wait at once.
pub struct Alert {
    #[cfg(unix)]
    raised: UnixStream,
    #[cfg(unix)]
    raise: UnixStream,
    #[cfg(not(unix))]
    raised: std::sync::atomic::AtomicBool,
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// Bytes have arrived, or the connection has ended: a read does not block.
    Arrived,
    /// The alert was raised.
    Raised,
    /// The time has come.
    TimedOut,
}

impl Alert {
    /// An alert that is not raised.
    ///
    /// # Errors
    ///
    /// If the system has no more file descriptors.
    pub fn new() -> io::Result<Self> {
        #[cfg(unix)]
        {
            let (raised, raise) = UnixStream::pair()?;
            raised.set_nonblocking(true)?;
            raise.set_nonblocking(true)?;
            Ok(Alert { raised, raise })
        }
        #[cfg(not(unix))]
        Ok(Alert {
            raised: std::sync::atomic::AtomicBool::new(false),
        })
    }

    /// Wakes the thread that waits, or will wait. Never blocks.
    pub fn raise(&self) {
        // If it is full, it is raised.
        #[cfg(unix)]
        let _ = (&self.raise).write(&[1]);
        #[cfg(not(unix))]
        self.raised
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Waits until bytes arrive on `socket`, the alert is raised, or it is `until` on
    /// [`Clock::BOOTTIME`]. Without a socket it waits for the alert alone.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub fn wait(&self, socket: Option<&Socket>, until: Time) -> io::Result<Awaited> {
        loop {
            let left = Clock::BOOTTIME.now().until(until).min(LONGEST_WAIT);
            match self.wait_once(socket, left)? {
                Some(awaited) => return Ok(awaited),
                None if Clock::BOOTTIME.now() >= until => return Ok(Awaited::TimedOut),
                None => {}
            }
        }
    }

    #[cfg(unix)]
    fn wait_once(
        &self,
        socket: Option<&Socket>,
        left: std::time::Duration,
    ) -> io::Result<Option<Awaited>> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use rustix::io::Errno;

        let timeout = Timespec::try_from(left).ok();
        let alert = PollFd::new(&self.raised, PollFlags::IN);
        let mut waited = vec![alert];
        waited.extend(socket.map(|socket| PollFd::new(socket, PollFlags::IN)));
        match poll(&mut waited, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        if is_ready(&waited[0]) {
            let mut taken = [0; 64];
            while (&self.raised).read(&mut taken).is_ok_and(|read| read > 0) {}
            return Ok(Some(Awaited::Raised));
        }
        let has_arrived = waited.get(1).is_some_and(is_ready);
        Ok(has_arrived.then_some(Awaited::Arrived))
    }

    /// Where the system cannot wait for two things, the caller reads now and then.
    #[cfg(not(unix))]
    fn wait_once(
        &self,
        socket: Option<&Socket>,
        left: std::time::Duration,
    ) -> io::Result<Option<Awaited>> {
        if self
            .raised
            .swap(false, std::sync::atomic::Ordering::Relaxed)
        {
            return Ok(Some(Awaited::Raised));
        }
        std::thread::sleep(left.min(std::time::Duration::from_millis(10)));
        Ok(socket.map(|_| Awaited::Arrived))
    }
}

/// The system's clock for timeouts stops while the machine sleeps; that of deadlines does not.
const LONGEST_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

impl fmt::Debug for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alert").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Endpoint, deadline_in};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_thread_that_waits_is_woken_by_each_of_the_three() {
        let alert = Alert::new().unwrap();
        let soon = deadline_in(Duration::from_millis(20));
        assert_eq!(alert.wait(None, soon).unwrap(), Awaited::TimedOut);

        // Raised before the wait, any number of times, it ends one wait.
        (0..10_000).for_each(|_| alert.raise());
        assert_eq!(
            alert.wait(None, deadline_in(LONG)).unwrap(),
            Awaited::Raised
        );
        let soon = deadline_in(Duration::from_millis(20));
        assert_eq!(alert.wait(None, soon).unwrap(), Awaited::TimedOut);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint: Endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        let socket = Socket::connect(&endpoint, deadline_in(LONG)).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(20));
                alert.raise();
            });
            let awaited = alert.wait(Some(&socket), deadline_in(LONG)).unwrap();
            assert_eq!(awaited, Awaited::Raised);
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(20));
                peer.write_all(b"x").unwrap();
            });
            let awaited = alert.wait(Some(&socket), deadline_in(LONG)).unwrap();
            assert_eq!(awaited, Awaited::Arrived);
        });
    }
}
