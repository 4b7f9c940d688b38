//! A client's socket, which gives up when the client takes nothing.

use socket2::SockRef;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use crate::limits::Seat;

/// What the kernel may hold for a client, in bytes (it books twice as much). At 100 ms from
/// here and back, that is 640 KiB a second.
const SEND_BUFFER: usize = 64 * 1024;

/// A connection, below TLS and HTTP. hyper waits for a client that does not read for as long as
/// it takes; here a write fails when the client has taken nothing for the time given. (For a
/// stream of HTTP/2 see `stall`.)
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    stall_timeout: Duration,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Free again when the connection is closed.
    _seat: Seat,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, stall_timeout: Duration, seat: Seat) -> Self {
        // A socket that refuses is closed already, as will be found out.
        if let Err(error) = prepare(&stream, stall_timeout) {
            tracing::debug!(%error, "cannot set up a connection");
        }
        Self {
            stream,
            stall_timeout,
            stalled: None,
            _seat: seat,
        }
    }

    fn poll_patiently(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = write(Pin::new(&mut self.stream), cx) {
            self.stalled = None;
            return Poll::Ready(written);
        }
        let timeout = self.stall_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

fn prepare(stream: &TcpStream, stall_timeout: Duration) -> io::Result<()> {
    // An event is to leave at once, however small.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // Left to itself the kernel grows it to 4 MiB for each client that stalls.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    #[cfg(target_os = "linux")]
    // For those that vanish without a word, and whose buffer a heartbeat does not fill.
    socket.set_tcp_user_timeout(Some(stall_timeout))?;
    Ok(())
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, out)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_patiently(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_patiently(cx, |stream, cx| stream.poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
