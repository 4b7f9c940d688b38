//! Topics, patterns and filters, against a plain reading of what they are.

#![no_main]

use hub::{Filter, InvalidFilter, Pattern, Topic};
use libfuzzer_sys::fuzz_target;

// The first line is a topic, the others are patterns.
fuzz_target!(|text: &str| {
    let (text, patterns) = text.split_once('\n').unwrap_or((text, ""));
    let topic = Topic::mend(text);
    assert!(is_topic(topic.as_str()), "{topic:?}");
    assert_eq!(Topic::new(topic.as_str()).as_ref(), Ok(&topic));
    assert_eq!(Topic::new(text).is_ok(), is_topic(text));
    if is_topic(text) {
        assert_eq!(topic.as_str(), text);
    }

    let patterns: Vec<&str> = patterns.split('\n').collect();
    for text in &patterns {
        let pattern = Pattern::new(text);
        assert_eq!(pattern.is_ok(), is_pattern(text), "{text:?}");
        if let Ok(pattern) = pattern {
            assert_eq!(pattern.as_str(), *text);
            assert_eq!(pattern.matches(&topic), is_meant(text, topic.as_str()));
        }
    }
    match Filter::new(patterns.iter().copied()) {
        Ok(filter) => {
            let any = patterns.iter().any(|text| is_meant(text, topic.as_str()));
            assert_eq!(filter.matches(&topic, ""), any);
            assert_eq!(Filter::new(patterns.iter().rev().copied()), Ok(filter));
        }
        Err(InvalidFilter::TooMany) => assert!(patterns.len() > hub::MAX_PATTERNS),
        Err(InvalidFilter::Pattern(text, _)) => assert!(!is_pattern(&text)),
        Err(InvalidFilter::Empty) => panic!("there is one at least"),
    }
});

fn is_topic(text: &str) -> bool {
    text.len() <= hub::MAX_TOPIC_BYTES && text.split('.').all(is_token)
}

fn is_pattern(text: &str) -> bool {
    let tokens: Vec<&str> = text.split('.').collect();
    let (last, others) = tokens.split_last().unwrap();
    text.len() <= hub::MAX_TOPIC_BYTES
        && others.iter().all(|token| *token == "*" || is_token(token))
        && (*last == ">" || *last == "*" || is_token(last))
}

fn is_token(text: &str) -> bool {
    let is_bad = |c: char| c.is_whitespace() || c.is_control() || c == '*' || c == '>';
    !text.is_empty() && !text.contains(is_bad)
}

fn is_meant(pattern: &str, topic: &str) -> bool {
    fn go(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([">"], [_, ..]) => true,
            ([token, pattern @ ..], [found, topic @ ..]) if *token == "*" || token == found => {
                go(pattern, topic)
            }
            (pattern, topic) => pattern.is_empty() && topic.is_empty(),
        }
    }
    let pattern: Vec<&str> = pattern.split('.').collect();
    let topic: Vec<&str> = topic.split('.').collect();
    go(&pattern, &topic)
}
