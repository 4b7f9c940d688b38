//! The end-to-end tests with a proxy before each hub.

#![allow(clippy::disallowed_types)] // no clock is paused here

use std::time::Instant;

use crate::{cargo_with, clients};

/// Those that there is a configuration for.
const PROXIES: [&str; 3] = ["nginx", "caddy", "haproxy"];

/// What is left out, and why. All other tests must pass behind each.
const LEFT_OUT: [(&str, &[&str]); 8] = [
    (
        "it is not about HTTP, or starts its hubs itself",
        &[
            "demo::",
            "doctor::",
            "documents::",
            "faults::",
            "operations::",
            "postgres_tls::",
            "torture::",
            "traces::",
        ],
    ),
    (
        "it has proxies of its own",
        &["machines::", "proxies::", "limits::proxies::"],
    ),
    (
        "the hub's own TLS, which the proxy ends instead",
        &["tls::", "browser::streams::"],
    ),
    (
        "clients are told apart by their addresses, and the proxy's is the one that is there",
        &["limits::", "attacks::floods::"],
    ),
    (
        "the proxy refuses it itself, in its own words, and the hub never sees it",
        &[
            "attacks::http2::",
            "attacks::oversized::",
            "attacks::smuggling::",
            "http::what_is_not_http_is_refused",
        ],
    ),
    (
        "the proxy speaks HTTP/2 only over TLS, or answers it itself",
        &[
            "http::many_streams_on_one_http2_connection",
            "auth::tokens::over_http2_either",
        ],
    ),
    (
        "who reads nothing is the proxy's client, and the proxy reads on for a while",
        &[
            "slow::",
            "metrics::who_takes_nothing_is_told_from_who_leaves",
            "shutdown::a_client_that_does_not_leave_is_left_behind",
        ],
    ),
    (
        "it asks a hub that is not ready or dead, and the proxy answers for it",
        &[
            "refusals::a_database_that_comes_and_goes",
            "browser::every_page::the_hub_is_killed_and_comes_back",
        ],
    ),
];

/// Tests behind these, or all, to the last one even if some fail.
pub(crate) fn run(names: &[String]) -> Result<(), String> {
    let all = PROXIES.map(str::to_owned);
    let names = if names.is_empty() { &all } else { names };
    if let Some(other) = names.iter().find(|name| !PROXIES.contains(&name.as_str())) {
        return Err(format!("{other} is none of {}", PROXIES.join(", ")));
    }
    clients::install()?;
    for (why, tests) in LEFT_OUT {
        eprintln!("left out: {}: {why}", tests.join(", "));
    }
    let skipped = LEFT_OUT.iter().flat_map(|(_, tests)| *tests);
    let skipped = skipped.flat_map(|test| ["--skip", test]);
    let test = ["test", "--test", "end_to_end", "--"].into_iter();
    let test: Vec<&str> = test.chain(skipped).collect();
    let mut failed = Vec::new();
    for name in names {
        let start = Instant::now();
        let setting = [("BELLWETHER_TEST_PROXY", name.clone())];
        let outcome = match cargo_with(&setting, &test) {
            Ok(()) => "passed",
            Err(_) => {
                failed.push(name.as_str());
                "failed"
            }
        };
        let seconds = start.elapsed().as_secs();
        eprintln!("behind {name}: {outcome} after {seconds} s");
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("tests fail behind {}", failed.join(" and ")))
}
