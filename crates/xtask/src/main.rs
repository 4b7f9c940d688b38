//! The project's chores, as `cargo xtask <verb>`.

#![allow(clippy::print_stderr)] // it speaks to a person

mod clients;
mod deny;
mod figures;
mod matrix;
mod proxies;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const USAGE: &str = "\
usage: cargo xtask <verb>
  test    all tests, against a private Postgres that they start themselves
  check   format, lints (of tests and benches, too) and documentation, warnings denied; licences
          and known weaknesses of what we depend on, if cargo-deny is installed
  ci      check, then test
  matrix [MAJOR]... [-- NAME...]
          the end-to-end tests on Postgres 15, 16, 17 and 18, or on these; all tests, or these
  torture [SECONDS] [SEED]
          writers, clients and hubs under faults, 600 s by default
  proxies [NAME]...
          the end-to-end tests of all that goes over HTTP, behind nginx, Caddy and HAProxy, or
          behind these
  soak [SECONDS]
          the pages, left running at 200 events/s, half an hour by default: what they hold
  pixels  from INSERT to pixels, in Chromium
  pictures
          the pictures in docs/, of the demos' pages
  docs    write into the documentation what the program says of itself: metrics, flags
  clients install others' clients for the tests; test does so by itself
  load SCENARIO [OPTIONS]
          the real program under load: fan-out, memory, flood, lanes, replay, storm, stalled,
          writers, copy, attach, publish, h2, slow, polling, instances; plot draws what fan-out
          has measured, markdown writes it as tables
  figures [NAME]...
          the loads that benches/README.md shows (an hour and a half), or these, into benches/figures
  bench   all benches (some minutes), figures in target/criterion";

fn main() -> ExitCode {
    let verb = env::args().nth(1).unwrap_or_default();
    let done = match verb.as_str() {
        "test" => test(),
        "check" => check(),
        "ci" => check().and_then(|()| test()),
        "matrix" => matrix::run(&env::args().skip(2).collect::<Vec<_>>()),
        "torture" => torture(),
        "soak" => soak(),
        "pixels" => ignored("browser::pixels"),
        "pictures" => ignored("browser::pictures"),
        "load" => load(&env::args().skip(2).collect::<Vec<_>>()),
        "figures" => figures::take(&env::args().skip(2).collect::<Vec<_>>()),
        "proxies" => proxies::run(&env::args().skip(2).collect::<Vec<_>>()),
        "docs" => docs(),
        "bench" => cargo(&["bench"]),
        "clients" => clients::install(),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn test() -> Result<(), String> {
    clients::install()?;
    cargo(&["test", "--workspace"])
}

/// The tests that hold documents against the program, told to write them instead.
fn docs() -> Result<(), String> {
    cargo_with(
        &[("BELLWETHER_BLESS", "1".to_owned())],
        &["test", "--test", "end_to_end", "--", "documents::"],
    )
}

fn torture() -> Result<(), String> {
    let mut args = env::args().skip(2);
    let seconds = args.next().unwrap_or_else(|| "600".to_owned());
    let mut settings = vec![("BELLWETHER_TORTURE_SECONDS", seconds)];
    settings.extend(args.next().map(|seed| ("BELLWETHER_TORTURE_SEED", seed)));
    let only = ["torture::nothing", "--nocapture"];
    cargo_with(
        &settings,
        &[
            &["test", "--release", "--test", "end_to_end", "--"][..],
            &only,
        ]
        .concat(),
    )
}

fn soak() -> Result<(), String> {
    clients::install()?;
    let seconds = env::args().nth(2).unwrap_or_else(|| "1800".to_owned());
    let only = ["browser::soak", "--nocapture"];
    cargo_with(
        &[("BELLWETHER_SOAK_SECONDS", seconds)],
        &[
            &["test", "--release", "--test", "end_to_end", "--"][..],
            &only,
        ]
        .concat(),
    )
}

/// What stands among the tests because it needs what they need, but is none.
fn ignored(name: &str) -> Result<(), String> {
    clients::install()?;
    cargo(&[
        "test",
        "--release",
        "--test",
        "end_to_end",
        "--",
        "--ignored",
        "--nocapture",
        name,
    ])
}

/// The program and the harness in release; the harness finds the program beside itself.
fn load(args: &[String]) -> Result<(), String> {
    cargo(&["build", "--release", "-p", "bellwether", "-p", "load"])?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    cargo(&[&["run", "--release", "-p", "load", "--"][..], &args].concat())
}

fn check() -> Result<(), String> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ])?;
    cargo(&[
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ])?;
    deny::check()
}

/// The workspace. As cargo has it now: this program may have been built elsewhere.
fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR");
    let manifest = manifest.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&manifest).ancestors().nth(2);
    root.expect("it is in crates/xtask").to_owned()
}

/// Runs cargo, and says what is being run.
fn cargo(args: &[&str]) -> Result<(), String> {
    cargo_with(&[("RUSTDOCFLAGS", "-D warnings".to_owned())], args)
}

fn cargo_with(settings: &[(&str, String)], args: &[&str]) -> Result<(), String> {
    let said = format!("cargo {}", args.join(" "));
    eprintln!("+ {said}");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(args)
        .envs(settings.iter().cloned())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{said}: {status}")),
        Err(error) => Err(format!("cannot run {said}: {error}")),
    }
}
