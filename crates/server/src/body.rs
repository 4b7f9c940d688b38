//! The body of a stream: what hyper polls for bytes.

use bytes::Bytes;
use http_body::{Body, Frame};
use hub::{Form, Subscription};
use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::{App, control, reader::Reader, stall};

/// A stream of events to one client.
///
/// Says what its opening says, then hands on what its subscription brings, with a heartbeat
/// now and then, and only as fast as the client takes it. When the hub closes it ends, after
/// telling the client when to come back.
pub struct EventBody {
    /// Goes out before anything else.
    opening: Option<Bytes>,
    /// `None` once the stream has ended.
    live: Option<Live>,
}

struct Live {
    reader: Reader,
    heartbeat: Interval,
    /// When the client is to come back if it is sent away.
    retry: Duration,
}

// === impl EventBody ===

impl EventBody {
    /// A stream that begins with this opening.
    pub(crate) fn new(app: &App, subscription: Subscription, opening: Bytes) -> Self {
        let settings = app.settings;
        let mut heartbeat = interval_at(Instant::now() + settings.heartbeat, settings.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let live = Live {
            reader: Reader::new(subscription, app.pages.clone()),
            heartbeat,
            retry: settings.retry_later(),
        };
        Self {
            opening: Some(opening),
            live: Some(live),
        }
    }

    /// A stream that only says when to come back.
    pub(crate) fn farewell(retry: Duration, form: Form) -> Self {
        Self {
            opening: Some(control::retry(retry, form)),
            live: None,
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(opening) = self.opening.take() {
            return Poll::Ready(Some(opening));
        }
        let Some(live) = &mut self.live else {
            return Poll::Ready(None);
        };
        if let Some(bytes) = ready!(live.poll_bytes(cx)) {
            return Poll::Ready(Some(bytes));
        }
        let form = live.reader.subscription().filter().form();
        let farewell = control::retry(live.retry, form);
        self.live = None;
        Poll::Ready(Some(farewell))
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.poll_bytes(cx);
        stall::note(matches!(next, Poll::Ready(Some(_))));
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl fmt::Debug for EventBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let live = self.live.as_ref();
        let subscription = live.map(|live| live.reader.subscription());
        f.debug_struct("EventBody")
            .field("subscription", &subscription)
            .finish_non_exhaustive()
    }
}

// === impl Live ===

impl Live {
    /// The next bytes, whatever they are; `None` when the stream is to end.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match self.reader.poll(cx) {
                // Nothing of this piece was for this client.
                Poll::Ready(Some(bytes)) if bytes.is_empty() => {}
                Poll::Ready(next) => return Poll::Ready(next),
                // The heartbeat comes last, so that its id is never ahead of an event.
                Poll::Pending if self.heartbeat.poll_tick(cx).is_ready() => {
                    let subscription = self.reader.subscription();
                    let form = subscription.filter().form();
                    return Poll::Ready(Some(control::heartbeat(subscription.cursor(), form)));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
