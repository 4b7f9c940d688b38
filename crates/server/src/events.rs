//! `GET /v1/events`: a page of the stream as one JSON document.

use http::{Response, StatusCode};
use hub::NotOpen;
use serde_json::{Value, value::RawValue};
use std::{future::poll_fn, task::Poll};

use crate::{
    App,
    control::Gap,
    frame::LINES,
    query::EventsQuery,
    reader::Reader,
    response::{self, Body, Refusal},
    stream::{self, NotNow},
};

/// Bytes at which a page ends early.
const PAGE_BYTES: usize = 1024 * 1024;

/// What is answered.
#[derive(serde::Serialize)]
struct Page {
    /// Envelopes, oldest first.
    events: Vec<Box<RawValue>>,
    /// The cursor to go on after.
    next: String,
    /// Whether there is more already.
    more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<Value>,
}

/// What a line is.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Line {
    Event { id: String },
    Gap { data: Value },
}

/// Answers with what follows a position, in the same order and with the same ids as streams do.
pub(crate) async fn page(app: &App, query: EventsQuery) -> Result<Response<Body>, Refusal> {
    let page = read(app, query).await.map_err(|why| {
        tracing::debug!(%why, "no page for now");
        Refusal::NoDatabase
    })?;
    let text = serde_json::to_string(&page).expect("it has nothing but strings");
    let content_type = "application/json";
    Ok(response::text(StatusCode::OK, content_type, text + "\n"))
}

/// Reads as a stream does, up to where a stream would wait.
async fn read(app: &App, query: EventsQuery) -> Result<Page, NotNow> {
    let EventsQuery {
        filter,
        start,
        limit,
    } = query;
    let filter = filter.in_form(LINES);
    let (from, gap) = stream::begin(app, &filter, start).await?;
    let subscription = app.hub.subscribe(filter, from)?;
    let mut page = Page {
        events: Vec::new(),
        next: String::new(),
        more: false,
        gap: gap.as_ref().map(Gap::to_json),
    };
    let mut reader = Reader::new(subscription, app.pages.clone());
    let mut bytes = 0;
    while bytes < PAGE_BYTES {
        let piece = poll_fn(|cx| match reader.poll(cx) {
            Poll::Pending if reader.is_caught_up() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
            Poll::Ready(piece) => Poll::Ready(Some(piece)),
        });
        let Some(piece) = piece.await else {
            page.next = reader.subscription().cursor().to_string();
            return Ok(page);
        };
        let piece = piece.ok_or(NotOpen)?;
        bytes += piece.bytes.len();
        if !page.add(&piece.bytes, limit) {
            break;
        }
        page.next = reader.subscription().cursor().to_string();
    }
    page.more = true;
    Ok(page)
}

impl Page {
    /// Adds what a piece says, line by line. Returns whether all of it fitted.
    fn add(&mut self, piece: &[u8], limit: usize) -> bool {
        for line in piece.split(|&byte| byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            if self.events.len() == limit {
                return false;
            }
            let whole: Box<RawValue> = serde_json::from_slice(line).expect("each line is JSON");
            let line: Line = serde_json::from_str(whole.get()).expect("and of this kind");
            match line {
                Line::Event { id } => {
                    self.next = id;
                    self.events.push(whole);
                }
                Line::Gap { data } => self.gap = Some(data),
            }
        }
        true
    }
}
