//! Who a client is that comes through a proxy.
//!
//! A proxy tells the client's address before the connection (the PROXY protocol) or in each request
//! (`X-Forwarded-For`, `Forwarded`). Anybody can write such a thing, so it is only believed
//! of proxies that are named.

use http::HeaderMap;
use ipnet::IpNet;
use proxy_header::{ParseConfig, ProxyHeader};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes that any header of the PROXY protocol has at least: `PROXY UNKNOWN` and the line's end.
const SHORTEST: usize = 15;

/// The longest line of version 1, by its specification (§2.1).
const LONGEST_LINE: usize = 107;

/// Version 2: how it begins, and where its length stands.
const V2_BEGINNING: &[u8] = b"\r\n\r\n\x00\r\nQUIT\n";
const V2_FIXED: usize = 16;

/// The longest header of version 2 that is read. The addresses take 216 bytes at most; the rest is
/// of no interest here, such as a certificate's name.
const LONGEST_V2: usize = 4096;

/// Which proxies are believed, and how they tell.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Their networks.
    pub trusted: Vec<IpNet>,
    /// Whether each connection of theirs begins with a header of the PROXY protocol, of either
    /// version.
    pub proxy_protocol: bool,
    /// The header in which they tell whom a request is from.
    pub header: ForwardedHeader,
}

/// A header that tells whom a request is from. Only one is read: a proxy passes on the other as the
/// client wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: 192.0.2.1, 10.0.0.1`
    #[default]
    XForwardedFor,
    /// `Forwarded: for=192.0.2.1, for="[2001:db8::1]"` (RFC 7239)
    Forwarded,
}

impl Proxies {
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted
            .iter()
            .any(|network| network.contains(&address))
    }

    /// Whether a connection from this address begins with a header of the PROXY protocol.
    pub(crate) fn announces(&self, address: IpAddr) -> bool {
        self.proxy_protocol && self.trusts(address)
    }

    /// Whom a request is from that came in a connection from `peer`: the last address that
    /// no proxy of ours has told of another.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.trusts(peer) {
            return peer;
        }
        let told = match self.header {
            ForwardedHeader::XForwardedFor => values(headers, "x-forwarded-for", Some),
            ForwardedHeader::Forwarded => values(headers, "forwarded", forwarded_for),
        };
        let mut client = peer;
        for address in told.into_iter().rev() {
            // Who stands before what cannot be read may be anybody.
            let Some(address) = address else {
                break;
            };
            client = address;
            if !self.trusts(address) {
                break;
            }
        }
        client
    }
}

/// The addresses in all headers of a name, in order; `None` for each that is none.
fn values<'a>(
    headers: &'a HeaderMap,
    name: &str,
    node: impl Fn(&'a str) -> Option<&'a str>,
) -> Vec<Option<IpAddr>> {
    let values = headers.get_all(name).into_iter();
    let parts = values.flat_map(|value| value.to_str().unwrap_or("?").split(','));
    parts
        .map(|part| node(part.trim()).and_then(address))
        .collect()
}

/// The node in an element of `Forwarded`, such as `for="[2001:db8::1]:80";proto=https`.
fn forwarded_for(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let is_for = name.trim().eq_ignore_ascii_case("for");
        is_for.then(|| value.trim().trim_matches('"'))
    })
}

/// An address, with or without a port and brackets.
fn address(node: &str) -> Option<IpAddr> {
    let bare = node
        .strip_prefix('[')
        .and_then(|node| node.strip_suffix(']'));
    let address = bare.unwrap_or(node).parse::<IpAddr>().ok();
    let address = address.or_else(|| node.parse().ok().map(|at: SocketAddr| at.ip()));
    address.map(|address| address.to_canonical())
}

/// Reads a header of the PROXY protocol, and not a byte more. Returns whom the connection is from;
/// `None` if it is the proxy's own, such as a look whether we live.
pub(crate) async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<IpAddr>> {
    let mut header = vec![0; SHORTEST];
    stream.read_exact(&mut header).await?;
    if header.starts_with(V2_BEGINNING) {
        extend(stream, &mut header, V2_FIXED).await?;
        let rest = u16::from_be_bytes([header[V2_FIXED - 2], header[V2_FIXED - 1]]);
        let len = V2_FIXED + usize::from(rest);
        if len > LONGEST_V2 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        extend(stream, &mut header, len).await?;
    } else {
        while !header.ends_with(b"\n") {
            if header.len() == LONGEST_LINE || !header.starts_with(b"PROXY ") {
                return Err(io::ErrorKind::InvalidData.into());
            }
            header.push(stream.read_u8().await?);
        }
    }
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    let (parsed, _) = ProxyHeader::parse(&header, config)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let source = parsed.proxied_address().map(|told| told.source.ip());
    Ok(source.map(|address| address.to_canonical()))
}

async fn extend(
    stream: &mut (impl AsyncRead + Unpin),
    header: &mut Vec<u8>,
    len: usize,
) -> io::Result<()> {
    let read = header.len();
    header.resize(len.max(read), 0);
    stream.read_exact(&mut header[read..]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn proxies(header: ForwardedHeader) -> Proxies {
        Proxies {
            trusted: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            proxy_protocol: true,
            header,
        }
    }

    #[track_caller]
    fn check(header: ForwardedHeader, peer: &str, values: &[&str], expected: &str) {
        let name = match header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
        };
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, value.parse().unwrap());
        }
        let client = proxies(header).client(peer.parse().unwrap(), &headers);
        assert_eq!(client, expected.parse::<IpAddr>().unwrap());
    }

    #[test]
    fn only_proxies_are_believed() {
        let header = ForwardedHeader::XForwardedFor;
        check(header, "192.0.2.1", &["198.51.100.1"], "192.0.2.1");
        check(header, "10.0.0.1", &[], "10.0.0.1");
        check(header, "10.0.0.1", &["198.51.100.1"], "198.51.100.1");
        check(header, "::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1");
        // What the client itself had written stands before what the proxy adds.
        check(
            header,
            "10.0.0.1",
            &["1.1.1.1, 198.51.100.1"],
            "198.51.100.1",
        );
        check(
            header,
            "10.0.0.1",
            &["1.1.1.1", "198.51.100.1"],
            "198.51.100.1",
        );
        check(
            header,
            "10.0.0.1",
            &["198.51.100.1, 10.2.3.4"],
            "198.51.100.1",
        );
        check(header, "10.0.0.1", &["10.9.9.9, 10.2.3.4"], "10.9.9.9");
        check(header, "10.0.0.1", &["198.51.100.1, nonsense"], "10.0.0.1");
        check(header, "10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1");
        check(header, "::1", &["2001:db8::1"], "2001:db8::1");
        check(header, "::1", &["[2001:db8::1]:80"], "2001:db8::1");
    }

    #[test]
    fn forwarded() {
        let header = ForwardedHeader::Forwarded;
        check(
            header,
            "10.0.0.1",
            &["for=192.0.2.43, For=\"[2001:db8::17]:4711\";proto=https"],
            "2001:db8::17",
        );
        check(
            header,
            "10.0.0.1",
            &["proto=http; for=192.0.2.43"],
            "192.0.2.43",
        );
        check(header, "10.0.0.1", &["for=unknown"], "10.0.0.1");
        check(header, "192.0.2.1", &["for=192.0.2.43"], "192.0.2.1");
    }

    #[tokio::test]
    async fn headers_of_both_versions_are_read_to_the_byte() {
        use proxy_header::ProxiedAddress;
        let (source, destination) = ("192.0.2.1:5000", "10.0.0.1:80");
        let told = ProxiedAddress::stream(source.parse().unwrap(), destination.parse().unwrap());
        let header = ProxyHeader::with_address(told);
        let (mut v1, mut v2) = (Vec::new(), Vec::new());
        header.encode_v1(&mut v1).unwrap();
        header.encode_v2(&mut v2).unwrap();
        let mut local = Vec::new();
        ProxyHeader::with_local().encode_v2(&mut local).unwrap();
        let source = Some("192.0.2.1".parse().unwrap());
        for (bytes, expected) in [
            (v1, source),
            (v2, source),
            (local, None),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
        ] {
            let stream = [&bytes[..], b"GET /"].concat();
            let mut stream = &stream[..];
            assert_eq!(read_header(&mut stream).await.unwrap(), expected);
            assert_eq!(stream, b"GET /");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = [V2_BEGINNING, &[0x21, 0x11, 0xff, 0xff]].concat();
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            &[b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat(),
            b"PROXY TCP4 999.0.2.1 10.0.0.1 5000 80\r\n",
            b"PROXY TCP4 192.0.2.1",
            &long,
        ] {
            let read = read_header(&mut &bytes[..]).await;
            assert!(read.is_err(), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(bytes in vec(any::<u8>(), 0..300), version in 0..3) {
            let begin: &[u8] = match version {
                1 => b"PROXY TCP4 ",
                2 => V2_BEGINNING,
                _ => b"",
            };
            let bytes = [begin, &bytes].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(read_header(&mut &bytes[..]));
        }

        #[test]
        fn no_list_of_addresses_panics(text in "[ -~]{0,60}") {
            let mut headers = HeaderMap::new();
            headers.insert("forwarded", text.parse().unwrap());
            headers.insert("x-forwarded-for", text.parse().unwrap());
            for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
                let _ = proxies(header).client("10.0.0.1".parse().unwrap(), &headers);
            }
        }
    }
}
