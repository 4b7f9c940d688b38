//! The guard: the server's parent, which outlives the owner by a moment.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time;

use crate::Error;
use crate::binaries::{Binaries, library_path};
use crate::user::User;

/// Commented; see [`script`].
const SCRIPT: &str = include_str!("guard.sh");

/// What a child keeps of our environment. Not the rest: `PG*` would change what
/// the programs do, `NOTIFY_SOCKET` is between us and systemd, and our secrets
/// are none of the server's business.
const ENVIRONMENT: &[&str] = &["HOME", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ"];

/// Time between a signal and the same again.
const AGAIN: Duration = Duration::from_millis(500);

/// A guard with the program that it runs. Dropping it stops the program, soon.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    /// Our end of the guard's standard input. That it closes when we are gone
    /// is the whole point, so nobody else may have it: std makes pipes
    /// close-on-exec.
    pipe: PipeWriter,
    pid: u32,
}

impl Guard {
    /// Starts a program with its output going to the log.
    pub(crate) async fn spawn(
        binaries: &Binaries,
        program: &str,
        args: &[OsString],
        environment: &[(String, OsString)],
        user: Option<&User>,
        log: File,
    ) -> Result<Self, Error> {
        let program = binaries.program(program);
        let start = async {
            let (reader, pipe) = io::pipe()?;
            let mut command = Command::new("/bin/sh");
            command
                .args(["-c", &script(), "bellwether-guard"])
                .arg(&program)
                .args(args)
                .current_dir("/")
                .env_clear()
                .envs(
                    ENVIRONMENT
                        .iter()
                        .filter_map(|&name| Some((name, env::var_os(name)?))),
                )
                .env("LC_ALL", "C") // the programs' messages, which we read
                .stdin(reader)
                .stdout(Stdio::piped())
                .stderr(log)
                .process_group(0);
            if let Some(libraries) = &binaries.libraries {
                command.env("LD_LIBRARY_PATH", library_path(libraries));
            }
            command.envs(environment.iter().map(|(name, value)| (name, value)));
            if let Some(user) = user {
                command.uid(user.uid).gid(user.gid);
            }
            let mut child = command.spawn()?;
            // The command has the reading end too, and with it open a write to
            // a guard that has died would not fail.
            drop(command);

            let stdout = child.stdout.take().expect("it was piped");
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).await?;
            let pid = line.trim_end().parse();
            let pid = pid.map_err(|_| io::Error::other("the guard has ended at once"))?;
            Ok(Self { child, pipe, pid })
        };
        start
            .await
            .map_err(|source| Error::Spawn { program, source })
    }

    /// The process id of the program itself.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the program to end.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub(crate) async fn exited(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Sends a signal ("INT") to the program. If it has ended already, so be it.
    fn signal(&mut self, name: &str) {
        let _ = writeln!(self.pipe, "{name}");
    }

    /// Sends a signal and waits; tells whether the program has ended in time.
    ///
    /// Sends it again and again: it is lost on a program that has only just
    /// been started and has no handlers yet.
    pub(crate) async fn stop(&mut self, signal: &str, limit: Duration) -> bool {
        let again = async {
            loop {
                self.signal(signal);
                if time::timeout(AGAIN, self.exited()).await.is_ok() {
                    return;
                }
            }
        };
        time::timeout(limit, again).await.is_ok()
    }
}

/// The script as it shows in a list of processes: without the comments.
fn script() -> String {
    let lines = SCRIPT.lines().map(str::trim);
    let lines: Vec<_> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    lines.join("\n")
}
