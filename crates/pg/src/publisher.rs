//! Publishing over HTTP: requests that come at the same time share a transaction.

use deadpool_postgres::Pool;
use hub::{Cursor, Topic};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time,
};
use tokio_postgres::{
    Row,
    error::{DbError, SqlState},
    types::ToSql,
};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};

use crate::{Database, Error, Metrics, SPANS, counted, error::chain, limit};

/// Most requests in one transaction, and the number of events that fills it.
const MAX_REQUESTS: usize = 256;
const MAX_EVENTS: usize = 10_000;

/// Requests that may wait for their turn; more wait before they are taken in.
const QUEUE: usize = 1024;

/// Transactions at the same time. While one waits for its flush, the next fills up.
const TRANSACTIONS: usize = 2;

/// How long a publication may wait for its turn and be carried out. One that is still waiting then
/// never will be.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a transaction is for.
const PUBLISHING: &str = "publish events";

/// How long to wait until events that are durable have their places.
const NUMBERING: Duration = Duration::from_secs(5);

const PUBLISH: &str = "
    SELECT request, ids, after_seq, outcome
    FROM bellwether.publish_requests($1, $2, $3, $4, $5, $6, $7, $8)";

const PLACES: &str = "SELECT bellwether.places($1, $2)";

/// An event that somebody wants published.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Where.
    pub topic: Topic,
    /// What kind of event it is.
    pub name: String,
    /// What it is about.
    pub key: Option<String>,
    /// JSON.
    pub data: String,
    /// Whether it is its topic's state from then on; with the data `null`: whether the topic
    /// has none from then on.
    pub retain: bool,
}

/// Events to be published together or not at all.
#[derive(Clone, Debug)]
pub struct Publication {
    /// At least one.
    pub events: Vec<Draft>,
    /// Names the request, so that it is carried out once however often it is sent.
    pub idempotency_key: Option<String>,
    /// The request as it came. Another one under the same key is a mistake.
    pub request: String,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// Durable, now or since an earlier request with this key, at these places in the stream,
    /// in the events' order.
    At(Vec<Cursor>),
    /// Durable, but not numbered within 5 s, or gone again.
    Unplaced,
    /// Not carried out: the key was used for another request.
    KeyInUse,
}

/// Where publications are handed in.
#[derive(Clone, Debug)]
pub struct Publisher {
    jobs: mpsc::Sender<Job>,
}

/// Carries them out.
#[derive(Debug)]
pub struct PublisherTask {
    jobs: mpsc::Receiver<Job>,
    desk: Arc<Desk>,
}

#[derive(Debug)]
struct Desk {
    pool: Pool,
    head: watch::Receiver<Option<Cursor>>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Job {
    publication: Publication,
    answer: oneshot::Sender<Result<Published, Arc<Error>>>,
    /// Of its being published, from handing it in to the answer.
    span: Span,
}

/// What the database says of one publication.
#[derive(Debug)]
enum Receipt {
    /// Now, under these ids.
    Published {
        ids: Vec<i64>,
        after_seq: i64,
    },
    /// Earlier.
    Repeated {
        ids: Vec<i64>,
        after_seq: i64,
    },
    Conflict,
}

// === impl Publisher ===

impl Publisher {
    /// A publisher, and the task that it needs. `head` is what the feed has read so far.
    pub fn new(
        database: &Database,
        head: watch::Receiver<Option<Cursor>>,
        metrics: Metrics,
    ) -> (Self, PublisherTask) {
        let (sender, jobs) = mpsc::channel(QUEUE);
        let pool = database.pool(TRANSACTIONS);
        metrics.watch_pool("publish", &pool);
        let desk = Arc::new(Desk {
            pool,
            head,
            metrics,
        });
        (Self { jobs: sender }, PublisherTask { jobs, desk })
    }

    /// Publishes, and waits until it is durable and numbered.
    pub async fn publish(&self, publication: Publication) -> Result<Published, Arc<Error>> {
        let (answer, answered) = oneshot::channel();
        let events = counted(publication.events.len());
        let span = tracing::trace_span!(target: SPANS, "publish", events);
        let job = Job {
            publication,
            answer,
            span: span.clone(),
        };
        let gone = || Arc::new(Error::Closed);
        let published = async {
            self.jobs.send(job).await.map_err(|_| gone())?;
            answered.await.unwrap_or_else(|_| Err(gone()))
        };
        let published = time::timeout(PATIENCE, published).instrument(span).await;
        published.unwrap_or_else(|_| Err(Arc::new(Error::TimedOut(PUBLISHING, PATIENCE))))
    }
}

// === impl PublisherTask ===

impl PublisherTask {
    /// Runs until every publisher is gone, and what they handed in is done.
    pub async fn run(mut self) {
        let turns = Arc::new(Semaphore::new(TRANSACTIONS));
        let tasks = TaskTracker::new();
        loop {
            // First a turn, then the jobs: all that come while none is free share the next.
            let turn = Arc::clone(&turns).acquire_owned().await;
            let Some(jobs) = self.collect().await else {
                break;
            };
            if jobs.is_empty() {
                continue;
            }
            let desk = Arc::clone(&self.desk);
            tasks.spawn(async move {
                desk.carry_out(jobs, turn.ok()).await;
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn collect(&mut self) -> Option<Vec<Job>> {
        let mut jobs = Vec::new();
        let mut events = 0;
        let mut next = Some(self.jobs.recv().await?);
        while let Some(job) = next {
            // Who asked may have lost patience.
            if !job.answer.is_closed() {
                events += job.publication.events.len();
                jobs.push(job);
            }
            let is_full = jobs.len() == MAX_REQUESTS || events >= MAX_EVENTS;
            next = if is_full {
                None
            } else {
                self.jobs.try_recv().ok()
            };
        }
        Some(jobs)
    }
}

// === impl Desk ===

impl Desk {
    /// Publishes what these jobs want in one transaction, gives up the turn, and answers.
    async fn carry_out(&self, jobs: Vec<Job>, turn: Option<OwnedSemaphorePermit>) {
        match self.commit(&jobs).instrument(commit_span(&jobs)).await {
            Ok(receipts) => {
                drop(turn);
                let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
                let events = jobs.iter().map(|job| job.publication.events.len());
                self.metrics.publish_requests.observe(count(jobs.len()));
                self.metrics.publish_events.observe(count(events.sum()));
                self.answer(jobs, receipts).await;
            }
            // Whichever of them it was, the others are not to suffer.
            Err(error) if jobs.len() > 1 && is_refusal(&error) => {
                for job in jobs {
                    Box::pin(self.carry_out(vec![job], None)).await;
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for job in jobs {
                    job.answer(Err(Arc::clone(&error)));
                }
            }
        }
    }

    /// One transaction for all of them: its end says that they are durable.
    async fn commit(&self, jobs: &[Job]) -> Result<Vec<Receipt>, Error> {
        let publications = || jobs.iter().map(|job| &job.publication);
        let events = || publications().flat_map(|publication| &publication.events);
        let keys: Vec<_> = publications().map(|of| &of.idempotency_key).collect();
        // The text is needed only to compare it with another under the same key.
        let requests: Vec<_> = publications()
            .map(|of| of.idempotency_key.as_ref().map(|_| &of.request))
            .collect();
        let sizes: Vec<_> = publications()
            .map(|of| i32::try_from(of.events.len()).expect("requests are small"))
            .collect();
        let topics: Vec<_> = events().map(|event| event.topic.as_str()).collect();
        let names: Vec<_> = events().map(|event| &event.name).collect();
        let event_keys: Vec<_> = events().map(|event| &event.key).collect();
        let data: Vec<_> = events().map(|event| &event.data).collect();
        let retains: Vec<_> = events().map(|event| event.retain).collect();

        let rows = limit::ask(&self.pool, PUBLISHING, async |client| {
            let publish = client.prepare_cached(PUBLISH).await?;
            let with: [&(dyn ToSql + Sync); 8] = [
                &keys,
                &requests,
                &sizes,
                &topics,
                &names,
                &event_keys,
                &data,
                &retains,
            ];
            client.query(&publish, &with).await
        })
        .await?;
        let mut receipts: Vec<(i32, Receipt)> = rows.iter().map(receipt).collect();
        receipts.sort_by_key(|&(request, _)| request);
        if receipts.len() != jobs.len() {
            let (asked, answered) = (jobs.len(), receipts.len());
            return Err(Error::Decode(format!(
                "{asked} publications, {answered} receipts"
            )));
        }
        Ok(receipts.into_iter().map(|(_, receipt)| receipt).collect())
    }

    async fn answer(&self, jobs: Vec<Job>, receipts: Vec<Receipt>) {
        // All that this transaction inserted is looked up at once.
        let mut fresh = Vec::new();
        let mut since = 0;
        for receipt in &receipts {
            if let Receipt::Published { ids, after_seq } = receipt {
                fresh.extend_from_slice(ids);
                since = *after_seq;
            }
        }
        fresh.sort_unstable();
        let places = match fresh.as_slice() {
            [] => None,
            fresh => self.places(fresh, since, NUMBERING).await,
        };
        let place = |id: &i64| Some(places.as_ref()?[fresh.binary_search(id).ok()?]);
        for (job, receipt) in jobs.into_iter().zip(receipts) {
            let places = match receipt {
                Receipt::Published { ids, .. } => ids.iter().map(place).collect(),
                Receipt::Repeated { ids, after_seq } => {
                    self.places(&ids, after_seq, Duration::ZERO).await
                }
                Receipt::Conflict => {
                    job.answer(Ok(Published::KeyInUse));
                    continue;
                }
            };
            job.answer(Ok(places.map_or(Published::Unplaced, Published::At)));
        }
    }

    /// The places of events that are durable, in the order of their ids, once all have one.
    /// `None` if they have none within the limit, or not any more.
    async fn places(&self, ids: &[i64], after_seq: i64, limit: Duration) -> Option<Vec<Cursor>> {
        let mut head = self.head.clone();
        let is_beyond =
            |head: &Option<Cursor>| head.is_some_and(|head| head.seq > after_seq.unsigned_abs());
        let look = async {
            loop {
                let now = (*head.wait_for(is_beyond).await.ok()?)?;
                head.mark_unchanged();
                match self.look_up(ids, after_seq).await {
                    Ok(seqs) if seqs.len() < ids.len() && limit.is_zero() => return None,
                    Ok(seqs) if seqs.len() < ids.len() => head.changed().await.ok()?,
                    // A place beyond the head may not be durable yet.
                    Ok(seqs) if seqs.last() > Some(&now.seq) => head.changed().await.ok()?,
                    Ok(seqs) => {
                        let cursor = |seq| Cursor { seq, ..now };
                        return Some(seqs.into_iter().map(cursor).collect());
                    }
                    Err(error) => {
                        tracing::warn!(error = %chain(&error), "published, but cannot say where");
                        return None;
                    }
                }
            }
        };
        time::timeout(limit.max(Duration::from_secs(1)), look)
            .await
            .ok()?
    }

    async fn look_up(&self, ids: &[i64], after_seq: i64) -> Result<Vec<u64>, Error> {
        let rows = limit::ask(
            &self.pool,
            "look up where events were placed",
            async |client| {
                let places = client.prepare_cached(PLACES).await?;
                client.query(&places, &[&ids, &after_seq]).await
            },
        )
        .await?;
        Ok(rows
            .iter()
            .map(|row| row.get::<_, i64>(0).unsigned_abs())
            .collect())
    }
}

/// Of a transaction that several share: it is a part of what the first is waiting for, and linked
/// to the others.
fn commit_span(jobs: &[Job]) -> Span {
    let (first, others) = jobs.split_first().expect("there is at least one");
    let requests = counted(jobs.len());
    let span = tracing::trace_span!(target: SPANS, parent: &first.span, "commit", requests);
    for job in others {
        span.follows_from(&job.span);
    }
    span
}

/// Whether the server has said no to something in it, so that nothing of it was published. If it
/// took too long, each part would, too.
fn is_refusal(error: &Error) -> bool {
    let Error::Query(_, error) = error else {
        return false;
    };
    let code = error.as_db_error().map(DbError::code);
    code.is_some_and(|code| *code != SqlState::QUERY_CANCELED)
}

fn receipt(row: &Row) -> (i32, Receipt) {
    let (ids, after_seq) = (row.get(1), row.get(2));
    let receipt = match row.get(3) {
        "published" => Receipt::Published { ids, after_seq },
        "repeated" => Receipt::Repeated { ids, after_seq },
        _ => Receipt::Conflict,
    };
    (row.get(0), receipt)
}

// === impl Job ===

impl Job {
    fn answer(self, answer: Result<Published, Arc<Error>>) {
        // Who asked may be gone: then nobody wants to know.
        let _: Result<_, _> = self.answer.send(answer);
    }
}
