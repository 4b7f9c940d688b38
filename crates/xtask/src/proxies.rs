//! The end-to-end tests with a proxy before each hub.

#![allow(clippy::disallowed_types)] // no clock is paused here

use std::time::Instant;

use crate::{cargo_with, clients};

/// Those that there is a configuration for.
const PROXIES: [&str; 3] = ["nginx", "caddy", "haproxy"];

/// Tests that are not run behind some proxies.
struct LeftOut {
    why: &'static str,
    behind: &'static [&'static str],
    tests: &'static [&'static str],
}

/// All that is left out. All other tests must pass behind each.
const LEFT_OUT: [LeftOut; 10] = [
    LeftOut {
        why: "it is not about HTTP, or starts its hubs itself",
        behind: &PROXIES,
        tests: &[
            "demo::",
            "doctor::",
            "documents::",
            "faults::",
            "operations::",
            "postgres_tls::",
            "torture::",
            "traces::",
        ],
    },
    LeftOut {
        why: "it has proxies of its own",
        behind: &PROXIES,
        tests: &["machines::", "proxies::"],
    },
    LeftOut {
        why: "it is about the hub's own TLS or HTTP/2, and the proxy speaks HTTP/1.1 to it",
        behind: &PROXIES,
        tests: &[
            "tls::",
            "attacks::http2::",
            "auth::tokens::over_http2_either",
            "browser::streams::",
            "http::many_streams_on_one_http2_connection",
        ],
    },
    LeftOut {
        why: "clients are told apart by their addresses, and all have the proxy's",
        behind: &PROXIES,
        tests: &["limits::", "attacks::floods::"],
    },
    LeftOut {
        why: "the proxy refuses it in its own words, and the hub never sees it",
        behind: &PROXIES,
        tests: &[
            "attacks::oversized::",
            "attacks::smuggling::",
            "http::what_is_not_http_is_refused",
        ],
    },
    LeftOut {
        why: "who reads nothing is the proxy's client, and the proxy reads on for a while",
        behind: &PROXIES,
        tests: &[
            "metrics::who_takes_nothing_is_told_from_who_leaves",
            "shutdown::a_client_that_does_not_leave_is_left_behind",
            "slow::",
        ],
    },
    LeftOut {
        why: "it asks a hub that is not ready, and the proxy answers for it",
        behind: &PROXIES,
        tests: &["refusals::a_database_that_comes_and_goes"],
    },
    LeftOut {
        why: "it may use a connection again, and so decides which of the hub's two ways a stream goes",
        behind: &["nginx", "caddy"],
        tests: &[
            "auth::tokens::what_else_stands_in_authorization",
            "metrics::what_is_delivered_is_counted_once_for_each_client",
            "resume::both_ways_to_the_socket_bring_the_same",
        ],
    },
    LeftOut {
        why: "it looks for a hub for some seconds before it gives up, and the test wants fourteen refusals",
        behind: &["caddy", "haproxy"],
        tests: &["browser::client::it_backs_off_with_full_jitter"],
    },
    LeftOut {
        why: "nginx takes X-Accel-Buffering for itself",
        behind: &["nginx"],
        tests: &["spine::what_says_that_it_is_a_stream"],
    },
];

/// Tests behind these, or all, to the last one even if some fail.
pub(crate) fn run(names: &[String]) -> Result<(), String> {
    let all = PROXIES.map(str::to_owned);
    let names = if names.is_empty() { &all } else { names };
    if let Some(other) = names.iter().find(|name| !PROXIES.contains(&name.as_str())) {
        return Err(format!("{other} is none of {}", PROXIES.join(", ")));
    }
    clients::install()?;
    let mut failed = Vec::new();
    for name in names {
        let start = Instant::now();
        let outcome = match test(name) {
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

fn test(proxy: &str) -> Result<(), String> {
    let left_out = LEFT_OUT.iter().filter(|it| it.behind.contains(&proxy));
    let mut args = vec!["test", "--test", "end_to_end", "--"];
    for LeftOut { why, tests, .. } in left_out {
        eprintln!("left out behind {proxy}: {}: {why}", tests.join(", "));
        args.extend(tests.iter().flat_map(|test| ["--skip", test]));
    }
    cargo_with(&[("BELLWETHER_TEST_PROXY", proxy.to_owned())], &args)
}
