//! What somebody may try who means harm. `docs/security.md` has the table.

use std::{io, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::harness::{Hub, within};

/// Many connections that say little.
mod floods;
/// HTTP/2, used as it is not meant to be.
mod http2;
/// Too much of everything.
mod oversized;
/// Files that are not served.
mod paths;
/// A database that does not answer.
mod slow_database;
/// One request that looks like two.
mod smuggling;
/// Text that would be more than text.
mod splitting;
/// SQL in all that is not SQL.
mod sql;

/// A connection from an address of this machine.
async fn connect_from(source: [u8; 4], to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.connect(to).await
}

/// All that the hub answers to these bytes until it hangs up.
async fn exchange(hub: &Hub, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    // The hub may answer and hang up before it has read everything.
    let _: io::Result<()> = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _: io::Result<usize> = within("the end of an answer", read).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Whether the hub still answers somebody else.
async fn is_well(hub: &Hub) -> bool {
    let request = b"GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    exchange(hub, request).await.starts_with("HTTP/1.1 200")
}
