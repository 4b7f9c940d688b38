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

/// Why a filter cannot be narrowed to what is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotGranted {
    /// Nothing of this pattern is granted.
    Pattern(Pattern),
    /// What is left of it has over [`MAX_PATTERNS`].
    TooMany,
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

    /// The same for those topics only that are granted. Each of its patterns must have some of
    /// them: one that has none is a mistake or an attempt.
    pub fn within(self, granted: &[Pattern]) -> Result<Self, NotGranted> {
        let mut common = Vec::new();
        for wanted in &*self.patterns {
            let before = common.len();
            common.extend(
                granted
                    .iter()
                    .filter_map(|granted| granted.intersection(wanted)),
            );
            if common.len() == before {
                return Err(NotGranted::Pattern(wanted.clone()));
            }
        }
        common.sort();
        common.dedup();
        // Each is compared with each below.
        if common.len() > 4 * MAX_PATTERNS {
            return Err(NotGranted::TooMany);
        }
        // What another covers would only cost.
        let needed = |pattern: &Pattern| {
            let mut others = common.iter().filter(|&other| other != pattern);
            !others.any(|other| other.covers(pattern))
        };
        let needed: Vec<_> = common
            .iter()
            .filter(|pattern| needed(pattern))
            .cloned()
            .collect();
        if needed.len() > MAX_PATTERNS {
            return Err(NotGranted::TooMany);
        }
        Ok(Self {
            patterns: needed.into(),
            ..self
        })
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

// === impl NotGranted ===

impl fmt::Display for NotGranted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(pattern) => write!(f, "no topic of {:?} is granted", pattern.as_str()),
            Self::TooMany => write!(
                f,
                "what is granted of these topics takes more than {MAX_PATTERNS} patterns: \
                 ask for fewer at once"
            ),
        }
    }
}

impl std::error::Error for NotGranted {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patterns(texts: &[impl AsRef<str>]) -> Vec<Pattern> {
        let patterns = texts.iter().map(|text| Pattern::new(text.as_ref()));
        patterns.collect::<Result<_, _>>().unwrap()
    }

    #[track_caller]
    fn check(wanted: &[&str], granted: &[&str], expected: Result<&[&str], &str>) {
        let filter = Filter::new(wanted.iter().copied()).unwrap();
        let narrowed = filter.with_names(["n"]).within(&patterns(granted));
        let expected = expected.map(|texts| {
            let filter = Filter::new(texts.iter().copied()).unwrap();
            filter.with_names(["n"])
        });
        let expected = expected.map_err(|text| NotGranted::Pattern(Pattern::new(text).unwrap()));
        assert_eq!(narrowed, expected);
    }

    #[test]
    fn narrows_to_what_is_granted() {
        check(&[">"], &["org.7.>"], Ok(&["org.7.>"]));
        check(
            &["org.*.alerts"],
            &["org.7.>", "org.8.*"],
            Ok(&["org.7.alerts", "org.8.alerts"]),
        );
        check(&["org.7.>"], &[">"], Ok(&["org.7.>"]));
        check(&["a", "b"], &["a", "c"], Err("b"));
        check(&["org.8.>"], &["org.7.>"], Err("org.8.>"));
        check(&["a"], &[], Err("a"));
        check(&["a.>", "a.b"], &["a.>", "a.b"], Ok(&["a.>"]));
        let many: Vec<String> = (0..65).map(|n| format!("*.{n}")).collect();
        let filter = Filter::new([">"]).unwrap();
        assert_eq!(
            filter.clone().within(&patterns(&many)),
            Err(NotGranted::TooMany)
        );
        assert!(filter.within(&patterns(&many[1..])).is_ok());
        // As many as there can be, and refused before they are compared.
        let wanted: Vec<String> = (0..64).map(|n| format!("*.{n}.>")).collect();
        let granted: Vec<String> = (0..64).map(|n| format!("{n}.>")).collect();
        let filter = Filter::new(wanted.iter().map(String::as_str)).unwrap();
        assert_eq!(filter.within(&patterns(&granted)), Err(NotGranted::TooMany));
    }

    proptest! {
        /// Never wider than asked for or than granted, and never narrower than both.
        #[test]
        fn what_is_left_is_what_was_asked_for_and_granted(
            wanted in proptest::collection::vec("[ab*](\\.[ab*]){0,2}(\\.>)?|>", 1..5),
            granted in proptest::collection::vec("[ab*](\\.[ab*]){0,2}(\\.>)?|>", 0..5),
            topics in proptest::collection::vec("[abc](\\.[abc]){0,4}", 1..60),
        ) {
            let filter = Filter::new(wanted.iter().map(String::as_str)).unwrap();
            let granted = patterns(&granted);
            let is_granted = |topic: &Topic| granted.iter().any(|pattern| pattern.matches(topic));
            let has_some = |wanted: &Pattern| granted.iter().any(|it| it.intersection(wanted).is_some());
            match filter.clone().within(&granted) {
                Ok(narrowed) => for topic in topics {
                    let topic = Topic::new(&topic).unwrap();
                    let is_due = filter.has_topic(&topic) && is_granted(&topic);
                    prop_assert_eq!(narrowed.has_topic(&topic), is_due, "{}", topic);
                },
                Err(NotGranted::Pattern(pattern)) => prop_assert!(!has_some(&pattern)),
                Err(NotGranted::TooMany) => prop_assert!(false, "there are too few for that"),
            }
        }
    }

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
