//! Makes a cluster: initdb, in a folder beside the real one.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use tokio::time::{self, Instant};

use crate::folder::{give, remove_dir};
use crate::guard::Guard;
use crate::launch::Launch;
use crate::{Error, ROLE};

/// What a cluster in the making is called, before a random end.
const UNFINISHED: &str = "pgdata.new-";

/// Time for an orphaned initdb to fail, which all of one takes about a second.
const REMOVAL_LIMIT: Duration = Duration::from_secs(10);

const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// Makes the cluster if there is none.
pub(crate) async fn make(launch: &Launch) -> Result<(), Error> {
    let dir = launch.folder.dir();
    let pgdata = launch.folder.pgdata();
    remove_unfinished(dir).await?;
    if pgdata.exists() {
        return Ok(());
    }

    // A new name each time, which an orphaned initdb does not know.
    let unfinished = dir.join(format!("{UNFINISHED}{:08x}", fastrand::u32(..)));
    let secret = launch.password.for_initdb(dir, launch.user.as_ref())?;
    let made = initdb(launch, &unfinished, &secret).await;
    let removed = fs::remove_file(&secret).map_err(Error::file("remove", &secret));
    made.and(removed)?;

    let put = || -> io::Result<()> {
        fs::rename(&unfinished, &pgdata)?;
        File::open(dir)?.sync_all()
    };
    put().map_err(Error::file("rename a new cluster to", &pgdata))
}

async fn initdb(launch: &Launch, unfinished: &Path, secret: &Path) -> Result<(), Error> {
    let user = launch.user.as_ref();
    let mut output = String::new();
    for locale in locales(launch.binaries.major) {
        remove_dir(unfinished).map_err(Error::file("remove", unfinished))?;
        DirBuilder::new()
            .mode(0o700)
            .create(unfinished)
            .and_then(|()| give(unfinished, user))
            .map_err(Error::file("create folder", unfinished))?;

        let mut args: Vec<OsString> = [
            "--auth-host=scram-sha-256",
            // Who can enter the socket's folder can read the cluster's files.
            "--auth-local=trust",
            "--encoding=UTF8",
            "--no-instructions",
        ]
        .map(OsString::from)
        .into();
        args.push(format!("--username={ROLE}").into());
        args.extend(locale.iter().map(OsString::from));
        if !launch.is_durable() {
            args.push("--no-sync".into());
        }
        for (option, path) in [("--pwfile=", secret), ("--pgdata=", unfinished)] {
            let mut arg = OsString::from(option);
            arg.push(path);
            args.push(arg);
        }

        let (log, start) = launch.folder.open_log()?;
        let mut guard = Guard::spawn(&launch.binaries, "initdb", &args, &[], user, log).await?;
        let ended = time::timeout(launch.limit, guard.exited()).await;
        output = launch.folder.log_tail(start);
        match ended {
            Ok(Ok(status)) if status.success() => return Ok(()),
            // The first way to say it may not be known here.
            Ok(Ok(_)) if output.contains("invalid locale") => {}
            Ok(_) => break,
            Err(_) => {
                output.push_str("\n(it took too long)");
                break;
            }
        }
    }
    Err(Error::Initdb { output })
}

/// Ways to ask for text that sorts by code point, which is fast and the same
/// everywhere, but of which upper and lower case are known. The best first.
fn locales(major: u32) -> &'static [&'static [&'static str]] {
    if major >= 17 {
        return &[&[
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        ]];
    }
    &[&["--locale=C", "--lc-ctype=C.UTF-8"], &["--locale=C"]]
}

/// If an owner and its guard were killed, initdb goes on for a moment, adding
/// files to a folder that is being removed, until it misses one.
async fn remove_unfinished(dir: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(dir).map_err(Error::file("read folder", dir))?;
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            continue;
        }
        let start = Instant::now();
        while let Err(error) = remove_dir(&entry.path()) {
            if error.kind() != ErrorKind::DirectoryNotEmpty || start.elapsed() > REMOVAL_LIMIT {
                return Err(Error::file("remove", entry.path())(error));
            }
            time::sleep(REMOVAL_PAUSE).await;
        }
    }
    Ok(())
}
