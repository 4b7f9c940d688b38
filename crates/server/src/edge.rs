//! What stands between the hub and whoever comes.

use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::{
    limits::{Client, Full, Limit, Limits, PublishRate, Refusals, Seat, Seats},
    proxy::Proxies,
    tls::Tls,
};

/// How connections are let in, and how much they may take.
#[derive(Debug)]
pub struct Edge {
    pub(crate) limits: Limits,
    pub(crate) proxies: Proxies,
    pub(crate) tls: Option<Tls>,
    pub(crate) refusals: Refusals,
    connections: Arc<Seats>,
    streams: Arc<Seats>,
    publish_rate: PublishRate,
    open_connections: Gauge,
}

/// Plain HTTP, and all that the [defaults](Limits) allow.
impl Default for Edge {
    fn default() -> Self {
        Self::new(Limits::default(), Proxies::default(), None)
    }
}

impl Edge {
    /// With a certificate, all connections are TLS.
    pub fn new(limits: Limits, proxies: Proxies, tls: Option<Tls>) -> Self {
        Self {
            limits,
            proxies,
            tls,
            refusals: Refusals::default(),
            connections: Seats::new(limits.connections, limits.connections_per_address),
            streams: Seats::new(limits.streams, limits.streams_per_client),
            publish_rate: PublishRate::new(limits.publish_rate),
            open_connections: Gauge::default(),
        }
    }

    /// Takes a new certificate, if there is one. Also done now and then while it serves.
    pub fn reload(&self) {
        if let Some(tls) = &self.tls {
            tls.reload();
        }
    }

    /// What is to be done now and then, without end.
    pub(crate) async fn upkeep(&self) {
        let watch = async {
            if let Some(tls) = &self.tls {
                tls.watch().await;
            }
        };
        tokio::join!(watch, self.publish_rate.forget());
    }

    /// A place for a connection from this address. A proxy that is believed may have any number, as
    /// its clients are counted instead.
    pub(crate) fn admit_connection(&self, address: IpAddr) -> Option<Seat> {
        let client = (!self.proxies.trusts(address)).then(|| address.into());
        let seat = self.connections.take(client);
        self.counted(seat, Limit::Connections, Limit::ConnectionsPerAddress)
    }

    /// Counts a connection for the address that its proxy tells; `None` if there are too many.
    pub(crate) fn assign_connection(&self, seat: &mut Seat, address: IpAddr) -> Option<()> {
        let assigned = seat.assign(address.into());
        self.counted(assigned, Limit::Connections, Limit::ConnectionsPerAddress)
    }

    /// A place for a stream of this client.
    pub(crate) fn admit_stream(&self, client: Client) -> Option<Seat> {
        let seat = self.streams.take(Some(client));
        self.counted(seat, Limit::Streams, Limit::StreamsPerClient)
    }

    /// Whether a client may publish so many events now, or how long it has to wait.
    pub(crate) fn admit_events(&self, client: &Client, events: usize) -> Result<(), Duration> {
        let admitted = self.publish_rate.take(client, events);
        admitted.inspect_err(|_| self.refusals.count(Limit::PublishRate))
    }

    /// How many connections are open.
    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    fn counted<T>(&self, seat: Result<T, Full>, all: Limit, each: Limit) -> Option<T> {
        seat.inspect_err(|full| {
            self.refusals.count(match full {
                Full::All => all,
                Full::Each => each,
            });
        })
        .ok()
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        self.refusals.register(registry);
        let help = "Open connections";
        registry.register("connections", help, self.open_connections.clone());
        if let Some(tls) = &self.tls {
            tls.register(registry);
        }
    }

    /// Brings the metrics up to this moment.
    pub(crate) fn observe(&self) {
        let open = i64::try_from(self.connections()).unwrap_or(i64::MAX);
        self.open_connections.set(open);
    }
}
