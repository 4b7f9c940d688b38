//! The keys of a hub, as they are now.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

use crate::{
    Error, crypto,
    fetch::Address,
    keys::{self, Key, Reach},
};

/// Shortest time between two attempts to fetch keys, whatever tokens say.
const MIN_PAUSE: Duration = Duration::from_secs(5);

/// How old fetched keys may be before they are fetched again beside the work. So a key that its
/// owner has withdrawn does not count for much longer.
const MAX_AGE: Duration = Duration::from_mins(5);

/// Where keys come from.
#[derive(Clone)]
pub enum Source {
    /// A secret for HS256, which the hub and who signs share.
    Secret(String),
    /// The keys themselves, as PEM or as a JWKS.
    Text(String),
    /// A file with such.
    File(PathBuf),
    /// An address (`https://`, `http://`) with a JWKS.
    Address(String),
}

/// The keys of a hub. Those of a file are read again with [`Keyring::reload`]; those of an address
/// also when a token names one that is not known, and now and then. What was good last is kept when
/// nothing better can be had.
#[derive(Debug)]
pub struct Keyring {
    shelves: Vec<Shelf>,
    /// When the address was asked last, and whether it is being asked. Held while it is.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

/// The keys of one source.
#[derive(Debug)]
struct Shelf {
    origin: Origin,
    /// Not held while anything is waited for.
    stock: Mutex<Stock>,
}

#[derive(Debug)]
enum Origin {
    Fixed,
    File(PathBuf),
    Address(Box<Address>),
}

#[derive(Clone, Debug, Default)]
struct Stock {
    keys: Arc<[Arc<Key>]>,
    fetched: Option<Instant>,
}

// === impl Source ===

impl Source {
    /// What a person means: the keys themselves, an address or a file.
    pub fn new(text: &str) -> Self {
        let is_text = text.contains("-----BEGIN") || text.trim_ascii_start().starts_with('{');
        if is_text {
            Self::Text(text.to_owned())
        } else if text.starts_with("https://") || text.starts_with("http://") {
            Self::Address(text.to_owned())
        } else {
            Self::File(text.into())
        }
    }
}

/// Without what may be secret.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "Secret",
            Self::Text(_) => "Text",
            Self::File(_) => "File",
            Self::Address(_) => "Address",
        })
    }
}

// === impl Keyring ===

impl Keyring {
    /// The keys of these sources. Those of an address may come later, if it does not answer now.
    pub async fn load(sources: Vec<Source>) -> Result<Self, Error> {
        crypto::install();
        let shelves = sources.into_iter().map(Shelf::new);
        let keyring = Self {
            shelves: shelves.collect::<Result<_, _>>()?,
            asked: tokio::sync::Mutex::new(None),
        };
        let mut asked = keyring.asked.lock().await;
        for shelf in &keyring.shelves {
            match shelf.read().await {
                Err(error @ Error::Fetch(..)) => {
                    tracing::warn!(error = %chain(&error), "no keys yet, so no token counts");
                }
                read => read?,
            }
        }
        *asked = Some(Instant::now());
        drop(asked);
        Ok(keyring)
    }

    /// Reads files and addresses again. Where that fails the keys stay as they are.
    pub async fn reload(&self) -> Result<(), Error> {
        let mut asked = self.asked.lock().await;
        let mut result = Ok(());
        for shelf in &self.shelves {
            result = result.and(shelf.read().await);
        }
        *asked = Some(Instant::now());
        result
    }

    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.shelves
            .iter()
            .all(|shelf| shelf.stock().keys.is_empty())
    }

    /// The keys that a token may be signed with: those that it names, and those without a name. All
    /// of them, if it names none.
    pub(crate) fn named(&self, id: Option<&str>) -> Vec<Arc<Key>> {
        let stocks = self.shelves.iter().map(Shelf::stock);
        let keys = stocks.flat_map(|stock| stock.keys.to_vec());
        keys.filter(|key| match (&key.id, id) {
            (Some(name), Some(id)) => name == id,
            _ => true,
        })
        .collect()
    }

    /// Whether a key is known by just this name.
    pub(crate) fn has(&self, id: &str) -> bool {
        let is_it = |key: &Arc<Key>| key.id.as_deref() == Some(id);
        self.shelves
            .iter()
            .any(|shelf| shelf.stock().keys.iter().any(is_it))
    }

    /// Asks the address for keys that are not known, unless that was done just now.
    pub(crate) async fn look_for_more(&self) {
        if self.addresses().next().is_some() {
            // Who waits here looks at what the one before has found.
            let asked = self.asked.lock().await;
            self.ask(asked).await;
        }
    }

    /// Asks the address in a task of its own if its keys are old.
    pub(crate) fn keep_fresh(self: &Arc<Self>) {
        let is_old = |shelf: &Shelf| {
            let fetched = shelf.stock().fetched;
            fetched.is_none_or(|at| at.elapsed() > MAX_AGE)
        };
        if self.addresses().any(is_old) {
            let keyring = Arc::clone(self);
            tokio::spawn(async move {
                if let Ok(asked) = keyring.asked.try_lock() {
                    keyring.ask(asked).await;
                }
            });
        }
    }

    async fn ask(&self, mut asked: tokio::sync::MutexGuard<'_, Option<Instant>>) {
        if asked.is_some_and(|at| at.elapsed() < MIN_PAUSE) {
            return;
        }
        for shelf in self.addresses() {
            if let Err(error) = shelf.read().await {
                tracing::warn!(error = %chain(&error), "the keys stay as they are");
            }
        }
        *asked = Some(Instant::now());
    }

    fn addresses(&self) -> impl Iterator<Item = &Shelf> {
        let is_address = |shelf: &&Shelf| matches!(shelf.origin, Origin::Address(_));
        self.shelves.iter().filter(is_address)
    }
}

// === impl Shelf ===

impl Shelf {
    fn new(source: Source) -> Result<Self, Error> {
        let (origin, keys) = match source {
            Source::Secret(secret) => (Origin::Fixed, vec![Key::secret(secret.as_bytes())?]),
            Source::Text(text) => {
                let keys = keys::parse(&text, "the text that is given", Reach::Private)?;
                (Origin::Fixed, keys)
            }
            Source::File(path) => (Origin::File(path), Vec::new()),
            Source::Address(address) => (
                Origin::Address(Box::new(Address::new(&address)?)),
                Vec::new(),
            ),
        };
        let shelf = Self {
            origin,
            stock: Mutex::default(),
        };
        shelf.put(keys, None);
        Ok(shelf)
    }

    async fn read(&self) -> Result<(), Error> {
        let (keys, fetched) = match &self.origin {
            Origin::Fixed => return Ok(()),
            Origin::File(path) => {
                let place = path.display().to_string();
                let text = tokio::fs::read_to_string(path).await;
                let text = text.map_err(|error| Error::Read(place.clone(), error))?;
                (keys::parse(&text, &place, Reach::Private)?, None)
            }
            Origin::Address(address) => {
                let text = address.fetch().await?;
                let keys = keys::parse(&text, &address.to_string(), Reach::Public)?;
                (keys, Some(Instant::now()))
            }
        };
        tracing::info!(keys = keys.len(), "keys of tokens read");
        self.put(keys, fetched);
        Ok(())
    }

    fn put(&self, keys: Vec<Key>, fetched: Option<Instant>) {
        let keys = keys.into_iter().map(Arc::new).collect();
        *self.stock.lock().unwrap_or_else(PoisonError::into_inner) = Stock { keys, fetched };
    }

    fn stock(&self) -> Stock {
        // Nobody panics while holding it, as a stock is put there whole.
        self.stock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// An error and its causes, on one line.
fn chain(error: &Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| {
        error.source()
    });
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
