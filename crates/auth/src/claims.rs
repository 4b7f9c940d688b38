//! What a token says, and who is let in by it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hub::{InvalidTopic, MAX_PATTERNS, Pattern, Topic};
use ring::digest;
use serde::Deserialize;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{LEEWAY, Rejected};

/// Longest `sub`, in bytes. The limit is ours: others count by it.
const MAX_SUBJECT_BYTES: usize = 255;

/// Who asks, and what is granted. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The token's `sub`. `None` without one, or without a token.
    pub subject: Option<Arc<str>>,
    /// What is granted.
    pub grants: Arc<Grants>,
    /// From when on the token does not count any more, leeway included. `None` if that is never.
    pub expires: Option<SystemTime>,
}

/// What somebody may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// The topics whose events he may read.
    pub subscribe: Vec<Pattern>,
    /// The topics on which he may publish.
    pub publish: Vec<Pattern>,
    /// Whether he may read `/metrics` and `/v1/status`.
    pub metrics: bool,
}

/// The claims of a token that are read here; `nbf`, `iss` and `aud` are the verifier's.
#[derive(Debug, Deserialize)]
pub(crate) struct Claims {
    sub: Option<String>,
    /// Seconds since 1970, maybe with a fraction, as in all claims that are times.
    exp: f64,
    iat: Option<f64>,
    #[serde(default)]
    bellwether: Granted,
}

/// The claim `bellwether`, as it stands there.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Granted {
    #[serde(default)]
    subscribe: Vec<String>,
    #[serde(default)]
    publish: Vec<String>,
    #[serde(default)]
    metrics: bool,
}

impl Identity {
    /// A name of his own for what he calls so: nobody else's, whatever he calls it.
    pub fn own_name(&self, name: &str) -> String {
        let Some(subject) = &self.subject else {
            return name.to_owned();
        };
        let mut digest = digest::Context::new(&digest::SHA256);
        for part in [subject, name] {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part.as_bytes());
        }
        URL_SAFE_NO_PAD.encode(digest.finish())
    }

    /// Somebody without a token.
    pub fn anonymous(grants: Arc<Grants>) -> Self {
        Self {
            subject: None,
            grants,
            expires: None,
        }
    }
}

impl Grants {
    /// Everything.
    pub fn all() -> Self {
        let all = Pattern::new(">").expect("it is one");
        Self {
            subscribe: vec![all.clone()],
            publish: vec![all],
            metrics: true,
        }
    }

    /// Whether an event may be published on this topic.
    pub fn may_publish(&self, topic: &Topic) -> bool {
        self.publish.iter().any(|pattern| pattern.matches(topic))
    }
}

impl Claims {
    /// How long the token counts in all, if it says so and has begun to count.
    pub(crate) fn life(&self, now: SystemTime) -> Option<Duration> {
        let iat = self.iat?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        if iat > (now + LEEWAY).as_secs_f64() {
            return None;
        }
        Duration::try_from_secs_f64(self.exp - iat).ok()
    }

    pub(crate) fn identity(self) -> Result<Identity, Rejected> {
        if self
            .sub
            .as_ref()
            .is_some_and(|sub| sub.len() > MAX_SUBJECT_BYTES)
        {
            let why = format!("`sub` has more than {MAX_SUBJECT_BYTES} bytes");
            return Err(Rejected::Claim(why));
        }
        // To the second that the verifier refuses from: who comes back with the same token at the
        // end of his stream is not let in for the blink of an eye.
        let refused_after = Duration::try_from_secs_f64(self.exp.round()).ok();
        let refused_after =
            refused_after.and_then(|at| at.checked_add(LEEWAY + Duration::from_secs(1)));
        Ok(Identity {
            subject: self.sub.map(Into::into),
            expires: refused_after.and_then(|at| SystemTime::UNIX_EPOCH.checked_add(at)),
            grants: Arc::new(self.bellwether.grants()?),
        })
    }
}

impl Granted {
    fn grants(self) -> Result<Grants, Rejected> {
        Ok(Grants {
            subscribe: patterns("subscribe", &self.subscribe)?,
            publish: patterns("publish", &self.publish)?,
            metrics: self.metrics,
        })
    }
}

fn patterns(of: &str, texts: &[String]) -> Result<Vec<Pattern>, Rejected> {
    if texts.len() > MAX_PATTERNS {
        let why = format!("`bellwether.{of}` has more than {MAX_PATTERNS} patterns");
        return Err(Rejected::Claim(why));
    }
    let wrong = |text: &str, why: InvalidTopic| {
        Rejected::Claim(format!(
            "`bellwether.{of}` has {text:?}, which is no topic pattern: {why}"
        ))
    };
    let parse = |text: &String| Pattern::new(text).map_err(|why| wrong(text, why));
    texts.iter().map(parse).collect()
}
