//! One server of several, its clients, and rounds of events.

use anyhow::{Result, anyhow};
use std::time::Duration;
use tokio::time::Instant;

use crate::{
    crowd::{Crowd, Tally, Written},
    drive::{Pace, Way},
    peer::{Kind, Peer},
    report::float,
    stage::Stage,
    writer,
};

/// A server and its clients.
pub(crate) struct Side {
    pub(crate) peer: Peer,
    pub(crate) crowds: Vec<Crowd>,
    /// The next event's number.
    pub(crate) next: u64,
}

/// What one server did in one round.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    /// Processor time of the server for each delivery, in microseconds; and of Postgres for each
    /// event.
    pub(crate) processor: f64,
    pub(crate) postgres: f64,
    pub(crate) deliveries_per_read: f64,
    /// From the end of publishing until all had arrived.
    pub(crate) behind: Duration,
    pub(crate) tally: Tally,
}

/// Starts the servers, each without clients; of hubs, so many, with these arguments.
pub(crate) async fn start(
    stage: &Stage,
    kinds: &[Kind],
    hubs: u32,
    args: &[String],
) -> Result<Vec<Side>> {
    let mut sides = Vec::new();
    for &kind in kinds {
        let is_first_on_postgres = !sides.iter().any(|side: &Side| side.peer.is_on_postgres());
        if matches!(kind, Kind::Textbook) && is_first_on_postgres {
            // Its table is made below, once a hub has made the schema.
            anyhow::bail!("name the hub before the textbook's server");
        }
        let peer = Peer::start(kind, stage, hubs, args).await?;
        if let (Some(_), Way::Rows { url, .. }) = (peer.hub(), &peer.way) {
            let client = writer::connect(url).await?;
            client.batch_execute(include_str!("fan_out.sql")).await?;
        }
        sides.push(Side {
            peer,
            crowds: Vec::new(),
            next: 1,
        });
    }
    Ok(sides)
}

impl Side {
    /// Publishes, and waits until all has arrived.
    pub(crate) async fn round(&mut self, stage: &Stage, pace: Pace) -> Result<Round> {
        let nothing = std::future::pending::<Result<()>>();
        let (_, round) = self.watched_round(stage, pace, nothing).await?;
        Ok(round)
    }

    /// The same, with something that goes on until all is published.
    pub(crate) async fn watched_round(
        &mut self,
        stage: &Stage,
        pace: Pace,
        watch: impl Future<Output = Result<()>>,
    ) -> Result<(Written, Round)> {
        for crowd in &mut self.crowds {
            crowd.begin(pace.stride()).await?;
        }
        let writers = pace.connect(&self.peer.way).await?;
        let (before, postgres) = (self.peer.processor()?, stage.processor()?);
        let written = tokio::select! {
            written = pace.publish(writers) => written?,
            failed = watch => return Err(failed.err().unwrap_or_else(|| anyhow!("it goes on"))),
        };
        let published = Instant::now();
        self.next = pace.beyond();
        let mut all: Option<Tally> = None;
        for crowd in &mut self.crowds {
            let tally = crowd.end(&written).await?;
            match &mut all {
                Some(all) => all.add(&tally)?,
                none => *none = Some(tally),
            }
        }
        let tally = all.expect("there is at least one instance");
        let behind = published.elapsed();
        let processor = self.peer.processor()?.saturating_sub(before);
        let postgres = stage.processor()?.saturating_sub(postgres);
        let us = |time: Duration, count: u64| time.as_secs_f64() * 1e6 / float(count.max(1));
        let round = Round {
            behind,
            processor: us(processor, tally.deliveries),
            postgres: us(postgres, written.events),
            deliveries_per_read: float(tally.deliveries) / float(tally.reads.max(1)),
            tally,
        };
        Ok((written, round))
    }
}

/// Microseconds in milliseconds.
pub(crate) fn ms(us: u64) -> f64 {
    float(us) / 1000.0
}
