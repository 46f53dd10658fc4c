//! When a request that failed is made again.
//!
//! Exponential back-off with full jitter, as in <https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/>;
//! a server that says how long to wait is believed, within a limit.

use std::time::{Duration, SystemTime};

/// How long to go on trying.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How often a request is made, the first time included.
    pub attempts: u32,
    /// The longest wait after the first failure; it doubles with each.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
    /// The longest wait that a server may ask for; one that asks for more is not waited for.
    pub asked: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            attempts: 8,
            first: Duration::from_millis(250),
            most: Duration::from_secs(20),
            asked: Duration::from_secs(300),
        }
    }
}

impl Policy {
    /// How long to wait before the next attempt; `None` if there is to be none. `failures` attempts have failed,
    /// `retry_after` is what the server asks for, and `chance` is from 0 to 1, at random.
    pub fn wait(&self, failures: u32, retry_after: Option<Duration>, chance: f64) -> Option<Duration> {
        if failures >= self.attempts {
            return None;
        }
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(30)).min(self.most);
        let jittered = doubled.mul_f64(chance.clamp(0.0, 1.0));
        match retry_after {
            Some(asked) if asked > self.asked => None,
            // All clients are told the same moment: some come a little later.
            Some(asked) => Some(asked + jittered.min(Duration::from_secs(1))),
            None => Some(jittered),
        }
    }
}

/// What a `Retry-After` header asks for: seconds, or a moment (RFC 9110, section 10.2.3).
pub fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let moment = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(header).ok()?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(u64::try_from(moment.as_second()).ok()?.saturating_sub(now)))
}

/// A number from 0 to 1, different each time; good enough to keep clients apart, and for nothing else.
pub fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one(std::process::id()) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        attempts: 5,
        first: Duration::from_millis(100),
        most: Duration::from_millis(500),
        asked: Duration::from_secs(60),
    };

    #[test]
    fn waits_double_up_to_a_limit_and_end() {
        let waits: Vec<_> = (1..=6).map(|failures| POLICY.wait(failures, None, 1.0).map(|w| w.as_millis())).collect();
        assert_eq!(waits, [Some(100), Some(200), Some(400), Some(500), None, None]);
        assert_eq!(POLICY.wait(3, None, 0.5), Some(Duration::from_millis(200)));
        assert_eq!(POLICY.wait(3, None, 0.0), Some(Duration::ZERO));
        assert_eq!(Policy { attempts: u32::MAX, ..POLICY }.wait(1_000_000, None, 1.0), Some(POLICY.most));
    }

    #[test]
    fn what_the_server_asks_for_is_the_least_and_has_a_limit() {
        let asked = |seconds| POLICY.wait(1, Some(Duration::from_secs(seconds)), 1.0);
        assert_eq!(asked(7), Some(Duration::from_millis(7_100)));
        assert_eq!((asked(60).is_some(), asked(61)), (true, None));
        assert_eq!(POLICY.wait(5, Some(Duration::ZERO), 1.0), None);
    }

    #[test]
    fn the_header_is_seconds_or_a_moment() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (header, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(retry_after(header, now), seconds.map(Duration::from_secs), "{header}");
        }
    }

    #[test]
    fn chances_differ_and_stay_in_range() {
        let chances: Vec<f64> = (0..100).map(|_| chance()).collect();
        assert!(chances.iter().all(|c| (0.0..1.0).contains(c)));
        assert!(chances.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
