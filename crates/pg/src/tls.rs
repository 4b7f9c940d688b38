//! TLS to Postgres, asked for as libpq does: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`.
//!
//! Source: the documentation of Postgres, "SSL Support" of libpq.

use percent_encoding::percent_decode_str;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as RustlsError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem, pem::PemObject},
};
use std::{
    env, fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

/// What libpq looks at below the home folder, if no file is named.
const DEFAULT_ROOTS: &str = ".postgresql/root.crt";

/// The parameters that are ours to read; the driver knows fewer modes and no files.
const OURS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];

/// What a connection string says of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsOptions {
    mode: Option<String>,
    roots: Option<String>,
    cert: Option<String>,
    key: Option<String>,
}

/// Why TLS cannot be spoken as a connection string asks.
#[derive(Debug)]
pub enum InvalidTls {
    /// There is no such `sslmode`.
    Mode(String),
    /// `sslrootcert=system` with a mode that does not look at the name: anybody has a certificate.
    WeakSystem(String),
    /// A file cannot be read, or holds no PEM of the right kind.
    File(PathBuf, pem::Error),
    /// Nothing to verify the server's certificate with: no file is named, and this one is not there.
    NoRoots(PathBuf),
    /// The system has no certificates; why, if that is known.
    NoSystemRoots(Option<rustls_native_certs::Error>),
    /// Only one of `sslcert` and `sslkey`.
    HalfPair,
    /// These certificates cannot be used.
    Certificates(RustlsError),
}

/// How far a server's certificate is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verify {
    Nothing,
    /// That it is signed by a root.
    Signature,
    /// And that it is the host's.
    Full,
}

impl TlsOptions {
    /// Takes what is ours out of a connection string, of either form. What is malformed is left to
    /// the driver to refuse.
    pub(crate) fn take(connection: &str) -> (String, Self) {
        let mut options = Self::default();
        let is_url = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| connection.starts_with(scheme));
        let rest = if is_url {
            options.take_from_url(connection)
        } else {
            options.take_from_pairs(connection)
        };
        (rest, options)
    }

    fn take_from_url(&mut self, url: &str) -> String {
        // Before that, it may stand in a password.
        let host = url.find('@').unwrap_or(0);
        let Some(question) = url[host..].find('?') else {
            return url.to_owned();
        };
        let (base, parameters) = url.split_at(host + question);
        let kept: Vec<&str> = parameters[1..]
            .split('&')
            .filter(|parameter| {
                let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                let value = percent_decode_str(value).decode_utf8_lossy();
                !self.set(name, &value)
            })
            .collect();
        let separator = if kept.is_empty() { "" } else { "?" };
        format!("{base}{separator}{}", kept.join("&"))
    }

    fn take_from_pairs(&mut self, pairs: &str) -> String {
        let mut kept = String::new();
        let mut rest = pairs;
        while let Some(pair) = Pair::next(rest) {
            if !self.set(pair.name, &pair.value) {
                kept.push_str(&rest[..pair.len]);
            }
            rest = &rest[pair.len..];
        }
        kept + rest
    }

    /// Whether it was ours.
    fn set(&mut self, name: &str, value: &str) -> bool {
        let field = match name {
            "sslmode" => &mut self.mode,
            "sslrootcert" => &mut self.roots,
            "sslcert" => &mut self.cert,
            "sslkey" => &mut self.key,
            _ => return false,
        };
        *field = Some(value.to_owned()).filter(|value| !value.is_empty());
        debug_assert!(OURS.contains(&name));
        true
    }

    /// What the driver is to do, and with what.
    pub(crate) fn connector(&self) -> Result<(SslMode, MakeRustlsConnect), InvalidTls> {
        let is_system = self.roots.as_deref() == Some("system");
        let mode = match &self.mode {
            Some(mode) => mode.as_str(),
            None if is_system => "verify-full",
            None => "prefer",
        };
        let default_roots = env::home_dir().unwrap_or_default().join(DEFAULT_ROOTS);
        let (mode, verify) = match mode {
            "disable" => (SslMode::Disable, Verify::Nothing),
            // libpq would first try without; this is no worse.
            "allow" | "prefer" => (SslMode::Prefer, Verify::Nothing),
            // As libpq: who has roots wants them looked at.
            "require" if self.roots.is_some() || default_roots.exists() => {
                (SslMode::Require, Verify::Signature)
            }
            "require" => (SslMode::Require, Verify::Nothing),
            "verify-ca" => (SslMode::Require, Verify::Signature),
            "verify-full" => (SslMode::Require, Verify::Full),
            other => return Err(InvalidTls::Mode(other.to_owned())),
        };
        if is_system && verify != Verify::Full {
            let mode = self.mode.clone().unwrap_or_default();
            return Err(InvalidTls::WeakSystem(mode));
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(InvalidTls::Certificates)?;
        let verifier: Arc<dyn ServerCertVerifier> = match verify {
            Verify::Nothing => Arc::new(Lenient {
                signature: None,
                provider,
            }),
            Verify::Signature => Arc::new(Lenient {
                signature: Some(verifier(self.root_store(default_roots)?, &provider)?),
                provider,
            }),
            Verify::Full => verifier(self.root_store(default_roots)?, &provider)?,
        };
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match (&self.cert, &self.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates(Path::new(cert))?;
                let secret = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| InvalidTls::File(key.into(), error))?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(InvalidTls::Certificates)?
            }
            _ => return Err(InvalidTls::HalfPair),
        };
        // Demanded where TLS begins without a question (sslnegotiation=direct).
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok((mode, MakeRustlsConnect::new(config)))
    }

    fn root_store(&self, default: PathBuf) -> Result<RootCertStore, InvalidTls> {
        let mut store = RootCertStore::empty();
        match self.roots.as_deref() {
            Some("system") => {
                let mut found = rustls_native_certs::load_native_certs();
                // Some systems carry some that cannot be parsed.
                let (added, _) = store.add_parsable_certificates(found.certs);
                if added == 0 {
                    return Err(InvalidTls::NoSystemRoots(found.errors.pop()));
                }
                return Ok(store);
            }
            None if !default.exists() => return Err(InvalidTls::NoRoots(default)),
            named => {
                let path = named.map_or(default, PathBuf::from);
                for root in certificates(&path)? {
                    store.add(root).map_err(InvalidTls::Certificates)?;
                }
            }
        }
        Ok(store)
    }
}

/// `name = value` in a connection string, with the spaces before it.
struct Pair<'a> {
    name: &'a str,
    value: String,
    /// In bytes.
    len: usize,
}

impl<'a> Pair<'a> {
    fn next(text: &'a str) -> Option<Self> {
        let (name, rest) = text.split_once('=')?;
        let value = rest.trim_start();
        let is_quoted = value.starts_with('\'');
        let mut decoded = String::new();
        let mut chars = value.char_indices().skip(usize::from(is_quoted));
        let end = loop {
            match chars.next() {
                None if is_quoted => return None,
                None => break value.len(),
                Some((at, '\'')) if is_quoted => break at + 1,
                Some((at, c)) if !is_quoted && c.is_whitespace() => break at,
                Some((_, '\\')) => decoded.push(chars.next()?.1),
                Some((_, c)) => decoded.push(c),
            }
        };
        Some(Self {
            name: name.trim(),
            value: decoded,
            len: text.len() - value.len() + end,
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, InvalidTls> {
    let invalid = |error| InvalidTls::File(path.to_owned(), error);
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(invalid)?;
    if certificates.is_empty() {
        return Err(invalid(pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

fn verifier(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, InvalidTls> {
    let builder = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(provider));
    builder
        .build()
        .map_err(|error| InvalidTls::Certificates(RustlsError::General(error.to_string())))
}

/// Takes any certificate, or any that a root has signed, whosoever it is.
#[derive(Debug)]
struct Lenient {
    signature: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        let Some(verifier) = &self.signature else {
            return Ok(ServerCertVerified::assertion());
        };
        match verifier.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // It looks at the name last.
            Err(RustlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Whether a connection failed because of what both sides are, so that no waiting helps: the server
/// speaks no TLS, or its certificate is not what was asked for.
pub(crate) fn is_refusal(error: &tokio_postgres::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let rustls = inner.and_then(|inner| inner.downcast_ref());
        if let Some(RustlsError::InvalidCertificate(_)) = rustls {
            return true;
        }
        // The driver's own refusal has no type.
        if error.to_string() == "server does not support TLS" {
            return true;
        }
        cause = error.source();
    }
    false
}

impl fmt::Display for InvalidTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mode(mode) => write!(
                f,
                "sslmode={mode} is none of disable, allow, prefer, require, verify-ca and verify-full"
            ),
            Self::WeakSystem(mode) => write!(
                f,
                "sslrootcert=system with sslmode={mode} would trust anybody who has a certificate: use verify-full"
            ),
            Self::File(path, _) => {
                write!(
                    f,
                    "{} cannot be read as certificate or key in PEM",
                    path.display()
                )
            }
            Self::NoRoots(path) => write!(
                f,
                "there is nothing to verify the server's certificate with: say sslrootcert=FILE or \
                 sslrootcert=system, or put the roots into {}",
                path.display()
            ),
            Self::NoSystemRoots(_) => f.write_str(
                "sslrootcert=system, but this system has no certificates: install ca-certificates",
            ),
            Self::HalfPair => {
                f.write_str("sslcert and sslkey belong together: give both or neither")
            }
            Self::Certificates(_) => f.write_str("these certificates cannot be used"),
        }
    }
}

impl std::error::Error for InvalidTls {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(_, error) => Some(error),
            Self::NoSystemRoots(Some(error)) => Some(error),
            Self::Certificates(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(connection: &str, rest: &str, mode: Option<&str>, roots: Option<&str>) {
        let (left, options) = TlsOptions::take(connection);
        assert_eq!(
            (
                left.as_str(),
                options.mode.as_deref(),
                options.roots.as_deref()
            ),
            (rest, mode, roots)
        );
    }

    #[test]
    fn ours_is_taken_out() {
        check("postgres://u:p@h/x", "postgres://u:p@h/x", None, None);
        check(
            "postgres://u:p@h/x?sslmode=verify-full",
            "postgres://u:p@h/x",
            Some("verify-full"),
            None,
        );
        check(
            "postgres://u:p@h/x?a=1&sslmode=verify-ca&sslrootcert=%2Fa%20b&c=2",
            "postgres://u:p@h/x?a=1&c=2",
            Some("verify-ca"),
            Some("/a b"),
        );
        check(
            "postgresql://u:?sslmode=no@h/x",
            "postgresql://u:?sslmode=no@h/x",
            None,
            None,
        );
        check("postgres:///x?sslmode=", "postgres:///x", None, None);
        check(
            "host=h sslmode=require user=u",
            "host=h user=u",
            Some("require"),
            None,
        );
        check(
            "host = h  sslrootcert = '/a \\'b' user='x y'",
            "host = h user='x y'",
            None,
            Some("/a 'b"),
        );
        check(
            "password='sslmode=x' sslmode=x",
            "password='sslmode=x'",
            Some("x"),
            None,
        );
        check("host=h user='x", "host=h user='x", None, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refuse = |connection: &str, part: &str| {
            let (_, options) = TlsOptions::take(connection);
            let said = options.connector().map(drop).unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        };
        refuse("sslmode=maybe", "sslmode=maybe is none of");
        refuse("sslmode=require sslrootcert=system", "would trust anybody");
        refuse("sslmode=require sslcert=/a", "belong together");
        refuse(
            "sslmode=verify-ca sslrootcert=/no/such",
            "/no/such cannot be read",
        );
    }

    proptest! {
        #[test]
        fn what_is_not_ours_stays_as_it_is(text in "[ -~äß]{0,60}") {
            let (rest, options) = TlsOptions::take(&text);
            if options == TlsOptions::default() && !OURS.iter().any(|name| text.contains(name)) {
                prop_assert_eq!(rest, text);
            }
        }
    }
}
