//! A library that makes the server's flushes take longer, compiled where it is needed.

use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const SOURCE: &str = include_str!("../slow_flush.c");

/// Compiles it into a folder. Returns its path, for `LD_PRELOAD`.
pub(crate) fn compile(folder: &Path) -> Result<PathBuf> {
    let (source, library) = (folder.join("slow_flush.c"), folder.join("slow_flush.so"));
    fs::write(&source, SOURCE).with_context(|| format!("cannot write {}", source.display()))?;
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .stdin(Stdio::null())
        .status()
        .context(
            "cannot run the C compiler `cc`, which makes the slow disk: apt-get install gcc, \
             or measure this machine's disk with --flush 0s",
        )?;
    ensure!(
        compiled.success(),
        "cannot compile the slow disk: cc, {compiled}"
    );
    Ok(library)
}
