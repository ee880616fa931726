//! TLS between the calls and a socket that does not wait.

use std::io::{self, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::nonblocking::Layer;
use rustls::ClientConnection;

/// A session whose handshake is done.
pub(crate) struct Tls(Mutex<ClientConnection>);

impl Tls {
    pub(crate) fn new(session: ClientConnection) -> Self {
        Tls(Mutex::new(session))
    }

    fn session(&self) -> MutexGuard<'_, ClientConnection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Layer for Tls {
    fn read(&self, socket: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
        let mut session = self.session();
        loop {
            match session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            let mut socket: &mut dyn Read = socket;
            if session.read_tls(&mut socket)? == 0 {
                return Ok(0);
            }
            session
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    fn write(&self, socket: &mut dyn Write, bytes: &[u8]) -> io::Result<usize> {
        let mut session = self.session();
        let taken = session.writer().write(bytes)?;
        match flush(&mut session, socket) {
            // What was taken and not sent is here until the next flush.
            _ if taken > 0 => Ok(taken),
            Ok(()) => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn flush(&self, socket: &mut dyn Write) -> io::Result<()> {
        flush(&mut self.session(), socket)
    }
}

fn flush(session: &mut ClientConnection, socket: &mut dyn Write) -> io::Result<()> {
    let mut socket: &mut dyn Write = socket;
    while session.wants_write() {
        if session.write_tls(&mut socket)? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}
