//! A server that says what a test wants, in pieces.

use std::io::{self, Read, Write};

use crate::{Deadline, Transport};

/// Gives its bytes in pieces and then closes; takes whatever is sent to it.
#[derive(Debug)]
pub struct Pieces {
    bytes: Vec<u8>,
    given: usize,
    /// What the sizes of the pieces follow from; 0 for all at once.
    rhythm: usize,
    deadline: Deadline,
}

impl Pieces {
    /// A server that gives these bytes, in pieces whose sizes follow from `rhythm`, or all at once
    /// if that is 0.
    #[must_use]
    pub fn new(bytes: &[u8], rhythm: usize) -> Self {
        Pieces {
            bytes: bytes.to_vec(),
            given: 0,
            rhythm,
            deadline: Deadline::default(),
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = &self.bytes[self.given..];
        let most = match self.rhythm {
            0 => left.len(),
            rhythm => 1 + (rhythm + self.given * 7) % 11,
        };
        let length = most.min(left.len()).min(buf.len());
        buf[..length].copy_from_slice(&left[..length]);
        self.given += length;
        Ok(length)
    }
}

impl Write for Pieces {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Pieces {
    fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    fn is_quiet(&mut self) -> bool {
        self.given == self.bytes.len()
    }
}
