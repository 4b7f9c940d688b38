//! What goes wrong with keys, and what is wrong with tokens.

use std::{fmt, time::Duration};

use crate::{LEEWAY, MAX_QUERY_LIFE, MIN_SECRET_BYTES};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Keys that cannot be had.
#[derive(Debug)]
pub enum Error {
    /// A file cannot be read.
    Read(String, std::io::Error),
    /// An address cannot be read, or does not answer as it should.
    Fetch(String, Cause),
    /// What is there are no keys: where, and why.
    Keys(String, String),
    /// A secret is too short.
    ShortSecret(usize),
    /// No address.
    Address(String),
    /// Nothing to sign with.
    NoSigner,
    /// It cannot be signed.
    Sign(Cause),
}

/// Why a token does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// It is no JSON Web Token, or has parts that nobody here understands.
    Malformed,
    /// Its algorithm is not that of the key it should be signed with.
    Algorithm,
    /// No key is known by its `kid`.
    UnknownKey,
    /// Signed with another key, or changed since.
    Signature,
    /// Its `exp` is over.
    Expired,
    /// Its `nbf` is not yet.
    NotYet,
    /// Its `iss` is another.
    Issuer,
    /// Its `aud` is another.
    Audience,
    /// This claim is missing.
    Missing(String),
    /// A claim is not what it should be.
    Claim(String),
    /// It stood in a query, and counts for longer than such a one may.
    LivesTooLong,
    /// No key could be had yet: not the token's fault.
    NoKeys,
}

// === impl Error ===

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, _) => write!(f, "cannot read the keys in {path}"),
            Self::Fetch(address, _) => write!(f, "cannot fetch the keys at {address}"),
            Self::Keys(place, why) => write!(f, "no keys to be had from {place}: {why}"),
            Self::ShortSecret(bytes) => write!(
                f,
                "a secret of {bytes} bytes can be guessed: give it {MIN_SECRET_BYTES} at least, \
                 such as those of `openssl rand -hex 32`"
            ),
            Self::Address(why) => write!(f, "not an address of keys: {why}"),
            Self::NoSigner => f.write_str(
                "nothing to sign with: give the secret, or a file with a private key in PKCS#8 \
                 (-----BEGIN PRIVATE KEY-----)",
            ),
            Self::Sign(_) => f.write_str("cannot sign a token"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(_, cause) => Some(cause),
            Self::Fetch(_, cause) | Self::Sign(cause) => Some(&**cause),
            _ => None,
        }
    }
}

// === impl Rejected ===

impl Rejected {
    /// In one word, for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Missing(_) => "missing_claim",
            Self::Claim(_) => "claim",
            Self::LivesTooLong => "lives_too_long",
            Self::NoKeys => "no_keys",
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = |time: Duration| time.as_secs() / 60;
        match self {
            Self::Malformed => f.write_str("it is no JSON Web Token that is understood here"),
            Self::Algorithm => {
                f.write_str("its `alg` is not that of the key it should be signed with")
            }
            Self::UnknownKey => f.write_str("no key is known by its `kid`"),
            Self::Signature => f.write_str("its signature is not by a key of this hub"),
            Self::Expired => f.write_str("it has expired: get a new one"),
            Self::NotYet => write!(
                f,
                "its `nbf` is more than {} s ahead of this hub's clock",
                LEEWAY.as_secs()
            ),
            Self::Issuer => f.write_str("its `iss` is not the issuer that this hub trusts"),
            Self::Audience => f.write_str("its `aud` does not name this hub"),
            Self::Missing(claim) => write!(f, "its claim `{claim}` is missing"),
            Self::Claim(why) => write!(f, "its claims are not what they should be: {why}"),
            Self::LivesTooLong => write!(
                f,
                "a token in the address may count for {} minutes, from `iat` to `exp`: \
                 others go into the header `Authorization: Bearer`",
                minutes(MAX_QUERY_LIFE)
            ),
            Self::NoKeys => f.write_str("the keys to verify it with could not be fetched yet"),
        }
    }
}

impl std::error::Error for Rejected {}
