//! How long to wait before the next try. Pure: the jitter is an argument.

use std::time::Duration;

/// Doubles from `first` to `longest`, and starts again after a success.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// The first failure waits for about `first`, no failure for more than `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The wait after one more failure.
    pub fn next_wait(&mut self, jitter: f64) -> Duration {
        let wait = wait_after(self.failures, self.first, self.longest, jitter);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// A try succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// `first`, doubled this many times, but no longer than `longest`. `jitter` (0 to 1) shortens it by up to half, so that
/// callers that fail together do not retry together.
pub fn wait_after(doublings: u32, first: Duration, longest: Duration, jitter: f64) -> Duration {
    let wait = first.saturating_mul(1 << doublings.min(20)).min(longest);
    wait.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(1));
        let waits: Vec<u128> = (0..4).map(|_| backoff.next_wait(0.0).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1_000, 1_000]);
        backoff.reset();
        assert_eq!(backoff.next_wait(1.0).as_millis(), 125, "jitter takes half away at most");
    }
}
