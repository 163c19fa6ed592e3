//! Room 1, Lambda door: attempts of one invocation. AWS's clients send an invocation again when their own patience ends,
//! with the same `amz-sdk-invocation-id`: such an attempt joins the one that runs, and the model runs once.
//!
//! Called by `invoke`. What runs ends when nobody waits for it any more and nobody came back within a grace.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long one that nobody waits for is kept for the next attempt: clients pause at most a second before the second, and
/// two before the third.
const GRACE: Duration = Duration::from_secs(3);
/// Most invocations kept; more run as if they had no id.
const KEPT_MAX: usize = 65_536;

/// An invocation that runs, or has ended while nobody waited for it.
struct Attempt<T> {
    ended: watch::Sender<Option<Arc<T>>>,
    /// Ends it.
    stop: CancellationToken,
    /// Attempts that wait for its end. Changed under the lock of all.
    waiting: AtomicUsize,
    /// Counts the times that the last one left, so that an old timer does not end what was joined again.
    left: AtomicU64,
}

/// Invocations by caller, function and id.
pub(crate) struct Attempts<T = super::invoke::Done> {
    running: Arc<Mutex<HashMap<String, Arc<Attempt<T>>>>>,
    /// Whether an end is for later attempts, too. One that never ran is not: a later attempt is tried.
    is_kept: fn(&T) -> bool,
}

impl<T> Clone for Attempts<T> {
    fn clone(&self) -> Self {
        Self { running: self.running.clone(), is_kept: self.is_kept }
    }
}

impl<T: Send + Sync + 'static> Attempts<T> {
    /// None yet.
    pub(crate) fn new(is_kept: fn(&T) -> bool) -> Self {
        Self { running: Arc::default(), is_kept }
    }

    /// Runs `work`, or joins what runs by this key. `None`: what it joined was ended.
    pub(crate) async fn run(&self, key: String, work: impl Future<Output = T> + Send + 'static) -> Option<Arc<T>> {
        let attempt = match self.join(&key, work) {
            Ok(attempt) => attempt,
            Err(work) => return Some(Arc::new(work.await)),
        };
        let place = Place { attempts: self.clone(), key, attempt };
        let mut ended = place.attempt.ended.subscribe();
        let stop = place.attempt.stop.clone();
        tokio::select! {
            biased;
            found = ended.wait_for(Option::is_some) => found.ok()?.clone(),
            () = stop.cancelled() => None,
        }
    }

    /// Joins what runs by this key, or starts it; gives `work` back where too many run.
    fn join<W: Future<Output = T> + Send + 'static>(&self, key: &str, work: W) -> Result<Arc<Attempt<T>>, W> {
        let mut running = self.running.lock();
        if let Some(attempt) = running.get(key) {
            attempt.waiting.fetch_add(1, Ordering::Relaxed);
            return Ok(attempt.clone());
        }
        if running.len() >= KEPT_MAX {
            return Err(work);
        }
        let attempt = Arc::new(Attempt {
            ended: watch::Sender::new(None),
            stop: CancellationToken::new(),
            waiting: AtomicUsize::new(1),
            left: AtomicU64::new(0),
        });
        running.insert(key.to_owned(), attempt.clone());
        let (this, key, own) = (self.clone(), key.to_owned(), attempt.clone());
        tokio::spawn(async move {
            let Some(end) = own.stop.clone().run_until_cancelled(work).await else { return };
            if !(this.is_kept)(&end) {
                this.forget(&key, &own);
            }
            own.ended.send_replace(Some(Arc::new(end)));
        });
        Ok(attempt)
    }

    /// Takes it out, if it is still the one of this key.
    fn forget(&self, key: &str, attempt: &Arc<Attempt<T>>) {
        let mut running = self.running.lock();
        if running.get(key).is_some_and(|found| Arc::ptr_eq(found, attempt)) {
            running.remove(key);
        }
    }

    /// Nobody waits for it any more: it is forgotten if it has ended and was told, else after a grace, and ended.
    fn left(&self, key: String, attempt: Arc<Attempt<T>>) {
        if attempt.ended.borrow().is_some() {
            return self.forget(&key, &attempt);
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (this, left) = (self.clone(), attempt.left.fetch_add(1, Ordering::Relaxed) + 1);
        runtime.spawn(async move {
            tokio::time::sleep(GRACE).await;
            let mut running = this.running.lock();
            let deserted = attempt.waiting.load(Ordering::Relaxed) == 0 && attempt.left.load(Ordering::Relaxed) == left;
            if deserted && running.get(&key).is_some_and(|found| Arc::ptr_eq(found, &attempt)) {
                running.remove(&key);
                attempt.stop.cancel();
            }
        });
    }
}

/// The place of one that waits.
struct Place<T: Send + Sync + 'static> {
    attempts: Attempts<T>,
    key: String,
    attempt: Arc<Attempt<T>>,
}

impl<T: Send + Sync + 'static> Drop for Place<T> {
    fn drop(&mut self) {
        let last = {
            let _running = self.attempts.running.lock();
            self.attempt.waiting.fetch_sub(1, Ordering::Relaxed) == 1
        };
        if last {
            self.attempts.left(std::mem::take(&mut self.key), self.attempt.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn attempts() -> Attempts<u32> {
        Attempts::new(|end| *end != 0)
    }

    #[tokio::test]
    async fn what_never_ran_is_tried_again() {
        let attempts = attempts();
        assert_eq!(*attempts.run("a".into(), async { 0 }).await.unwrap(), 0);
        assert_eq!(*attempts.run("a".into(), async { 7 }).await.unwrap(), 7);
        assert!(attempts.running.lock().is_empty(), "and what was told is not kept");
        // One that waited for the refusal leaves when the next attempt already runs: that one is not its own.
        let (open, gate) = tokio::sync::oneshot::channel::<()>();
        let refused = attempts.join("a", async { 0 }).ok().unwrap();
        refused.ended.subscribe().wait_for(Option::is_some).await.unwrap();
        let place = Place { attempts: attempts.clone(), key: "a".into(), attempt: refused };
        let running = attempts.join("a", async move { gate.await.map_or(1, |()| 9) }).ok().unwrap();
        drop(place);
        assert_eq!((running.waiting.load(Ordering::Relaxed), attempts.running.lock().len()), (1, 1));
        open.send(()).unwrap();
        assert_eq!(*attempts.run("a".into(), async { 2 }).await.unwrap(), 9);
    }

    fn slow(runs: &Arc<AtomicU32>) -> impl Future<Output = u32> + Send + 'static {
        let runs = runs.clone();
        async move {
            let run = runs.fetch_add(1, Ordering::Relaxed) + 1;
            tokio::time::sleep(Duration::from_secs(60)).await;
            run
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_of_one_invocation_share_one_run() {
        let (attempts, runs) = (attempts(), Arc::new(AtomicU32::new(0)));
        let first = tokio::time::timeout(Duration::from_secs(30), attempts.run("a".into(), slow(&runs)));
        assert!(first.await.is_err(), "its patience ended");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (second, third) =
            tokio::join!(attempts.run("a".into(), slow(&runs)), attempts.run("a".into(), slow(&runs)));
        assert_eq!((*second.unwrap(), *third.unwrap()), (1, 1));
        // Another id is another invocation; and so is the same one, long after.
        assert_eq!(*attempts.run("b".into(), slow(&runs)).await.unwrap(), 2);
        tokio::time::sleep(GRACE * 2).await;
        assert_eq!(*attempts.run("a".into(), slow(&runs)).await.unwrap(), 3);
        tokio::time::sleep(GRACE * 2).await;
        assert!(attempts.running.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_comes_back_for_is_ended() {
        let (attempts, runs) = (attempts(), Arc::new(AtomicU32::new(0)));
        let first = tokio::time::timeout(Duration::from_secs(1), attempts.run("a".into(), slow(&runs)));
        assert!(first.await.is_err());
        tokio::time::sleep(GRACE * 2).await;
        assert!(attempts.running.lock().is_empty());
        assert_eq!(*attempts.run("a".into(), slow(&runs)).await.unwrap(), 2);
    }
}
