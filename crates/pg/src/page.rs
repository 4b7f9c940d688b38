//! A page of the stream, read row by row.

use futures_util::TryStreamExt;
use hub::{Event, Retain, Topic};
use itertools::izip;
use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};
use tokio_postgres::{Client, Row, Statement};

use crate::Error;

/// Bytes of data at which a page ends early, after at least one event.
const PAGE_BYTES: usize = 1024 * 1024;

/// What follows a position or, where that is gone, what is the oldest; oldest first.
pub(crate) const AFTER: &str = "
    SELECT event.seq, event.topic, event.name, event.key, event.data::text, event.at, event.retain
    FROM (
        SELECT greatest($1, (SELECT first_seq - 1 FROM bellwether.stream ORDER BY last_seq LIMIT 1)) AS seq OFFSET 0
    ) AS start
    CROSS JOIN LATERAL bellwether.stretch(start.seq, start.seq + $2) AS event
    ORDER BY event.seq";

/// Reads pages by [`AFTER`].
///
/// Nothing is kept of what the server sends beyond the end of a page, so no more events are asked
/// for than twice what is likely to fit: the ones before tell. To have the server end the page
/// costs it as much again as to read it (two sums over windows, one for what is stored and one
/// for what is unpacked).
#[derive(Debug, Default)]
pub(crate) struct Pager {
    bytes_per_event: AtomicUsize,
}

impl Pager {
    /// Of so many events, how many a page is likely to hold.
    pub(crate) fn likely(&self, at_most: u64) -> u64 {
        let bytes = self.bytes_per_event.load(Ordering::Relaxed).max(1);
        at_most.min((PAGE_BYTES / bytes).max(1) as u64)
    }

    /// Up to so many events that follow a position, in the stream's order and without holes;
    /// fewer if they are large.
    pub(crate) async fn read(
        &self,
        client: &Client,
        after: &Statement,
        seq: u64,
        at_most: u64,
    ) -> Result<Result<Vec<Event>, Error>, tokio_postgres::Error> {
        let at_most = at_most.min(2 * self.likely(at_most));
        let rows = client.query_raw(after, [position(seq), position(at_most)]);
        let mut rows = pin!(rows.await?);
        let mut events: Vec<Event> = Vec::new();
        let mut bytes = 0;
        while bytes < PAGE_BYTES
            && let Some(row) = rows.try_next().await?
        {
            let event = match event(&row, events.last()) {
                Ok(event) => event,
                Err(error) => return Ok(Err(error)),
            };
            bytes += event.data.len();
            events.push(event);
        }
        if !events.is_empty() {
            let mean = bytes / events.len();
            self.bytes_per_event.store(mean, Ordering::Relaxed);
        }
        Ok(Ok(events))
    }
}

/// The event of a row, which follows the one before it, and shares with it what is the same.
pub(crate) fn event(row: &Row, previous: Option<&Event>) -> Result<Event, Error> {
    let columns = Columns {
        seq: row.get(0),
        topic: row.get(1),
        name: row.get(2),
        key: row.get(3),
        data: row.get(4),
        at: row.try_get(5).ok(), // infinity has no other form
        retain: row.get(6),
    };
    columns.event(previous)
}

/// The events that came with a look: an array for each column, or NULL for each.
pub(crate) fn along(look: &Row) -> Result<Vec<Event>, Error> {
    let Some(seqs) = look.get::<_, Option<Vec<i64>>>("seqs") else {
        return Ok(Vec::new());
    };
    let topics: Vec<&str> = look.get("topics");
    let names: Vec<&str> = look.get("names");
    let keys: Vec<Option<String>> = look.get("keys");
    let data: Vec<String> = look.get("data");
    let ats: Vec<Option<SystemTime>> = look.get("ats");
    let retains: Vec<Option<bool>> = look.get("retains");
    let mut events: Vec<Event> = Vec::with_capacity(seqs.len());
    for (seq, topic, name, key, data, at, retain) in
        izip!(seqs, topics, names, keys, data, ats, retains)
    {
        let columns = Columns {
            seq,
            topic,
            name,
            key,
            data,
            at,
            retain,
        };
        let event = columns.event(events.last())?;
        events.push(event);
    }
    Ok(events)
}

/// An event as the database has it.
struct Columns<'a> {
    seq: i64,
    topic: &'a str,
    name: &'a str,
    key: Option<String>,
    data: String,
    at: Option<SystemTime>,
    retain: Option<bool>,
}

impl Columns<'_> {
    fn event(self, previous: Option<&Event>) -> Result<Event, Error> {
        let Self { topic, name, .. } = self;
        let seq = place(self.seq)?;
        // One commit can hold a million events and a page ends anywhere, but never with a hole.
        if let Some(previous) = previous
            && seq != previous.seq + 1
        {
            let hole = format!("the stream has a hole after {}", previous.seq);
            return Err(Error::Decode(hole));
        }
        let previous_topic = previous.filter(|event| event.topic.as_str() == topic);
        let previous_name = previous.filter(|event| *event.name == *name);
        Ok(Event {
            seq,
            topic: previous_topic.map_or_else(|| self::topic(topic), |event| event.topic.clone()),
            name: previous_name.map_or_else(|| name.into(), |event| event.name.clone()),
            key: self.key,
            data: self.data,
            at: self.at.unwrap_or(SystemTime::UNIX_EPOCH),
            retain: match self.retain {
                None => Retain::No,
                Some(true) => Retain::Set,
                Some(false) => Retain::Clear,
            },
        })
    }
}

pub(crate) fn topic(text: &str) -> Topic {
    Topic::new(text).unwrap_or_else(|_| Topic::mend(text))
}

pub(crate) fn number(row: &Row, column: usize) -> Result<u64, Error> {
    place(row.get(column))
}

fn place(number: i64) -> Result<u64, Error> {
    u64::try_from(number).map_err(|_| Error::Decode(format!("{number} is no place in the stream")))
}

/// As Postgres has it. A client may name any number; beyond the largest there is nothing.
pub(crate) fn position(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}
