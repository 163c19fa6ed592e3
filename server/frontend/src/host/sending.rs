//! Room 8, response: an HTTP/2 answer whose client must get on with reading it. One that is given no window to send
//! into is dropped, which resets its stream and gives back everything it holds; its connection goes on.
//!
//! hyper asks a body for its next frame only once the client has made room for more, so a client that reads nothing is
//! seen by nobody but whoever watches the time between two frames: the task that sends them, started here.

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use pin_project_lite::pin_project;
use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// How slowly an answer may be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Longest time between two frames of an answer, while it has more to send.
    pub(super) stall_timeout: Duration,
    /// On top of it, for what has been handed over: slowest average, in bytes per second.
    pub(super) bytes_per_second_min: u64,
}

/// What a stream's task waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Waiting {
    /// Its handler, or the body's own next frame: the server's time.
    #[default]
    Server,
    /// The client, to read so many bytes, handed over since it last was the server's turn.
    Client { bytes: u64 },
}

tokio::task_local! {
    /// Set by the bodies that a stream's task polls.
    static WAITING: Cell<Waiting>;
}

/// HTTP/1 answers have no task of their own: there the socket itself is watched.
fn now_waiting(next: impl FnOnce(Waiting) -> Waiting) {
    let _ = WAITING.try_with(|waiting| waiting.set(next(waiting.get())));
}

/// Starts the tasks of one connection's HTTP/2 streams.
#[derive(Clone, Debug)]
pub(super) struct StreamExecutor {
    patience: Patience,
    open: Arc<AtomicUsize>,
}

impl StreamExecutor {
    /// No stream is open.
    pub(super) fn new(patience: Patience) -> Self {
        Self { patience, open: Arc::default() }
    }

    /// Streams open now.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        self.open.fetch_add(1, Ordering::Relaxed);
        let watched = Watched {
            stream,
            waiting: Waiting::Server,
            patience: self.patience,
            timer: None,
            open: Open(self.open.clone()),
        };
        tokio::spawn(watched);
    }
}

pin_project! {
    /// A stream's task, which ends, and drops the stream, when its client stands still.
    struct Watched<F> {
        #[pin]
        stream: F,
        waiting: Waiting,
        patience: Patience,
        timer: Option<Pin<Box<Sleep>>>,
        open: Open,
    }
}

/// One of a connection's open streams.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let before = *this.waiting;
        let (polled, waiting) = WAITING.sync_scope(Cell::new(before), || {
            let polled = this.stream.poll(cx);
            (polled, WAITING.with(Cell::get))
        });
        if polled.is_ready() {
            return Poll::Ready(());
        }
        *this.waiting = waiting;
        let Waiting::Client { bytes } = waiting else {
            *this.timer = None;
            return Poll::Pending;
        };
        if waiting != before || this.timer.is_none() {
            let earned = Duration::from_millis(bytes.saturating_mul(1000) / this.patience.bytes_per_second_min.max(1));
            *this.timer = Some(Box::pin(sleep_until(Instant::now() + this.patience.stall_timeout + earned)));
        }
        if let Some(timer) = this.timer {
            ready!(timer.as_mut().poll(cx));
        }
        tracing::debug!(bytes, "answer dropped: its client does not read it");
        Poll::Ready(())
    }
}

/// Largest piece handed over at once: what a client that has stopped reading is still waited for without the budget
/// knowing better.
const PIECE_BYTES: usize = 128 << 10;
/// Frames up to this size go as they are; the last byte of a larger one goes by itself. hyper hands a whole piece over once
/// there is room for a byte of it, and then asks for the next: only when there is one more does it wait for the client.
const UNWATCHED_BYTES: usize = 4 << 10;

/// A body that tells its stream's task whose turn it is, and comes in pieces that are worth waiting for.
#[derive(Debug)]
pub(super) struct SentBody<B> {
    inner: B,
    /// The rest of a frame that is sent in pieces.
    rest: Bytes,
}

impl<B: Body> SentBody<B> {
    /// An answer begins: it is the client's turn until its first frame is asked for.
    pub(super) fn new(inner: B) -> Self {
        now_waiting(|_| Waiting::Client { bytes: 0 });
        Self { inner, rest: Bytes::new() }
    }

    /// The next piece of `rest`.
    fn piece(&mut self) -> Bytes {
        let watched = WAITING.try_with(|_| ()).is_ok();
        let piece_bytes = match self.rest.len() {
            length if !watched || length <= 1 => length,
            length => (length - 1).min(PIECE_BYTES),
        };
        self.rest.split_to(piece_bytes)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for SentBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let polled = match this.rest.is_empty() {
            false => Poll::Ready(Some(Ok(Frame::data(this.piece())))),
            true => match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(|data| data.len() > UNWATCHED_BYTES) => {
                    this.rest = frame.into_data().unwrap_or_default();
                    Poll::Ready(Some(Ok(Frame::data(this.piece()))))
                }
                polled => polled,
            },
        };
        now_waiting(|waiting| match (&polled, waiting) {
            (Poll::Pending, _) => Waiting::Server,
            (Poll::Ready(Some(Ok(frame))), waiting) => {
                let handed = frame.data_ref().map_or(0, Buf::remaining) as u64;
                let before = if let Waiting::Client { bytes } = waiting { bytes } else { 0 };
                Waiting::Client { bytes: before + handed }
            }
            (Poll::Ready(_), waiting) => waiting,
        });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper().and_then(|upper| upper.checked_add(rest)) {
            hint.set_upper(upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};
    use std::convert::Infallible;
    use tokio::sync::Semaphore;

    const PATIENCE: Patience = Patience { stall_timeout: Duration::from_secs(10), bytes_per_second_min: 1000 };

    fn frames(lengths: impl IntoIterator<Item = usize>) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let frames: Vec<_> = lengths.into_iter().map(|n| Ok(Frame::data(Bytes::from(vec![0; n])))).collect();
        StreamBody::new(stream::iter(frames))
    }

    /// Sends a body as hyper does: a frame is asked for once the window has room. True if it was sent whole.
    async fn send(
        body: impl Body<Data = Bytes, Error = Infallible> + Unpin + Send + 'static,
        window: Arc<Semaphore>,
    ) -> bool {
        let (sent, whole) = tokio::sync::oneshot::channel();
        StreamExecutor::new(PATIENCE).execute(async move {
            let mut body = SentBody::new(body);
            loop {
                window.acquire().await.unwrap().forget();
                if body.frame().await.is_none() {
                    break;
                }
            }
            sent.send(()).unwrap();
        });
        whole.await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_makes_no_room_is_given_up_and_a_slow_one_is_not() {
        let started = Instant::now();
        assert!(!send(frames([10, 10]), Arc::new(Semaphore::new(0))).await, "before the first frame");
        assert_eq!(started.elapsed(), Duration::from_secs(10));
        assert!(!send(frames([10, 10]), Arc::new(Semaphore::new(1))).await, "after it");

        let window = Arc::new(Semaphore::new(0));
        let opening = window.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(9)).await;
                opening.add_permits(1);
            }
        });
        assert!(send(frames([10; 20]), window).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_handed_over_earns_time() {
        let started = Instant::now();
        assert!(!send(frames([60_001]), Arc::new(Semaphore::new(1))).await);
        assert_eq!(started.elapsed(), Duration::from_secs(10 + 60));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_byte_of_what_is_large_waits_for_the_client() {
        // hyper hands over a piece for a byte of room: one place for the first piece, and none for the last byte.
        assert!(!send(frames([100_000]), Arc::new(Semaphore::new(1))).await);
        // The two pieces and the end.
        assert!(send(frames([100_000]), Arc::new(Semaphore::new(3))).await);
        assert!(send(frames([1000]), Arc::new(Semaphore::new(2))).await, "a small one goes whole");
    }

    #[tokio::test]
    async fn pieces_make_the_whole() {
        let whole: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let body = StreamBody::new(stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(whole.clone())))]));
        let (sent, received) = tokio::sync::oneshot::channel();
        StreamExecutor::new(PATIENCE).execute(async move {
            let _ = sent.send(SentBody::new(body).collect().await.unwrap().to_bytes());
        });
        assert!(received.await.unwrap() == whole);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_has_nothing_to_say_is_waited_for() {
        let pending = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let sending = send(pending, Arc::new(Semaphore::new(9)));
        assert!(tokio::time::timeout(Duration::from_secs(3600), sending).await.is_err());
    }
}
