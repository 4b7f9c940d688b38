//! The floor: what it costs to write the same bytes to the same number of sockets, by a bare loop; or by
//! several, each on a thread of its own with its share of the sockets.
//!
//! It knows nothing of topics, cursors or slow clients. What comes on the first connection of its
//! second port is written to every connection of its first, as it comes.

use anyhow::{Result, anyhow};
use mio::{Events, Interest, Poll, Token, Waker, net::TcpListener, net::TcpStream};
use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

const CLIENTS: Token = Token(0);
const PUBLISHERS: Token = Token(1);
const WAKER: Token = Token(2);

/// Tokens of connections begin here.
const FIRST: usize = 3;

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// Some clients, and what tells when they can be written to.
struct Share {
    poll: Poll,
    clients: Vec<Client>,
}

struct Client {
    stream: TcpStream,
    /// What the kernel has not taken yet.
    rest: Vec<u8>,
    is_gone: bool,
}

/// A thread that has a share.
struct Helper {
    gifts: Sender<Gift>,
    waker: Waker,
}

/// What the first thread gives to another.
enum Gift {
    Client(TcpStream),
    Bytes(Arc<[u8]>),
}

/// Says its two addresses, and serves on so many threads until it is killed.
pub(crate) fn run(threads: usize) -> Result<()> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (mut clients_in, mut publishers_in) = (TcpListener::bind(any)?, TcpListener::bind(any)?);
    println!(
        "{} {}",
        clients_in.local_addr()?,
        publishers_in.local_addr()?
    );
    let mut own = Share::new()?;
    let registry = own.poll.registry();
    registry.register(&mut clients_in, CLIENTS, Interest::READABLE)?;
    registry.register(&mut publishers_in, PUBLISHERS, Interest::READABLE)?;
    let helpers = (1..threads).map(|_| Helper::start());
    let helpers = helpers.collect::<Result<Vec<_>>>()?;

    let mut clients = 0;
    let mut publisher: Option<TcpStream> = None;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        own.wait(&mut events)?;
        for event in &events {
            match event.token() {
                CLIENTS => {
                    while let Some(stream) = accepted(&clients_in)? {
                        match helpers.get(clients % threads) {
                            Some(helper) => helper.give(Gift::Client(stream))?,
                            None => own.add(stream)?,
                        }
                        clients += 1;
                    }
                }
                PUBLISHERS => {
                    while let Some(mut stream) = accepted(&publishers_in)? {
                        let registry = own.poll.registry();
                        registry.register(&mut stream, PUBLISHERS, Interest::READABLE)?;
                        publisher = Some(stream);
                    }
                }
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
            if !helpers.is_empty() {
                let bytes: Arc<[u8]> = buffer[..len].into();
                for helper in &helpers {
                    helper.give(Gift::Bytes(Arc::clone(&bytes)))?;
                }
            }
            own.send(&buffer[..len]);
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

impl Share {
    fn new() -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            clients: Vec::new(),
        })
    }

    /// Waits until something has happened, and writes what could not be written before.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        match self.poll.poll(events, None) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in events.iter().filter(|event| event.is_writable()) {
            if let Some(nth) = event.token().0.checked_sub(FIRST) {
                self.clients[nth].send_rest();
            }
        }
        Ok(())
    }

    fn add(&mut self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let token = Token(FIRST + self.clients.len());
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, token, both)?;
        let mut client = Client {
            stream,
            rest: Vec::new(),
            is_gone: false,
        };
        client.send(ANSWER);
        self.clients.push(client);
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) {
        for client in &mut self.clients {
            client.send(bytes);
        }
    }

    /// Serves until nobody gives anything any more.
    fn serve(mut self, gifts: &Receiver<Gift>) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            self.wait(&mut events)?;
            for gift in gifts.try_iter() {
                match gift {
                    Gift::Client(stream) => self.add(stream)?,
                    Gift::Bytes(bytes) => self.send(&bytes),
                }
            }
        }
    }
}

impl Helper {
    fn start() -> Result<Self> {
        let share = Share::new()?;
        let waker = Waker::new(share.poll.registry(), WAKER)?;
        let (sender, gifts) = mpsc::channel();
        thread::spawn(move || share.serve(&gifts));
        Ok(Self {
            gifts: sender,
            waker,
        })
    }

    fn give(&self, gift: Gift) -> Result<()> {
        let given = self.gifts.send(gift);
        given.map_err(|_| anyhow!("a thread of the floor has ended"))?;
        Ok(self.waker.wake()?)
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
