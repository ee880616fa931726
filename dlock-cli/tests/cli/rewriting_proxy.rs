//! A proxy before a real server that changes one text in its replies: the server then says that it
//! is older, say, than it is.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// Listens on an address of its own. Its threads end with the test process.
pub(crate) struct RewritingProxy {
    address: SocketAddr,
}

impl RewritingProxy {
    /// A proxy to `server` that replaces each `from` in the replies. Both texts have one length, as
    /// replies say how long they are.
    pub(crate) fn to(server: SocketAddr, from: &'static str, to: &'static str) -> Self {
        assert_eq!(from.len(), to.len());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(server).unwrap());
                let (requests, replies) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || pass(requests, server, "\0", "\0"));
                thread::spawn(move || pass(replies, client, from, to));
            }
        });
        RewritingProxy { address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Passes on what comes, until one end closes.
fn pass(mut from: TcpStream, mut to: TcpStream, old: &str, new: &str) {
    let _ = pass_all(&mut from, &mut to, old.as_bytes(), new.as_bytes());
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

fn pass_all(from: &mut TcpStream, to: &mut TcpStream, old: &[u8], new: &[u8]) -> io::Result<()> {
    let (mut waiting, mut bytes) = (Vec::new(), [0; 16_384]);
    loop {
        let count = from.read(&mut bytes)?;
        if count == 0 {
            return to.write_all(&waiting);
        }
        waiting.extend_from_slice(&bytes[..count]);
        while let Some(at) = waiting.windows(old.len()).position(|part| part == old) {
            waiting[at..at + old.len()].copy_from_slice(new);
        }
        // The beginning of the text may have come, and its rest not yet.
        let begun = (1..old.len())
            .rev()
            .find(|length| waiting.ends_with(&old[..*length]));
        let whole = waiting.len() - begun.unwrap_or(0);
        to.write_all(&waiting[..whole])?;
        waiting.drain(..whole);
    }
}
