//! Topics, and the patterns that clients subscribe with.

use std::{borrow::Borrow, fmt, sync::Arc};

/// Longest topic or pattern, in bytes. The limit is ours: generous for a name, and
/// small enough that a request line holds many.
pub const MAX_TOPIC_BYTES: usize = 255;

/// Where an event was published: tokens separated by dots, `org.7.monitors`.
///
/// A token is anything but white space, control characters, `.`, `*` and `>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

/// What a client subscribes to: a topic in which `*` stands for any one token and a
/// final `>` for one or more.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    text: Arc<str>,
    has_wildcards: bool,
}

/// Why a text is no topic or pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidTopic {
    /// Nothing there.
    Empty,
    /// Over [`MAX_TOPIC_BYTES`].
    TooLong,
    /// Two dots in a row, or a dot at an end.
    EmptyToken,
    /// A character that no token may hold.
    BadCharacter(char),
    /// A `*` or `>` in a topic, or beside other characters of a token.
    Wildcard,
    /// A `>` that is not the last token.
    RestNotLast,
}

// === impl Topic ===

impl Topic {
    /// A topic, if the text is one.
    pub fn new(text: &str) -> Result<Self, InvalidTopic> {
        for token in tokens(text)? {
            check_token(token)?;
        }
        Ok(Self(text.into()))
    }

    /// The nearest topic to any text: what no token may hold becomes `_`.
    ///
    /// Capturing escapes what it puts into a topic, so this is for rows that
    /// somebody wrote by hand. They must not stop the stream.
    pub fn mend(text: &str) -> Self {
        let mut mended = String::with_capacity(text.len());
        for (i, token) in text.split('.').enumerate() {
            if i > 0 {
                mended.push('.');
            }
            if token.is_empty() {
                mended.push('_');
            }
            mended.extend(
                token
                    .chars()
                    .map(|c| if is_token_char(c) { c } else { '_' }),
            );
        }
        let mut end = mended.len().min(MAX_TOPIC_BYTES);
        while !mended.is_char_boundary(end) {
            end -= 1;
        }
        let mended = mended[..end].strip_suffix('.').unwrap_or(&mended[..end]);
        Self(mended.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Topics are in the order of their texts, so they can be looked up by them.
impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.0)
    }
}

// === impl Pattern ===

impl Pattern {
    /// A pattern, if the text is one.
    pub fn new(text: &str) -> Result<Self, InvalidTopic> {
        let mut has_wildcards = false;
        let mut tokens = tokens(text)?.peekable();
        while let Some(token) = tokens.next() {
            match token {
                "*" => has_wildcards = true,
                ">" if tokens.peek().is_none() => has_wildcards = true,
                ">" => return Err(InvalidTopic::RestNotLast),
                literal => check_token(literal)?,
            }
        }
        let text = text.into();
        Ok(Self {
            text,
            has_wildcards,
        })
    }

    /// Whether an event of this topic is meant.
    pub fn matches(&self, topic: &Topic) -> bool {
        // Most patterns are one of these two, and a replay asks for every frame.
        if !self.has_wildcards {
            return self.text == topic.0;
        }
        if &*self.text == ">" {
            return true;
        }
        let mut topic = topic.as_str().split('.');
        for token in self.tokens() {
            match (token, topic.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (literal, Some(found)) if literal == found => {}
                _ => return false,
            }
        }
        topic.next().is_none()
    }

    /// The pattern of the topics that both this and another match, if there are any. Two patterns
    /// never need more than one for that.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let mut common: Vec<&str> = Vec::new();
        let (mut ours, mut theirs) = (self.tokens(), other.tokens());
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => break,
                (Some(">"), Some(token)) => {
                    common.push(token);
                    common.extend(theirs);
                    break;
                }
                (Some(token), Some(">")) => {
                    common.push(token);
                    common.extend(ours);
                    break;
                }
                (Some("*"), Some(token)) | (Some(token), Some("*")) => common.push(token),
                (Some(token), Some(same)) if token == same => common.push(token),
                // Another token, or one of them ends here.
                _ => return None,
            }
        }
        // Too long: and so is every topic that both would match, as a wildcard stands for a
        // byte at least.
        Self::new(&common.join(".")).ok()
    }

    /// Whether it matches all that another matches.
    pub fn covers(&self, other: &Self) -> bool {
        let (mut ours, mut theirs) = (self.tokens(), other.tokens());
        loop {
            match (ours.next(), theirs.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(token)) if token != ">" => {}
                (Some(token), Some(same)) if token == same => {}
                _ => return false,
            }
        }
    }

    /// What it has before its first wildcard: all topics it matches begin so.
    pub(crate) fn prefix(&self) -> &str {
        if !self.has_wildcards {
            return &self.text;
        }
        let end = self.text.find(['*', '>']).expect("it has one");
        &self.text[..end]
    }

    /// Whether it may match more than one topic.
    pub(crate) fn has_wildcards(&self) -> bool {
        self.has_wildcards
    }

    /// Its tokens, wildcards as they are written.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = &str> {
        self.text.split('.')
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.text)
    }
}

fn tokens(text: &str) -> Result<std::str::Split<'_, char>, InvalidTopic> {
    match text.len() {
        0 => Err(InvalidTopic::Empty),
        1..=MAX_TOPIC_BYTES => Ok(text.split('.')),
        _ => Err(InvalidTopic::TooLong),
    }
}

fn check_token(token: &str) -> Result<(), InvalidTopic> {
    if token.is_empty() {
        return Err(InvalidTopic::EmptyToken);
    }
    match token.chars().find(|&c| !is_token_char(c)) {
        None => Ok(()),
        Some('*' | '>') => Err(InvalidTopic::Wildcard),
        Some(c) => Err(InvalidTopic::BadCharacter(c)),
    }
}

fn is_token_char(c: char) -> bool {
    !(c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>'))
}

// === impl InvalidTopic ===

impl fmt::Display for InvalidTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong => write!(f, "it is longer than {MAX_TOPIC_BYTES} bytes"),
            Self::EmptyToken => f.write_str("nothing stands before, after or between its dots"),
            Self::BadCharacter(c) => write!(f, "it holds the character {c:?}"),
            Self::Wildcard => {
                f.write_str("a `*` or `>` stands beside other characters, not between dots")
            }
            Self::RestNotLast => {
                f.write_str("a `>` stands for all the rest and can only come last")
            }
        }
    }
}

impl std::error::Error for InvalidTopic {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(pattern: &str, topic: &str, expected: bool) {
        let pattern = Pattern::new(pattern).unwrap();
        let topic = Topic::new(topic).unwrap();
        assert_eq!(
            pattern.matches(&topic),
            expected,
            "{pattern} against {topic}"
        );
    }

    #[test]
    fn matches_as_nats_does() {
        check("orders", "orders", true);
        check("orders", "order", false);
        check("orders", "orders.new", false);
        check("org.*.monitors", "org.7.monitors", true);
        check("org.*.monitors", "org.7.8.monitors", false);
        check("org.*", "org", false);
        check("org.>", "org.7", true);
        check("org.>", "org.7.monitors", true);
        check("org.>", "org", false);
        check(">", "a", true);
        check(">", "a.b.c", true);
        check("*", "a", true);
        check("*", "a.b", false);
        check("*.*", "a.b", true);
        check("*.>", "a", false);
        check("größe.é", "größe.é", true);
    }

    #[test]
    fn refuses() {
        assert_eq!(Topic::new(""), Err(InvalidTopic::Empty));
        assert_eq!(Topic::new("a..b"), Err(InvalidTopic::EmptyToken));
        assert_eq!(Topic::new(".a"), Err(InvalidTopic::EmptyToken));
        assert_eq!(Topic::new("a."), Err(InvalidTopic::EmptyToken));
        assert_eq!(Topic::new("a b"), Err(InvalidTopic::BadCharacter(' ')));
        assert_eq!(Topic::new("a\nb"), Err(InvalidTopic::BadCharacter('\n')));
        assert_eq!(Topic::new("a.*"), Err(InvalidTopic::Wildcard));
        assert_eq!(Topic::new(&"x".repeat(256)), Err(InvalidTopic::TooLong));
        assert_eq!(Pattern::new("a.>.b"), Err(InvalidTopic::RestNotLast));
        assert_eq!(Pattern::new("a*.b"), Err(InvalidTopic::Wildcard));
        assert_eq!(Pattern::new(">x"), Err(InvalidTopic::Wildcard));
    }

    proptest! {
        #[test]
        fn mending_makes_a_topic(text in any::<String>()) {
            let mended = Topic::mend(&text);
            prop_assert_eq!(Topic::new(mended.as_str()), Ok(mended));
        }

        #[test]
        fn mending_leaves_topics_alone(text in "[a-z]{1,3}(\\.[a-z0-9_%-]{1,4}){0,4}") {
            prop_assert_eq!(Topic::mend(&text), Topic::new(&text).unwrap());
        }

        #[test]
        fn a_topic_is_a_pattern_for_itself_only(
            one in "[ab](\\.[ab]){0,3}", other in "[ab](\\.[ab]){0,3}"
        ) {
            let pattern = Pattern::new(&one).unwrap();
            prop_assert_eq!(pattern.matches(&Topic::new(&other).unwrap()), one == other);
        }

        #[test]
        fn wildcards_match_as_they_are_explained(
            pattern in "[ab*](\\.[ab*]){0,3}(\\.>)?|>", topic in "[ab](\\.[ab]){0,4}"
        ) {
            let tokens: Vec<&str> = pattern.split('.').collect();
            let found: Vec<&str> = topic.split('.').collect();
            let pattern = Pattern::new(&pattern).unwrap();
            let topic = Topic::new(&topic).unwrap();
            prop_assert_eq!(pattern.matches(&topic), is_meant(&tokens, &found));
        }
    }

    #[track_caller]
    fn meet(one: &str, other: &str, expected: Option<&str>) {
        let (one, other) = (Pattern::new(one).unwrap(), Pattern::new(other).unwrap());
        let expected = expected.map(|text| Pattern::new(text).unwrap());
        assert_eq!(one.intersection(&other), expected, "{one} and {other}");
        assert_eq!(other.intersection(&one), expected, "{other} and {one}");
    }

    #[test]
    fn what_two_patterns_have_in_common() {
        meet(">", "org.7.>", Some("org.7.>"));
        meet("org.>", "org.7.>", Some("org.7.>"));
        meet("org.*.alerts", "org.7.>", Some("org.7.alerts"));
        meet("*.7", "org.*", Some("org.7"));
        meet("org.>", "*.*.alerts", Some("org.*.alerts"));
        meet("org.8.>", "org.7.>", None);
        meet("org", "org.>", None);
        meet("org.7", "org.*.>", None);
        meet("*", "*.*", None);
        let (long, other) = ("x".repeat(200), "y".repeat(200));
        meet(&format!("{long}.*"), &format!("*.{other}"), None);
    }

    /// All topics of up to five of these tokens: as many as the longest of the patterns below can
    /// tell apart.
    fn small_topics() -> Vec<Topic> {
        let mut texts: Vec<String> = Vec::new();
        let mut last = vec![String::new()];
        for _ in 0..5 {
            let longer = last.iter().flat_map(|start| {
                ["a", "b", "c"].map(|token| match start.as_str() {
                    "" => token.to_owned(),
                    start => format!("{start}.{token}"),
                })
            });
            last = longer.collect();
            texts.extend_from_slice(&last);
        }
        texts.iter().map(|text| Topic::new(text).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn an_intersection_matches_what_both_match(
            one in "[ab*](\\.[ab*]){0,3}(\\.>)?|>", other in "[ab*](\\.[ab*]){0,3}(\\.>)?|>"
        ) {
            let (one, other) = (Pattern::new(&one).unwrap(), Pattern::new(&other).unwrap());
            let common = one.intersection(&other);
            let (mut all, mut any) = (true, false);
            for topic in small_topics() {
                let is_meant = one.matches(&topic) && other.matches(&topic);
                let is_common = common.as_ref().is_some_and(|common| common.matches(&topic));
                prop_assert_eq!(is_common, is_meant, "{} and {} at {}", &one, &other, &topic);
                all &= one.matches(&topic) || !other.matches(&topic);
                any |= is_meant;
            }
            prop_assert_eq!(common.is_some(), any);
            prop_assert_eq!(one.covers(&other), all, "{} covers {}", &one, &other);
        }
    }

    fn is_meant(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([">"], [_, ..]) => true,
            ([token, pattern @ ..], [found, topic @ ..]) if *token == "*" || token == found => {
                is_meant(pattern, topic)
            }
            (pattern, topic) => pattern.is_empty() && topic.is_empty(),
        }
    }
}
