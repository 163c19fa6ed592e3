//! Which events are due, and when: the order of the queue, in memory. What they are is in the store.
//!
//! Called by the queue. No function's events keep those of another from running.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;
use tokio::sync::Notify;

/// Events of one function that run at once.
const RUNNING_OF_ONE_MAX: usize = 4;
/// Longest wait that nothing has to end.
const IDLE: Duration = Duration::from_secs(60);

/// The events of one function.
#[derive(Default)]
struct Waiting {
    /// By when they are due, in microseconds since the epoch.
    due: BTreeSet<(u64, String)>,
    /// Those that are due some time, and those that run.
    known: HashSet<String>,
    running: usize,
}

/// All events that wait or run.
#[derive(Default)]
pub(crate) struct Due {
    functions: Mutex<BTreeMap<String, Waiting>>,
    changed: Notify,
}

/// The function of an event's key, `event/FUNCTION/…`.
fn function_of(key: &str) -> &str {
    key.split('/').nth(1).unwrap_or_default()
}

fn microseconds(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

impl Due {
    /// It waits or runs.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.functions.lock().get(function_of(key)).is_some_and(|waiting| waiting.known.contains(key))
    }

    /// Nothing waits or runs any more.
    pub(crate) fn clear(&self) {
        self.functions.lock().clear();
        self.changed.notify_one();
    }

    /// One more, unless it is known.
    pub(crate) fn add(&self, key: String, due_s: f64) {
        let mut functions = self.functions.lock();
        let waiting = functions.entry(function_of(&key).to_owned()).or_default();
        if waiting.known.insert(key.clone()) {
            waiting.due.insert((microseconds(due_s), key));
            self.changed.notify_one();
        }
    }

    /// The one that has been due longest, of a function of which not enough run; else how long until there may be one.
    pub(crate) fn take(&self, now_s: f64) -> Result<String, Duration> {
        let (now, mut functions) = (microseconds(now_s), self.functions.lock());
        let free = functions.iter_mut().filter(|(_, waiting)| waiting.running < RUNNING_OF_ONE_MAX);
        let first = free.filter_map(|(_, waiting)| Some((waiting.due.first()?.0, waiting)));
        match first.min_by_key(|(due, _)| *due) {
            Some((due, waiting)) if due <= now => {
                waiting.running += 1;
                waiting.due.pop_first().map(|(_, key)| key).ok_or(IDLE)
            }
            Some((due, _)) => Err(Duration::from_micros(due - now).min(IDLE)),
            None => Err(IDLE),
        }
    }

    /// One that ran is to run again.
    pub(crate) fn again(&self, key: String, due_s: f64) {
        if let Some(waiting) = self.functions.lock().get_mut(function_of(&key)) {
            waiting.running -= 1;
            waiting.due.insert((microseconds(due_s), key));
        }
        self.changed.notify_one();
    }

    /// One that ran is over.
    pub(crate) fn over(&self, key: &str) {
        let mut functions = self.functions.lock();
        if let Some(waiting) = functions.get_mut(function_of(key)) {
            waiting.running -= 1;
            waiting.known.remove(key);
            if waiting.known.is_empty() {
                functions.remove(function_of(key));
            }
        }
        self.changed.notify_one();
    }

    /// Waits for a change, at most so long.
    pub(crate) async fn changed_within(&self, wait: Duration) {
        // Which of the two it was is seen by looking.
        let _ = tokio::time::timeout(wait, self.changed.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_and_no_function_keeps_another_waiting() {
        let due = Due::default();
        (0..6).for_each(|n| due.add(format!("event/slow/{n}"), f64::from(n)));
        due.add("event/slow/0".into(), 9.0);
        due.add("event/quick/0".into(), 5.0);
        let taken: Vec<String> = std::iter::from_fn(|| due.take(10.0).ok()).collect();
        let slow: Vec<String> = (0..4).map(|n| format!("event/slow/{n}")).collect();
        assert_eq!((&taken[..4], &taken[4..]), (&slow[..], &["event/quick/0".to_owned()][..]));
        assert!(due.knows("event/slow/0") && !due.knows("event/slow/9"));
        due.over("event/slow/0");
        assert_eq!(due.take(10.0).as_deref(), Ok("event/slow/4"));
        due.again("event/slow/1".into(), 30.0);
        assert_eq!(due.take(10.0).as_deref(), Ok("event/slow/5"));
        taken[2..].iter().for_each(|key| due.over(key));
        assert_eq!(due.take(10.0), Err(Duration::from_secs(20)));
        assert_eq!(due.take(30.0).as_deref(), Ok("event/slow/1"));
        ["event/slow/1", "event/slow/4", "event/slow/5"].iter().for_each(|key| due.over(key));
        assert!(due.functions.lock().is_empty());
        assert_eq!(due.take(99.0), Err(IDLE));
    }
}
