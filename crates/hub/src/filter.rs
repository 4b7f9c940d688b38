//! What one subscription asks for, and what makes a lane.

use std::{fmt, sync::Arc};

use crate::{Form, InvalidTopic, Pattern, Topic};

/// Most patterns in one filter.
pub const MAX_PATTERNS: usize = 64;

/// A set of patterns, maybe some names, and a form. An event is meant if any of the patterns
/// matches its topic, and its name is one of those, if any are given.
///
/// Sorted and without doubles, so that two clients who name the same things in another order
/// share a lane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    patterns: Arc<[Pattern]>,
    /// Empty: all names.
    names: Arc<[Arc<str>]>,
    form: Form,
}

/// Why some texts make no filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidFilter {
    /// No pattern at all.
    Empty,
    /// Over [`MAX_PATTERNS`].
    TooMany,
    /// One of them is no pattern.
    Pattern(String, InvalidTopic),
}

// === impl Filter ===

impl Filter {
    /// The filter for these patterns.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidFilter> {
        let mut parsed = Vec::new();
        for text in patterns {
            if parsed.len() == MAX_PATTERNS {
                return Err(InvalidFilter::TooMany);
            }
            let pattern =
                Pattern::new(text).map_err(|why| InvalidFilter::Pattern(text.to_owned(), why))?;
            parsed.push(pattern);
        }
        if parsed.is_empty() {
            return Err(InvalidFilter::Empty);
        }
        parsed.sort();
        parsed.dedup();
        Ok(Self {
            patterns: parsed.into(),
            names: Arc::default(),
            form: Form::FIRST,
        })
    }

    /// The same for events with one of these names only. Without any, for all.
    #[must_use]
    pub fn with_names(self, names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut names: Vec<Arc<str>> = names.into_iter().map(|name| name.as_ref().into()).collect();
        names.sort();
        names.dedup();
        Self {
            names: names.into(),
            ..self
        }
    }

    /// The same for events in this form.
    #[must_use]
    pub fn in_form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// Whether an event of this topic and name is meant.
    pub fn matches(&self, topic: &Topic, name: &str) -> bool {
        self.has_name(name) && self.has_topic(topic)
    }

    /// Whether events of this topic are meant.
    pub fn has_topic(&self, topic: &Topic) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(topic))
    }

    /// Whether events with this name are meant.
    pub fn has_name(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| **wanted == *name)
    }

    /// Whether it chooses by name, too.
    pub fn has_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// Its patterns, sorted.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// How its events are to be written.
    pub fn form(&self) -> Form {
        self.form
    }
}

// === impl InvalidFilter ===

impl fmt::Display for InvalidFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no topic is named"),
            Self::TooMany => write!(f, "more than {MAX_PATTERNS} topics are named"),
            Self::Pattern(text, why) => write!(f, "{text:?} is no topic pattern: {why}"),
        }
    }
}

impl std::error::Error for InvalidFilter {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_doubles_do_not_matter() {
        let one = Filter::new(["b.>", "a", "b.>"]).unwrap();
        let other = Filter::new(["a", "b.>"]).unwrap();
        assert_eq!(one, other);
        let (b, c) = (Topic::new("b.c").unwrap(), Topic::new("c").unwrap());
        assert!(one.matches(&b, "any"));
        assert!(!one.matches(&c, "any"));
        let named = one.clone().with_names(["y", "x", "y"]);
        assert_ne!(named, one);
        assert_eq!(named, one.with_names(["x", "y"]));
        assert!(named.matches(&b, "x") && !named.matches(&b, "z") && !named.matches(&c, "x"));
    }

    #[test]
    fn refuses() {
        assert_eq!(Filter::new([]), Err(InvalidFilter::Empty));
        assert_eq!(Filter::new(["a"; 65]), Err(InvalidFilter::TooMany));
        assert_eq!(
            Filter::new(["a", ""]),
            Err(InvalidFilter::Pattern(String::new(), InvalidTopic::Empty))
        );
    }
}
