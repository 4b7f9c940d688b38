//! The role's password, and the files it is in.

use std::fmt::{self, Debug, Formatter};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::folder::give;
use crate::user::User;

/// A secret that does not show in `Debug`.
#[derive(Clone)]
pub(crate) struct Password(String);

impl Password {
    /// Reads it from the data folder; makes it up the first time.
    pub(crate) fn of(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("password");
        match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => return Ok(Self(text.trim().to_owned())),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::file("read", &path)(error));
            }
            _ => {}
        }
        let password = Self::random().map_err(Error::file("read", "/dev/urandom"))?;
        password.write(&path).map_err(Error::file("write", &path))?;
        Ok(password)
    }

    /// Puts it into a file that initdb can read; the caller removes that.
    pub(crate) fn for_initdb(&self, dir: &Path, user: Option<&User>) -> Result<PathBuf, Error> {
        let path = dir.join("password.initdb");
        self.write(&path)
            .and_then(|()| give(&path, user))
            .map_err(Error::file("write", &path))?;
        Ok(path)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// 128 bits from the system: no generator for secrets is among our
    /// dependencies.
    fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let number = u128::from_ne_bytes(bytes);
        Ok(Self(format!("{number:032x}")))
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        writeln!(options.open(path)?, "{}", self.0)
    }
}

impl Debug for Password {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}
