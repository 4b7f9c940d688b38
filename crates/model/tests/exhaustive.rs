//! Every order of everything, for small numbers. How many states that is, it says with
//! `cargo test -p model -- --nocapture`; and with `--include-ignored` it takes larger numbers.
#![allow(clippy::print_stdout)] // how much was looked at is what a reader wants to see

use model::{Mistake, Protocol};
use stateright::{Checker, Expectation, HasDiscoveries, Model};

const WAITS: &str = "no event waits when all is quiet";
const BEHIND: &str = "no hub is behind when all is quiet";
const ONCE: &str = "the stream is gapless, and each event in it once";
const DURABLE: &str = "no hub shows what is not durable";
const TOGETHER: &str = "the events of a transaction stay together, as inserted";

/// One hub from its start on; two writers, one with two transactions, one with two events.
fn one_hub() -> Protocol {
    Protocol {
        writers: vec![vec![1, 1], vec![2]],
        aborts: true,
        hubs: 1,
        slow: 1,
        restarts: true,
        ..Protocol::default()
    }
}

/// Two hubs that sleep at first; two writers with one event each.
fn two_hubs() -> Protocol {
    Protocol {
        writers: vec![vec![1], vec![1]],
        hubs: 2,
        asleep: true,
        restarts: true,
        ..Protocol::default()
    }
}

/// Checks all properties in all states, of which there must be that many: fewer, and the
/// model has become trivial.
fn holds(name: &str, protocol: Protocol, at_least: usize) {
    let checked = protocol.checker().threads(2).spawn_bfs().join();
    let states = checked.unique_state_count();
    println!(
        "{name}: {states} states, up to {} steps deep",
        checked.max_depth()
    );
    for property in checked.model().properties() {
        let found = checked.discovery(property.name);
        let holds = found.is_some() == (property.expectation == Expectation::Sometimes);
        println!(
            "    {} {}",
            if holds { "holds:" } else { "BROKEN:" },
            property.name
        );
        if let (false, Some(path)) = (holds, found) {
            panic!("{}: {path}", property.name);
        }
        assert!(holds, "never seen: {}", property.name);
    }
    assert!(states >= at_least, "only {states} states");
}

/// Checks that a property does not hold.
fn breaks(protocol: Protocol, broken: &'static str) {
    let any = HasDiscoveries::AllOf([broken].into());
    let mistake = protocol.mistake.expect("one is made");
    let checked = protocol
        .checker()
        .threads(2)
        .finish_when(any)
        .spawn_bfs()
        .join();
    let found = checked
        .discovery(broken)
        .map(|path| path.into_actions().len());
    println!(
        "{mistake:?}: after {} states, not so: {broken}",
        checked.unique_state_count()
    );
    assert!(found.is_some(), "nobody minds {mistake:?}");
}

fn with(mistake: Mistake, protocol: Protocol) -> Protocol {
    Protocol {
        mistake: Some(mistake),
        ..protocol
    }
}

#[test]
fn one_hub_misses_nothing() {
    holds("one hub", one_hub(), 500_000);
}

#[test]
fn one_hub_that_crashes_or_goes_deaf_misses_nothing() {
    let protocol = Protocol {
        writers: vec![vec![1], vec![1]],
        crashes: 1,
        outages: 1,
        ..one_hub()
    };
    holds("one hub, a crash and a deaf listener", protocol, 100_000);
}

#[test]
fn two_hubs_miss_nothing() {
    holds(
        "two hubs, one of them slow",
        Protocol {
            slow: 1,
            ..two_hubs()
        },
        500_000,
    );
}

#[test]
fn two_hubs_that_crash_or_go_deaf_miss_nothing() {
    let protocol = Protocol {
        writers: vec![vec![1]],
        asleep: false,
        ..two_hubs()
    };
    let crashes = Protocol {
        asleep: true,
        crashes: 1,
        ..protocol.clone()
    };
    holds("two hubs, a crash", crashes, 50_000);
    let outages = Protocol {
        outages: 1,
        ..protocol
    };
    holds("two hubs, a deaf listener", outages, 50_000);
}

#[test]
#[ignore = "takes minutes"]
fn larger_numbers() {
    let three = Protocol {
        writers: vec![vec![1], vec![1], vec![2]],
        ..one_hub()
    };
    holds("one hub, three writers", three, 1_000_000);
    let crashes = Protocol {
        crashes: 1,
        ..two_hubs()
    };
    holds("two hubs, a crash, two writers", crashes, 5_000_000);
    let longer = Protocol {
        writers: vec![vec![1], vec![2]],
        aborts: true,
        ..two_hubs()
    };
    holds("two hubs, two events", longer, 500_000);
    let connect = Protocol {
        asleep: false,
        ..two_hubs()
    };
    breaks(with(Mistake::CountsSeldom, connect), BEHIND);
}

#[test]
fn without_a_hub_that_died_the_safety_poll_finds_what_it_waited_for() {
    let dies = Protocol {
        writers: vec![vec![1]],
        asleep: false,
        crashes: 1,
        restarts: false,
        ..two_hubs()
    };
    let polls = Protocol {
        safety_poll: true,
        ..dies.clone()
    };
    for (protocol, is_found) in [(dies, false), (polls, true)] {
        let (states, stuck) = protocol.dead_ends();
        println!("a hub dies, safety poll {is_found}: {states} states, {stuck} dead ends");
        assert_eq!(stuck == 0, is_found);
        assert!(states > 10_000);
    }
}

#[test]
fn mistakes_are_found() {
    let one_event_each = Protocol {
        writers: vec![vec![1], vec![1]],
        ..one_hub()
    };
    breaks(with(Mistake::FenceIsXmax, one_event_each.clone()), WAITS);
    breaks(
        with(Mistake::FenceBeforeClear, one_event_each.clone()),
        WAITS,
    );
    breaks(with(Mistake::CellBeforeXid, one_event_each), WAITS);
    breaks(with(Mistake::StaleSnapshot, two_hubs()), ONCE);
    breaks(with(Mistake::OrderById, one_hub()), TOGETHER);
    breaks(with(Mistake::ShowsAtOnce, two_hubs()), DURABLE);
}

/// Those that this model found in the program, and that have been mended since.
#[test]
fn what_was_mended_is_found() {
    let stragglers = Protocol {
        writers: vec![vec![1, 1], vec![1]],
        ..two_hubs()
    };
    breaks(with(Mistake::NobodyBeforePast, stragglers), WAITS);
    let restarts = Protocol {
        writers: vec![vec![1]],
        crashes: 1,
        ..two_hubs()
    };
    breaks(with(Mistake::CountsItself, restarts.clone()), BEHIND);
    breaks(with(Mistake::FirstLookUntold, restarts), BEHIND);
}
