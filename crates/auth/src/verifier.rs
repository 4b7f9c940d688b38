//! From a token to an identity.

use jsonwebtoken::{
    Header, TokenData, Validation, decode, decode_header,
    errors::{Error, ErrorKind},
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{Identity, Keyring, Rejected, claims::Claims, keys::Key};

/// How far clocks may be apart: `exp` and `nbf` are taken so much more kindly.
pub const LEEWAY: Duration = Duration::from_secs(5);

/// Longest time, from `iat` to `exp`, that a token counts which stands in a query. Addresses get
/// into logs and histories; by then it should be worth nothing.
pub const MAX_QUERY_LIFE: Duration = Duration::from_mins(10);

/// What tokens must say, beside being signed and not over.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// What `iss` must be. `None`: it is not looked at.
    pub issuer: Option<String>,
    /// What `aud` must be, or have among others. `None`: it is not looked at.
    pub audience: Option<String>,
}

/// Where a token stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A header, which nobody writes down.
    Header,
    /// The query of an address.
    Query,
}

/// Verifies tokens.
#[derive(Debug)]
pub struct Verifier {
    keyring: Arc<Keyring>,
    rules: Rules,
}

impl Verifier {
    /// By these keys and rules.
    pub fn new(keyring: Keyring, rules: Rules) -> Self {
        Self {
            keyring: Arc::new(keyring),
            rules,
        }
    }

    /// The keys, to have them read anew.
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// Who has this token. Waits at most as long as keys take to be fetched, if it names one that is
    /// not known.
    pub async fn verify(&self, token: &str, place: Place) -> Result<Identity, Rejected> {
        let header = decode_header(token).map_err(|_| Rejected::Malformed)?;
        // Whoever does not understand what it lists must refuse it: RFC 7515 §4.1.11.
        if header.crit.is_some() {
            return Err(Rejected::Malformed);
        }
        self.keyring.keep_fresh();
        let claims = match self.claims(token, &header) {
            // It names a key that is not here, or none: it may be by one that is new.
            Err(why) if why.is_of_the_key() && !self.is_known(&header) => {
                self.keyring.look_for_more().await;
                self.claims(token, &header)
            }
            done => done,
        }?;
        if place == Place::Query {
            let life = claims.life(SystemTime::now());
            if life.is_none_or(|life| life > MAX_QUERY_LIFE) {
                return Err(Rejected::LivesTooLong);
            }
        }
        claims.identity()
    }

    fn is_known(&self, header: &Header) -> bool {
        header.kid.as_deref().is_some_and(|id| self.keyring.has(id))
    }

    /// What a token says that is signed by one of the keys that are here.
    fn claims(&self, token: &str, header: &Header) -> Result<Claims, Rejected> {
        let keys = self.keyring.named(header.kid.as_deref());
        if keys.is_empty() {
            return Err(if self.keyring.is_empty() {
                Rejected::NoKeys
            } else {
                Rejected::UnknownKey
            });
        }
        let mut why = Rejected::Algorithm;
        for key in keys.iter().filter(|key| key.algorithm == header.alg) {
            match decode(token, &key.material, &self.validation(key)) {
                Ok(TokenData { claims, .. }) => return Ok(claims),
                Err(error) => match rejected(&error) {
                    Rejected::Signature => why = Rejected::Signature,
                    // Its signature is good, so no other key will do better.
                    other => return Err(other),
                },
            }
        }
        Err(why)
    }

    fn validation(&self, key: &Key) -> Validation {
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        if let Some(issuer) = &self.rules.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        match &self.rules.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

impl Rejected {
    /// Whether another key might verify it.
    fn is_of_the_key(&self) -> bool {
        matches!(
            self,
            Self::UnknownKey | Self::Signature | Self::Algorithm | Self::NoKeys
        )
    }
}

fn rejected(error: &Error) -> Rejected {
    match error.kind() {
        ErrorKind::InvalidSignature => Rejected::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Rejected::Algorithm,
        ErrorKind::ExpiredSignature => Rejected::Expired,
        ErrorKind::ImmatureSignature => Rejected::NotYet,
        ErrorKind::InvalidIssuer => Rejected::Issuer,
        ErrorKind::InvalidAudience => Rejected::Audience,
        ErrorKind::MissingRequiredClaim(claim) => Rejected::Missing(claim.clone()),
        ErrorKind::InvalidClaimFormat(claim) => Rejected::Claim(format!("`{claim}` is no time")),
        // Of claims whose signature is good.
        ErrorKind::Json(why) => Rejected::Claim(why.to_string()),
        _ => Rejected::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Draft, Error, Grants, Signer, Source};
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use hub::{Pattern, Topic};
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
    };
    use serde_json::{Value, json};

    const SECRET: &str = "a secret of thirty-two bytes, or more";

    async fn verifier(source: Source, rules: Rules) -> Verifier {
        Verifier::new(Keyring::load(vec![source]).await.unwrap(), rules)
    }

    fn now() -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap().as_secs()
    }

    fn rules() -> Rules {
        Rules {
            issuer: Some("app".to_owned()),
            audience: Some("hub".to_owned()),
        }
    }

    /// Claims that count, with some changed, and those that are null left out.
    fn claims(changes: &Value) -> Value {
        let mut claims = json!({
            "sub": "ada", "iss": "app", "aud": ["hub", "other"], "iat": now(), "exp": now() + 60,
            "bellwether": {"subscribe": ["org.7.>"], "publish": ["org.7.notes"]},
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        claims
    }

    async fn verify_with(place: Place, changes: Value) -> Result<Identity, Rejected> {
        let verifier = verifier(Source::Secret(SECRET.to_owned()), rules()).await;
        let token = Signer::secret(SECRET)
            .unwrap()
            .sign(&claims(&changes))
            .unwrap();
        verifier.verify(&token, place).await
    }

    async fn verify(changes: Value) -> Result<Identity, Rejected> {
        verify_with(Place::Header, changes).await
    }

    #[tokio::test]
    async fn what_a_token_grants() {
        let identity = verify(json!({})).await.unwrap();
        assert_eq!(identity.subject.as_deref(), Some("ada"));
        let grants = Grants {
            subscribe: vec![Pattern::new("org.7.>").unwrap()],
            publish: vec![Pattern::new("org.7.notes").unwrap()],
            metrics: false,
        };
        assert_eq!(*identity.grants, grants);
        assert!(grants.may_publish(&Topic::new("org.7.notes").unwrap()));
        assert!(!grants.may_publish(&Topic::new("org.7.other").unwrap()));
        let identity = verify(json!({"bellwether": null, "sub": null}))
            .await
            .unwrap();
        assert_eq!((*identity.grants).clone(), Grants::default());
        assert_eq!(identity.subject, None);
    }

    #[tokio::test]
    async fn what_its_claims_must_be() {
        use Rejected::{Audience, Claim, Expired, Issuer, Missing, NotYet};
        let missing = |claim: &str| Err(Missing(claim.to_owned()));
        assert_eq!(verify(json!({"exp": now() - 7})).await, Err(Expired));
        assert!(
            verify(json!({"exp": now() - 2})).await.is_ok(),
            "clocks differ"
        );
        assert_eq!(verify(json!({"nbf": now() + 9})).await, Err(NotYet));
        assert!(verify(json!({"nbf": now() + 2})).await.is_ok());
        assert_eq!(verify(json!({"iss": "another"})).await, Err(Issuer));
        assert_eq!(verify(json!({"iss": null})).await, missing("iss"));
        assert_eq!(verify(json!({"aud": ["other"]})).await, Err(Audience));
        assert_eq!(verify(json!({"aud": null})).await, missing("aud"));
        for wrong in [
            json!({"exp": null}),
            json!({"exp": "tomorrow"}),
            json!({"nbf": "yesterday"}),
            json!({"exp": -1}),
            json!({"sub": 7}),
            json!({"sub": "x".repeat(256)}),
            json!({"bellwether": "*"}),
            json!({"bellwether": {"subscribe": ">"}}),
            json!({"bellwether": {"subscirbe": [">"]}}),
            json!({"bellwether": {"subscribe": ["a..b"]}}),
            json!({"bellwether": {"publish": vec!["a"; 65]}}),
        ] {
            let refused = verify(wrong.clone()).await;
            assert!(
                matches!(refused, Err(Claim(_) | Missing(_))),
                "{wrong}: {refused:?}"
            );
        }
    }

    #[tokio::test]
    async fn times_at_the_end_of_the_world() {
        let identity = verify(json!({"exp": 1e300})).await;
        assert!(identity.is_err() || identity.unwrap().expires.is_none());
        assert!(
            verify(json!({"exp": u64::MAX}))
                .await
                .unwrap()
                .expires
                .is_none()
        );
        let fraction = serde_json::Number::from_f64(60.25).unwrap();
        assert_eq!(
            verify(json!({"exp": fraction})).await,
            Err(Rejected::Expired)
        );
    }

    #[tokio::test]
    async fn in_a_query_it_must_not_live_long() {
        let query = async |changes| verify_with(Place::Query, changes).await;
        assert!(
            query(json!({"exp": now() + 600, "iat": now()}))
                .await
                .is_ok()
        );
        for long in [
            json!({"exp": now() + 601, "iat": now()}),
            json!({"iat": null}),
            json!({"exp": now() + 1200, "iat": now() + 600}),
            json!({"iat": now() + 3600}),
        ] {
            assert_eq!(
                query(long.clone()).await,
                Err(Rejected::LivesTooLong),
                "{long}"
            );
        }
    }

    #[tokio::test]
    async fn each_key_has_one_algorithm() {
        let random = SystemRandom::new();
        let ecdsa = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let ecdsa = ecdsa.unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ecdsa.as_ref(), &random);
        let point = pair.unwrap().public_key().as_ref().to_vec();
        let ed25519 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(ed25519.as_ref()).unwrap();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let set = json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "e", "x": encode(&point[1..33]), "y": encode(&point[33..])},
            {"kty": "OKP", "crv": "Ed25519", "kid": "d", "alg": "EdDSA", "x": encode(pair.public_key().as_ref())},
            {"kty": "oct", "kid": "s", "k": encode(SECRET.as_bytes())},
            {"kty": "EC", "crv": "P-521", "kid": "f", "x": "", "y": ""},
            {"kty": "oct", "kid": "enc", "use": "enc", "k": encode(SECRET.as_bytes())},
            {"kty": "strange"}, 7,
        ]});
        let verifier = verifier(Source::new(&set.to_string()), rules()).await;
        let private = |der: &[u8]| {
            let text = pem::encode(&pem::Pem::new("PRIVATE KEY", der));
            Signer::private_key(&text).unwrap()
        };
        let signers = [
            ("e", private(ecdsa.as_ref())),
            ("d", private(ed25519.as_ref())),
            ("s", Signer::secret(SECRET).unwrap()),
        ];
        for (own, signer) in &signers {
            for id in [
                None,
                Some("e"),
                Some("d"),
                Some("s"),
                Some("f"),
                Some("enc"),
            ] {
                let token = signer.sign_as(id, &claims(&json!({}))).unwrap();
                let expected = match id {
                    Some(id) if ["f", "enc"].contains(&id) => Some(Rejected::UnknownKey),
                    Some(id) if id != *own => Some(Rejected::Algorithm),
                    _ => None,
                };
                let refused = verifier.verify(&token, Place::Header).await.err();
                assert_eq!(refused, expected, "{own} as {id:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_key() {
        let refuse = async |source| Keyring::load(vec![source]).await.unwrap_err();
        let short = refuse(Source::Secret("short".to_owned())).await;
        assert!(matches!(short, Error::ShortSecret(5)));
        for (text, part) in [
            ("{}", "no JWKS"),
            (r#"{"keys": []}"#, "none that verifies"),
            (
                r#"{"keys": [{"kty": "oct", "k": "c2hvcnQ"}]}"#,
                "none that verifies",
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "private key",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "PUBLIC KEY",
            ),
            (
                "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
                "no RSA",
            ),
        ] {
            let why = refuse(Source::new(text)).await.to_string();
            assert!(why.contains(part), "{text}: {why}");
        }
        let missing = refuse(Source::new("/nowhere/keys.json")).await;
        assert!(matches!(missing, Error::Read(..)));
        for address in ["https://user:password@host/", "http:///path", "https://"] {
            let why = refuse(Source::new(address)).await;
            assert!(matches!(why, Error::Address(_)), "{why:?}");
            assert!(!why.to_string().contains("password"));
        }
    }

    #[tokio::test]
    async fn what_a_signer_makes_is_verified() {
        let signer = Signer::secret(SECRET).unwrap();
        let draft = Draft {
            subject: Some("ada".to_owned()),
            subscribe: vec!["a.>".to_owned()],
            metrics: true,
            life: Duration::from_mins(1),
            rules: rules(),
            ..Draft::default()
        };
        let verifier = verifier(Source::Secret(SECRET.to_owned()), rules()).await;
        let token = signer.token(&draft).unwrap();
        let identity = verifier.verify(&token, Place::Query).await.unwrap();
        assert!(identity.grants.metrics);
        assert_eq!(identity.grants.subscribe, [Pattern::new("a.>").unwrap()]);
        assert!(identity.expires > Some(SystemTime::now()));
        assert_ne!(identity.own_name("k"), "k");
        let mut other = identity.clone();
        other.subject = Some("adak".into());
        assert_ne!(identity.own_name("k"), other.own_name(""));
    }
}
