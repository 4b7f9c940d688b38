//! Who is let in, and to what.

use auth::{Error, Grants, Identity, Rejected, Verifier};
use http::{HeaderMap, Method, Uri};
use hub::{Filter, Pattern};
use std::{fmt, sync::Arc};

use crate::{
    Origins,
    credentials::{self, Unclear},
    response::Refusal,
};

/// Decides who is let in. One for the process.
#[derive(Debug)]
pub struct Gate {
    lock: Option<Lock>,
    /// What is granted where there is no lock.
    everything: Arc<Grants>,
    origins: Origins,
}

#[derive(Debug)]
struct Lock {
    verifier: Verifier,
    /// Name of the cookie that a token may stand in.
    cookie: Option<String>,
    /// What is granted to whoever comes without a token; without this, nobody may.
    anonymous: Option<Arc<Grants>>,
}

/// Why somebody is not let in at all.
#[derive(Debug)]
pub(crate) enum Unauthorized {
    /// There is no token.
    Missing,
    /// There is one, but not where or as it should be.
    NotBearer,
    /// It does not count.
    Rejected(Rejected),
}

// === impl Gate ===

impl Gate {
    /// Lets everybody do everything. Tokens are not looked at.
    pub fn open(origins: Origins) -> Self {
        Self::new(None, origins)
    }

    /// Lets in who has a token, and others only to read these topics, if there are any.
    pub fn locked(
        verifier: Verifier,
        cookie: Option<String>,
        anonymous: Vec<Pattern>,
        origins: Origins,
    ) -> Self {
        let grants = Grants {
            subscribe: anonymous,
            ..Grants::default()
        };
        let anonymous = (!grants.subscribe.is_empty()).then(|| Arc::new(grants));
        let lock = Some(Lock {
            verifier,
            cookie,
            anonymous,
        });
        Self::new(lock, origins)
    }

    fn new(lock: Option<Lock>, origins: Origins) -> Self {
        Self {
            lock,
            everything: Arc::new(Grants::all()),
            origins,
        }
    }

    /// Reads the keys anew, from where they came. If that fails they stay as they are.
    pub async fn reload(&self) -> Result<(), Error> {
        match &self.lock {
            Some(lock) => lock.verifier.keyring().reload().await,
            None => Ok(()),
        }
    }

    /// Which pages of other origins may read here.
    pub(crate) fn origins(&self) -> &Origins {
        &self.origins
    }

    /// Who asks. Somebody whose token does not count is never taken for somebody without one.
    pub(crate) async fn admit(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Identity, Refusal> {
        let Some(lock) = &self.lock else {
            return Ok(Identity::anonymous(Arc::clone(&self.everything)));
        };
        let token = match credentials::find(uri, headers, lock.cookie.as_deref()) {
            Ok(token) => token,
            Err(Unclear::Several) => return Err(Refusal::SeveralTokens),
            Err(Unclear::NotBearer) => return Err(Unauthorized::NotBearer.into()),
        };
        let Some(token) = token else {
            let grants = lock.anonymous.as_ref().ok_or(Unauthorized::Missing)?;
            return Ok(Identity::anonymous(Arc::clone(grants)));
        };
        if token.is_cookie && !self.origins.is_meant(method, uri, headers) {
            return Err(Refusal::Origin);
        }
        let verified = lock.verifier.verify(&token.text, token.place).await;
        let verified = verified.inspect_err(|why| tracing::debug!(%why, "a token does not count"));
        verified.map_err(|why| match why {
            Rejected::NoKeys => Refusal::NoKeys,
            why => Unauthorized::Rejected(why).into(),
        })
    }
}

/// So much of a filter as somebody may read.
pub(crate) fn narrow(filter: Filter, identity: &Identity) -> Result<Filter, Refusal> {
    let granted = &identity.grants.subscribe;
    filter.within(granted).map_err(Refusal::NotGranted)
}

/// Whether somebody may look at the hub itself.
pub(crate) fn may_look(identity: &Identity) -> Result<(), Refusal> {
    let may = identity.grants.metrics;
    may.then_some(()).ok_or(Refusal::MayNotLook)
}

// === impl Unauthorized ===

impl Unauthorized {
    /// The word for it in an answer.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Missing => "no_token",
            Self::NotBearer | Self::Rejected(_) => "invalid_token",
        }
    }

    /// The word for it in metrics, which are not for whoever is turned away.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Missing => "no_token",
            Self::NotBearer => "not_bearer",
            Self::Rejected(why) => why.name(),
        }
    }

    /// The header `WWW-Authenticate`: RFC 6750 §3.
    pub(crate) fn challenge(&self) -> &'static str {
        match self {
            Self::Missing => r#"Bearer realm="bellwether""#,
            Self::NotBearer | Self::Rejected(_) => {
                r#"Bearer realm="bellwether", error="invalid_token""#
            }
        }
    }
}

impl From<Unauthorized> for Refusal {
    fn from(why: Unauthorized) -> Self {
        Self::Unauthorized(why)
    }
}

impl fmt::Display for Unauthorized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str(
                "this hub wants a token: send one in the header `Authorization: Bearer TOKEN`",
            ),
            Self::NotBearer => f.write_str("the header `Authorization` must be `Bearer TOKEN`"),
            Self::Rejected(why) => write!(f, "the token does not count: {why}"),
        }
    }
}
