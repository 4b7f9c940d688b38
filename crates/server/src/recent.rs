//! How many events went through this hub in the last minutes, for whoever comes to look.

use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    iter,
    sync::Mutex,
    time::{SystemTime, UNIX_EPOCH},
};

/// Seconds that are counted together.
const SECONDS: u64 = 2;
/// How many of such spans are remembered: five minutes.
const SPANS: usize = 150;

/// Counts by span of time, the newest last.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// The span that is being counted, numbered since 1970.
    now: u64,
    /// Those before it and it.
    spans: VecDeque<u64>,
}

impl Recent {
    /// So many events were published at this moment.
    pub(crate) fn add(&self, events: usize) {
        let mut counts = self.counts.lock().expect("nothing panics while it is held");
        counts.advance(span(SystemTime::now()));
        if let Some(span) = counts.spans.back_mut() {
            *span += events as u64;
        }
    }

    /// The spans that are over: when the last of them ended, in s since 1970, how long each is,
    /// and their counts, since this hub began.
    pub(crate) fn to_json(&self) -> Value {
        let mut counts = self.counts.lock().expect("nothing panics while it is held");
        counts.advance(span(SystemTime::now()));
        let over = counts.spans.len() - 1;
        json!({
            "until": counts.now * SECONDS,
            "seconds": SECONDS,
            "counts": counts.spans.iter().take(over).collect::<Vec<_>>(),
        })
    }
}

impl Counts {
    /// Begins the span of this moment, with those that were slept through. A clock that was put
    /// back goes on in the same one.
    fn advance(&mut self, now: u64) {
        if self.spans.is_empty() {
            self.now = now;
            self.spans.push_back(0);
        }
        let passed = now.saturating_sub(self.now);
        self.now += passed;
        let passed = usize::try_from(passed).unwrap_or(SPANS).min(SPANS);
        self.spans.extend(iter::repeat_n(0, passed));
        let surplus = self.spans.len().saturating_sub(SPANS);
        self.spans.drain(..surplus);
    }
}

fn span(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() / SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_span_has_its_count() {
        let mut counts = Counts::default();
        counts.advance(1_000);
        counts.spans[0] += 7;
        counts.advance(1_003);
        assert_eq!(counts.spans, [7, 0, 0, 0]);
        counts.advance(999);
        assert_eq!((counts.now, counts.spans.len()), (1_003, 4));
    }

    #[test]
    fn it_remembers_five_minutes() {
        let mut counts = Counts::default();
        counts.advance(1_000);
        counts.spans[0] += 7;
        counts.advance(1_000 + 149);
        assert_eq!(counts.spans.front(), Some(&7));
        counts.advance(1_000 + 150);
        assert_eq!(counts.spans.iter().sum::<u64>(), 0);
        counts.advance(u64::MAX);
        assert_eq!(counts.spans.len(), SPANS);
    }
}
