//! Makes a cluster: initdb, in a folder beside the real one.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use tokio::time;

use crate::binaries::Binaries;
use crate::folder::{Folder, Password, give, remove_dir};
use crate::guard::Guard;
use crate::user::User;
use crate::{Error, ROLE};

/// What a cluster in the making is called, before a random end.
const UNFINISHED: &str = "pgdata.new-";

/// Makes the cluster if there is none.
pub(crate) async fn make(
    folder: &Folder,
    binaries: &Binaries,
    user: Option<&User>,
    password: &Password,
    is_durable: bool,
    limit: Duration,
) -> Result<(), Error> {
    remove_unfinished(folder.dir())?;
    if folder.pgdata().exists() {
        return Ok(());
    }

    // A new name each time: if an owner and its guard were killed, their initdb
    // may still be writing to its folder, until it finds that it is gone.
    let unfinished = folder
        .dir()
        .join(format!("{UNFINISHED}{:08x}", fastrand::u32(..)));
    let secret = folder.password_for(user, password)?;
    let made = initdb(
        folder,
        binaries,
        user,
        &unfinished,
        &secret,
        is_durable,
        limit,
    )
    .await;
    let removed = fs::remove_file(&secret).map_err(Error::file("remove", &secret));
    made.and(removed)?;

    let pgdata = folder.pgdata();
    let put = || -> io::Result<()> {
        fs::rename(&unfinished, &pgdata)?;
        File::open(folder.dir())?.sync_all()
    };
    put().map_err(Error::file("rename a new cluster to", &pgdata))
}

async fn initdb(
    folder: &Folder,
    binaries: &Binaries,
    user: Option<&User>,
    unfinished: &Path,
    secret: &Path,
    is_durable: bool,
    limit: Duration,
) -> Result<(), Error> {
    let mut output = String::new();
    for locale in locales(binaries.major) {
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
        if !is_durable {
            args.push("--no-sync".into());
        }
        for (option, path) in [("--pwfile=", secret), ("--pgdata=", unfinished)] {
            let mut arg = OsString::from(option);
            arg.push(path);
            args.push(arg);
        }

        let (log, start) = folder.open_log()?;
        let mut guard = Guard::spawn(binaries, "initdb", &args, user, log).await?;
        let ended = time::timeout(limit, guard.exited()).await;
        output = folder.log_tail(start);
        match ended {
            Ok(Ok(status)) if status.success() => return Ok(()),
            // The first way to say it may not be known here.
            Ok(Ok(_)) if output.contains("locale") => {}
            _ => break,
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

fn remove_unfinished(dir: &Path) -> Result<(), Error> {
    let remove = || -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                remove_dir(&entry.path())?;
            }
        }
        Ok(())
    };
    remove().map_err(Error::file("remove an unfinished cluster in", dir))
}
