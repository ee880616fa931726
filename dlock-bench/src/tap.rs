//! A tap on the wire: what a client sends is passed on and kept, to be sent again by hand.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::Failure;

/// Stands before a server. Its threads end with the connections that went through it, the first one with the process.
pub(crate) struct Tap {
    address: SocketAddr,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    pub(crate) fn before(server: SocketAddr) -> Result<Self, Failure> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let tap = Tap {
            address: listener.local_addr()?,
            sent: Arc::default(),
        };
        let sent = Arc::clone(&tap.sent);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let sent = Arc::clone(&sent);
                let _ = connect(client, server, sent);
            }
        });
        Ok(tap)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What clients sent since the last time this was asked.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.sent.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn connect(client: TcpStream, server: SocketAddr, sent: Arc<Mutex<Vec<u8>>>) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let (replies, to_client) = (server.try_clone()?, client.try_clone()?);
    let seen = move |bytes: &[u8]| {
        let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.extend_from_slice(bytes);
    };
    thread::spawn(move || pass_on(client, server, seen));
    thread::spawn(move || pass_on(replies, to_client, |_| {}));
    Ok(())
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, mut seen: impl FnMut(&[u8])) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        // Before it is passed on: when the answer has arrived, all of the question has been seen.
        seen(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
