//! The loads that `benches/README.md` shows, taken anew.

use std::{env, fs};

use crate::{load, root};

/// What each is called, and the load that measures it. They run one after the other, about an hour and a half
/// in all, on a machine where nothing else runs.
const FIGURES: &[(&str, &str)] = &[
    (
        "fan-out-100",
        "fan-out --servers hub,nchan,floor,floors --clients 100 --rates 10,100,400,10000 --time 5s",
    ),
    (
        "fan-out-1000",
        "fan-out --servers hub,nchan,floor,floors --clients 1000 --rates 10,100,400 --time 5s",
    ),
    (
        "fan-out-5000",
        "fan-out --servers hub,nchan,floor,floors --clients 5000 --rates 10,100,400 --time 5s",
    ),
    (
        "fan-out-15000",
        "fan-out --servers hub,nchan,floor,floors --clients 15000 --rates 10,100,400 --time 5s",
    ),
    ("clients", "fan-out --clients 10,10000 --rates 100"),
    (
        "hubs-1",
        "fan-out --servers hub --clients 1000 --rates 100 --hubs 1",
    ),
    (
        "hubs-2",
        "fan-out --servers hub --clients 1000 --rates 100 --hubs 2",
    ),
    (
        "hubs-5",
        "fan-out --servers hub --clients 1000 --rates 100 --hubs 5",
    ),
    (
        "hubs-10",
        "fan-out --servers hub --clients 1000 --rates 100 --hubs 10",
    ),
    (
        "node",
        "fan-out --servers hub,redis,textbook --clients 1000 --rates 10,100,400",
    ),
    (
        "limit",
        "fan-out --servers hub,floor,floors --clients 1000 --rates 500 --time 5s",
    ),
    (
        "limit-slow-flush",
        "fan-out --servers hub,floor,floors --clients 1000 --rates 500 --time 5s --flush 1ms",
    ),
    (
        "single",
        "fan-out --servers hub,floor --clients 1 --rates 10,100 --time 5s",
    ),
    ("memory", "memory"),
    ("lanes", "lanes"),
    (
        "flood-one-lane",
        "flood --transactions 100 --time 60s --ring-events 262144 --lanes 1",
    ),
    (
        "flood-one-lane-again",
        "flood --transactions 100 --time 60s --ring-events 262144 --lanes 1",
    ),
    (
        "flood-one-lane-once-more",
        "flood --transactions 100 --time 60s --ring-events 262144 --lanes 1",
    ),
    (
        "flood-100-lanes",
        "flood --transactions 100 --time 60s --ring-events 262144 --lanes 100",
    ),
    (
        "flood-usual-ring",
        "flood --transactions 100 --time 20s --lanes 1",
    ),
    ("replay", "replay --rounds 5"),
    (
        "replay-apart",
        "replay --clients 100 --events 300000 --apart 2500 --rounds 1",
    ),
    ("storm", "storm"),
    ("storm-again", "storm"),
    ("stalled", "stalled"),
    ("polling", "polling"),
    ("writers", "writers --rounds 9"),
    (
        "writers-1000-clients",
        "writers --clients 1000 --writers 1,8,32 --rounds 3",
    ),
    ("copy", "copy"),
    ("attach", "attach"),
    ("publish", "publish"),
    ("instances", "instances"),
    ("h2", "h2"),
    ("h2-tls", "h2 --tls"),
    ("http1", "h2 --connections 4000 --http1"),
    ("http1-tls", "h2 --connections 4000 --http1 --tls"),
    ("slow", "slow"),
];

/// Those whose names begin with one of these; all, if there is none. One that fails does not keep the others
/// from being taken.
pub(crate) fn take(chosen: &[String]) -> Result<(), String> {
    let root = root();
    // Where the harness writes to.
    env::set_current_dir(&root)
        .map_err(|error| format!("cannot go to {}: {error}", root.display()))?;
    let kept = root.join("benches/figures");
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|of| name.starts_with(of));
    let mut failed = Vec::new();
    for &(name, options) in FIGURES.iter().filter(|(name, _)| is_chosen(name)) {
        let args: Vec<String> = options.split(' ').map(str::to_owned).collect();
        if let Err(why) = load(&args) {
            failed.push(format!("{name}: {why}"));
            continue;
        }
        let written = root
            .join("target/load")
            .join(&args[0])
            .with_extension("json");
        let place = kept.join(name).with_extension("json");
        fs::create_dir_all(&kept)
            .and_then(|()| fs::rename(&written, &place))
            .map_err(|error| {
                format!(
                    "cannot move {} to {}: {error}",
                    written.display(),
                    place.display()
                )
            })?;
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("\n"))
    }
}
