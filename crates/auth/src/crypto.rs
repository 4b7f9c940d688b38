//! The cryptography of tokens, by ring: four algorithms, and no others.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind, Result, new_error},
};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        self as ring_signature, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519,
        EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair,
        UnparsedPublicKey,
    },
};
use signature::{Error as Failed, Signer, Verifier};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| signer(*algorithm, key),
    verifier_factory: |algorithm, key| verifier(*algorithm, key),
    // For thumbprints and for making a JWK of a key, which nobody does here.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Has `jsonwebtoken` use ring. Before its first use.
pub(crate) fn install() {
    // There is one for the process: an error says that it is there already.
    let _: std::result::Result<(), _> = PROVIDER.install_default();
}

/// What verifies a signature.
struct VerifyingKey {
    algorithm: Algorithm,
    key: DecodingKey,
}

/// What signs.
struct SigningKey {
    algorithm: Algorithm,
    pair: Pair,
}

enum Pair {
    Secret(hmac::Key),
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

fn family(algorithm: Algorithm) -> Result<AlgorithmFamily> {
    match algorithm {
        Algorithm::HS256 => Ok(AlgorithmFamily::Hmac),
        Algorithm::RS256 => Ok(AlgorithmFamily::Rsa),
        Algorithm::ES256 => Ok(AlgorithmFamily::Ec),
        Algorithm::EdDSA => Ok(AlgorithmFamily::Ed),
        _ => Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    }
}

fn verifier(algorithm: Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if family(algorithm)? != key.family() {
        return Err(new_error(ErrorKind::InvalidAlgorithm));
    }
    Ok(Box::new(VerifyingKey {
        algorithm,
        key: key.clone(),
    }))
}

fn signer(algorithm: Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    if family(algorithm)? != key.family() {
        return Err(new_error(ErrorKind::InvalidAlgorithm));
    }
    let pair = pair(algorithm, key.as_bytes())?;
    Ok(Box::new(SigningKey { algorithm, pair }))
}

fn pair(algorithm: Algorithm, bytes: &[u8]) -> Result<Pair> {
    let wrong = |why: ring::error::KeyRejected| -> Error {
        new_error(ErrorKind::Provider(format!(
            "this key cannot be used: {why}"
        )))
    };
    match algorithm {
        Algorithm::HS256 => Ok(Pair::Secret(hmac::Key::new(hmac::HMAC_SHA256, bytes))),
        Algorithm::RS256 => RsaKeyPair::from_der(bytes).map(Pair::Rsa).map_err(wrong),
        Algorithm::ES256 => {
            let curve = &ECDSA_P256_SHA256_FIXED_SIGNING;
            let pair = EcdsaKeyPair::from_pkcs8(curve, bytes, &SystemRandom::new());
            pair.map(Pair::Ecdsa).map_err(wrong)
        }
        // openssl leaves out the public half, so that there is nothing to check it against.
        Algorithm::EdDSA => {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes);
            pair.map(Pair::Ed25519).map_err(wrong)
        }
        _ => Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    }
}

impl JwtVerifier for VerifyingKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for VerifyingKey {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Failed> {
        // `keys` makes none of the other kind, which only `jsonwebtoken` itself can look into.
        let bytes = self.key.try_get_as_bytes().map_err(|_| Failed::new())?;
        let algorithm: &dyn ring_signature::VerificationAlgorithm = match self.algorithm {
            Algorithm::HS256 => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, bytes);
                return hmac::verify(&key, message, signature).map_err(|_| Failed::new());
            }
            Algorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
            Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED,
            Algorithm::EdDSA => &ED25519,
            _ => return Err(Failed::new()),
        };
        let verified = UnparsedPublicKey::new(algorithm, bytes).verify(message, signature);
        verified.map_err(|_| Failed::new())
    }
}

impl JwtSigner for SigningKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Signer<Vec<u8>> for SigningKey {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Failed> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Secret(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let signed = pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature);
                signed.map_err(|_| Failed::new())?;
                Ok(signature)
            }
            Pair::Ecdsa(pair) => {
                let signed = pair.sign(&random, message).map_err(|_| Failed::new())?;
                Ok(signed.as_ref().to_vec())
            }
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}
