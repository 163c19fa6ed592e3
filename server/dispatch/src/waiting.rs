//! The waiting room of a version: requests that came while no environment was ready, in the order in which they came.
//!
//! Entered on a request's way when there is nothing to send it to; opened by the supervisor when an environment is ready, and
//! by each request that gives a slot back. Bounded, and everybody in it has a deadline. Never holds a lock across a wait.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use tokio::sync::oneshot;

/// A waiting room.
pub(crate) struct WaitingRoom {
    limit: u32,
    places: Mutex<Places>,
    /// How many are in it, for those that only ask.
    waiting: AtomicU32,
}

#[derive(Default)]
struct Places {
    next: u64,
    line: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// A place in the line; given up when dropped.
pub(crate) struct Place<'a> {
    room: &'a WaitingRoom,
    number: u64,
    called: oneshot::Receiver<()>,
    /// It was called and has not tried yet: should it leave, the next is called.
    owes: bool,
}

impl WaitingRoom {
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, places: Mutex::default(), waiting: AtomicU32::new(0) }
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Most that may wait.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// A place at the end of the line; `None` if the room is full. Look once more whether it is needed before waiting: what
    /// became free before the place was taken has called nobody.
    pub(crate) fn enter(&self) -> Option<Place<'_>> {
        let mut places = self.places.lock();
        if places.line.len() >= self.limit as usize {
            return None;
        }
        let (number, (call, called)) = (places.next, oneshot::channel());
        places.next += 1;
        places.line.push_back((number, call));
        self.counted(&places);
        Some(Place { room: self, number, called, owes: false })
    }

    /// So many of those at the front of the line may try.
    pub(crate) fn call(&self, count: u32) {
        // Whoever enters looks after it has; whoever frees something looks here after it has. One of the two sees the other.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut places = self.places.lock();
        let mut left = count;
        while left > 0
            && let Some((_, call)) = places.line.pop_front()
        {
            // One that has just left takes no call.
            left -= u32::from(call.send(()).is_ok());
        }
        self.counted(&places);
    }

    /// All may try: there is something to know.
    pub(crate) fn call_all(&self) {
        self.call(u32::MAX);
    }

    fn counted(&self, places: &Places) {
        self.waiting.store(u32::try_from(places.line.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}

impl Place<'_> {
    /// Completes when it may try. Cancelled, it keeps its place.
    pub(crate) async fn called(&mut self) {
        if !self.owes {
            // The sender goes only by a call: the room outlives its places.
            let _ = (&mut self.called).await;
            self.owes = true;
        }
    }

    /// It has tried in vain: back to the front of the line. As with [`WaitingRoom::enter`], look once more before waiting.
    pub(crate) fn again(&mut self) {
        let (call, called) = oneshot::channel();
        self.called = called;
        self.owes = false;
        let mut places = self.room.places.lock();
        places.line.push_front((self.number, call));
        self.room.counted(&places);
    }

    /// It got what it waited for.
    pub(crate) fn leave(mut self) {
        self.owes = false;
        self.called.close();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut places = self.room.places.lock();
        let before = places.line.len();
        places.line.retain(|(number, _)| *number != self.number);
        let was_called = places.line.len() == before && self.called.try_recv().is_ok();
        self.room.counted(&places);
        drop(places);
        if self.owes || was_called {
            self.room.call(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use tokio::time::{Duration, timeout};

    async fn is_called(place: &mut Place<'_>) -> bool {
        timeout(Duration::from_millis(1), pin!(place.called())).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_called_in_order_and_no_more_than_may_try() {
        let room = WaitingRoom::new(3);
        let (mut a, mut b, mut c) = (room.enter().unwrap(), room.enter().unwrap(), room.enter().unwrap());
        assert!(room.enter().is_none() && room.waiting() == 3);
        room.call(2);
        assert!(is_called(&mut a).await && is_called(&mut b).await && !is_called(&mut c).await);
        a.again();
        b.leave();
        assert_eq!(room.waiting(), 2);
        room.call(1);
        assert!(is_called(&mut a).await && !is_called(&mut c).await, "who tried in vain is the first again");
        a.leave();
        room.call_all();
        assert!(is_called(&mut c).await && room.waiting() == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_not_lost_with_whoever_leaves() {
        let room = WaitingRoom::new(8);
        let (a, mut b, mut c) = (room.enter().unwrap(), room.enter().unwrap(), room.enter().unwrap());
        room.call(1);
        drop(a);
        assert!(is_called(&mut b).await, "before it heard of it");
        drop(b);
        assert!(is_called(&mut c).await, "and after");
        let (d, mut e) = (room.enter().unwrap(), room.enter().unwrap());
        drop(d);
        assert!(!is_called(&mut e).await, "nobody was called");
        c.leave();
        assert!(!is_called(&mut e).await, "one that got a slot calls nobody");
        drop(e);
        assert_eq!(room.waiting(), 0);
    }
}
