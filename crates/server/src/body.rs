//! The body of a stream: what hyper polls for bytes.

use bytes::Bytes;
use http_body::{Body, Frame};
use hub::{Berth, Form, Subscription};
use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::{
    App, Settings, control,
    limits::Seat,
    reader::{Portion, Reader},
    stall,
    streams::{Closed, Source, Tally, Transport},
};

/// A stream of events to one client.
///
/// Says what its opening says, then hands on what its subscription brings, with a heartbeat
/// now and then, and only as fast as the client takes it. When the hub closes it ends, after
/// telling the client when to come back; and so it does when the client's token expires.
pub struct EventBody {
    /// Goes out before anything else.
    opening: Option<Bytes>,
    /// `None` once the stream has ended.
    live: Option<Live>,
    /// `None` if it never was one.
    tally: Option<Tally>,
}

/// Bytes, and how many events from where are in them.
type Said = (Bytes, Option<(Source, u32)>);

struct Live {
    reader: Reader,
    heartbeat: Pin<Box<Sleep>>,
    /// Until the client may read no longer, if that is known.
    expiry: Option<Pin<Box<Sleep>>>,
    settings: Settings,
    /// Free again when the stream ends.
    seat: Seat,
}

/// What is left of a stream whose client has all there is, when it does not wait for itself.
#[derive(Debug)]
pub(crate) struct CaughtUp {
    pub(crate) berth: Berth,
    pub(crate) tally: Tally,
    /// When the next heartbeat is due.
    pub(crate) heartbeat: Instant,
    /// Until when the client may read, if that is known.
    pub(crate) expires: Option<Instant>,
    seat: Seat,
}

/// How a stream ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// There is no more to be had here now.
    Closed,
    /// The client's token does not count any more.
    Expired,
}

// === impl EventBody ===

impl EventBody {
    /// A stream that begins with this opening, for a client that may read until it expires.
    pub(crate) fn new(
        app: &App,
        subscription: Subscription,
        opening: Bytes,
        seat: Seat,
        transport: Transport,
        expires: Option<SystemTime>,
    ) -> Self {
        let settings = app.settings;
        Self {
            opening: Some(opening),
            live: Some(Live {
                reader: Reader::new(subscription, app.pages.clone()),
                heartbeat: Box::pin(sleep(settings.heartbeat)),
                expiry: expires.map(|at| Box::pin(sleep(until(at)))),
                settings,
                seat,
            }),
            tally: Some(app.metrics.streams.open(transport)),
        }
    }

    /// A stream that goes on from where it is.
    pub(crate) fn go_on(app: &App, from: CaughtUp) -> Self {
        Self {
            opening: None,
            live: Some(Live {
                reader: Reader::new(from.berth.into(), app.pages.clone()),
                heartbeat: Box::pin(sleep_until(from.heartbeat)),
                expiry: from.expires.map(|at| Box::pin(sleep_until(at))),
                settings: app.settings,
                seat: from.seat,
            }),
            tally: Some(from.tally),
        }
    }

    /// What is left of it, if it only waits for what happens next: to be asked when it is pending.
    pub(crate) fn caught_up(&mut self) -> Option<CaughtUp> {
        let live = self.live.take_if(|live| live.reader.is_caught_up())?;
        Some(CaughtUp {
            berth: live.reader.into_subscription().into_berth(),
            tally: self.tally.take()?,
            heartbeat: live.heartbeat.deadline(),
            expires: live.expiry.map(|expiry| expiry.deadline()),
            seat: live.seat,
        })
    }

    /// A stream that only says when to come back.
    pub(crate) fn farewell(retry: Duration, form: Form) -> Self {
        Self {
            opening: Some(control::retry(retry, form)),
            live: None,
            tally: None,
        }
    }

    /// The client has taken nothing for too long, and the stream is about to be dropped.
    pub(crate) fn stalled(&mut self) {
        if let Some(tally) = &mut self.tally {
            tally.close(Closed::Stalled);
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let (bytes, events) = if let Some(opening) = self.opening.take() {
            (opening, None)
        } else {
            let Some(live) = &mut self.live else {
                return Poll::Ready(None);
            };
            match ready!(live.poll_next(cx)) {
                Ok(next) => next,
                Err(end) => (self.end(end), None),
            }
        };
        if let Some(tally) = &self.tally {
            tally.hand_out(bytes.len(), events);
        }
        Poll::Ready(Some(bytes))
    }

    /// Ends the stream. What is said last.
    fn end(&mut self, end: End) -> Bytes {
        let Some(live) = self.live.take() else {
            return Bytes::new();
        };
        if let Some(tally) = &mut self.tally {
            tally.close(match end {
                End::Closed => live.reader.closed(),
                End::Expired => Closed::Expired,
            });
        }
        let form = live.reader.subscription().filter().form();
        end.last_word(&live.settings, form)
    }
}

impl End {
    /// What a stream says last.
    pub(crate) fn last_word(self, settings: &Settings, form: Form) -> Bytes {
        match self {
            Self::Closed => control::retry(settings.retry_later(), form),
            // Each has a time of its own, so they need not be kept apart.
            Self::Expired => control::expired(settings.retry(), form),
        }
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
    /// The next bytes, with the events that are in them, or how the stream is to end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Said, End>> {
        loop {
            // First, so that nothing is sent to whom it is not for any more. By the clock, because to a
            // task that has used up its budget no time is ever over.
            if let Some(expiry) = &mut self.expiry
                && (expiry.as_mut().poll(cx).is_ready() || expiry.deadline() <= Instant::now())
            {
                return Poll::Ready(Err(End::Expired));
            }
            match self.reader.poll(cx) {
                // Nothing of this piece was for this client.
                Poll::Ready(Some(next)) if next.bytes.is_empty() => {}
                Poll::Ready(next) => {
                    let said = |next: Portion| (next.bytes, Some((next.source, next.events)));
                    return Poll::Ready(next.map(said).ok_or(End::Closed));
                }
                // The heartbeat comes last, so that its id is never ahead of an event.
                Poll::Pending if self.heartbeat.as_mut().poll(cx).is_ready() => {
                    let next = Instant::now() + self.settings.heartbeat;
                    self.heartbeat.as_mut().reset(next);
                    let subscription = self.reader.subscription();
                    let form = subscription.filter().form();
                    let heartbeat = control::heartbeat(subscription.cursor(), form);
                    return Poll::Ready(Ok((heartbeat, None)));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// The time from now, nothing if it is over.
fn until(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::now()).unwrap_or_default()
}
