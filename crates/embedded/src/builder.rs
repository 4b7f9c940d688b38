//! What to start, and the order of the steps.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::binaries::{Binaries, Search};
use crate::folder::Folder;
use crate::launch::Launch;
use crate::password::Password;
use crate::server::Postgres;
use crate::user::User;
use crate::{Error, cluster, former, socket};

/// Time for the server to become ready, and for initdb before it. Crash
/// recovery after heavy writing is what may take long.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A private Postgres that is to be started.
#[derive(Clone, Debug)]
pub struct Builder {
    dir: PathBuf,
    search: Search,
    settings: Vec<(String, String)>,
    environment: Vec<(String, OsString)>,
    holder: String,
    limit: Duration,
}

impl Builder {
    /// With its data in this folder, which is made if it does not exist.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            search: Search::System,
            settings: vec![],
            environment: vec![],
            holder: String::new(),
            limit: START_LIMIT,
        }
    }

    /// The folder of the programs; they are not looked for elsewhere.
    ///
    /// With `None`: `pg_config --bindir`, `PATH` and the usual folders of
    /// distributions and installers, and of these the newest.
    #[must_use]
    pub fn binaries(mut self, folder: Option<PathBuf>) -> Self {
        self.search = folder.map_or(Search::System, Search::Explicit);
        self
    }

    /// Folders to look for the programs in, instead of the system's.
    #[must_use]
    pub fn search(mut self, folders: Vec<PathBuf>) -> Self {
        self.search = Search::Folders(folders);
        self
    }

    /// A server setting, as `-c name=value`. Those that say where the server
    /// listens are not up to the caller and have no effect.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// A variable of the server's environment, into which little of ours gets.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// What we are, for the error of whoever wants the same folder:
    /// "bellwether demo".
    #[must_use]
    pub fn holder(mut self, holder: impl Into<String>) -> Self {
        self.holder = holder.into();
        self
    }

    /// Time for the server to become ready. Default: 60 s.
    #[must_use]
    pub fn start_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Locks the folder, stops what a killed owner left running on it, makes a
    /// cluster if there is none, and starts the server.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, what runs by then is stopped.
    pub async fn start(self) -> Result<Postgres, Error> {
        let user = User::choose(&self.dir, &self.dir.join("pgdata"))?;
        if let Some(user) = &user {
            // Before a folder is made where it is of no use.
            user.check_data_dir(&self.dir).await?;
        }
        let folder = Folder::open(&self.dir, &self.holder).await?;
        if let Some(user) = &user {
            folder.admit(user)?;
        }
        let made_by = folder.made_by()?;
        let binaries = Binaries::find(&self.search, folder.dir(), made_by, user.as_ref()).await?;
        former::stop(folder.dir(), &folder.pgdata()).await?;

        let launch = Launch {
            password: Password::of(folder.dir())?,
            socket_dir: socket::make(folder.dir(), user.as_ref())?,
            folder,
            binaries,
            user,
            settings: self.settings,
            environment: self.environment,
            limit: self.limit,
        };
        cluster::make(&launch).await?;
        launch.start().await
    }
}
