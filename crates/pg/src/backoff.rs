//! Delays between attempts.

use std::time::Duration;

/// Exponential delays with full jitter. The first attempt is made at once: most often, what
/// broke was this connection only. Each further delay is random between nothing and a ceiling
/// that doubles. Without the randomness, all that lost the same server would come at once.
#[derive(Debug)]
pub struct Backoff {
    ceiling: Duration,
    min: Duration,
    max: Duration,
}

impl Backoff {
    /// The second delay's ceiling is `min`, and no ceiling is above `max`.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self {
            ceiling: Duration::ZERO,
            min,
            max,
        }
    }

    /// Between attempts to reach the server, of which a refused one costs next to nothing.
    pub(crate) fn reconnect() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_millis(250))
    }

    /// The next delay. `random` is from 0 to 1.
    pub fn next(&mut self, random: f64) -> Duration {
        let delay = self.ceiling.mul_f64(random.clamp(0.0, 1.0));
        self.ceiling = (self.ceiling * 2).clamp(self.min, self.max);
        delay
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.ceiling = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIN: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(5);

    #[test]
    fn doubles_up_to_the_maximum_and_starts_over() {
        let mut backoff = Backoff::new(MIN, MAX);
        let delays: Vec<_> = (0..10).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(delays, [0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next(1.0), Duration::ZERO);
        assert_eq!(backoff.next(1.0), MIN);
    }

    proptest! {
        #[test]
        fn stays_within_bounds(randoms in proptest::collection::vec(0.0f64..=1.0, 1..40)) {
            let mut backoff = Backoff::new(MIN, MAX);
            for random in randoms {
                prop_assert!(backoff.next(random) <= MAX);
            }
        }
    }
}
