//! Wires in memory, which freeze with the machine at their end.
//!
//! Laid by the fleet to machines and by machines to the fleet; all bytes arrive in order, at once, or not at all.

use async_trait::async_trait;
use parking_lot::Mutex;
use penstock_instances::{Wire, Wires};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::mpsc;

/// Bytes under way in a wire, each way.
const WIRE_BYTES: usize = 64 << 10;
/// Wires that wait to be accepted: as many as a socket's backlog.
const BACKLOG: usize = 128;

type Stream = Arc<Mutex<Option<DuplexStream>>>;

/// All wires that there may be: who listens, by name.
#[derive(Default)]
pub(super) struct Net(Mutex<BTreeMap<String, Listening>>);

/// Whoever listens, and the machine that it is on; the fleet is on none.
struct Listening {
    give: mpsc::Sender<Wire>,
    plug: Option<Arc<Plug>>,
}

/// Where the wires of one machine go in.
#[derive(Default)]
pub(super) struct Plug {
    frozen: AtomicBool,
    /// It holds on to its wires when its agent has ended.
    pub(super) clings: AtomicBool,
    wires: Mutex<Vec<Weak<Mutex<Option<DuplexStream>>>>>,
    held: Mutex<Vec<Stream>>,
    sleepers: Sleepers,
}

/// Whoever waits for a wire.
#[derive(Default)]
struct Sleepers(Mutex<Vec<Waker>>);

impl Sleepers {
    fn add(&self, cx: &Context<'_>) {
        let mut all = self.0.lock();
        if !all.iter().any(|other| other.will_wake(cx.waker())) {
            all.push(cx.waker().clone());
        }
    }

    fn wake(&self) {
        std::mem::take(&mut *self.0.lock()).into_iter().for_each(Waker::wake);
    }
}

impl Plug {
    /// Nothing passes any more, or all does again.
    pub(super) fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
        self.sleepers.wake();
    }

    /// What it held on to is let go.
    pub(super) fn let_go(&self) {
        self.held.lock().clear();
    }

    /// All its wires end.
    pub(super) fn pull(&self) {
        self.let_go();
        let wires = std::mem::take(&mut *self.wires.lock());
        wires.iter().filter_map(Weak::upgrade).for_each(|wire| drop(wire.lock().take()));
        self.sleepers.wake();
    }

    fn take_in(&self, stream: &Stream) {
        let mut wires = self.wires.lock();
        wires.retain(|wire| wire.strong_count() > 0);
        wires.push(Arc::downgrade(stream));
        if self.clings.load(Ordering::Relaxed) {
            self.held.lock().push(stream.clone());
        }
    }
}

/// One end of a wire.
struct Side {
    stream: Stream,
    plug: Option<Arc<Plug>>,
    sleepers: Arc<Sleepers>,
}

fn side(stream: DuplexStream, plug: Option<Arc<Plug>>) -> Wire {
    let stream: Stream = Arc::new(Mutex::new(Some(stream)));
    plug.iter().for_each(|plug| plug.take_in(&stream));
    let sleepers = Arc::<Sleepers>::default();
    // Whoever drops both halves ends the wire: the cut does not hold it.
    let (held, asleep) = (Arc::downgrade(&stream), sleepers.clone());
    let cut = move || {
        held.upgrade().iter().for_each(|stream| drop(stream.lock().take()));
        asleep.wake();
    };
    let (from, to) = tokio::io::split(Side { stream, plug, sleepers });
    Wire { from: Box::new(from), to: Box::new(to), cut: Box::new(cut) }
}

impl Net {
    pub(super) fn listen_on(&self, name: &str, plug: Option<Arc<Plug>>) -> io::Result<mpsc::Receiver<Wire>> {
        let (give, wires) = mpsc::channel(BACKLOG);
        let mut all = self.0.lock();
        if all.get(name).is_some_and(|other| !other.give.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        all.insert(name.to_owned(), Listening { give, plug });
        Ok(wires)
    }

    pub(super) fn lay(&self, name: &str, plug: Option<Arc<Plug>>) -> io::Result<Wire> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let mut all = self.0.lock();
        all.retain(|_, listening| !listening.give.is_closed());
        let listening = all.get(name).ok_or_else(refused)?;
        let (near, far) = duplex(WIRE_BYTES);
        listening.give.try_send(side(far, listening.plug.clone())).map_err(|_| refused())?;
        Ok(side(near, plug))
    }
}

#[async_trait]
impl Wires for Net {
    fn listen(&self, name: &str) -> io::Result<mpsc::Receiver<Wire>> {
        self.listen_on(name, None)
    }

    async fn connect(&self, name: &str) -> io::Result<Wire> {
        self.lay(name, None)
    }
}

impl Side {
    /// Polls the stream, unless it is frozen or has been cut.
    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        cut: impl FnOnce() -> io::Result<T>,
        poll: impl FnOnce(Pin<&mut DuplexStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut stream = self.stream.lock();
        let polled = match stream.as_mut() {
            None => Poll::Ready(cut()),
            Some(_) if self.plug.as_ref().is_some_and(|plug| plug.frozen.load(Ordering::Relaxed)) => Poll::Pending,
            Some(stream) => poll(Pin::new(stream), cx),
        };
        if polled.is_pending() {
            self.sleepers.add(cx);
            self.plug.iter().for_each(|plug| plug.sleepers.add(cx));
        }
        polled
    }
}

fn broken<T>() -> io::Result<T> {
    Err(io::ErrorKind::BrokenPipe.into())
}

impl AsyncRead for Side {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, || Ok(()), |stream, cx| stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Side {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(cx, broken, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, || Ok(()), |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, || Ok(()), |stream, cx| stream.poll_shutdown(cx))
    }
}
