//! Destinations outside this machine: how many are told at once, and how long one that failed is left alone.
//!
//! Called when ends are told. A destination that hangs must not hold the places of all ends, so each has a few of its own,
//! and one while it fails; those that wait for it ask one after the other. Pure: `now` is an argument.

use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Records that are told to one host at once, or to one queue: fewer than all that are told.
const AT_ONCE_MAX: u32 = 4;
/// Until a place there may be free, in seconds.
const FULL_S: f64 = 1.0;
/// Between those that wait for one destination or host, in seconds: each costs a look at the store.
const APART_S: f64 = 0.02;
/// After a failure: first and longest pause, in seconds; it doubles with each in a row.
const DOWN_S: (f64, f64) = (1.0, 60.0);
/// Destinations that are remembered; beyond them one that failed is asked again at once.
const KNOWN_MAX: usize = 1024;

/// Those that are being told or have failed.
#[derive(Default)]
pub(crate) struct Elsewhere(Mutex<Known>);

#[derive(Default)]
struct Known {
    destinations: BTreeMap<String, Destination>,
    hosts: BTreeMap<String, Host>,
}

#[derive(Default)]
struct Destination {
    telling: u32,
    failures: u32,
    down_until_s: f64,
    line: Line,
}

#[derive(Default)]
struct Host {
    telling: u32,
    line: Line,
}

/// Those that ask again, one after the other.
#[derive(Default)]
struct Line {
    /// When the last of them does.
    last_s: f64,
}

impl Line {
    fn next(&mut self, not_before_s: f64) -> f64 {
        self.last_s = not_before_s.max(self.last_s + APART_S);
        self.last_s
    }
}

/// One of a destination's places; given back when dropped.
pub(crate) struct Telling<'a> {
    elsewhere: &'a Elsewhere,
    host: &'a str,
    to: &'a str,
}

impl Elsewhere {
    /// A place at a destination, which is on a host. Errors: when to ask again, in seconds since the epoch.
    pub(crate) fn enter<'a>(&'a self, host: &'a str, to: &'a str, now_s: f64) -> Result<Telling<'a>, f64> {
        let mut known = self.0.lock();
        if let Some(failing) = known.destinations.get_mut(to).filter(|destination| destination.failures > 0) {
            match failing.down_until_s > now_s {
                true => return Err(failing.line.next(failing.down_until_s)),
                false if failing.telling > 0 => return Err(failing.line.next(now_s + FULL_S)),
                false => {}
            }
        }
        let at = known.hosts.entry(host.to_owned()).or_default();
        if at.telling >= AT_ONCE_MAX {
            return Err(at.line.next(now_s + FULL_S));
        }
        // Nobody is remembered who was not let in.
        at.telling += 1;
        known.destinations.entry(to.to_owned()).or_default().telling += 1;
        Ok(Telling { elsewhere: self, host, to })
    }
}

impl Telling<'_> {
    /// How it went.
    pub(crate) fn ended(self, is_there: bool, now_s: f64) {
        let mut known = self.elsewhere.0.lock();
        let full = known.destinations.len() > KNOWN_MAX;
        let Some(destination) = known.destinations.get_mut(self.to) else { return };
        match is_there || full {
            true => destination.failures = 0,
            // Those that were under way together count once.
            false if destination.down_until_s > now_s => {}
            false => {
                let pause = DOWN_S.0 * 2f64.powi(destination.failures.min(20) as i32);
                destination.down_until_s = now_s + pause.min(DOWN_S.1);
                destination.failures += 1;
            }
        }
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let mut known = self.elsewhere.0.lock();
        if let Some(destination) = known.destinations.get_mut(self.to) {
            destination.telling -= 1;
            if destination.telling == 0 && destination.failures == 0 {
                known.destinations.remove(self.to);
            }
        }
        if let Some(host) = known.hosts.get_mut(self.host) {
            host.telling -= 1;
            if host.telling == 0 {
                known.hosts.remove(self.host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_empty(elsewhere: &Elsewhere) -> bool {
        let known = elsewhere.0.lock();
        known.destinations.is_empty() && known.hosts.is_empty()
    }

    #[test]
    fn each_host_has_a_few_places() {
        let elsewhere = Elsewhere::default();
        let mut held: Vec<_> = (0..AT_ONCE_MAX).map(|_| elsewhere.enter("a", "a/1", 10.0).ok().unwrap()).collect();
        assert_eq!(elsewhere.enter("a", "a/1", 10.0).err(), Some(11.0));
        assert_eq!(elsewhere.enter("a", "a/1", 10.0).err(), Some(11.0 + APART_S), "one after the other");
        assert_eq!(elsewhere.enter("a", "a/1", 20.0).err(), Some(21.0));
        assert_eq!(elsewhere.enter("a", "a/2", 20.0).err(), Some(21.0 + APART_S), "whatever it is for");
        assert!(elsewhere.enter("b", "b/1", 10.0).is_ok());
        held.pop().unwrap().ended(true, 10.0);
        assert!(elsewhere.enter("a", "a/2", 10.0).is_ok());
        drop(held);
        assert!(is_empty(&elsewhere));
    }

    #[test]
    fn one_that_failed_is_left_alone_for_longer_each_time() {
        let elsewhere = Elsewhere::default();
        let mut now = 100.0;
        let enter = |to, now: f64| elsewhere.enter("a", to, now);
        let (one, other) = (enter("a/1", now).ok().unwrap(), enter("a/1", now).ok().unwrap());
        one.ended(false, now);
        other.ended(false, now);
        for pause in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            assert_eq!(enter("a/1", now).err(), Some(now + pause));
            assert!(enter("a/2", now).is_ok());
            now += pause;
            enter("a/1", now).ok().unwrap().ended(false, now);
        }
        now += 60.0;
        let probe = enter("a/1", now).ok().unwrap();
        assert!(enter("a/1", now).is_err(), "one at a time while it fails");
        assert!(enter("a/2", now).is_ok());
        probe.ended(true, now);
        assert!(is_empty(&elsewhere), "and forgotten when it was told");
    }
}
