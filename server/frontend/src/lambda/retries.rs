//! Room 1, Lambda door: attempts of one invocation. AWS's clients send an invocation again when their own patience ends,
//! with the same `amz-sdk-invocation-id`: such an attempt joins the one that runs, and the model runs once.
//!
//! Called by `invoke`. What runs ends when nobody waits for it any more and nobody came back within a grace.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long one that nobody waits for is kept for the next attempt: clients pause at most a second before the second, and
/// two before the third.
const GRACE: Duration = Duration::from_secs(3);
/// Most invocations kept; more run as if they had no id.
const KEPT_MAX: usize = 65_536;

/// How an invocation ended, to be told to every attempt.
pub(crate) type Ended<T> = Arc<T>;

/// What an end is to later attempts.
pub(crate) trait End: Send + Sync + 'static {
    /// Whether it is theirs, too. One that never ran is not: a later attempt is tried.
    fn is_kept(&self) -> bool;
}

struct Running<T> {
    ended: watch::Receiver<Option<Ended<T>>>,
    waiting: usize,
    /// Counts the times that the last one left, so that an old timer does not end what was joined again.
    left: u64,
    task: tokio::task::AbortHandle,
}

/// Invocations that run, by caller and id.
pub(crate) struct Attempts<T = super::invoke::Done>(Arc<Mutex<HashMap<String, Running<T>>>>);

impl<T> Default for Attempts<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: End> Attempts<T> {
    /// Runs `work`, or joins what runs by this key. `None`: what it joined was ended.
    pub(crate) async fn run(&self, key: String, work: impl Future<Output = T> + Send + 'static) -> Option<Ended<T>> {
        let mut ended = match self.join(&key, work) {
            Ok(ended) => ended,
            Err(work) => return Some(Arc::new(work.await)),
        };
        let place = Place { attempts: Self(self.0.clone()), key: Some(key.clone()) };
        let found = ended.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        drop(place);
        if found.is_some() {
            // Told: what it holds of the memory budget is its attempts' alone.
            self.0.lock().remove(&key);
        }
        found
    }

    /// Joins what runs by this key, or starts it; gives `work` back where too many run.
    fn join<W: Future<Output = T> + Send + 'static>(
        &self,
        key: &str,
        work: W,
    ) -> Result<watch::Receiver<Option<Ended<T>>>, W> {
        let mut running = self.0.lock();
        if let Some(found) = running.get_mut(key) {
            found.waiting += 1;
            return Ok(found.ended.clone());
        }
        if running.len() >= KEPT_MAX {
            return Err(work);
        }
        let (tell, ended) = watch::channel(None);
        let (this, own) = (Self(self.0.clone()), key.to_owned());
        let task = tokio::spawn(async move {
            let end = Arc::new(work.await);
            if !end.is_kept() {
                this.0.lock().remove(&own);
            }
            let _ = tell.send(Some(end));
        });
        let entry = Running { ended: ended.clone(), waiting: 1, left: 0, task: task.abort_handle() };
        running.insert(key.to_owned(), entry);
        Ok(ended)
    }

    /// One that waited has its answer, or has left.
    fn leave(&self, key: String) {
        let mut running = self.0.lock();
        let Some(found) = running.get_mut(&key) else { return };
        found.waiting -= 1;
        if found.waiting > 0 {
            return;
        }
        found.left += 1;
        let left = found.left;
        let this = Self(self.0.clone());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(GRACE).await;
            let mut running = this.0.lock();
            if running.get(&key).is_some_and(|found| found.waiting == 0 && found.left == left)
                && let Some(found) = running.remove(&key)
            {
                found.task.abort();
            }
        });
    }
}

/// The place of one that waits.
struct Place<T: End> {
    attempts: Attempts<T>,
    key: Option<String>,
}

impl<T: End> Drop for Place<T> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.attempts.leave(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    impl End for u32 {
        fn is_kept(&self) -> bool {
            *self != 0
        }
    }

    #[tokio::test]
    async fn what_never_ran_is_tried_again() {
        let attempts = Attempts::<u32>::default();
        assert_eq!(*attempts.run("a".into(), async { 0 }).await.unwrap(), 0);
        assert_eq!(*attempts.run("a".into(), async { 7 }).await.unwrap(), 7);
        assert!(attempts.0.lock().is_empty(), "and what was told is not kept");
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
        let (attempts, runs) = (Attempts::<u32>::default(), Arc::new(AtomicU32::new(0)));
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
        assert!(attempts.0.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_comes_back_for_is_ended() {
        let (attempts, runs) = (Attempts::<u32>::default(), Arc::new(AtomicU32::new(0)));
        let first = tokio::time::timeout(Duration::from_secs(1), attempts.run("a".into(), slow(&runs)));
        assert!(first.await.is_err());
        tokio::time::sleep(GRACE * 2).await;
        assert!(attempts.0.lock().is_empty());
        assert_eq!(*attempts.run("a".into(), slow(&runs)).await.unwrap(), 2);
    }
}
