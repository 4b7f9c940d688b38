//! The doorbell and `advance` as a machine of small atomic steps, to be checked exhaustively:
//! in every order in which writers, hubs and the server's clock can take them.
//!
//! What `sql/` and `pg::sequencer` do is here once more, as plainly as it goes: [`postgres`]
//! has the transaction ids, the snapshots and the cells, [`writer`] the trigger, [`hub`] the
//! sequencer with the statements of `advance` one by one. [`protocol`] puts them together and
//! says what must hold. The tests run it, and run it with known mistakes, which must be found.
//!
//! There is no safety poll, except where it is asked for: the doorbell alone has to do.
//!
//! # What is left out
//! - **Time.** A promise may run out at any moment, because a hub may be slow at any moment;
//!   how often that happens while a hub is awake is bounded by [`Protocol::slow`]. Pauses and
//!   the linger are "sooner or later". So nothing here says how fast anything is.
//! - **Several rings on their way to one hub** are one, and one that has arrived is no other
//!   than one that has not: a hub that polls need not have heard it yet.
//! - **Epochs**, restored dumps, and Postgres itself crashing; but what it would lose then
//!   must not have been shown.
//! - Reading the stream and everything behind it.

mod compact;
pub mod hub;
pub mod postgres;
pub mod protocol;
pub mod writer;

pub use protocol::{Mistake, Protocol, State};
