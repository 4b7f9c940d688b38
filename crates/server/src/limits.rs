//! How much clients may take: connections, streams, and events to publish.

use auth::Identity;
use governor::{DefaultKeyedRateLimiter, Quota};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time;

use crate::publish::{MAX_BODY_BYTES, MAX_EVENTS};

/// How often what is known of publishers that have long been silent is forgotten.
const FORGET_INTERVAL: Duration = Duration::from_mins(1);

/// How much clients may take of one hub. In all numbers but `streams_per_connection`,
/// `head_bytes` and `body_bytes`, 0 means: without limit.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections. One beyond is closed at once. Default: without limit; the program
    /// derives it from how many files it may open.
    pub connections: usize,
    /// Those of one address; an IPv6 network of 64 bits counts as one.
    pub connections_per_address: usize,
    /// Open streams, which a connection of HTTP/2 can have many of. One beyond is answered
    /// 200, and told to come back later.
    pub streams: usize,
    /// Those of one client: a subject, or else an address.
    pub streams_per_client: usize,
    /// Requests at the same time on a connection of HTTP/2. Default: 100, the least that RFC 9113
    /// (§6.5.2) recommends.
    pub streams_per_connection: u32,
    /// Bytes of a request's head. Default: 16 KiB; a cursor and some dozen topics fit many times
    /// over.
    pub head_bytes: usize,
    /// How long a client may take for its half of the TLS handshake, then for a request's head, then
    /// for its body. Default: 10 s.
    pub request_time: Duration,
    /// Bytes of a request's body. Default: 1 MiB, four events of the largest size.
    pub body_bytes: usize,
    /// Patterns of a stream, and names. Default: all that is possible, [`hub::MAX_PATTERNS`].
    pub patterns: usize,
    /// Events that one client may publish over HTTP each second. What it has not used of the last
    /// second, and at least 1,000, it may publish at once. Default: 10,000.
    pub publish_rate: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 0,
            connections_per_address: 0,
            streams: 0,
            streams_per_client: 0,
            streams_per_connection: 100,
            head_bytes: 16 * 1024,
            request_time: Duration::from_secs(10),
            body_bytes: MAX_BODY_BYTES,
            patterns: hub::MAX_PATTERNS,
            publish_rate: 10_000,
        }
    }
}

/// Who takes something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// Whoever is behind this address; of an IPv6 address, only the network of 64 bits, as a
    /// household has that many.
    Address(IpAddr),
    /// Somebody who has a name, wherever.
    Subject(Arc<str>),
}

impl Client {
    /// Somebody by his name, if he has proved one, else by where he is.
    pub(crate) fn of(identity: &Identity, address: IpAddr) -> Self {
        let subject = identity.subject.clone();
        subject.map_or_else(|| address.into(), Self::Subject)
    }
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// Which limit it was.
#[derive(Clone, Copy, Debug, EncodeLabelValue, PartialEq, Eq, Hash)]
pub(crate) enum Limit {
    Connections,
    ConnectionsPerAddress,
    Streams,
    StreamsPerClient,
    Head,
    Body,
    Time,
    Patterns,
    PublishRate,
}

#[derive(Clone, Debug, EncodeLabelSet, PartialEq, Eq, Hash)]
struct Reached {
    limit: Limit,
}

/// How often each limit was reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals(Family<Reached, Counter>);

impl Refusals {
    pub(crate) fn count(&self, limit: Limit) {
        self.0.get_or_create(&Reached { limit }).inc();
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        // So that each is there to be watched before it happens.
        for limit in [
            Limit::Connections,
            Limit::ConnectionsPerAddress,
            Limit::Streams,
            Limit::StreamsPerClient,
            Limit::Head,
            Limit::Body,
            Limit::Time,
            Limit::Patterns,
            Limit::PublishRate,
        ] {
            let _ = self.0.get_or_create(&Reached { limit });
        }
        let help = "What was refused because a limit was reached, and which";
        registry.register("refusals", help, self.0.clone());
    }
}

/// A number of places, of which no client may take more than some.
#[derive(Debug)]
pub(crate) struct Seats {
    all: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<Client, usize>,
}

/// One place. Free again when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    of: Option<Client>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// All are taken.
    All,
    /// This client has as many as it may have.
    Each,
}

impl Seats {
    /// So many places in all, and for each client; 0 is without limit.
    pub(crate) fn new(all: usize, each: usize) -> Arc<Self> {
        let or_all = |limit| if limit == 0 { usize::MAX } else { limit };
        Arc::new(Self {
            all: or_all(all),
            each: or_all(each),
            taken: Mutex::default(),
        })
    }

    /// A place for a client; `None` is one that may take any number.
    pub(crate) fn take(self: &Arc<Self>, of: Option<Client>) -> Result<Seat, Full> {
        let mut taken = self.taken();
        if taken.all >= self.all {
            return Err(Full::All);
        }
        taken.all += 1;
        drop(taken);
        let seats = Arc::clone(self);
        let mut seat = Seat { seats, of: None };
        if let Some(client) = of {
            seat.assign(client)?;
        }
        Ok(seat)
    }

    /// How many are taken.
    pub(crate) fn len(&self) -> usize {
        self.taken().all
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Counts for this client from now on, if it may have one more.
    pub(crate) fn assign(&mut self, client: Client) -> Result<(), Full> {
        let each = self.seats.each;
        let mut taken = self.seats.taken();
        let by = taken.by.entry(client.clone()).or_default();
        if *by >= each {
            return Err(Full::Each);
        }
        *by += 1;
        if let Some(former) = self.of.replace(client) {
            taken.release(&former);
        }
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        taken.all -= 1;
        if let Some(client) = &self.of {
            taken.release(client);
        }
    }
}

impl Taken {
    fn release(&mut self, client: &Client) {
        if let Some(by) = self.by.get_mut(client) {
            *by -= 1;
            if *by == 0 {
                self.by.remove(client);
            }
        }
    }
}

/// How fast each client may publish.
pub(crate) struct PublishRate(Option<DefaultKeyedRateLimiter<Client>>);

impl PublishRate {
    /// So many events a second; 0 is without limit.
    pub(crate) fn new(rate: u32) -> Self {
        // A request of the largest size must fit.
        let burst = rate.max(u32::try_from(MAX_EVENTS).expect("it is small"));
        let (rate, burst) = (NonZeroU32::new(rate), NonZeroU32::new(burst));
        let quota = rate
            .zip(burst)
            .map(|(rate, burst)| Quota::per_second(rate).allow_burst(burst));
        Self(quota.map(DefaultKeyedRateLimiter::keyed))
    }

    /// Takes so many events off what a client may publish, or says how long it has to wait
    /// before it may.
    pub(crate) fn take(&self, client: &Client, events: usize) -> Result<(), Duration> {
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        let (Some(limiter), Some(events)) = (&self.0, NonZeroU32::new(events)) else {
            return Ok(());
        };
        match limiter.check_key_n(client, events) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                let clock = governor::clock::Clock::now(limiter.clock());
                Err(not_until.wait_time_from(clock))
            }
            Err(_) => unreachable!("a burst is as large as the largest request"),
        }
    }

    /// Forgets, now and then, those who have not published for so long that all is theirs again.
    pub(crate) async fn forget(&self) {
        let Some(limiter) = &self.0 else {
            return;
        };
        loop {
            time::sleep(FORGET_INTERVAL).await;
            limiter.retain_recent();
        }
    }
}

impl std::fmt::Debug for PublishRate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishRate").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Client {
        Client::from(address.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:2:3:4"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
    }

    #[test]
    fn a_seat_is_free_again_when_dropped() {
        let seats = Seats::new(3, 2);
        let (a, b) = (client("192.0.2.1"), client("192.0.2.2"));
        let first = seats.take(Some(a.clone())).unwrap();
        let second = seats.take(Some(a.clone())).unwrap();
        assert_eq!(seats.take(Some(a.clone())).unwrap_err(), Full::Each);
        let third = seats.take(Some(b.clone())).unwrap();
        assert_eq!(seats.take(Some(b.clone())).unwrap_err(), Full::All);
        drop(first);
        let fourth = seats.take(Some(a)).unwrap();
        assert_eq!(seats.take(None).unwrap_err(), Full::All);
        drop((second, third, fourth));
        assert_eq!(seats.len(), 0);
        assert!(seats.taken().by.is_empty(), "nobody is remembered");
    }

    #[test]
    fn without_a_limit() {
        let seats = Seats::new(0, 0);
        let all: Vec<_> = (0..1000)
            .map(|_| seats.take(Some(client("::1"))).unwrap())
            .collect();
        assert_eq!(seats.len(), all.len());
        assert_eq!(PublishRate::new(0).take(&client("::1"), usize::MAX), Ok(()));
    }

    #[test]
    fn who_publishes_too_fast_is_told_how_long_to_wait() {
        let rate = PublishRate::new(10);
        let (fast, other) = (client("192.0.2.1"), client("192.0.2.2"));
        rate.take(&fast, MAX_EVENTS).unwrap();
        let wait = rate.take(&fast, 100).unwrap_err();
        assert!(wait > Duration::from_secs(8), "{wait:?}");
        rate.take(&other, 1).unwrap();
    }
}
