use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::{Signal, kill};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::{fs, io, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::harness::{Authority, Hub, HubOptions, TestDatabase, bellwether, eventually, within};

const NAME: &str = "hub.test";

async fn hub(authority: &Authority, database: &TestDatabase, more: &[&str]) -> Hub {
    let mut options = HubOptions::args(more);
    options.args.extend(authority.flags());
    let hub = Hub::spawn(&database.url, options)
        .await
        .expect("it gets ready");
    database.create_events_table().await;
    hub
}

/// The first certificate that a hub shows.
async fn shown(authority: &Authority, hub: &Hub) -> io::Result<Vec<u8>> {
    let connection = authority
        .connect(hub.address, NAME, Version::HTTP_11)
        .await?;
    let (_, session) = connection.get_ref();
    Ok(session.peer_certificates().unwrap()[0].to_vec())
}

/// One of the hub's figures. `Hub::metric` speaks no TLS.
async fn metric(authority: &Authority, hub: &Hub, name: &str) -> u64 {
    let mut stream = authority
        .connect(hub.address, NAME, Version::HTTP_11)
        .await
        .unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: hub.test\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("no {name} in {text}"));
    value.parse().unwrap()
}

fn der(path: &str) -> Vec<u8> {
    CertificateDer::from_pem_file(path).unwrap().to_vec()
}

#[tokio::test]
async fn a_stream_over_http1() {
    let database = TestDatabase::create().await;
    let authority = Authority::new();
    authority.write(&[NAME]);
    let hub = hub(&authority, &database, &["--heartbeat", "300ms"]).await;
    let stream = authority.connect(hub.address, NAME, Version::HTTP_11).await;
    let mut stream = BufReader::new(stream.unwrap());
    let request = b"GET /v1/stream?topic=events HTTP/1.1\r\nHost: hub.test\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut line = async |wanted: &str| {
        let mut line = String::new();
        while !line.starts_with(wanted) {
            line.clear();
            let read = within(wanted, stream.read_line(&mut line)).await.unwrap();
            assert!(read > 0, "it goes on");
        }
        line
    };
    assert_eq!(line("HTTP").await, "HTTP/1.1 200 OK\r\n");
    line("event: heartbeat").await;
    // More than the socket takes at once.
    let insert = "INSERT INTO events (name, properties)
        SELECT 'big', jsonb_build_object('text', repeat('x', 100000)) FROM generate_series(1, 60)";
    let psql = database.connect().await;
    psql.batch_execute(insert).await.unwrap();
    for _ in 0..60 {
        line("event: big").await;
        assert!(line("data: ").await.len() > 100_000);
    }
    line("event: heartbeat").await;
    assert_eq!(metric(&authority, &hub, "bellwether_clients").await, 1);
    drop(stream);
    eventually("the client has left", 0, async || {
        metric(&authority, &hub, "bellwether_clients").await
    })
    .await;
}

#[tokio::test]
async fn http2_by_alpn() {
    let database = TestDatabase::create().await;
    let authority = Authority::new();
    authority.write(&[NAME]);
    let hub = hub(&authority, &database, &[]).await;
    let stream = authority.connect(hub.address, NAME, Version::HTTP_2).await;
    let stream = stream.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let mut bodies = Vec::new();
    for _ in 0..20 {
        let uri = "https://hub.test/v1/stream?topic=events";
        let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
        let answer = within("an answer", sender.send_request(request)).await;
        bodies.push(answer.unwrap().into_body());
    }
    database.insert(1).await;
    for body in &mut bodies {
        let mut text = String::new();
        while !text.contains("event: n\n") {
            let frame = within("an event", body.frame()).await.unwrap().unwrap();
            text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_and_a_broken_one_is_not() {
    let database = TestDatabase::create().await;
    let authority = Authority::new();
    authority.write(&[NAME]);
    let hub = hub(&authority, &database, &[]).await;
    let first = der(&authority.path("cert.pem"));
    assert_eq!(shown(&authority, &hub).await.unwrap(), first);

    // By itself.
    authority.write(&[NAME]);
    let second = der(&authority.path("cert.pem"));
    eventually("the new one is shown", second.clone(), async || {
        shown(&authority, &hub).await.unwrap()
    })
    .await;

    // A key that is another's.
    let (_, key) = authority.issue(&[NAME]);
    fs::write(authority.path("key.pem"), key).unwrap();
    kill(hub.pid(), Signal::SIGHUP).unwrap();
    eventually("it is noticed", 1, async || {
        metric(&authority, &hub, "bellwether_tls_certificate_stale").await
    })
    .await;
    assert_eq!(shown(&authority, &hub).await.unwrap(), second);
    assert!(metric(&authority, &hub, "bellwether_tls_reloads_failed_total").await >= 1);

    // When told to.
    authority.write(&[NAME]);
    let third = der(&authority.path("cert.pem"));
    kill(hub.pid(), Signal::SIGHUP).unwrap();
    eventually("the third is shown", third, async || {
        shown(&authority, &hub).await.unwrap()
    })
    .await;
    let stale = metric(&authority, &hub, "bellwether_tls_certificate_stale").await;
    assert_eq!(stale, 0);
}

#[tokio::test]
async fn who_does_not_finish_the_handshake_is_closed() {
    let database = TestDatabase::create().await;
    let authority = Authority::new();
    authority.write(&[NAME]);
    let hub = hub(&authority, &database, &["--request-timeout", "500ms"]).await;
    let mut silent = TcpStream::connect(hub.address).await.unwrap();
    let mut half = TcpStream::connect(hub.address).await.unwrap();
    half.write_all(&[22, 3, 1, 2, 0]).await.unwrap(); // the head of a record of 512 bytes
    let mut plain = TcpStream::connect(hub.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    for stream in [&mut silent, &mut half, &mut plain] {
        let mut rest = Vec::new();
        let _: io::Result<usize> = within("its end", stream.read_to_end(&mut rest)).await;
        assert!(!rest.starts_with(b"HTTP"), "{}", rest.escape_ascii());
    }
    eventually("all are counted", 3, async || {
        metric(&authority, &hub, "bellwether_tls_handshakes_failed_total").await
    })
    .await;
}

#[tokio::test]
async fn tail_follows_a_hub_that_it_trusts() {
    let database = TestDatabase::create().await;
    let authority = Authority::new();
    authority.write(&["127.0.0.1"]);
    let hub = hub(&authority, &database, &[]).await;
    database.insert(1).await;
    let url = format!("https://{}", hub.address);
    let tail = |ca: String| {
        let mut command = bellwether();
        command.args(["tail", "--url", &url, "--ca", &ca, "--last", "1", "events"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut child = tail(authority.path("ca.pem"));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within("an event", lines.next_line()).await.unwrap();
    assert!(
        line.as_deref().unwrap_or_default().contains("-1 n {"),
        "{line:?}"
    );
    // Somebody else's authority.
    let other = Authority::new();
    let mut child = tail(other.path("ca.pem"));
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let refused = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("UnknownIssuer") {
                return true;
            }
        }
        false
    };
    assert!(within("that it is not trusted", refused).await);
}

#[tokio::test]
async fn certificates_that_cannot_be_used_end_it_at_once() {
    let authority = Authority::new();
    authority.write(&[NAME]);
    let (_, key) = authority.issue(&[NAME]);
    fs::write(authority.path("other.pem"), key).unwrap();
    let check = async |cert: &str, key: &str, parts: &[&str]| {
        let mut command = bellwether();
        command.args(["serve", "--database-url", "postgres://nobody@127.0.0.1:1/x"]);
        command.args(["--tls-cert", &authority.path(cert)]);
        command.args(["--tls-key", &authority.path(key)]);
        let output = within("its end", command.output()).await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        for part in parts {
            assert!(said.contains(part), "{said}");
        }
    };
    check("none.pem", "key.pem", &["cannot read", "none.pem"]).await;
    check("key.pem", "key.pem", &["holds no certificate in PEM"]).await;
    check("cert.pem", "cert.pem", &["holds no private key in PEM"]).await;
    check("cert.pem", "other.pem", &["cannot be used with its key"]).await;
}
