//! A proxy that forwards and records what clients send, so that the raw client can send it again.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::Failure;

/// A proxy before a server. The threads of a connection end with it; the thread that accepts ends
/// with the process.
pub(crate) struct RecordingProxy {
    address: SocketAddr,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl RecordingProxy {
    pub(crate) fn before(server: SocketAddr) -> Result<Self, Failure> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let proxy = RecordingProxy {
            address: listener.local_addr()?,
            sent: Arc::default(),
        };
        let sent = Arc::clone(&proxy.sent);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let sent = Arc::clone(&sent);
                let _ = connect(client, server, sent);
            }
        });
        Ok(proxy)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what clients have sent since the last call.
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
    let record = move |bytes: &[u8]| {
        let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.extend_from_slice(bytes);
    };
    thread::spawn(move || pass_on(client, server, record));
    thread::spawn(move || pass_on(replies, to_client, |_| {}));
    Ok(())
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, mut record: impl FnMut(&[u8])) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        // Record before forwarding, so that the whole request is recorded when its answer arrives.
        record(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
