use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

use super::is_well;
use crate::harness::{Hub, HubOptions, TestDatabase, eventually, within};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What may be sent before it is clear that nobody stops it.
const MUCH: usize = 64 * 1024 * 1024;

/// HTTP/2, frame by frame.
struct Raw {
    stream: TcpStream,
    sent: usize,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = len[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The head of a request for a stream, in HPACK: literals that are not to be indexed.
fn head() -> Vec<u8> {
    let mut block = vec![0x82, 0x86]; // GET, http
    for (name, value) in [(4, "/v1/stream?topic=events"), (1, "t")] {
        block.extend([name, u8::try_from(value.len()).unwrap()]);
        block.extend(value.as_bytes());
    }
    block
}

impl Raw {
    async fn connect(hub: &Hub) -> Self {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        stream.write_all(preface).await.unwrap();
        let mut raw = Self { stream, sent: 0 };
        raw.send(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        raw
    }

    /// Whether it was taken. A hub that does not read any more is as good as one that hangs up.
    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let write = time::timeout(Duration::from_secs(3), self.stream.write_all(bytes)).await;
        write.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.sent += bytes.len();
        Ok(())
    }

    /// Sends the same over and over, without reading, until the hub has enough; how much that was.
    async fn flood(&mut self, mut next: impl FnMut() -> Vec<u8>) -> usize {
        while self.sent < MUCH {
            if self.send(&next()).await.is_err() {
                return self.sent;
            }
        }
        panic!("nobody stops it");
    }

    /// Reads to the end; the error code of GOAWAY, if one came.
    async fn end(mut self) -> Option<u32> {
        let mut bytes = Vec::new();
        let read = self.stream.read_to_end(&mut bytes);
        let _: io::Result<usize> = within("the connection's end", read).await;
        let mut rest = &bytes[..];
        while let [a, b, c, kind, _, _, _, _, _, payload @ ..] = rest {
            let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let (payload, after) = payload.split_at_checked(len)?;
            if *kind == GOAWAY {
                return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
            rest = after;
        }
        None
    }
}

async fn hub() -> (TestDatabase, Hub) {
    let database = TestDatabase::create().await;
    let options = HubOptions::args(&["--stall-timeout", "2s", "--heartbeat", "300ms"]);
    let hub = Hub::start_with(&database, options).await;
    (database, hub)
}

/// Somebody else is served all the while, and little is left of it.
async fn is_unharmed(hub: &Hub, database: &TestDatabase, before: u64) {
    assert!(is_well(hub).await);
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    database.insert(1).await;
    client.events(1).await;
    eventually("only that client is left", 1, async || {
        hub.metric("bellwether_clients").await
    })
    .await;
    let grown = hub.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB");
}

/// CVE-2023-44487.
#[tokio::test]
async fn rapid_reset() {
    let (database, hub) = hub().await;
    let before = hub.resident_kib();
    let mut raw = Raw::connect(&hub).await;
    let mut stream = 1;
    let flood = raw.flood(|| {
        let mut frames = Vec::new();
        for _ in 0..100 {
            frames.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, &head()));
            frames.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            stream += 2;
        }
        frames
    });
    let sent = flood.await;
    assert!(sent < 16 * 1024 * 1024, "{sent}");
    // ENHANCE_YOUR_CALM, unless the way back was cut by what it had not read.
    assert!(matches!(raw.end().await, None | Some(11)));
    is_unharmed(&hub, &database, before).await;
}

/// CVE-2024-27316 and its like.
#[tokio::test]
async fn continuation_without_end() {
    let (database, hub) = hub().await;
    let before = hub.resident_kib();
    for filling in [vec![0x40; 0], vec![0; 16_000]] {
        let mut raw = Raw::connect(&hub).await;
        raw.send(&frame(HEADERS, END_STREAM, 1, &head()))
            .await
            .unwrap();
        // Headers that are literals, each with a name and a value of some bytes; or frames
        // with nothing in them.
        let filling: Vec<u8> = match filling.len() {
            0 => Vec::new(),
            len => [0, 1, b'a', 2, b'b', b'c']
                .iter()
                .copied()
                .cycle()
                .take(len / 6 * 6)
                .collect(),
        };
        let sent = raw.flood(|| frame(CONTINUATION, 0, 1, &filling)).await;
        assert!(sent < 16 * 1024 * 1024, "{sent}");
        raw.end().await;
    }
    is_unharmed(&hub, &database, before).await;
}

/// CVE-2019-9512: answers that are not read are not kept.
#[tokio::test]
async fn pings() {
    let (database, hub) = hub().await;
    let before = hub.resident_kib();
    let mut raw = Raw::connect(&hub).await;
    raw.flood(|| frame(PING, 0, 0, &[7; 8]).repeat(1000)).await;
    is_unharmed(&hub, &database, before).await;
}

/// CVE-2019-9515.
#[tokio::test]
async fn settings() {
    let (database, hub) = hub().await;
    let before = hub.resident_kib();
    let mut raw = Raw::connect(&hub).await;
    let window = [0, 4, 0, 0, 255, 255];
    raw.flood(|| frame(SETTINGS, 0, 0, &window).repeat(1000))
        .await;
    is_unharmed(&hub, &database, before).await;
}

/// More streams than the hub has said it takes.
#[tokio::test]
async fn streams_beyond_what_was_agreed() {
    let (database, hub) = hub().await;
    let before = hub.resident_kib();
    let mut raw = Raw::connect(&hub).await;
    let mut frames = Vec::new();
    for n in 0..300 {
        frames.extend(frame(HEADERS, END_STREAM | END_HEADERS, 1 + 2 * n, &head()));
    }
    // Taken or not, those beyond are no streams.
    let _: io::Result<()> = raw.send(&frames).await;
    eventually("as many as agreed, or none", true, async || {
        let clients = hub.metric("bellwether_clients").await;
        clients == 100 || clients == 0
    })
    .await;
    drop(raw);
    is_unharmed(&hub, &database, before).await;
}
