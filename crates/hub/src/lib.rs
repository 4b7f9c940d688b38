//! The hub: who is subscribed to what, what happened lately, and the fan-out.
//!
//! # The life of a frame
//!
//! An [`Event`] that has its place in the stream is encoded once, elsewhere, into
//! a [`Frame`]. [`Hub::publish`] appends a batch of frames to the ring and hands
//! each *lane* that matches some of them one assembled `Bytes`. A lane is one
//! distinct [`Filter`]; all subscriptions with that filter share its broadcast
//! queue, so a frame's bytes are only ever ref-counted, however many clients it has.
//!
//! # One path
//!
//! A [`Subscription`] is either *replaying* or *live*. Replaying, it reads the ring
//! from its cursor on; when it has reached the head, it is live and takes what the
//! lane sends. A subscription that falls so far behind that its lane's queue drops
//! something goes back to replaying from its cursor. Replay, lag and reconnect are
//! therefore one path, and a slow client costs a cursor, never memory. What the ring
//! no longer holds the subscription's owner reads from history ([`Next::BeforeRing`]).
//!
//! It is made of two: a [`Berth`], the client's place on the lane with its cursor, and a [`Follower`],
//! which waits for what the lane brings. Clients that are served together keep a berth each, and
//! share a follower.
//!
//! # Invariants
//!
//! - No I/O, SQL, HTTP or wire format here, and nothing awaits while it holds a lock.
//! - Sequence numbers in the ring have no holes.
//! - No queue is unbounded: the ring is bounded by count and bytes, a lane's queue by count.

mod berth;
mod cursor;
mod event;
mod filter;
mod follower;
mod hub;
mod lanes;
mod pieces;
mod ring;
mod subscription;
mod topic;

pub use berth::Berth;
pub use cursor::{Ancestor, Cursor, Epoch, InvalidCursor};
pub use event::{Event, Form, Frame, PARTS, Retain, Wire};
pub use filter::{Filter, InvalidFilter, MAX_PATTERNS, NotGranted};
pub use follower::{Follower, News};
pub use hub::{Coverage, Hub, Limits, NotOpen, Place, Read, Rewind};
pub use lanes::{Batch, LaneKey};
pub use ring::{Piece, Ring};
pub use subscription::{Next, Portion, Subscription};
pub use topic::{InvalidTopic, MAX_TOPIC_BYTES, Pattern, Topic};
