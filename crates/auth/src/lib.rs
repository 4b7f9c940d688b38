//! Tokens: who signed them, whether they count now, and what they grant.
//!
//! A token is a JSON Web Token (RFC 7519), signed by whoever lets people in: the user's own
//! application, or an identity provider. A [`Keyring`] holds the keys that such signatures are
//! verified with, from a file, a text or an address, and a [`Verifier`] makes an [`Identity`]
//! of a token, or says why not. [`Signer`] makes tokens, for trying things out and for tests.
//!
//! # Invariants
//!
//! - A key has one algorithm, which the key says and never the token.
//! - No error says anything of a token but what is wrong with it, and none says a secret.
//! - No HTTP server here; [`Keyring`] is a client of one, if the keys are at an address.

mod claims;
mod crypto;
mod error;
mod fetch;
mod keyring;
mod keys;
mod signer;
mod verifier;

pub use claims::{Grants, Identity};
pub use error::{Error, Rejected};
pub use keyring::{Keyring, Source};
pub use keys::MIN_SECRET_BYTES;
pub use signer::{Draft, Signer};
pub use verifier::{LEEWAY, MAX_QUERY_LIFE, Place, Rules, Verifier};
