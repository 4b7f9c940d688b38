//! Whatever is given as a token: it counts only if it is signed, and grants only what it says.

#![no_main]

use auth::{Identity, Keyring, Place, Rejected, Rules, Signer, Source, Verifier};
use libfuzzer_sys::fuzz_target;
use std::{
    pin::pin,
    sync::LazyLock,
    task::{Context, Poll, Waker},
};

const SECRET: &str = "a secret of the fuzzer, of 32 bytes or more";

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let keyring = now(Keyring::load(vec![Source::Secret(SECRET.to_owned())]));
    Verifier::new(keyring.expect("it is long enough"), Rules::default())
});

static SIGNER: LazyLock<Signer> = LazyLock::new(|| Signer::secret(SECRET).expect("it is long enough"));

// A token, or the claims of one. Or keys, which are read or refused.
fuzz_target!(|text: &str| {
    assert!(verify(text).is_err(), "nobody guesses a signature");
    if let Ok(claims) = serde_json::from_str::<serde_json::Value>(text) {
        let token = SIGNER.sign(&claims).expect("it is JSON");
        if let Ok(identity) = verify(&token) {
            let granted = &claims["bellwether"];
            for (name, patterns) in [
                ("subscribe", &identity.grants.subscribe),
                ("publish", &identity.grants.publish),
            ] {
                let said = granted[name].as_array().map_or(&[][..], Vec::as_slice);
                assert!(said.iter().eq(patterns.iter().map(|pattern| pattern.as_str())));
            }
            assert_eq!(identity.grants.metrics, granted["metrics"] == true);
            assert_eq!(identity.subject.as_deref(), claims["sub"].as_str());
        }
        // Cut short or with another end it is another.
        assert!(verify(&token[..token.len() - 1]).is_err());
        assert!(verify(&format!("{token}A")).is_err());
    }
    let _: Result<Keyring, auth::Error> = now(Keyring::load(vec![Source::Text(text.to_owned())]));
});

fn verify(token: &str) -> Result<Identity, Rejected> {
    now(VERIFIER.verify(token, Place::Header))
}

/// What waits for nothing.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("there is nothing to wait for"),
    }
}
