//! A filter that is narrowed to grants matches what it matched and they do, and nothing else.

#![no_main]

use hub::{Filter, NotGranted, Pattern, Topic};
use libfuzzer_sys::fuzz_target;

// The first line is a topic. Of the others, those that begin with `+` are grants, the rest is asked for.
fuzz_target!(|text: &str| {
    let mut lines = text.lines();
    let topic = Topic::mend(lines.next().unwrap_or_default());
    let (granted, wanted): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with('+'));
    let granted: Vec<Pattern> = granted.iter().filter_map(|line| Pattern::new(&line[1..]).ok()).collect();
    for (one, other) in granted.iter().zip(granted.iter().skip(1)) {
        let common = one.intersection(other);
        assert_eq!(common, other.intersection(one));
        let is_common = common.as_ref().is_some_and(|common| common.matches(&topic));
        assert_eq!(is_common, one.matches(&topic) && other.matches(&topic));
        if one.covers(other) && other.matches(&topic) {
            assert!(one.matches(&topic));
        }
    }
    let Ok(filter) = Filter::new(wanted) else {
        return;
    };
    let is_granted = granted.iter().any(|pattern| pattern.matches(&topic));
    match filter.clone().within(&granted) {
        Ok(narrowed) => {
            assert_eq!(narrowed.has_topic(&topic), filter.has_topic(&topic) && is_granted);
            assert!(narrowed.patterns().len() <= hub::MAX_PATTERNS);
            assert_eq!(narrowed.clone().within(&granted), Ok(narrowed));
        }
        Err(NotGranted::Pattern(pattern)) => assert!(!(pattern.matches(&topic) && is_granted)),
        Err(NotGranted::TooMany) => {}
    }
});
