//! The user that Postgres runs as.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{self, Path, PathBuf};
use std::process::Stdio;

use nix::unistd;
use tokio::process::Command;

use crate::Error;

/// Who runs the server, when that is not the owner itself.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) name: String,
}

impl User {
    /// None unless we are root. `pgdata` goes on belonging to whom it belongs,
    /// or else a user `postgres` that is installed later would lock us out.
    pub(crate) fn choose(dir: &Path, pgdata: &Path) -> Result<Option<Self>, Error> {
        let cluster = fs::metadata(pgdata).ok();
        let us = unistd::geteuid();
        if !us.is_root() {
            return match cluster {
                Some(meta) if meta.uid() != us.as_raw() => Err(Error::Owner {
                    dir: dir.to_owned(),
                    user: name_of(meta.uid()),
                }),
                _ => Ok(None),
            };
        }
        if let Some(meta) = cluster
            && meta.uid() != 0
        {
            return Ok(Some(Self {
                uid: meta.uid(),
                gid: meta.gid(),
                name: name_of(meta.uid()),
            }));
        }
        for name in ["postgres", "nobody"] {
            if let Ok(Some(user)) = unistd::User::from_name(name) {
                return Ok(Some(Self {
                    uid: user.uid.as_raw(),
                    gid: user.gid.as_raw(),
                    name: user.name,
                }));
            }
        }
        Err(Error::NoUser)
    }

    /// Makes sure that the user will get into a data folder, which need not
    /// exist yet.
    pub(crate) async fn check_data_dir(&self, dir: &Path) -> Result<(), Error> {
        let dir = path::absolute(dir).map_err(Error::file("resolve", dir))?;
        let dir = dir.canonicalize().unwrap_or(dir);
        let parent = dir.ancestors().skip(1).find(|parent| parent.exists());
        let option = "--data-dir /var/lib/bellwether";
        self.check(parent.unwrap_or(&dir), option).await
    }

    /// Makes sure that the user can execute a program.
    pub(crate) async fn check_program(&self, program: &Path) -> Result<(), Error> {
        self.check(program, "--pg-bin /usr/lib/postgresql/17/bin")
            .await
    }

    async fn check(&self, path: &Path, option: &'static str) -> Result<(), Error> {
        // The system is asked, as only it knows about access control lists.
        let may = Command::new("/bin/sh")
            .args(["-c", r#"[ -x "$1" ]"#, "sh"])
            .arg(path)
            .current_dir("/")
            .uid(self.uid)
            .gid(self.gid)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await
            .map_err(|source| Error::Spawn {
                program: path.to_owned(),
                source,
            })?;
        if may.success() {
            return Ok(());
        }
        Err(Error::Unreachable {
            path: path.to_owned(),
            at: self.obstacle(path),
            user: self.name.clone(),
            option,
        })
    }

    /// The outermost part of a path that the user may not enter.
    fn obstacle(&self, path: &Path) -> PathBuf {
        let mut parts: Vec<_> = path.ancestors().collect();
        parts.reverse();
        let is_shut = |part: &&&Path| {
            fs::metadata(part).is_ok_and(|meta| {
                let bit = if meta.uid() == self.uid {
                    0o100
                } else if meta.gid() == self.gid {
                    0o010
                } else {
                    0o001
                };
                meta.permissions().mode() & bit == 0
            })
        };
        parts.iter().find(is_shut).unwrap_or(&path).to_path_buf()
    }
}

/// For messages: the number, if there is no name.
pub(crate) fn name_of(uid: u32) -> String {
    match unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}
