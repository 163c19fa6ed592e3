//! Destinations outside this machine: how many are told at once, and how long one that failed is left alone.
//!
//! Called by the queue of events. A destination that hangs must not hold the places of all events, so each has a few of its
//! own; and one that failed is not asked for every event that waits for it. Pure: `now` is an argument.

use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Records that are told to one destination at once: fewer than run.
const AT_ONCE_MAX: u32 = 4;
/// Until a place there may be free, in seconds.
const FULL_S: f64 = 1.0;
/// After a failure: first and longest pause, in seconds; it doubles with each in a row.
const DOWN_S: (f64, f64) = (1.0, 60.0);
/// Destinations that are remembered; beyond them one that failed is asked again at once.
const KNOWN_MAX: usize = 1024;

/// Those that are being told or have failed.
#[derive(Default)]
pub(crate) struct Elsewhere(Mutex<BTreeMap<String, Place>>);

#[derive(Default)]
struct Place {
    telling: u32,
    failures: u32,
    down_until_s: f64,
}

/// One of a destination's places; given back when dropped.
pub(crate) struct Telling<'a> {
    elsewhere: &'a Elsewhere,
    to: &'a str,
}

impl Elsewhere {
    /// A place at a destination. Errors: when to ask again, in seconds since the epoch.
    pub(crate) fn enter<'a>(&'a self, to: &'a str, now_s: f64) -> Result<Telling<'a>, f64> {
        let mut known = self.0.lock();
        let place = known.entry(to.to_owned()).or_default();
        if place.down_until_s > now_s {
            return Err(place.down_until_s);
        }
        if place.telling >= AT_ONCE_MAX {
            return Err(now_s + FULL_S);
        }
        place.telling += 1;
        Ok(Telling { elsewhere: self, to })
    }
}

impl Telling<'_> {
    /// How it went.
    pub(crate) fn ended(self, told: bool, now_s: f64) {
        let mut known = self.elsewhere.0.lock();
        let full = known.len() > KNOWN_MAX;
        let Some(place) = known.get_mut(self.to) else { return };
        match told || full {
            true => place.failures = 0,
            // Those that were under way together count once.
            false if place.down_until_s > now_s => {}
            false => {
                place.down_until_s = now_s + (DOWN_S.0 * 2f64.powi(place.failures.min(20) as i32)).min(DOWN_S.1);
                place.failures += 1;
            }
        }
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let mut known = self.elsewhere.0.lock();
        if let Some(place) = known.get_mut(self.to) {
            place.telling -= 1;
            if place.telling == 0 && place.failures == 0 {
                known.remove(self.to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_destination_has_a_few_places() {
        let elsewhere = Elsewhere::default();
        let mut held: Vec<_> = (0..AT_ONCE_MAX).map(|_| elsewhere.enter("a", 10.0).ok().unwrap()).collect();
        assert_eq!(elsewhere.enter("a", 10.0).err(), Some(11.0));
        assert!(elsewhere.enter("b", 10.0).is_ok());
        held.pop().unwrap().ended(true, 10.0);
        assert!(elsewhere.enter("a", 10.0).is_ok());
        drop(held);
        assert!(elsewhere.0.lock().is_empty());
    }

    #[test]
    fn one_that_failed_is_left_alone_for_longer_each_time() {
        let elsewhere = Elsewhere::default();
        let mut now = 100.0;
        let fail = |now: f64| elsewhere.enter("a", now).ok().unwrap().ended(false, now);
        let (one, other) = (elsewhere.enter("a", now).ok().unwrap(), elsewhere.enter("a", now).ok().unwrap());
        one.ended(false, now);
        other.ended(false, now);
        for pause in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            assert_eq!(elsewhere.enter("a", now).err(), Some(now + pause));
            assert!(elsewhere.enter("b", now).is_ok());
            now += pause;
            fail(now);
        }
        now += 60.0;
        elsewhere.enter("a", now).ok().unwrap().ended(true, now);
        assert!(elsewhere.0.lock().is_empty(), "and forgotten when it was told");
    }
}
