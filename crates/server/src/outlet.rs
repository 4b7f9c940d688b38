//! The end of a stream over HTTP/1.1: what is still to be written, and the socket.

use bytes::{Buf, Bytes, BytesMut};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::socket::Socket;

/// Bytes that are joined to be written at once.
pub(crate) const JOINED: usize = 64 * 1024;

/// What HTTP is spoken over: a socket, or TLS over one.
pub(crate) type Connection = Either<Socket, Box<TlsStream<Socket>>>;

/// A connection that only ever goes one way, and what it has not taken yet.
#[derive(Debug)]
pub(crate) struct Outlet {
    connection: Connection,
    rest: Bytes,
    /// Whether there may be something written that the connection has not passed on.
    is_held: bool,
}

/// Pieces in a row, to be written at once. A single one is not copied.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    first: Bytes,
    all: BytesMut,
}

// === impl Outlet ===

impl Outlet {
    /// Nothing is written before it is polled.
    pub(crate) fn new(connection: Connection, first: Bytes) -> Self {
        Self {
            connection,
            rest: first,
            is_held: false,
        }
    }

    /// What is to be written next, once all before it is written.
    pub(crate) fn put(&mut self, bytes: Bytes) {
        debug_assert!(self.rest.is_empty(), "one after the other");
        self.rest = bytes;
    }

    /// Whether all is written.
    pub(crate) fn is_done(&self) -> bool {
        self.rest.is_empty() && !self.is_held
    }

    /// Writes what is there; ready when all of it is written.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let written = ready!(Pin::new(&mut self.connection).poll_write(cx, &self.rest));
            self.rest.advance(written?);
            self.is_held = true;
        }
        // TLS takes more than the socket does.
        if self.is_held {
            ready!(Pin::new(&mut self.connection).poll_flush(cx))?;
            self.is_held = false;
            // Empty, it would still hold the memory of what was written.
            self.rest = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }

    /// Ready when the client has left. What it sends is of no interest.
    pub(crate) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut space = [0; 64];
            let mut space = ReadBuf::new(&mut space);
            let read = ready!(Pin::new(&mut self.connection).poll_read(cx, &mut space));
            if read.is_err() || space.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

// === impl Joined ===

impl Joined {
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if self.len() == 0 {
            self.first = bytes;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(self.first.len() + bytes.len());
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&bytes);
    }

    pub(crate) fn len(&self) -> usize {
        self.first.len().max(self.all.len())
    }

    pub(crate) fn finish(self) -> Bytes {
        if self.all.is_empty() {
            self.first
        } else {
            self.all.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_in_their_order() {
        let mut joined = Joined::default();
        assert_eq!(joined.len(), 0);
        let first = Bytes::from("one ");
        joined.push(first.clone());
        joined.push(Bytes::new());
        assert_eq!(joined.len(), 4);
        joined.push(Bytes::from("two "));
        joined.push(Bytes::from("three"));
        assert_eq!(joined.len(), 13);
        assert_eq!(joined.finish(), "one two three");

        let mut alone = Joined::default();
        alone.push(first.clone());
        assert_eq!(alone.finish().as_ptr(), first.as_ptr(), "it is not copied");
    }
}
