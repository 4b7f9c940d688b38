//! End to end: a real Postgres, the real program, real sockets. One binary, linked once.
//!
//! Each test has a database of its own on one private server, and starts the hubs it needs
//! as processes. Tests wait for facts, and every wait has a limit.

// A test that cannot go on says where, and some have figures to tell.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)]

mod harness;

/// Tables, and what is captured of them.
mod attach;
mod attacks;
/// Who is let in, to what, and for how long.
mod auth;
/// The browser client and the pages, in Chromium.
mod browser;
/// Others' clients.
mod clients;
/// The demo as a person runs it, and what holds its folder.
mod demo;
/// What is told of a database, well or ill.
mod doctor;
/// What the documentation says of the program, held against the program.
mod documents;
/// Who is woken by what, and how rarely.
mod doorbell;
/// What is not a continuation, and what is.
mod epochs;
/// Networks, servers and rights that are not as they should be.
mod faults;
/// Paths, methods, headers, HTTP/2, health.
mod http;
/// Several hubs on one database.
mod instances;
/// How much clients may take, and whom proxies tell of.
mod limits;
/// Several hubs behind a proxy, as `docs/several-machines.md` has it.
mod machines;
/// What `/metrics` says, held against what the tests saw happen.
mod metrics;
/// What the machine's own tools are told, and what they are not.
mod operations;
/// Everything once, in one order, whatever writers do.
mod order;
/// Encrypted connections to the database, verified as it is asked.
mod postgres_tls;
/// Behind nginx, Caddy and `HAProxy`, as `packaging/` has them.
mod proxies;
/// What comes in over HTTP, and what is read there in other forms.
mod publish;
/// `docs/recipes.md`, done.
mod recipes;
/// Bad input and bad surroundings, each with its clear error.
mod refusals;
/// Cursors of every kind.
mod resume;
/// What is old is deleted, and told.
mod retention;
/// How streams end.
mod shutdown;
/// Clients that do not keep up.
mod slow;
/// The configuration file, and what it has queried now and then.
mod snapshots;
/// An INSERT arrives, byte for byte.
mod spine;
/// Many clients at once.
mod storm;
/// The terminal client.
mod tail;
/// HTTPS, and its certificate.
mod tls;
mod torture;
/// What a collector of traces is sent.
mod traces;
