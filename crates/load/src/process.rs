//! What processes use, as the kernel counts it.

use anyhow::{Context, Result};
use nix::{time::clock_getcpuclockid, unistd::Pid};
use std::{fs, path::PathBuf, time::Duration};

/// Processor time of a process so far, that of its ended threads included.
pub(crate) fn processor(pid: i32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).context("no such process")?;
    Ok(clock.now()?.into())
}

/// A process and all that descend from it.
pub(crate) fn family(pid: i32) -> Result<Vec<i32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        // One that has just ended has no parent either.
        if let Some(pid) = pid
            && let Ok(fields) = fields(pid)
        {
            parents.push((pid, fields.get(1).copied().unwrap_or(0)));
        }
    }
    let mut family = vec![pid];
    let mut nth = 0;
    while let Some(&parent) = family.get(nth) {
        let children = parents.iter().filter(|(_, of)| *of == i64::from(parent));
        family.extend(children.map(|(pid, _)| pid));
        nth += 1;
    }
    Ok(family)
}

/// Processor time of a process and all that descend from it and have not ended.
pub(crate) fn family_processor(pid: i32) -> Result<Duration> {
    // One that ends meanwhile used little.
    let used = |pid: &i32| processor(*pid).unwrap_or_default();
    Ok(family(pid)?.iter().map(used).sum())
}

/// Memory of a process and all that descend from it, in KiB. What they share counts once.
pub(crate) fn family_resident(pid: i32) -> Result<u64> {
    let mut all = 0;
    for pid in family(pid)? {
        all += kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")?;
    }
    Ok(all)
}

/// Memory that the kernel itself has taken, in KiB: its slabs, where sockets are, and the
/// buffers of TCP.
pub(crate) fn kernel() -> Result<u64> {
    let sockets = fs::read_to_string("/proc/net/sockstat")?;
    let tcp = sockets.lines().find(|line| line.starts_with("TCP:"));
    let pages = tcp.and_then(|line| line.split_whitespace().last());
    let pages: u64 = pages.context("no pages of TCP")?.parse()?;
    Ok(kib("/proc/meminfo", "Slab:")? + 4 * pages)
}

/// A line such as `Pss: 12 kB`.
pub(crate) fn kib(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("no {name} in {path}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// The fields of `/proc/PID/stat` from the third on, as numbers; those that are none are 0.
pub(crate) fn fields(pid: i32) -> Result<Vec<i64>> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    // The second is a name in parentheses, in which anything may stand.
    let (_, rest) = text.rsplit_once(") ").context("a name in parentheses")?;
    Ok(rest
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect())
}
