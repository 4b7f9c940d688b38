//! TLS for clients: the certificate, and how it is replaced while the hub runs.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use rustls::{
    ServerConfig,
    crypto::ring::{self, Ticketer},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};
use std::{
    fmt, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// A certificate and its key, in files of PEM, which are read anew when they change.
#[derive(Debug)]
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    state: Mutex<State>,
    failed_handshakes: Counter,
    failed_reloads: Counter,
    reloads: Counter,
    is_stale: Gauge,
}

#[derive(Debug)]
struct State {
    config: Arc<ServerConfig>,
    /// What stood in the files when they were last looked at, good or bad.
    seen: u64,
}

/// What is wrong with a certificate or its key.
#[derive(Debug)]
pub enum InvalidCertificate {
    /// A file cannot be read.
    Read(PathBuf, io::Error),
    /// A file holds no PEM of the right kind.
    Pem(PathBuf, &'static str, pem::Error),
    /// The two do not belong together, or cannot be used.
    Pair(PathBuf, rustls::Error),
}

impl Tls {
    /// Reads both files, of which the first may hold a whole chain.
    pub fn load(cert: PathBuf, key: PathBuf) -> Result<Self, InvalidCertificate> {
        let text = read(&cert, &key)?;
        let config = config(&cert, &key, &text)?;
        let seen = hash(&text);
        Ok(Self {
            cert,
            key,
            state: Mutex::new(State { config, seen }),
            failed_handshakes: Counter::default(),
            failed_reloads: Counter::default(),
            reloads: Counter::default(),
            is_stale: Gauge::default(),
        })
    }

    /// Takes what the files hold now, for the connections that come. If that cannot be used, what was
    /// there before stays, and a line in the log and a metric say so.
    pub fn reload(&self) {
        let text = match read(&self.cert, &self.key) {
            Ok(text) => text,
            Err(error) => return self.refuse(&error),
        };
        let seen = hash(&text);
        if self.state().seen == seen {
            return;
        }
        match config(&self.cert, &self.key, &text) {
            Ok(config) => {
                *self.state() = State { config, seen };
                self.reloads.inc();
                self.is_stale.set(0);
                tracing::info!(certificate = %self.cert.display(), "certificate replaced");
            }
            Err(error) => {
                self.state().seen = seen;
                self.refuse(&error);
            }
        }
    }

    fn refuse(&self, error: &InvalidCertificate) {
        self.failed_reloads.inc();
        let was_stale = self.is_stale.set(1) == 1;
        if was_stale && matches!(error, InvalidCertificate::Read(..)) {
            return; // said already, and will be found at each look
        }
        tracing::error!(
            error = %pg::chain(error),
            "the new certificate cannot be used: clients go on being shown the old one"
        );
    }

    /// Looks at the files now and then.
    pub(crate) async fn watch(&self) {
        loop {
            time::sleep(LOOK_INTERVAL).await;
            self.reload();
        }
    }

    /// What to shake hands with.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.state().config)
    }

    pub(crate) fn handshake_failed(&self) {
        self.failed_handshakes.inc();
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "tls_handshakes_failed",
            "Connections that did not get as far as a request, because of TLS",
            self.failed_handshakes.clone(),
        );
        registry.register(
            "tls_reloads",
            "Times that the certificate was replaced",
            self.reloads.clone(),
        );
        registry.register(
            "tls_reloads_failed",
            "Times that a new certificate could not be used",
            self.failed_reloads.clone(),
        );
        registry.register(
            "tls_certificate_stale",
            "1 while what the files hold cannot be used, and the certificate from before is shown",
            self.is_stale.clone(),
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands in both files.
fn read(cert: &Path, key: &Path) -> Result<[Vec<u8>; 2], InvalidCertificate> {
    let read = |path: &Path| {
        fs::read(path).map_err(|error| InvalidCertificate::Read(path.to_owned(), error))
    };
    Ok([read(cert)?, read(key)?])
}

fn hash(text: &[Vec<u8>; 2]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn config(
    cert: &Path,
    key: &Path,
    [chain, secret]: &[Vec<u8>; 2],
) -> Result<Arc<ServerConfig>, InvalidCertificate> {
    let pem = |path: &Path, what| {
        let path = path.to_owned();
        move |error| InvalidCertificate::Pem(path, what, error)
    };
    let pair = |error| InvalidCertificate::Pair(cert.to_owned(), error);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(pem(cert, "certificate"))?;
    if chain.is_empty() {
        return Err(pem(cert, "certificate")(pem::Error::NoItemsFound));
    }
    let secret = PrivateKeyDer::from_pem_slice(secret).map_err(pem(key, "private key"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // So that thousands who come back at once need no signature each, and nothing is kept for them.
    config.ticketer = Ticketer::new().map_err(pair)?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

impl fmt::Display for InvalidCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, _) => write!(f, "cannot read {}", path.display()),
            Self::Pem(path, what, _) => write!(
                f,
                "{} holds no {what} in PEM, which begins with -----BEGIN",
                path.display()
            ),
            Self::Pair(path, _) => write!(
                f,
                "the certificate in {} cannot be used with its key",
                path.display()
            ),
        }
    }
}

impl std::error::Error for InvalidCertificate {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(_, error) => Some(error),
            Self::Pem(_, _, error) => Some(error),
            Self::Pair(_, error) => Some(error),
        }
    }
}
