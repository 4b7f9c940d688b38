//! A former server on the same folder: an orphan, or one still shutting down.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tokio::time::{self, Instant};

use crate::Error;

/// Time for a fast shutdown, which writes a checkpoint; then for an immediate one.
const PATIENCE: [(Signal, Duration); 2] = [
    (Signal::SIGINT, Duration::from_secs(30)),
    (Signal::SIGQUIT, Duration::from_secs(10)),
];

const POLL: Duration = Duration::from_millis(20);

/// Stops what still runs on a cluster. The caller holds the folder's lock.
pub(crate) async fn stop(dir: &Path, pgdata: &Path) -> Result<(), Error> {
    let path = pgdata.join("postmaster.pid");
    let Some(postmaster) = Status::read(pgdata).map(|status| status.pid) else {
        return Ok(());
    };
    let mut running = servers_on(pgdata, postmaster);
    if !running.is_empty() {
        tracing::info!(pg.pid = postmaster, "stopping a former server");
    }
    for (signal, limit) in PATIENCE {
        let start = Instant::now();
        while !running.is_empty() && start.elapsed() < limit {
            // The children follow the postmaster. Without one they are to end
            // by themselves, but may be slow to notice.
            let first = running.iter().find(|&&pid| pid == postmaster);
            for &pid in first.map_or(running.as_slice(), std::slice::from_ref) {
                send(pid, Some(signal));
            }
            time::sleep(POLL).await;
            running = servers_on(pgdata, postmaster);
        }
    }
    if !running.is_empty() {
        return Err(Error::Former {
            dir: dir.to_owned(),
            pids: running,
        });
    }

    // Of a process id that is dead Postgres knows to take no notice. But if the
    // number is now another process's (containers give out the same few), or
    // a zombie's, it refuses to start. Nothing runs on the cluster, so the file
    // can go.
    if send(postmaster, None)
        && let Err(error) = fs::remove_file(&path)
        && path.exists()
    {
        return Err(Error::file("remove", path)(error));
    }
    Ok(())
}

/// What a server says about itself in `postmaster.pid`.
pub(crate) struct Status {
    pub(crate) pid: u32,
    pub(crate) is_ready: bool,
}

impl Status {
    /// None if there is no such file, or not enough of it yet.
    pub(crate) fn read(pgdata: &Path) -> Option<Self> {
        let text = fs::read(pgdata.join("postmaster.pid")).ok()?;
        let text = String::from_utf8_lossy(&text); // it holds a path
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        // The eighth line: "starting", "ready", "stopping", each padded. A standby that takes
        // connections says "standby".
        let is_ready = lines
            .nth(6)
            .is_some_and(|line| matches!(line.trim(), "ready" | "standby"));
        Some(Self { pid, is_ready })
    }
}

/// The server processes of a cluster.
///
/// All of them have the cluster as working folder, wherever it was renamed to,
/// which the number in `postmaster.pid` alone does not prove: it may have been
/// given to another process since.
fn servers_on(pgdata: &Path, postmaster: u32) -> Vec<u32> {
    let Ok(cluster) = fs::metadata(pgdata) else {
        return vec![];
    };
    let is_server = |proc: &PathBuf| {
        // Fails for a zombie, and for processes that are none of our business.
        fs::metadata(proc.join("cwd"))
            .is_ok_and(|cwd| (cwd.dev(), cwd.ino()) == (cluster.dev(), cluster.ino()))
            // A person may have a shell in there.
            && fs::read_to_string(proc.join("comm")).is_ok_and(|name| name == "postgres\n")
            // Whoever could write postmaster.pid shall not make root kill others.
            && fs::metadata(proc).is_ok_and(|meta| meta.uid() == cluster.uid())
    };
    if !Path::new("/proc/self/cwd").exists() {
        return servers_by_ps(pgdata, postmaster);
    }
    let Ok(processes) = fs::read_dir("/proc") else {
        return vec![];
    };
    processes
        .flatten()
        .map(|entry| entry.path())
        .filter(is_server)
        .filter_map(|proc| proc.file_name()?.to_str()?.parse().ok())
        .collect()
}

/// Where there is no `/proc`, as on macOS, the command line has to do: ours
/// names the folder.
fn servers_by_ps(pgdata: &Path, postmaster: u32) -> Vec<u32> {
    let pid = postmaster.to_string();
    let output = Command::new("ps")
        .args(["-o", "command=", "-p", &pid])
        .output();
    let is_server = output.is_ok_and(|output| {
        let line = String::from_utf8_lossy(&output.stdout);
        line.contains("postgres") && line.contains(&*pgdata.to_string_lossy())
    });
    if is_server { vec![postmaster] } else { vec![] }
}

/// Tells whether there was a process to send it to.
fn send(pid: u32, signal: Option<Signal>) -> bool {
    i32::try_from(pid).is_ok_and(|pid| pid > 1 && signal::kill(Pid::from_raw(pid), signal).is_ok())
}
