//! The data folder: its lock, and the small files in it.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown,
};
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use nix::unistd;
use tokio::time::{self, Instant};

use crate::Error;
use crate::user::{self, User};

/// Time for an owner that was just killed to be gone.
const LOCK_LIMIT: Duration = Duration::from_secs(1);

const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A log larger than this is put aside before a start.
const LOG_BYTES: u64 = 8 * 1024 * 1024;

/// How many bytes at the end of the log go into an error.
const TAIL_BYTES: u64 = 4096;

/// Folders made by others that do not keep a folder from being empty.
const HARMLESS: &[&str] = &["lost+found"];

/// Where data is kept when the person does not say.
///
/// `/var/lib/bellwether` for root, else `bellwether` in `$XDG_DATA_HOME` or in
/// `~/.local/share`.
pub fn default_data_dir() -> Result<PathBuf, Error> {
    if unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/bellwether"));
    }
    // A relative path is to be ignored, says the XDG specification.
    let xdg = env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    if let Some(data) = xdg.filter(|path| path.is_absolute()) {
        return Ok(data.join("bellwether"));
    }
    let home = env::home_dir().filter(|path| path.is_absolute());
    Ok(home.ok_or(Error::NoHome)?.join(".local/share/bellwether"))
}

/// A data folder that is locked, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    /// The kernel unlocks it when we die. Children do not have it: std opens
    /// files close-on-exec.
    lock: File,
}

impl Folder {
    /// Makes the folder if need be and locks it.
    pub(crate) async fn open(dir: &Path, holder: &str) -> Result<Self, Error> {
        let create = || -> io::Result<PathBuf> {
            if !dir.exists() {
                if let Some(parent) = dir.parent() {
                    fs::create_dir_all(parent)?;
                }
                match DirBuilder::new().mode(0o700).create(dir) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    done => done?,
                }
            }
            dir.canonicalize()
        };
        let dir = create().map_err(Error::file("create folder", dir))?;
        check_is_ours(&dir)?;

        let path = dir.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(|error| match fs::metadata(&dir) {
                Ok(meta) if error.kind() == ErrorKind::PermissionDenied => Error::Owner {
                    dir: dir.clone(),
                    user: user::name_of(meta.uid()),
                },
                _ => Error::file("open", &path)(error),
            })?;
        let start = Instant::now();
        while let Err(error) = lock.try_lock() {
            match error {
                TryLockError::Error(error) => return Err(Error::file("lock", &path)(error)),
                TryLockError::WouldBlock if start.elapsed() > LOCK_LIMIT => {
                    let holder = read_holder(&mut lock);
                    return Err(Error::InUse { dir, holder });
                }
                TryLockError::WouldBlock => time::sleep(LOCK_PAUSE).await,
            }
        }
        let text = format!("{}\n{holder}\n", process::id());
        lock.set_len(0)
            .and_then(|()| lock.write_all(text.as_bytes()))
            .map_err(Error::file("write", &path))?;

        Ok(Self { dir, lock })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn pgdata(&self) -> PathBuf {
        self.dir.join("pgdata")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("postgres.log")
    }

    /// The major version that made the cluster; none if there is no cluster.
    pub(crate) fn made_by(&self) -> Result<Option<u32>, Error> {
        let path = self.pgdata().join("PG_VERSION");
        let content = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound && !self.pgdata().exists() => {
                return Ok(None);
            }
            read => read.map_err(Error::file("read", &path))?,
        };
        match content.trim().parse() {
            Ok(major) => Ok(Some(major)),
            Err(_) => Err(Error::PgVersion { path, content }),
        }
    }

    /// Lets the user through to its own folders, which the others stay out of.
    pub(crate) fn admit(&self, user: &User) -> Result<(), Error> {
        let pass = || -> io::Result<()> {
            let mode = fs::metadata(&self.dir)?.permissions().mode();
            fs::set_permissions(&self.dir, Permissions::from_mode(mode | 0o111))?;
            let pgdata = self.pgdata();
            // A folder that root has copied or restored.
            if fs::metadata(&pgdata).is_ok_and(|meta| meta.uid() == 0) {
                chown_all(&pgdata, user)?;
            }
            Ok(())
        };
        pass().map_err(Error::file("give access to", &self.dir))
    }

    pub(crate) fn last_port(&self) -> Option<u16> {
        let text = fs::read_to_string(self.dir.join("port")).ok()?;
        text.trim().parse().ok()
    }

    pub(crate) fn keep_port(&self, port: u16) -> Result<(), Error> {
        let path = self.dir.join("port");
        fs::write(&path, format!("{port}\n")).map_err(Error::file("write", path))
    }

    /// The log, to be appended to, and how long it is.
    pub(crate) fn open_log(&self) -> Result<(File, u64), Error> {
        let path = self.log();
        let open = || -> io::Result<(File, u64)> {
            if fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_BYTES) {
                fs::rename(&path, self.dir.join("postgres.log.1"))?;
            }
            let mut options = OpenOptions::new();
            let file = options.append(true).create(true).mode(0o600).open(&path)?;
            let len = file.metadata()?.len();
            Ok((file, len))
        };
        open().map_err(Error::file("open", &path))
    }

    /// The end of the log, of what came after `start`.
    pub(crate) fn log_tail(&self, start: u64) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(self.log())?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(start.max(len.saturating_sub(TAIL_BYTES))))?;
            let mut bytes = vec![];
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        // It is part of an error that is more important than this one.
        let bytes = read().unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closing it is not enough if another thread has just forked and not
        // called exec yet. An error cannot be helped, and it is closed next.
        let _ = self.lock.unlock();
    }
}

/// Makes a file or folder belong to the user.
pub(crate) fn give(path: &Path, user: Option<&User>) -> io::Result<()> {
    match user {
        Some(user) => chown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}

/// Like `remove_dir_all`, and content if there is nothing.
pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// A folder with other things in it is most likely a slip of the hand.
fn check_is_ours(dir: &Path) -> Result<(), Error> {
    if dir.join("lock").exists() {
        return Ok(());
    }
    let entries = fs::read_dir(dir).map_err(Error::file("read folder", dir))?;
    let is_harmless = |name: &OsStr| HARMLESS.iter().any(|harmless| name == *harmless);
    match entries.flatten().find(|e| !is_harmless(&e.file_name())) {
        Some(entry) => Err(Error::NotOurs {
            dir: dir.to_owned(),
            entry: entry.file_name().into(),
        }),
        None => Ok(()),
    }
}

fn read_holder(lock: &mut File) -> String {
    let mut text = String::new();
    // The holder may be just about to write it.
    let _ = lock.read_to_string(&mut text);
    match text.trim_end().split_once('\n') {
        Some((pid, "")) => format!("process {pid}"),
        Some((pid, holder)) => format!("process {pid} ({holder})"),
        None => "another process".to_owned(),
    }
}

fn chown_all(path: &Path, user: &User) -> io::Result<()> {
    lchown(path, Some(user.uid), Some(user.gid))?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            chown_all(&entry?.path(), user)?;
        }
    }
    Ok(())
}
