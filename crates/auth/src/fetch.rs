//! Keys at an address.

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::time::Duration;
use tokio::time;

use crate::Error;

/// How long an answer may take, all of it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of an answer.
const MAX_BYTES: usize = 256 * 1024;

/// Where keys are asked for.
#[derive(Debug)]
pub(crate) struct Address {
    uri: Uri,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl Address {
    /// An address that begins with `https://` or `http://`. Certificates are checked against those
    /// that the machine trusts.
    pub(crate) fn new(text: &str) -> Result<Self, Error> {
        let uri: Uri = text
            .parse()
            .map_err(|why| Error::Address(format!("{text:?}: {why}")))?;
        // It is shown in logs.
        if uri
            .authority()
            .is_none_or(|host| host.as_str().contains('@'))
        {
            return Err(Error::Address(
                "it must name a host, and no user".to_owned(),
            ));
        }
        let provider = rustls::crypto::ring::default_provider();
        let builder = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map_err(|why| Error::Address(format!("no certificates to trust: {why}")))?;
        let connector = builder.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        Ok(Self { uri, client })
    }

    /// What is there now.
    pub(crate) async fn fetch(&self) -> Result<String, Error> {
        let fetched = time::timeout(TIMEOUT, self.read()).await;
        let fetched =
            fetched.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}").into()));
        fetched.map_err(|cause| Error::Fetch(self.to_string(), cause))
    }

    async fn read(&self) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let request = Request::get(self.uri.clone())
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::USER_AGENT, "bellwether")
            .body(Empty::new())?;
        let response = self.client.request(request).await?;
        let status = response.status();
        if status != http::StatusCode::OK {
            // Redirects, too: to where keys come from, nobody but the operator points.
            return Err(format!("the answer is {status}").into());
        }
        let body = Limited::new(response.into_body(), MAX_BYTES)
            .collect()
            .await?;
        Ok(String::from_utf8(body.to_bytes().into())?)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.uri)
    }
}
