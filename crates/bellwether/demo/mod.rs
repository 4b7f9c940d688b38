//! `bellwether demo`: a private database in which something happens all the time.

mod shop;
mod uptime;
mod visitors;

use anyhow::Result;
use pg::{Database, Tables};
use std::time::Duration;
use tokio::time;

use crate::{
    cli::{self, DemoOptions},
    instance::Ground,
};

/// Longest pause between two random happenings, in means.
const MAX_TIMES: f64 = 6.0;

/// Never on a database of the user's own, not even if the environment names one.
pub(crate) async fn run(options: DemoOptions) -> Result<()> {
    let ground = Ground::prepare(None, options.private, &options.hub, "bellwether demo").await?;
    let database = ground.database().clone();
    let scene = options.scene.map(|scene| match scene {
        cli::Scene::Analytics => pg::Scene::Analytics,
        cli::Scene::Shop => pg::Scene::Shop,
        cli::Scene::Uptime => pg::Scene::Uptime,
    });
    let happenings = async {
        match scene {
            None => visitors::come(&database).await,
            Some(pg::Scene::Analytics) => {
                tokio::join!(visitors::come(&database), visitors::are_counted(&database));
            }
            Some(pg::Scene::Shop) => Box::pin(shop::run(&database)).await,
            Some(pg::Scene::Uptime) => uptime::run(&database).await,
        }
        Ok(())
    };
    Box::pin(ground.with(scene).run(&options.hub, happenings)).await
}

/// Lets something happen again and again, for as long as the demo runs.
async fn again(
    database: &Database,
    mut pause: impl FnMut() -> Duration,
    mut happen: impl AsyncFnMut(&Tables) -> Result<(), pg::Error>,
) {
    let mut connected: Option<Tables> = None;
    loop {
        let happened = async {
            let tables = match connected.take() {
                Some(tables) => tables,
                None => Tables::connect(database).await?,
            };
            happen(&tables).await?;
            Ok::<_, pg::Error>(tables)
        };
        match happened.await {
            Ok(tables) => connected = Some(tables),
            Err(error) => tracing::warn!(error = %pg::chain(&error), "something did not happen"),
        }
        time::sleep(pause()).await;
    }
}

/// Exponential, as between independent people, but never very long.
fn at_random(mean: Duration, random: f64) -> Duration {
    let times_the_mean = -(1.0 - random).ln();
    mean.mul_f64(times_the_mean.min(MAX_TIMES))
}

fn choose<T: Copy>(from: &[T]) -> T {
    from[fastrand::usize(..from.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_bounded() {
        let mean = Duration::from_secs(1);
        assert_eq!(at_random(mean, 0.0), Duration::ZERO);
        assert_eq!(at_random(mean, 1.0), mean * 6);
    }
}
