//! The folder of the Unix socket.
//!
//! `socket` in the data folder is either the folder itself or, where its path
//! is too long for a socket, a link to one in the temporary folder.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::folder::{give, remove_dir};
use crate::user::User;

/// Room for the path of a Unix socket, with the closing zero. Linux has 108;
/// macOS and the BSDs have 104.
const SOCKET_PATH_ROOM: usize = 104;

/// Makes an empty folder that only the server's user may enter.
///
/// No server may be running. What a former one left behind is removed: a
/// folder in the temporary folder, or a socket's lock with a process id that is
/// now another's.
pub(crate) fn make(dir: &Path, user: Option<&User>) -> Result<PathBuf, Error> {
    let path = dir.join("socket");
    let make = || -> io::Result<PathBuf> {
        if let Ok(target) = fs::read_link(&path) {
            remove_dir(&target)?;
            fs::remove_file(&path)?;
        }
        remove_dir(&path)?;

        let name_len = "/.s.PGSQL.65535\0".len();
        let folder = if path.as_os_str().len() + name_len <= SOCKET_PATH_ROOM {
            DirBuilder::new().mode(0o700).create(&path)?;
            path.clone()
        } else {
            let folder = tempfile::Builder::new().prefix("bellwether-").tempdir()?;
            let folder = folder.keep();
            symlink(&folder, &path)?;
            folder
        };
        give(&folder, user)?;
        Ok(folder)
    };
    make().map_err(Error::file("make the socket's folder", &path))
}

/// Leaves nothing in the temporary folder.
pub(crate) fn remove_link(dir: &Path) {
    let path = dir.join("socket");
    if let Ok(target) = fs::read_link(&path) {
        // An empty folder at worst, and the next start tries again.
        let _ = remove_dir(&target);
        let _ = fs::remove_file(&path);
    }
}

/// `unix_socket_directories` is a list: a path is quoted in it.
pub(crate) fn quote(path: &Path) -> OsString {
    let mut quoted = vec![b'"'];
    for &byte in path.as_os_str().as_bytes() {
        if byte == b'"' {
            quoted.push(b'"');
        }
        quoted.push(byte);
    }
    quoted.push(b'"');
    OsString::from_vec(quoted)
}
