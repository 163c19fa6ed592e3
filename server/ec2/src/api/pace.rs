//! How fast calls are made: so many at once, and then so many a second.
//!
//! AWS counts the calls of an account together: one server is not to take what others of the account need.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Calls at once.
const BURST: f64 = 20.0;
/// And then a second.
const RATE: f64 = 5.0;

struct Bucket {
    /// Calls that may be made; below nothing, those that wait for their turn.
    left: f64,
    at: Instant,
}

/// Lets calls through one after the other.
pub(crate) struct Pace(Mutex<Bucket>);

impl Pace {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Bucket { left: BURST, at: Instant::now() }))
    }

    /// Waits for its turn. One that does not wait to the end has had its turn all the same.
    pub(crate) async fn turn(&self) {
        let wait = {
            let mut bucket = self.0.lock();
            let now = Instant::now();
            let filled = bucket.left + now.saturating_duration_since(bucket.at).as_secs_f64() * RATE;
            *bucket = Bucket { left: filled.min(BURST) - 1.0, at: now };
            (-bucket.left / RATE).max(0.0)
        };
        if wait > 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(wait)).await;
        }
    }

    /// The service says that it is too much: nothing more at once.
    pub(crate) fn slow_down(&self) {
        let mut bucket = self.0.lock();
        *bucket = Bucket { left: bucket.left.min(0.0), at: Instant::now() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_a_rate() {
        let (pace, begun) = (Pace::new(), Instant::now());
        for _ in 0..20 {
            pace.turn().await;
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for _ in 0..10 {
            pace.turn().await;
        }
        assert!((1.9..2.2).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_secs(100)).await;
        let begun = Instant::now();
        pace.slow_down();
        pace.turn().await;
        assert!(begun.elapsed() > Duration::from_millis(100), "a burst that there was is gone");
    }
}
