//! A set of patterns: what one subscription asks for, and what makes a lane.

use std::{fmt, sync::Arc};

use crate::{InvalidTopic, Pattern, Topic};

/// Most patterns in one filter.
pub const MAX_PATTERNS: usize = 64;

/// A set of patterns; an event is meant if any of them matches its topic.
///
/// Sorted and without doubles, so that two clients who name the same patterns in
/// another order share a lane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter(Arc<[Pattern]>);

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
        Ok(Self(parsed.into()))
    }

    /// Whether an event of this topic is meant.
    pub fn matches(&self, topic: &Topic) -> bool {
        self.0.iter().any(|pattern| pattern.matches(topic))
    }

    /// Its patterns, sorted.
    pub fn patterns(&self) -> &[Pattern] {
        &self.0
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
        assert!(one.matches(&Topic::new("b.c").unwrap()));
        assert!(!one.matches(&Topic::new("c").unwrap()));
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
