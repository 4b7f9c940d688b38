//! History in pages that all clients share.
//!
//! Ten thousand clients that come back with cursors from before the ring want much the same
//! events. So history is cut into pages that begin at the same places for all, and a page
//! is read once: who asks while it is being read waits for that read, and who asks later
//! finds it in a small cache. What a page holds never changes, as events never do; that some
//! of them are deleted meanwhile hurts nobody.
//!
//! What it costs is bounded whatever clients ask for: so many reads at the same time, so many bytes in
//! the cache; and a client holds no page, only the piece of it that it is being sent.

use bytes::{Bytes, BytesMut};
use hub::{Cursor, Epoch, Event, Filter, Form, Frame, Topic};
use moka::{future::Cache, policy::EvictionPolicy};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, OnceLock},
};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::{
    control::Gap,
    frame::{PLAIN, encode_into},
    streams::Source,
};

/// Pages begin at multiples of the first. One that is cut short, because events are large, is
/// continued where it ends, up to the next multiple of the finest of these that this place is
/// not at. So who reads on from there soon meets who begins in the midst of it.
const GRAINS: [u64; 5] = [1024, 128, 16, 2, 1];

/// Bytes of a page that are handed out in one piece, unless one event is larger.
const PIECE_BYTES: usize = 64 * 1024;

/// Bytes of pages that are kept for whoever asks next.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Pages being read at the same time. One connection of the pool is left for other questions.
const READS: usize = pg::History::CONNECTIONS - 1;

/// Pages of history. A clone shares them, and is as small as can be: each stream has one.
#[derive(Clone)]
pub struct Pages(Arc<Shared>);

struct Shared {
    history: pg::History,
    cache: Cache<Start, Arc<Page>>,
    reads: Semaphore,
    read: Counter,
    hits: Counter,
}

/// Which page: the one after this position. The same position in another epoch is another
/// page, as the numbers may have been given again, and the ids on it are others in any case.
type Start = (Epoch, u64);

/// Some of the stream without holes, encoded.
#[derive(Debug)]
struct Page {
    /// The position before its first event; later than asked for if something is gone.
    floor: u64,
    /// The position of its last event.
    end: u64,
    leaves: Vec<Leaf>,
}

/// So much of a page as is handed out in one piece to a client that wants all of it.
#[derive(Debug)]
struct Leaf {
    /// At least one.
    frames: Vec<Frame>,
    topics: BTreeSet<Topic>,
    /// All of them in the plain form, once somebody wanted that.
    whole: OnceLock<Bytes>,
}

/// Where the hub's ring begins and ends when a client comes from before it. Up to its floor, what
/// is not in the tables is gone; what is beyond its head the hub is about to send, once it is durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    pub(crate) floor: u64,
    pub(crate) head: u64,
}

/// What one client is sent next.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Maybe nothing.
    pub(crate) bytes: Bytes,
    /// How many events are in it.
    pub(crate) events: u32,
    /// Whether its page was there already, or was read for it.
    pub(crate) source: Source,
    /// Where it ends.
    pub(crate) bookmark: Bookmark,
}

/// A client's position in history, and the page on which it goes on from there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bookmark {
    pub(crate) seq: u64,
    page: u64,
}

// === impl Pages ===

impl Pages {
    /// No page is read before somebody asks for it.
    pub fn new(history: pg::History) -> Self {
        let weigh = |_: &Start, page: &Arc<Page>| u32::try_from(page.weight()).unwrap_or(u32::MAX);
        let cache = Cache::builder()
            .max_capacity(CACHE_BYTES)
            .weigher(weigh)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self(Arc::new(Shared {
            history,
            cache,
            reads: Semaphore::new(READS),
            read: Counter::default(),
            hits: Counter::default(),
        }))
    }

    /// Registers what is counted here.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "history_pages_read",
            "Pages of history read from the database",
            self.0.read.clone(),
        );
        registry.register(
            "history_page_hits",
            "Times that a page of history was there already, or being read",
            self.0.hits.clone(),
        );
    }

    /// Some of what a filter matches after a position. What retention has taken is told by a gap.
    pub(crate) async fn next(
        self,
        filter: Filter,
        from: Cursor,
        ring: Ring,
        bookmark: Option<Bookmark>,
    ) -> Result<Piece, Arc<pg::Error>> {
        // One that was left there a while ago: the client has been reading the ring since.
        let marked = bookmark.filter(|bookmark| bookmark.seq == from.seq);
        let marked = marked.map(|bookmark| bookmark.page);
        for start in starts(from.seq, marked) {
            let (page, source) = self.page((from.epoch, start), ring).await?;
            if page.end > from.seq {
                if bookmark.is_some() && start == from.seq {
                    self.read_ahead((from.epoch, page.end), ring);
                }
                return Ok(page.piece(start, &filter, from, ring, source));
            }
        }
        unreachable!("the page after a position ends beyond it")
    }

    /// Has the next page read while a client is given this one, which it has come to by reading
    /// the one before: it is likely to go on.
    fn read_ahead(&self, start: Start, ring: Ring) {
        if start.1 < ring.floor && !self.0.cache.contains_key(&start) {
            // Whoever asks for the page waits for this read, or meets the same error.
            tokio::spawn(self.clone().read_once(start, ring));
        }
    }

    async fn page(&self, start: Start, ring: Ring) -> Result<(Arc<Page>, Source), Arc<pg::Error>> {
        if let Some(page) = self.0.cache.get(&start).await {
            self.0.hits.inc();
            return Ok((page, Source::Cache));
        }
        // In a task, because others may wait for this read, and nobody polls the stream of a
        // client that takes nothing. If this client leaves, one of the others reads.
        let read = self.clone().read_once(start, ring).in_current_span();
        let read = tokio::spawn(read);
        let read = AbortOnDropHandle::new(read).await;
        read.expect("it neither panics nor is it stopped while somebody waits")
    }

    /// Reads a page, or waits for somebody else's read of it.
    async fn read_once(
        self,
        start: Start,
        ring: Ring,
    ) -> Result<(Arc<Page>, Source), Arc<pg::Error>> {
        let entry = self.0.cache.entry(start);
        let entry = entry.or_try_insert_with(self.read(start, ring)).await?;
        let source = if entry.is_fresh() {
            // At once: the cache would put off dropping what no longer fits.
            self.0.cache.run_pending_tasks().await;
            Source::Database
        } else {
            self.0.hits.inc();
            Source::Cache
        };
        Ok((entry.into_value(), source))
    }

    async fn read(&self, start: Start, ring: Ring) -> Result<Arc<Page>, pg::Error> {
        let (epoch, after) = start;
        let _permit = self.0.reads.acquire().await.expect("it is never closed");
        let events = self.0.history.page(epoch, after, longest(after)).await;
        let mut events = events.inspect_err(|error| {
            tracing::warn!(error = %pg::chain(error), after, "cannot read a page of history");
        })?;
        self.0.read.inc();
        // A page is kept, and what is beyond the head may not be durable yet.
        events.retain(|event| event.seq <= ring.head);
        Ok(Arc::new(Page::new(epoch, events, ring.floor)))
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages")
            .field("read", &self.0.read.get())
            .field("hits", &self.0.hits.get())
            .finish_non_exhaustive()
    }
}

/// Most events in the page after a position.
fn longest(start: u64) -> u64 {
    let mut finest_first = GRAINS.iter().rev();
    let grain = finest_first.find(|&grain| !start.is_multiple_of(*grain));
    grain.map_or(GRAINS[0], |grain| grain - start % grain)
}

/// Where the page may begin that holds what follows a position, the likeliest first: it was
/// marked, or it is the longest that was not cut short before the position.
fn starts(seq: u64, marked: Option<u64>) -> impl Iterator<Item = u64> {
    let aligned = GRAINS.iter().map(move |grain| seq - seq % grain);
    marked.into_iter().chain(aligned)
}

// === impl Page ===

impl Page {
    /// A page of these events. Without any, all up to `floor` is gone: the ring was there
    /// before they were looked for.
    fn new(epoch: Epoch, events: Vec<Event>, floor: u64) -> Self {
        let floor = events.first().map_or(floor, |event| event.seq - 1);
        let end = events.last().map_or(floor, |event| event.seq);
        let mut events = events.into_iter().peekable();
        let mut leaves = Vec::new();
        while events.peek().is_some() {
            leaves.push(Leaf::new(epoch, &mut events));
        }
        Self { floor, end, leaves }
    }

    /// The next piece for one client, from a position before this page's end.
    fn piece(
        &self,
        start: u64,
        filter: &Filter,
        from: Cursor,
        ring: Ring,
        source: Source,
    ) -> Piece {
        let (mut bytes, mut events) = (Bytes::new(), 0);
        let mut seq = from.seq;
        if seq < self.floor {
            seq = self.floor.min(ring.floor);
            bytes = gap(from, seq, filter.form());
        }
        let leaves = self.leaves.iter().skip_while(|leaf| leaf.end() <= from.seq);
        for leaf in leaves {
            if !bytes.is_empty() || seq >= ring.head {
                break;
            }
            (bytes, events) = leaf.bytes_for(filter, seq, ring.head);
            seq = leaf.end().min(ring.head);
        }
        let page = if seq < self.end { start } else { self.end };
        Piece {
            bytes,
            events: u32::try_from(events).expect("a page is small"),
            source,
            bookmark: Bookmark { seq, page },
        }
    }

    /// About how many bytes of memory it takes.
    fn weight(&self) -> usize {
        let frame = |frame: &Frame| size_of::<Frame>() + frame.wire.weight() + 32;
        let leaf = |leaf: &Leaf| {
            let frames: usize = leaf.frames.iter().map(frame).sum();
            // Once as frames and once in one run; a large one is that already.
            frames * leaf.frames.len().min(2)
        };
        size_of::<Self>() + self.leaves.iter().map(leaf).sum::<usize>()
    }
}

// === impl Leaf ===

impl Leaf {
    /// So many of the events as fit.
    fn new(epoch: Epoch, events: &mut impl Iterator<Item = Event>) -> Self {
        let (mut frames, mut topics) = (Vec::<Frame>::new(), BTreeSet::new());
        let mut buffer = BytesMut::with_capacity(2 * PIECE_BYTES);
        let mut bytes = 0;
        while bytes < PIECE_BYTES
            && let Some(event) = events.next()
        {
            let frame = encode_into(&mut buffer, epoch, event);
            bytes += frame.wire.len(PLAIN);
            if frames.last().is_none_or(|last| last.topic != frame.topic) {
                topics.insert(frame.topic.clone());
            }
            frames.push(frame);
        }
        Self {
            frames,
            topics,
            whole: OnceLock::new(),
        }
    }

    fn end(&self) -> u64 {
        self.frames.last().expect("there is one").seq
    }

    /// What a filter matches after `seq` and up to `head`: its bytes, and how many events it is.
    fn bytes_for(&self, filter: &Filter, seq: u64, head: u64) -> (Bytes, usize) {
        let wanted = self.topics.iter().filter(|topic| filter.has_topic(topic));
        let wanted: BTreeSet<&Topic> = wanted.collect();
        if wanted.is_empty() {
            return (Bytes::new(), 0);
        }
        let is_whole = seq < self.frames[0].seq
            && self.end() <= head
            && wanted.len() == self.topics.len()
            && !filter.has_names();
        if is_whole && filter.form() == PLAIN {
            let all = || match &self.frames[..] {
                [frame] => frame.wire.bytes(PLAIN),
                frames => concat(frames.iter(), PLAIN).0,
            };
            return (self.whole.get_or_init(all).clone(), self.frames.len());
        }
        let is_due = |frame: &&Frame| {
            seq < frame.seq
                && frame.seq <= head
                && wanted.contains(&frame.topic)
                && filter.has_name(&frame.name)
        };
        concat(self.frames.iter().filter(is_due), filter.form())
    }
}

/// The bytes of some frames, and how many they are. A copy, and no slices: a client that is slow to
/// take one of them would keep all of them.
fn concat<'a>(frames: impl Iterator<Item = &'a Frame>, form: Form) -> (Bytes, usize) {
    let (mut bytes, mut count) = (BytesMut::new(), 0);
    for frame in frames {
        frame.wire.append(form, &mut bytes);
        count += 1;
    }
    (bytes.freeze(), count)
}

/// Tells that what lies between two positions is gone.
fn gap(from: Cursor, to: u64, form: Form) -> Bytes {
    let mut bytes = BytesMut::new();
    let gap = Gap {
        reason: "retention",
        from: from.to_string(),
        to: Cursor { seq: to, ..from },
        missing: Some(to - from.seq),
    };
    gap.encode(form, &mut bytes);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hub::Retain;
    use proptest::prelude::*;
    use serde_json::Value;
    use sse::{Decoder, Item};
    use std::{collections::HashMap, time::SystemTime};

    const EPOCH: Epoch = Epoch::new(7);

    /// What stands in for the tables.
    #[derive(Clone, Debug)]
    struct Table {
        events: Vec<Event>,
        /// Those up to this number are deleted.
        deleted: u64,
        page_bytes: usize,
    }

    impl Table {
        fn read(&self, start: u64, floor: u64) -> Page {
            let mut bytes = 0;
            let events: Vec<Event> = self.events
                [usize::try_from(start.max(self.deleted)).unwrap()..]
                .iter()
                .take(usize::try_from(longest(start)).unwrap())
                .take_while(|event| {
                    let before = bytes;
                    bytes += event.data.len();
                    before < self.page_bytes
                })
                .cloned()
                .collect();
            Page::new(EPOCH, events, floor)
        }
    }

    fn event(seq: u64, topic: &str, len: usize) -> Event {
        Event {
            seq,
            topic: Topic::new(topic).unwrap(),
            name: "n".into(),
            key: None,
            data: "x".repeat(len),
            at: SystemTime::UNIX_EPOCH,
            retain: Retain::No,
        }
    }

    fn table() -> impl Strategy<Value = Table> {
        let one = (prop_oneof!["a", "b", "c"], 1_usize..400);
        let small = proptest::collection::vec(one.clone(), 1..60);
        let runs = (small, 1_usize..60);
        let page_bytes = prop_oneof![1_usize..5_000, 50_000_usize..500_000];
        (runs, page_bytes).prop_map(|((few, times), page_bytes)| {
            let all = std::iter::repeat_n(few, times).flatten().zip(1..);
            let events = all.map(|((topic, len), seq)| event(seq, &topic, len));
            Table {
                events: events.collect(),
                deleted: 0,
                page_bytes,
            }
        })
    }

    /// The numbers in a piece: of events, and what a gap spans.
    fn numbers(bytes: &[u8]) -> (Vec<u64>, Option<(u64, u64)>) {
        let seq = |cursor: &str| cursor.parse::<Cursor>().unwrap().seq;
        let mut decoder = Decoder::new();
        decoder.feed(bytes);
        let (mut seqs, mut gap) = (Vec::new(), None);
        for item in &mut decoder {
            match item.unwrap() {
                Item::Event(event) if event.name == "gap" => {
                    let data: Value = serde_json::from_str(&event.data).unwrap();
                    gap = Some((
                        seq(data["from"].as_str().unwrap()),
                        seq(data["to"].as_str().unwrap()),
                    ));
                }
                Item::Event(event) => seqs.push(seq(&event.id)),
                other => panic!("{other:?}"),
            }
        }
        (seqs, gap)
    }

    proptest! {
        /// Many clients on their ways through history, while pages are forgotten, events are
        /// deleted and the ring moves on: each gets what is its, once and in order, and is told of
        /// what is gone, and only of that.
        #[test]
        fn each_once_and_in_order(
            mut table in table(),
            clients in proptest::collection::vec((any::<prop::sample::Index>(), "(a|b|>|d)"), 1..6),
            steps in proptest::collection::vec((0_u8..20, any::<prop::sample::Index>()), 0..300),
        ) {
            let all = table.events.len() as u64;
            let mut ring = Ring { floor: all / 2 - all / 8, head: all / 2 };
            let mut pages: HashMap<u64, Page> = HashMap::new();
            let mut clients: Vec<_> = clients.iter().map(|(at, pattern)| {
                let at = at.index(table.events.len()) as u64;
                (at, at, Filter::new([pattern.as_str()]).unwrap().in_form(PLAIN), None::<Bookmark>, Vec::new(), Vec::new())
            }).collect();
            let last = (0..clients.len()).flat_map(|client| std::iter::repeat_n((20 + client, 0), 10_000));
            let steps: Vec<_> = steps.into_iter()
                .map(|(step, index)| (usize::from(step), index.index(table.events.len()) as u64))
                .chain(last)
                .collect();
            for (step, to) in steps {
                match step {
                    0 => pages.clear(),
                    1 => table.deleted = table.deleted.max(to),
                    2 => {
                        ring.head = ring.head.max(to);
                        ring.floor = ring.head - all / 8;
                    }
                    step => {
                        let client = step % clients.len();
                        let (_, seq, filter, bookmark, got, gaps) = &mut clients[client];
                        if *seq >= ring.floor {
                            continue;
                        }
                        let marked = bookmark.filter(|mark| mark.seq == *seq).map(|mark| mark.page);
                        let start = starts(*seq, marked)
                            .find(|&start| {
                                let page = pages.entry(start).or_insert_with(|| table.read(start, ring.floor));
                                page.end > *seq
                            })
                            .expect("one of them ends beyond it");
                        let cursor = Cursor { epoch: EPOCH, seq: *seq };
                        let piece = pages[&start].piece(start, filter, cursor, ring, Source::Cache);
                        prop_assert!(piece.bytes.len() < PIECE_BYTES + 1000);
                        prop_assert!((*seq + 1..=ring.head).contains(&piece.bookmark.seq), "on it goes, to the ring");
                        let (seqs, gap) = numbers(&piece.bytes);
                        prop_assert_eq!(seqs.len(), piece.events as usize);
                        got.extend(seqs);
                        if let Some((from, to)) = gap {
                            prop_assert!(from == *seq && from < to && to <= ring.floor);
                            gaps.push((from, to));
                        }
                        *seq = piece.bookmark.seq;
                        *bookmark = Some(piece.bookmark);
                    }
                }
            }
            for (from, to, filter, _, got, gaps) in clients {
                prop_assert!(to >= ring.floor);
                let gone = |seq| gaps.iter().any(|&(from, to)| from < seq && seq <= to);
                for &(_, end) in &gaps {
                    prop_assert!(end <= table.deleted, "nothing is said to be gone that is not");
                }
                let due = table.events.iter().filter(|event| {
                    from < event.seq && event.seq <= to && filter.matches(&event.topic, &event.name) && !gone(event.seq)
                });
                let due: Vec<u64> = due.map(|event| event.seq).collect();
                prop_assert_eq!(got, due);
            }
        }
    }

    #[test]
    fn where_pages_begin_and_end() {
        let pages = |seq, marked| starts(seq, marked).collect::<Vec<_>>();
        assert_eq!(pages(5019, None), [4096, 4992, 5008, 5018, 5019]);
        assert_eq!(
            pages(5019, Some(5017)),
            [5017, 4096, 4992, 5008, 5018, 5019]
        );
        for (start, longest_end) in [
            (4096, 5120),
            (4992, 5120),
            (5008, 5120),
            (5018, 5024),
            (5019, 5020),
            (0, 1024),
        ] {
            assert_eq!(start + longest(start), longest_end, "after {start}");
        }
    }
}
