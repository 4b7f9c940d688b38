//! Who is let in: what the command line says of it, and `bellwether token`.

use anyhow::{Context, Result, bail};
use auth::{Draft, Keyring, Rules, Signer, Source, Verifier};
use clap::Args;
use hub::Pattern;
use server::{Gate, Origins};
use std::time::Duration;

use crate::cli::{say, time};

/// Who is let in.
#[derive(Args, Debug)]
pub(crate) struct AuthOptions {
    #[command(flatten)]
    pub(crate) keys: KeyOptions,
    /// Also take tokens from the cookie of this name
    #[arg(long, env = "BELLWETHER_AUTH_COOKIE", value_name = "NAME")]
    pub(crate) auth_cookie: Option<String>,
    /// Let also those who have no token follow these topics; may be repeated
    #[arg(
        long,
        env = "BELLWETHER_ANONYMOUS_SUBSCRIBE",
        value_name = "PATTERN",
        value_delimiter = ' '
    )]
    pub(crate) anonymous_subscribe: Vec<String>,
    /// Let pages of this origin (`https://app.example`) read here; may be repeated
    #[arg(
        long,
        env = "BELLWETHER_ALLOW_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ' '
    )]
    pub(crate) allow_origin: Vec<String>,
}

/// What tokens are verified by, or signed with.
#[derive(Args, Debug)]
pub(crate) struct KeyOptions {
    /// The secret that signs tokens (HS256), of 32 bytes at least. With this or with keys, nobody
    /// is let in without a token
    #[arg(
        long = "auth-secret",
        env = "BELLWETHER_AUTH_SECRET",
        value_name = "SECRET",
        hide_env_values = true
    )]
    secret: Option<String>,
    /// The public keys that verify tokens (RS256, ES256, `EdDSA`): a file with PEM or a JWKS, the
    /// address of a JWKS, or the keys themselves
    #[arg(
        long = "auth-keys",
        env = "BELLWETHER_AUTH_KEYS",
        value_name = "KEYS",
        hide_env_values = true
    )]
    keys: Option<String>,
    /// What the claim `iss` must be [default: it is not looked at]
    #[arg(
        long = "auth-issuer",
        env = "BELLWETHER_AUTH_ISSUER",
        value_name = "TEXT"
    )]
    issuer: Option<String>,
    /// What the claim `aud` must be or hold [default: it is not looked at]
    #[arg(
        long = "auth-audience",
        env = "BELLWETHER_AUTH_AUDIENCE",
        value_name = "TEXT"
    )]
    audience: Option<String>,
}

/// A token to try things out with.
#[derive(Args, Debug)]
pub(crate) struct TokenOptions {
    /// Topics to follow, as a pattern; may be repeated
    #[arg(long, value_name = "PATTERN")]
    subscribe: Vec<String>,
    /// Topics to publish on, as a pattern; may be repeated
    #[arg(long, value_name = "PATTERN")]
    publish: Vec<String>,
    /// Also for `/metrics` and `/v1/status`
    #[arg(long)]
    metrics: bool,
    /// Who it is for: the claim `sub`
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// How long it counts. In an address (`token=`), 10 minutes is the most
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = time)]
    expires: Duration,
    /// With `--auth-keys` a private key (PEM, PKCS#8), with `--auth-secret` that
    #[command(flatten)]
    keys: KeyOptions,
}

impl AuthOptions {
    /// What decides who is let in.
    pub(crate) async fn gate(&self) -> Result<Gate> {
        let origins = Origins::new(&self.allow_origin)?;
        if !self.keys.is_there() {
            self.check_open()?;
            return Ok(Gate::open(origins));
        }
        let anonymous = patterns(&self.anonymous_subscribe)?;
        let keyring = Keyring::load(self.keys.sources()).await?;
        if self.keys.audience.is_none() && self.keys.has_address() {
            tracing::warn!(
                "tokens for others count here, too: what is at an address mostly signs for many. \
                 Say --auth-audience"
            );
        }
        let verifier = Verifier::new(keyring, self.keys.rules());
        Ok(Gate::locked(
            verifier,
            self.auth_cookie.clone(),
            anonymous,
            origins,
        ))
    }

    /// What would have no effect is a mistake that somebody believes to be a lock.
    fn check_open(&self) -> Result<()> {
        let Self {
            keys,
            auth_cookie,
            anonymous_subscribe,
            ..
        } = self;
        let is_meant = keys.issuer.is_some()
            || keys.audience.is_some()
            || auth_cookie.is_some()
            || !anonymous_subscribe.is_empty();
        if is_meant {
            bail!(
                "there are no keys, so no token would be asked for: give --auth-secret or \
                 --auth-keys beside --auth-issuer, --auth-audience, --auth-cookie and \
                 --anonymous-subscribe"
            );
        }
        Ok(())
    }
}

impl KeyOptions {
    /// Whether tokens are asked for.
    pub(crate) fn is_there(&self) -> bool {
        self.secret.is_some() || self.keys.is_some()
    }

    fn sources(&self) -> Vec<Source> {
        let secret = self.secret.clone().map(Source::Secret);
        let keys = self.keys.as_deref().map(Source::new);
        secret.into_iter().chain(keys).collect()
    }

    fn has_address(&self) -> bool {
        let is_address = |source: &Source| matches!(source, Source::Address(_));
        self.sources().iter().any(is_address)
    }

    fn rules(&self) -> Rules {
        Rules {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
        }
    }

    fn signer(&self) -> Result<Signer> {
        let private = match self.keys.as_deref().map(Source::new) {
            Some(Source::Text(text)) => Some(text),
            Some(Source::File(path)) => {
                let text = std::fs::read_to_string(&path);
                Some(text.with_context(|| format!("cannot read {}", path.display()))?)
            }
            _ => None,
        };
        // A key that only verifies stands beside a secret that signs.
        let private = private.filter(|text| text.contains("PRIVATE KEY"));
        match (private, &self.secret) {
            (Some(key), _) => Ok(Signer::private_key(&key)?),
            (None, Some(secret)) => Ok(Signer::secret(secret)?),
            (None, None) => Err(auth::Error::NoSigner.into()),
        }
    }
}

/// Prints a token.
pub(crate) fn token(options: TokenOptions) -> Result<()> {
    // What the hub would refuse.
    patterns(&options.subscribe)?;
    patterns(&options.publish)?;
    let draft = Draft {
        subject: options.subject,
        subscribe: options.subscribe,
        publish: options.publish,
        metrics: options.metrics,
        life: options.expires,
        rules: options.keys.rules(),
    };
    say(options.keys.signer()?.token(&draft)?)?;
    Ok(())
}

fn patterns(texts: &[String]) -> Result<Vec<Pattern>> {
    let parse =
        |text: &String| Pattern::new(text).with_context(|| format!("{text:?} is no topic pattern"));
    texts.iter().map(parse).collect()
}
