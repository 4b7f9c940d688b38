//! Makes tokens, for trying things out and for tests.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Map, Value, json};
use std::time::{Duration, SystemTime};

use crate::{Error, Rules, crypto, keys::MIN_SECRET_BYTES};

/// What a token is to say.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// `sub`, if it is to have one.
    pub subject: Option<String>,
    /// Patterns of the topics to read.
    pub subscribe: Vec<String>,
    /// Patterns of the topics to publish on.
    pub publish: Vec<String>,
    /// Whether it is also for `/metrics` and `/v1/status`.
    pub metrics: bool,
    /// From now until `exp`.
    pub life: Duration,
    /// `iss` and `aud`, if they are to be there.
    pub rules: Rules,
}

/// Signs tokens with a secret or a private key.
#[derive(Debug)]
pub struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    /// With a secret: HS256.
    pub fn secret(secret: &str) -> Result<Self, Error> {
        crypto::install();
        if secret.len() < MIN_SECRET_BYTES {
            return Err(Error::ShortSecret(secret.len()));
        }
        Ok(Self {
            algorithm: Algorithm::HS256,
            key: EncodingKey::from_secret(secret.as_bytes()),
        })
    }

    /// With a private key as PEM, in PKCS#8: RS256, ES256 or `EdDSA`, as the key is.
    pub fn private_key(pem: &str) -> Result<Self, Error> {
        crypto::install();
        if !pem.contains("PRIVATE KEY-----") {
            return Err(Error::NoSigner);
        }
        let pem = pem.as_bytes();
        let (algorithm, key) = if let Ok(key) = EncodingKey::from_ec_pem(pem) {
            (Algorithm::ES256, key)
        } else if let Ok(key) = EncodingKey::from_ed_pem(pem) {
            (Algorithm::EdDSA, key)
        } else {
            let key = EncodingKey::from_rsa_pem(pem).map_err(|_| Error::NoSigner)?;
            (Algorithm::RS256, key)
        };
        Ok(Self { algorithm, key })
    }

    /// A token that says this.
    pub fn token(&self, draft: &Draft) -> Result<String, Error> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let mut claims = Map::new();
        claims.insert("iat".to_owned(), now.into());
        claims.insert("exp".to_owned(), (now + draft.life.as_secs()).into());
        let texts = [
            ("sub", &draft.subject),
            ("iss", &draft.rules.issuer),
            ("aud", &draft.rules.audience),
        ];
        for (claim, text) in texts {
            if let Some(text) = text {
                claims.insert(claim.to_owned(), text.as_str().into());
            }
        }
        let mut granted = json!({"subscribe": draft.subscribe, "publish": draft.publish});
        if draft.metrics {
            granted["metrics"] = true.into();
        }
        claims.insert("bellwether".to_owned(), granted);
        self.sign(&Value::Object(claims))
    }

    /// A token with just these claims, whether or not they make sense.
    pub fn sign(&self, claims: &Value) -> Result<String, Error> {
        self.sign_as(None, claims)
    }

    /// The same, naming a key.
    pub fn sign_as(&self, key_id: Option<&str>, claims: &Value) -> Result<String, Error> {
        let mut header = Header::new(self.algorithm);
        header.kid = key_id.map(str::to_owned);
        encode(&header, claims, &self.key).map_err(|error| Error::Sign(error.into()))
    }
}
