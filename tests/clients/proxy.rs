//! A bad line: what comes through is cut into odd pieces, and the connection breaks.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::{AbortHandle, JoinSet},
};

/// Longest head of a request or response that is expected here.
const MAX_HEAD: usize = 64 * 1024;

/// A proxy in front of one hub. Ends when dropped.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    line: Arc<Mutex<Line>>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Line {
    /// How often the connection is still to be cut.
    cuts: usize,
    /// The heads of all requests so far.
    requests: Vec<String>,
}

impl Proxy {
    /// Cuts this many connections, and then no more.
    pub(super) async fn start(hub: SocketAddr, cuts: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let line = Arc::new(Mutex::new(Line {
            cuts,
            requests: Vec::new(),
        }));
        let shared = Arc::clone(&line);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let line = Arc::clone(&shared);
                connections.spawn(async move {
                    // That one side goes away is what it is about.
                    let _ = carry(client, hub, &line).await;
                });
            }
        });
        Self {
            address,
            line,
            task: task.abort_handle(),
        }
    }

    /// How often the connection is still to be cut.
    pub(super) fn cuts_left(&self) -> usize {
        self.line.lock().unwrap().cuts
    }

    /// The heads of all requests so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.line.lock().unwrap().requests.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut client: TcpStream, hub: SocketAddr, line: &Mutex<Line>) -> std::io::Result<()> {
    // A browser opens connections that it may never use.
    let request = read_head(&mut client).await?;
    let cut_after = {
        let mut line = line.lock().unwrap();
        line.requests
            .push(String::from_utf8_lossy(&request).into_owned());
        (line.cuts > 0).then(cut)
    };
    client.set_nodelay(true)?;
    if fastrand::bool() {
        client.set_zero_linger()?; // a cut is a reset, not an end
    }
    if cut_after != Some(0) {
        let mut hub = TcpStream::connect(hub).await?;
        hub.write_all(&request).await?;
        let response = read_head(&mut hub).await?;
        client.write_all(&allow_any_origin(&response)).await?;
        let (from_hub, to_hub) = hub.into_split();
        let (from_client, to_client) = client.into_split();
        tokio::select! {
            gone = there(from_client, to_hub) => return gone,
            cut = back(from_hub, to_client, cut_after) => cut?,
        }
    }
    let mut line = line.lock().unwrap();
    line.cuts = line.cuts.saturating_sub(1);
    Ok(())
}

/// The next connection, as far as its client has been sent the opening with its id.
pub(super) async fn opened(listener: &TcpListener, hub: SocketAddr) -> (TcpStream, TcpStream) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        if let Ok(connection) = open(client, hub).await {
            return connection;
        }
    }
}

async fn open(mut client: TcpStream, hub: SocketAddr) -> std::io::Result<(TcpStream, TcpStream)> {
    let request = read_head(&mut client).await?;
    let mut hub = TcpStream::connect(hub).await?;
    hub.write_all(&request).await?;
    let mut opening = read_head(&mut hub).await?;
    while !is_whole(&opening) {
        hub.read_buf(&mut opening).await?;
    }
    client.write_all(&allow_any_origin(&opening)).await?;
    Ok((client, hub))
}

/// Whether the event with the id has come, and the end of its chunk if it is one.
fn is_whole(opening: &[u8]) -> bool {
    let has_id = memchr::memmem::find(opening, b"\nid: ").is_some();
    has_id
        && [&b"\n\n"[..], b"\n\n\r\n"]
            .iter()
            .any(|end| opening.ends_with(end))
}

/// After how many bytes of the body to cut: before the answer, at its beginning, or anywhere.
fn cut() -> usize {
    match fastrand::u8(..8) {
        0 => 0,
        1 => fastrand::usize(1..200),
        2 | 3 => fastrand::usize(1..5_000),
        _ => fastrand::usize(1..300_000),
    }
}

async fn there(mut client: OwnedReadHalf, mut hub: OwnedWriteHalf) -> std::io::Result<()> {
    tokio::io::copy(&mut client, &mut hub).await?;
    Ok(())
}

/// In pieces of any length, so that characters and line ends are torn, too. Ends when it is
/// time to cut.
async fn back(
    mut hub: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    cut_after: Option<usize>,
) -> std::io::Result<()> {
    let mut left = cut_after.unwrap_or(usize::MAX);
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let read = hub.read(&mut bytes).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = &bytes[..read];
        while !rest.is_empty() {
            let length = piece().min(rest.len()).min(left);
            let (piece, later) = rest.split_at(length);
            client.write_all(piece).await?;
            // The other side gets a chance to read before the next piece comes.
            tokio::task::yield_now().await;
            rest = later;
            left -= length;
            if left == 0 {
                return Ok(());
            }
        }
    }
}

fn piece() -> usize {
    match fastrand::u8(..4) {
        0 => 1,
        1 => fastrand::usize(1..8),
        2 => fastrand::usize(1..2_000),
        _ => fastrand::usize(1..40_000),
    }
}

/// Everything up to the blank line, and what came along with it.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
        assert!(head.len() < MAX_HEAD, "no head");
        if stream.read_buf(&mut head).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// The hub does not let pages of other origins in by itself.
fn allow_any_origin(response: &[u8]) -> Vec<u8> {
    let end = memchr::memchr(b'\n', response).expect("a status line");
    let (status, rest) = response.split_at(end + 1);
    [status, b"access-control-allow-origin: *\r\n", rest].concat()
}
