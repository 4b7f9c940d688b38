//! TLS to a hub, for those who speak to one.

use anyhow::{Context, Result, ensure};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{io, path::Path, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Shakes hands with one hub.
pub(crate) struct Https {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Https {
    /// For the hub of this name, whose certificate a root in this file has signed, or else one of the
    /// system's.
    pub(crate) fn new(host: &str, roots: Option<&Path>) -> Result<Self> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned())
            .with_context(|| format!("{host:?} is no name that a certificate could be for"))?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(root_store(roots)?)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { connector, name })
    }

    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

fn root_store(file: Option<&Path>) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let Some(path) = file else {
        // Some systems carry some that cannot be parsed.
        let (added, _) =
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        ensure!(
            added > 0,
            "this system has no root certificates: install ca-certificates, or name a file with --ca"
        );
        return Ok(store);
    };
    let bad = || format!("{} cannot be read as certificates in PEM", path.display());
    for root in CertificateDer::pem_file_iter(path).with_context(bad)? {
        store.add(root.with_context(bad)?).with_context(bad)?;
    }
    ensure!(!store.is_empty(), "{}", bad());
    Ok(store)
}
