//! Licences, sources and known weaknesses of what we depend on, by cargo-deny and `deny.toml`.

use std::process::{Command, Stdio};

use crate::cargo;

/// Checks what can be checked here, and says of the rest that it was not.
pub(crate) fn check() -> Result<(), String> {
    if !succeeds(&["deny", "--version"]) {
        eprintln!(
            "not checked: licences, sources and advisories, as cargo-deny is missing \
             (cargo install cargo-deny --locked)"
        );
        return Ok(());
    }
    let quietly = "--hide-inclusion-graph";
    cargo(&["deny", "check", quietly, "bans", "licenses", "sources"])?;
    // The database of advisories is a repository, which not every machine can reach.
    if !succeeds(&["deny", "fetch", "db"]) {
        eprintln!(
            "not checked: advisories, as their database cannot be fetched (cargo deny fetch db says why)"
        );
        return Ok(());
    }
    cargo(&["deny", "check", quietly, "advisories"])
}

fn succeeds(args: &[&str]) -> bool {
    let ran = Command::new("cargo")
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ran.is_ok_and(|status| status.success())
}
