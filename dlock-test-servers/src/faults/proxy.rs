//! The proxy itself: its address, its switches, its counts.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::Fault;
use super::pump::{Direction, Pump, Shared};

/// A test whose request does not come in this time is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// A TCP proxy on a port of its own on 127.0.0.1. Dropping it closes everything.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    streams: Arc<Streams>,
}

/// What passed through a [`Proxy`] since it was made, or since [`Proxy::reset_counts`]. Bytes are
/// counted when they reach the proxy, whatever a fault does with them then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Connections that were accepted.
    pub connections: u64,
    /// How often a client spoke and then waited: a run of request bytes with no reply byte in
    /// between. What is sent in one pipeline counts once, in any protocol.
    pub round_trips: u64,
    /// Bytes from clients.
    pub request_bytes: u64,
    /// Bytes from the server.
    pub reply_bytes: u64,
}

/// Both ends of every connection, to be closed from outside.
#[derive(Default)]
struct Streams(Mutex<Vec<Weak<TcpStream>>>);

impl Proxy {
    /// A proxy to the server at `server`, without fault. The server is connected to anew for each
    /// connection, so it may be down meanwhile.
    ///
    /// # Panics
    ///
    /// If 127.0.0.1 has no free port.
    pub fn to(server: SocketAddr) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("127.0.0.1 has free ports");
        let address = listener.local_addr().expect("it is bound");
        let proxy = Proxy {
            address,
            shared: Arc::default(),
            streams: Arc::default(),
        };
        let (shared, streams) = (Arc::clone(&proxy.shared), Arc::clone(&proxy.streams));
        thread::spawn(move || accept(&listener, server, &shared, &streams));
        proxy
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does this to what clients send.
    pub fn requests(&self, fault: Fault) {
        self.shared.set(Direction::Requests, fault, false);
    }

    /// Does this to what the server sends.
    pub fn replies(&self, fault: Fault) {
        self.shared.set(Direction::Replies, fault, false);
    }

    /// Does this to the one connection that sends next, until it ends or the fault is changed, and
    /// spares all others.
    pub fn requests_once(&self, fault: Fault) {
        self.shared.set(Direction::Requests, fault, true);
    }

    /// Does this to the one connection that is answered next, until it ends or the fault is
    /// changed, and spares all others.
    pub fn replies_once(&self, fault: Fault) {
        self.shared.set(Direction::Replies, fault, true);
    }

    /// No fault any more, in either direction; new connections are accepted. What was held is
    /// passed on.
    pub fn heal(&self) {
        self.shared.change(|state| state.refuses = false);
        self.requests(Fault::None);
        self.replies(Fault::None);
    }

    /// Closes new connections at once, until [`heal`](Self::heal).
    pub fn refuse(&self) {
        self.shared.change(|state| state.refuses = true);
    }

    /// Closes every connection that exists.
    pub fn cut(&self) {
        self.streams.close();
    }

    /// What passed so far.
    pub fn counts(&self) -> Counts {
        self.shared.state().counts
    }

    /// Counts from zero again.
    pub fn reset_counts(&self) {
        self.shared.change(|state| state.counts = Counts::default());
    }

    /// Waits until the counts are as wanted: until a request has reached the proxy, say.
    ///
    /// # Panics
    ///
    /// If they are not within 20 seconds.
    pub fn wait_until(&self, wanted: impl Fn(&Counts) -> bool) {
        let came = self
            .shared
            .wait_while(PATIENCE, |state| !wanted(&state.counts));
        assert!(
            came,
            "not within {PATIENCE:?}; the counts are {:?}",
            self.counts()
        );
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.change(|state| state.closed = true);
        self.streams.close();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(
    listener: &TcpListener,
    server: SocketAddr,
    shared: &Arc<Shared>,
    streams: &Arc<Streams>,
) {
    for client in listener.incoming() {
        let (closed, refuses) = {
            let state = shared.state();
            (state.closed, state.refuses)
        };
        if closed {
            return;
        }
        shared.change(|state| state.counts.connections += 1);
        if refuses {
            continue;
        }
        // A client or a server that is gone by now is no failure of the proxy: its connection just
        // ends.
        if let Ok(client) = client {
            let _ = join(client, server, shared, streams);
        }
    }
}

/// Connects `client` with the server and lets the bytes run.
fn join(
    client: TcpStream,
    server: SocketAddr,
    shared: &Arc<Shared>,
    streams: &Streams,
) -> std::io::Result<()> {
    let client = Arc::new(client);
    let server = Arc::new(TcpStream::connect(server)?);
    // A request must not wait for the acknowledgement of the one before.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    streams.keep([&client, &server]);
    let asked = Arc::new(AtomicBool::new(false));
    for (direction, from, to) in [
        (Direction::Requests, &client, &server),
        (Direction::Replies, &server, &client),
    ] {
        let pump = Pump::new(
            direction,
            Arc::clone(from),
            Arc::clone(to),
            Arc::clone(shared),
            Arc::clone(&asked),
        );
        thread::spawn(move || pump.run());
    }
    Ok(())
}

impl Streams {
    fn keep(&self, ends: [&Arc<TcpStream>; 2]) {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those whose pumps have ended are closed.
        streams.retain(|stream| stream.strong_count() > 0);
        streams.extend(ends.map(Arc::downgrade));
    }

    fn close(&self) {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in streams.drain(..).filter_map(|stream| stream.upgrade()) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
