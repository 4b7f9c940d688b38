//! The floor: what it costs to write the same bytes to the same number of sockets, by a bare loop.
//!
//! It knows nothing of topics, cursors or slow clients. What comes on the first connection of its
//! second port is written to every connection of its first, as it comes.

use anyhow::Result;
use mio::{Events, Interest, Poll, Token, net::TcpListener, net::TcpStream};
use std::{
    io::{self, Read, Write},
    net::SocketAddr,
};

const CLIENTS: Token = Token(0);
const PUBLISHERS: Token = Token(1);

/// Tokens of connections begin here.
const FIRST: usize = 2;

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

struct Client {
    stream: TcpStream,
    /// What the kernel has not taken yet.
    rest: Vec<u8>,
    is_gone: bool,
}

/// Says its two addresses, and serves until it is killed.
pub(crate) fn run() -> Result<()> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (mut clients_in, mut publishers_in) = (TcpListener::bind(any)?, TcpListener::bind(any)?);
    println!(
        "{} {}",
        clients_in.local_addr()?,
        publishers_in.local_addr()?
    );
    let mut poll = Poll::new()?;
    let readable = Interest::READABLE;
    poll.registry()
        .register(&mut clients_in, CLIENTS, readable)?;
    poll.registry()
        .register(&mut publishers_in, PUBLISHERS, readable)?;

    let mut clients: Vec<Client> = Vec::new();
    let mut publisher: Option<TcpStream> = None;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            match event.token() {
                CLIENTS => {
                    while let Some(mut stream) = accepted(&clients_in)? {
                        stream.set_nodelay(true)?;
                        let token = Token(FIRST + clients.len());
                        let both = Interest::READABLE | Interest::WRITABLE;
                        poll.registry().register(&mut stream, token, both)?;
                        let mut client = Client {
                            stream,
                            rest: Vec::new(),
                            is_gone: false,
                        };
                        client.send(ANSWER);
                        clients.push(client);
                    }
                }
                PUBLISHERS => {
                    while let Some(mut stream) = accepted(&publishers_in)? {
                        poll.registry()
                            .register(&mut stream, PUBLISHERS, readable)?;
                        publisher = Some(stream);
                    }
                }
                Token(n) if event.is_writable() => clients[n - FIRST].send_rest(),
                _ => {}
            }
        }
        while let Some(len) = publisher
            .as_mut()
            .and_then(|stream| stream.read(&mut buffer).ok())
        {
            if len == 0 {
                publisher = None;
                break;
            }
            for client in &mut clients {
                client.send(&buffer[..len]);
            }
        }
    }
}

fn accepted(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        if self.is_gone {
            return;
        }
        if !self.rest.is_empty() {
            self.rest.extend_from_slice(bytes);
            return;
        }
        match self.stream.write(bytes) {
            Ok(len) => self.rest.extend_from_slice(&bytes[len..]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.rest.extend_from_slice(bytes);
            }
            Err(_) => self.is_gone = true,
        }
    }

    fn send_rest(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            self.send(&rest);
        }
    }
}
