//! Keys that signatures are verified with, and the forms that they come in: PEM and JWKS.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use simple_asn1::{ASN1Block, BigInt, BigUint};

use crate::Error;

/// Shortest secret, in bytes: what RFC 7518 §3.2 demands for HS256.
pub const MIN_SECRET_BYTES: usize = 32;

/// Shortest modulus of an RSA key, in bytes: 2048 bits, RFC 7518 §3.3.
const MIN_RSA_BYTES: usize = 256;

/// Most keys in a set. The limit is ours: without a `kid` each may have to be tried.
const MAX_KEYS: usize = 64;

/// A key, and the one algorithm it is for.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name, if it has one, which tokens know it by.
    pub(crate) id: Option<String>,
    pub(crate) algorithm: Algorithm,
    pub(crate) material: DecodingKey,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// Whether whoever can read keys at a place could sign with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// A file or a text of the hub's own: secrets may stand there.
    Private,
    /// An address: a secret there would be none.
    Public,
}

impl Key {
    /// The key of a secret that the hub and who signs share.
    pub(crate) fn secret(secret: &[u8]) -> Result<Self, Error> {
        if secret.len() < MIN_SECRET_BYTES {
            return Err(Error::ShortSecret(secret.len()));
        }
        Ok(Self {
            id: None,
            algorithm: Algorithm::HS256,
            material: DecodingKey::from_secret(secret),
        })
    }
}

/// The keys in a text: PEM blocks, a JWKS or a single JWK. There is one at least.
pub(crate) fn parse(text: &str, place: &str, reach: Reach) -> Result<Vec<Key>, Error> {
    let keys = if text.trim_ascii_start().starts_with('{') {
        parse_set(text, place, reach)
    } else {
        parse_pem(text)
    };
    let keys = keys.map_err(|why| Error::Keys(place.to_owned(), why))?;
    let why = match keys.len() {
        0 => "there is none that verifies HS256, RS256, ES256 or EdDSA".to_owned(),
        1..=MAX_KEYS => return Ok(keys),
        _ => format!("there are more than {MAX_KEYS}"),
    };
    Err(Error::Keys(place.to_owned(), why))
}

fn parse_pem(text: &str) -> Result<Vec<Key>, String> {
    let blocks = pem::parse_many(text).map_err(|why| why.to_string())?;
    if blocks.is_empty() {
        return Err(
            "it is neither PEM (-----BEGIN PUBLIC KEY-----) nor a JWKS ({\"keys\": …})".to_owned(),
        );
    }
    blocks.iter().map(parse_block).collect()
}

fn parse_block(block: &pem::Pem) -> Result<Key, String> {
    match block.tag() {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
        tag if tag.ends_with("PRIVATE KEY") => {
            return Err(
                "this is a private key, and a hub needs the public one only: \
                 openssl pkey -in KEY -pubout"
                    .to_owned(),
            );
        }
        tag => {
            return Err(format!(
                "a block is a {tag:?}, and only a \"PUBLIC KEY\" can be used"
            ));
        }
    }
    let text = pem::encode(block);
    let text = text.as_bytes();
    let (algorithm, key) = if let Ok(key) = DecodingKey::from_ec_pem(text) {
        (Algorithm::ES256, key)
    } else if let Ok(key) = DecodingKey::from_ed_pem(text) {
        (Algorithm::EdDSA, key)
    } else if let Ok(key) = DecodingKey::from_rsa_pem(text) {
        (Algorithm::RS256, key)
    } else {
        return Err("a block is no RSA, P-256 or Ed25519 key".to_owned());
    };
    check(algorithm, &key)?;
    Ok(Key {
        id: None,
        algorithm,
        material: key,
    })
}

/// Whether the key has the size that its algorithm demands.
fn check(algorithm: Algorithm, key: &DecodingKey) -> Result<(), String> {
    let bytes = key.try_get_as_bytes().map_err(|why| why.to_string())?;
    match algorithm {
        Algorithm::HS256 if bytes.len() < MIN_SECRET_BYTES => {
            Err(Error::ShortSecret(bytes.len()).to_string())
        }
        // The modulus, and little else.
        Algorithm::RS256 if bytes.len() < MIN_RSA_BYTES => {
            Err("an RSA key has fewer than 2048 bits".to_owned())
        }
        // Uncompressed, which is how all write them.
        Algorithm::ES256 if bytes.len() != 65 || bytes[0] != 4 => {
            Err("an elliptic curve's key is not of P-256".to_owned())
        }
        Algorithm::EdDSA if bytes.len() != 32 => {
            Err("an Edwards curve's key is not of Ed25519".to_owned())
        }
        _ => Ok(()),
    }
}

fn parse_set(text: &str, place: &str, reach: Reach) -> Result<Vec<Key>, String> {
    let value: Value = serde_json::from_str(text).map_err(|why| format!("it is no JSON: {why}"))?;
    let set = if value.get("kty").is_some() {
        vec![value]
    } else {
        let set: Set =
            serde_json::from_value(value).map_err(|why| format!("it is no JWKS: {why}"))?;
        set.keys
    };
    // A set may hold keys for other purposes, and such as only others understand.
    let keys = set
        .into_iter()
        .filter_map(|value| match parse_jwk(value, reach) {
            Ok(key) => Some(key),
            Err(why) => {
                tracing::debug!(place, why, "a key is left out");
                None
            }
        });
    Ok(keys.collect())
}

fn parse_jwk(value: Value, reach: Reach) -> Result<Key, String> {
    let jwk: Jwk = serde_json::from_value(value).map_err(|why| why.to_string())?;
    if !matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    ) {
        return Err("it is not for signatures".to_owned());
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        AlgorithmParameters::OctetKey(_) if reach == Reach::Private => Algorithm::HS256,
        AlgorithmParameters::OctetKey(_) => {
            return Err("a secret that can be fetched is none".to_owned());
        }
        _ => return Err("its kind is not known here".to_owned()),
    };
    let named = jwk.common.key_algorithm;
    if named.is_some_and(|named| named != KeyAlgorithm::from(algorithm)) {
        return Err("its algorithm is not used here".to_owned());
    }
    let key = match &jwk.algorithm {
        AlgorithmParameters::RSA(key) => rsa(&key.n, &key.e)?,
        _ => DecodingKey::from_jwk(&jwk).map_err(|why| why.to_string())?,
    };
    check(algorithm, &key)?;
    Ok(Key {
        id: jwk.common.key_id,
        algorithm,
        material: key,
    })
}

/// An RSA key of its parts, as DER, which is the one form that `crypto` sees.
fn rsa(modulus: &str, exponent: &str) -> Result<DecodingKey, String> {
    let number = |text: &str| {
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|why| why.to_string())?;
        let number = BigInt::from(BigUint::from_bytes_be(&bytes));
        Ok::<_, String>(ASN1Block::Integer(0, number))
    };
    let parts = vec![number(modulus)?, number(exponent)?];
    let der = simple_asn1::to_der(&ASN1Block::Sequence(0, parts)).map_err(|why| why.to_string())?;
    Ok(DecodingKey::from_rsa_der(&der))
}
