//! Probes of the monitors, some of which fail for a while.

use pg::Database;
use std::time::Duration;
use tokio::time::Instant;

use super::{again, at_random};

const MONITORS: i32 = 12;

/// Between two probes, of one monitor after the other.
const PROBES: Duration = Duration::from_millis(350);
/// Between two summaries, with which a page begins.
const SUMMARIES: Duration = Duration::from_secs(5);
/// Mean time until the next trouble, and how long it lasts.
const TROUBLE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// What a probe that got no answer waited for, in ms.
const TIMEOUT: i32 = 5_000;

pub(super) async fn run(database: &Database) {
    let mut monitor = 0;
    let mut sick = (0, Instant::now());
    let mut next = Instant::now() + TROUBLE.0;
    let probes = again(
        database,
        || PROBES,
        async |tables| {
            let now = Instant::now();
            if now > next {
                sick = (fastrand::i32(1..=MONITORS), now + TROUBLE.1);
                next = sick.1 + at_random(TROUBLE.0, fastrand::f64());
            }
            monitor = monitor % MONITORS + 1;
            let is_ok = monitor != sick.0 || now > sick.1;
            let latency = if is_ok { latency(monitor) } else { TIMEOUT };
            tables.probe(monitor, is_ok, latency).await
        },
    );
    let summaries = again(
        database,
        || SUMMARIES,
        async |tables| tables.summarise().await,
    );
    tokio::join!(probes, summaries);
}

/// Each monitor has its own, and now and then it takes several times as long.
fn latency(monitor: i32) -> i32 {
    let usual = 60 + monitor * 11 + fastrand::i32(0..50);
    if fastrand::u8(..40) == 0 {
        usual * fastrand::i32(3..8)
    } else {
        usual
    }
}
