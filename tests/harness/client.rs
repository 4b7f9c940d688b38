//! A client that reads a stream and forgets nothing.

use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use sse::{Decoder, Item, Message};
use std::{collections::VecDeque, error::Error, net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, time};

use super::within;

/// How many of the bytes it receives a client keeps.
const KEPT_BYTES: usize = 64 * 1024;

/// A stream of `/v1/stream`.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    decoder: Decoder,
    ready: VecDeque<Delivery>,
    /// The id of the last event that was taken out of `ready`.
    taken: String,
    /// The first bytes, if somebody wants to look at them.
    pub(crate) bytes: Vec<u8>,
    /// How many bytes there were in all.
    pub(crate) received: u64,
}

/// What a client is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Event(Message),
    Retry(Duration),
    /// The stream has ended.
    End,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, query: &str, cursor: Option<&str>) -> Self {
        Self::try_connect(address, query, cursor).await.unwrap()
    }

    /// The same, where the hub may be gone.
    pub(crate) async fn try_connect(
        address: SocketAddr,
        query: &str,
        cursor: Option<&str>,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let mut headers = vec![("Host", "test")];
        headers.extend(cursor.map(|cursor| ("Last-Event-ID", cursor)));
        Self::with_headers(address, query, &headers).await
    }

    /// A request with just these headers.
    pub(crate) async fn with_headers(
        address: SocketAddr,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let mut request = Request::get(format!("/v1/stream?{query}"));
        for &(name, value) in headers {
            request = request.header(name, value);
        }
        let cursor = headers.iter().find(|(name, _)| *name == "Last-Event-ID");
        let response = send(address, request.body(Full::default())?).await?;
        Ok(Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.into_body(),
            decoder: Decoder::new(),
            ready: VecDeque::new(),
            taken: cursor.map_or_else(String::new, |(_, cursor)| (*cursor).to_owned()),
            bytes: Vec::new(),
            received: 0,
        })
    }

    /// What comes next, of any kind.
    pub(crate) async fn next(&mut self) -> Delivery {
        within("a delivery", self.wait()).await
    }

    /// The next event, heartbeats included.
    #[track_caller]
    pub(crate) fn event(&mut self) -> impl Future<Output = Message> {
        within("an event", self.wait_for_event())
    }

    /// The next events that are not heartbeats.
    #[track_caller]
    pub(crate) fn events(&mut self, count: usize) -> impl Future<Output = Vec<Message>> {
        within("some events", async move {
            let mut events = Vec::new();
            while events.len() < count {
                let event = self.wait_for_event().await;
                if event.name != "heartbeat" {
                    events.push(event);
                }
            }
            events
        })
    }

    /// The names and data of what comes before the cursor: the topics' states.
    pub(crate) async fn states(&mut self) -> Vec<(String, String)> {
        let mut states = Vec::new();
        loop {
            match self.event().await {
                event if event.name == "heartbeat" => return states,
                event => {
                    assert_eq!(event.id, "", "a state is no position to come back to");
                    states.push((event.name, event.data));
                }
            }
        }
    }

    async fn wait_for_event(&mut self) -> Message {
        loop {
            match self.wait().await {
                Delivery::Event(message) => return message,
                Delivery::Retry(_) => {}
                Delivery::End => panic!("the stream has ended"),
            }
        }
    }

    /// Whether nothing but heartbeats comes for a while.
    pub(crate) async fn is_quiet_for(&mut self, pause: Duration) -> bool {
        let noise = async {
            loop {
                match self.wait().await {
                    Delivery::Event(message) if message.name == "heartbeat" => {}
                    Delivery::Retry(_) => {}
                    other => return other,
                }
            }
        };
        time::timeout(pause, noise).await.is_err()
    }

    /// The id to come back with after what was taken so far; what it came with, as long as
    /// it was given none.
    pub(crate) fn cursor(&self) -> &str {
        match self.decoder.last_event_id() {
            id if !id.is_empty() && self.ready.is_empty() => id,
            _ => &self.taken,
        }
    }

    /// Reads until the opening has arrived, so that the client has a cursor.
    pub(crate) async fn opened(&mut self) -> &mut Self {
        assert!(
            matches!(self.next().await, Delivery::Retry(_)),
            "retry comes first"
        );
        assert_eq!(self.event().await.name, "heartbeat", "then the cursor");
        self
    }

    async fn wait(&mut self) -> Delivery {
        loop {
            if let Some(delivery) = self.ready.pop_front() {
                if let Delivery::Event(message) = &delivery
                    && !message.id.is_empty()
                {
                    self.taken.clone_from(&message.id);
                }
                return delivery;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.take(&frame.into_data().unwrap()),
                Some(Err(_)) | None => return Delivery::End,
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.received += bytes.len() as u64;
        if self.bytes.len() < KEPT_BYTES {
            self.bytes.extend_from_slice(bytes);
        }
        self.decoder.feed(bytes);
        for item in &mut self.decoder {
            match item.unwrap() {
                Item::Event(message) => self.ready.push_back(Delivery::Event(message)),
                Item::Retry(pause) => self.ready.push_back(Delivery::Retry(pause)),
                Item::Comment(_) => {}
            }
        }
    }
}

/// A stream of lines, each of them JSON.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    unread: Vec<u8>,
}

impl Lines {
    pub(crate) async fn connect(address: SocketAddr, query: &str) -> Self {
        let request = Request::get(format!("/v1/stream?{query}"))
            .header("Host", "test")
            .header("Accept", "application/x-ndjson")
            .body(Full::default())
            .unwrap();
        let response = send(address, request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        Self {
            body: response.into_body(),
            unread: Vec::new(),
        }
    }

    /// The next line that is not empty.
    pub(crate) async fn next(&mut self) -> serde_json::Value {
        loop {
            while let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                if line.len() > 1 {
                    return serde_json::from_slice(&line).unwrap();
                }
            }
            let frame = within("a line", self.body.frame()).await;
            let bytes = frame.expect("the stream goes on").unwrap().into_data();
            self.unread.extend_from_slice(&bytes.unwrap());
        }
    }
}

/// A whole answer: its status and text.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let request = Request::get(path)
        .header("Host", "test")
        .body(Full::default())
        .unwrap();
    let (status, _, text) = request_whole(address, request).await;
    (status, text)
}

/// A whole answer: its status, headers and text.
pub(crate) async fn request_whole(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> (u16, HeaderMap, String) {
    try_request(address, request).await.unwrap()
}

/// The same, where nobody may answer.
pub(crate) async fn try_request(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<(u16, HeaderMap, String), Box<dyn Error + Send + Sync>> {
    let response = send(address, request).await?;
    let (parts, body) = response.into_parts();
    let body = within("a whole answer", body.collect()).await?.to_bytes();
    Ok((
        parts.status.as_u16(),
        parts.headers,
        String::from_utf8(body.to_vec())?,
    ))
}

async fn send(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<http::Response<Incoming>, Box<dyn Error + Send + Sync>> {
    let sent = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?)
    };
    within("an answer", sent).await
}
