//! A connection to a broker between and during exchanges: bytes in both directions, each wait with its deadline.
//!
//! It must never do anything by itself: while nobody sends, nothing is written and no thread wakes.

use super::dial::{Stream, broke_off};
use crate::destination::{Failure, Unanswered};
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

/// Bytes that may wait to be understood. What brokers answer is short; one that sends more is none.
const UNREAD_BYTES_MAX: usize = 256 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Line {
    stream: Stream,
    unread: Vec<u8>,
    used: Instant,
}

impl Line {
    pub fn new(stream: Stream) -> Self {
        Self { stream, unread: Vec::new(), used: Instant::now() }
    }

    /// Since when nothing was sent.
    pub fn idle(&self) -> Duration {
        self.used.elapsed()
    }

    /// The connection below; `None` when something has come that nobody has looked at.
    #[cfg(feature = "nats")]
    pub fn into_stream(self) -> Option<Stream> {
        self.unread.is_empty().then_some(self.stream)
    }

    /// What has come and was not used up.
    pub fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// So many bytes of it are used up.
    pub fn used_up(&mut self, bytes: usize) {
        self.unread.drain(..bytes.min(self.unread.len()));
    }

    /// Sends all of it.
    pub fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), Unanswered> {
        let patience = patience(deadline)?;
        self.used = Instant::now();
        let socket = self.stream.socket();
        socket.set_write_timeout(Some(patience)).map_err(|e| broke_off(&e))?;
        self.stream.write_all(bytes).and_then(|()| self.stream.flush()).map_err(|e| broke_off(&e))
    }

    /// Waits for more.
    pub fn more(&mut self, deadline: Instant) -> Result<(), Unanswered> {
        let patience = patience(deadline)?;
        self.stream.socket().set_read_timeout(Some(patience)).map_err(|e| broke_off(&e))?;
        self.read().map_err(|e| broke_off(&e))
    }

    /// Takes in what has come meanwhile, without waiting; false when the other side has gone.
    pub fn catch_up(&mut self) -> bool {
        if self.stream.socket().set_nonblocking(true).is_err() {
            return false;
        }
        let read = loop {
            if let Err(e) = self.read() {
                break e.kind() == ErrorKind::WouldBlock;
            }
        };
        self.stream.socket().set_nonblocking(false).is_ok() && read
    }

    fn read(&mut self) -> std::io::Result<()> {
        let mut chunk = [0; 4096];
        let count = loop {
            match self.stream.read(&mut chunk) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if self.unread.len() + count > UNREAD_BYTES_MAX {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        self.unread.extend(chunk.iter().take(count));
        Ok(())
    }
}

fn patience(deadline: Instant) -> Result<Duration, Unanswered> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Unanswered { kind: Failure::Timeout, detail: String::new() });
    }
    Ok(left)
}
