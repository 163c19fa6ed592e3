//! Frames: how messages cross the link, both ways, over any byte stream.
//!
//! Called by the connection (front end's side) and the room (environment's side). Knows nothing of what a message
//! means. Layout in `proto/link.proto`. Small messages are written together with one system call; a body over
//! [`COPY_BYTES`] travels in chunks of its own, so that it is not copied on its way out, is read to where it stays, and a
//! cancel or a small request never waits for a large tensor.

use crate::message::reason;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use penstock_admission::{ByteBudget, ByteShare};
use penstock_domain::{ErrorCode, Refusal, ShedReason};
use penstock_proto::link::{BodyChunk, Header, header};
use prost::Message;
use smallvec::SmallVec;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// Largest piece of a body in one frame: at 2 GB/s through a unix socket it holds the line for about 60 µs.
pub(crate) const CHUNK_BYTES: usize = 128 * 1024;
/// Bodies up to this size are copied beside their header, which is cheaper than a system call of their own.
const COPY_BYTES: usize = 16 * 1024;
/// A frame's header never comes near this; more means that the peer is not speaking this protocol.
const HEADER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Room in the read buffer for one read. Of a large body only what comes along with its header passes through it.
const READ_BYTES: usize = 32 * 1024;

/// The tensor bytes of a message, in order; one piece per tensor.
pub(crate) type Body = SmallVec<[Bytes; 2]>;

/// Called once the frame has been handed to the operating system.
pub(crate) type Written = Box<dyn FnOnce() + Send>;

struct Outgoing {
    header: Header,
    body: Body,
    written: Option<Written>,
}

/// What waits to be written. Bounded by the permits of the calls whose messages it holds.
#[derive(Clone)]
pub(crate) struct Outbox(Arc<OutboxInner>);

struct OutboxInner {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    messages: Vec<Outgoing>,
    closed: bool,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self(Arc::new(OutboxInner { waiting: Mutex::new(Waiting::default()), wake: Notify::new() }))
    }

    /// Queues a message. After the link has closed it is dropped: whoever waits for an answer hears of it otherwise.
    pub(crate) fn send(&self, call: u64, kind: header::Kind, body: Body) {
        self.push(Outgoing { header: Header { call, body_bytes: 0, kind: Some(kind) }, body, written: None });
    }

    /// The same, and `written` is called once the operating system has the frame: from then on the peer will read it
    /// even if this process dies.
    pub(crate) fn send_then(&self, call: u64, kind: header::Kind, written: Written) {
        let header = Header { call, body_bytes: 0, kind: Some(kind) };
        self.push(Outgoing { header, body: Body::new(), written: Some(written) });
    }

    /// No more messages: the writer ends when it has written what waits.
    pub(crate) fn close(&self) {
        self.0.waiting.lock().closed = true;
        self.0.wake.notify_one();
    }

    /// Closes it when dropped, unless it is [kept](CloseOnDrop::keep).
    pub(crate) fn close_on_drop(&self) -> CloseOnDrop {
        CloseOnDrop(Some(self.clone()))
    }

    fn push(&self, mut message: Outgoing) {
        message.header.body_bytes = message.body.iter().map(|piece| piece.len() as u64).sum();
        let first = {
            let mut waiting = self.0.waiting.lock();
            if waiting.closed {
                return;
            }
            waiting.messages.push(message);
            waiting.messages.len() == 1
        };
        if first {
            self.0.wake.notify_one();
        }
    }
}

/// Ends the writer of a link that nobody will use.
pub(crate) struct CloseOnDrop(Option<Outbox>);

impl CloseOnDrop {
    /// The link is in use.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(outbox) = &self.0 {
            outbox.close();
        }
    }
}

/// A large body on its way out.
struct Large {
    call: u64,
    pieces: VecDeque<Bytes>,
}

/// Writes what the outbox holds until it closes or the peer is gone.
pub(crate) async fn write_frames<W: AsyncWrite + Unpin>(outbox: Outbox, mut to: W) -> io::Result<()> {
    let mut taken = Vec::new();
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let mut written: Vec<Written> = Vec::new();
    let mut large: VecDeque<Large> = VecDeque::new();
    let result = loop {
        let closed = {
            let mut waiting = outbox.0.waiting.lock();
            std::mem::swap(&mut taken, &mut waiting.messages);
            waiting.closed
        };
        if taken.is_empty() && large.is_empty() {
            if closed {
                break to.shutdown().await;
            }
            // What stands between this and the peer may keep something back, as TLS does.
            if let Err(error) = to.flush().await {
                break Err(error);
            }
            outbox.0.wake.notified().await;
            // Whoever woke this task may be one of many about to send: let them, and write once for all. (The runtime
            // would run this task right after the first of them.)
            tokio::task::yield_now().await;
            continue;
        }
        for message in taken.drain(..) {
            if message.header.body_bytes <= COPY_BYTES as u64 {
                encode_frame(&mut buffer, &message.header, &message.body);
            } else {
                encode_frame(&mut buffer, &message.header, &[]);
                large.push_back(Large { call: message.header.call, pieces: message.body.into_iter().collect() });
            }
            written.extend(message.written);
        }
        if let Err(error) = write_round(&mut to, &mut buffer, &mut large).await {
            break Err(error);
        }
        written.drain(..).for_each(|written| written());
    };
    outbox.0.waiting.lock().closed = true;
    result
}

/// Writes what is encoded and one chunk of the large body whose turn it is.
async fn write_round<W: AsyncWrite + Unpin>(
    to: &mut W,
    buffer: &mut BytesMut,
    large: &mut VecDeque<Large>,
) -> io::Result<()> {
    let mut chunk = None;
    if let Some(mut next) = large.pop_front() {
        while let Some(mut piece) = next.pieces.pop_front() {
            if piece.is_empty() {
                continue;
            }
            let part = piece.split_to(piece.len().min(CHUNK_BYTES));
            if !piece.is_empty() {
                next.pieces.push_front(piece);
            }
            let kind = Some(header::Kind::Chunk(BodyChunk {}));
            encode_head(buffer, &Header { call: next.call, body_bytes: part.len() as u64, kind }, part.len());
            chunk = Some(part);
            break;
        }
        if !next.pieces.is_empty() {
            large.push_back(next);
        }
    }
    match chunk {
        None => to.write_all_buf(buffer).await,
        Some(chunk) => to.write_all_buf(&mut (&mut *buffer).chain(chunk)).await,
    }
}

fn encode_head(out: &mut BytesMut, header: &Header, body_bytes: usize) {
    let header_bytes = header.encoded_len();
    out.reserve(8 + header_bytes + body_bytes.min(COPY_BYTES));
    out.put_u32_le((header_bytes + body_bytes) as u32);
    out.put_u32_le(header_bytes as u32);
    header.encode_raw(out);
}

fn encode_frame(out: &mut BytesMut, header: &Header, body: &[Bytes]) {
    encode_head(out, header, body.iter().map(Bytes::len).sum());
    for piece in body {
        out.put_slice(piece);
    }
}

/// A message as it was received, body complete.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) call: u64,
    pub(crate) kind: header::Kind,
    pub(crate) body: Bytes,
    /// What a large body holds of the reader's budget.
    pub(crate) share: Option<ByteShare>,
}

struct Assembling {
    kind: header::Kind,
    /// With room for all of it.
    body: Vec<u8>,
    body_bytes: usize,
    share: Option<ByteShare>,
}

/// A frame whose header has been read.
struct OpenFrame {
    header: Header,
    /// Bytes of its body still to come.
    left: usize,
}

/// Reads messages off a byte stream. [`FrameReader::next`] may be dropped and called again without loss.
pub(crate) struct FrameReader<R> {
    from: R,
    buffer: BytesMut,
    open: Option<OpenFrame>,
    assembling: HashMap<u64, Assembling>,
    /// Bytes still to come of bodies that nobody waits for any more, or for which there is no memory.
    unwanted: HashMap<u64, usize>,
    body_bytes_max: u64,
    budget: Option<ByteBudget>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// `body_bytes_max` bounds what a peer can make this side allocate for one message.
    pub(crate) fn new(from: R, body_bytes_max: u64) -> Self {
        Self {
            from,
            buffer: BytesMut::with_capacity(READ_BYTES),
            open: None,
            assembling: HashMap::new(),
            unwanted: HashMap::new(),
            body_bytes_max,
            budget: None,
        }
    }

    /// Bodies that travel in chunks take a share of `budget` before a byte of them is kept; one that does not fit is
    /// thrown away, and its call hears that it was shed. Smaller ones are bounded by the slots.
    pub(crate) fn with_budget(mut self, budget: Option<ByteBudget>) -> Self {
        self.budget = budget;
        self
    }

    /// The next message; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Incoming>> {
        loop {
            if let Some(message) = self.next_buffered()? {
                return Ok(Some(message));
            }
            if self.fill().await? == 0 {
                let between_messages = self.buffer.is_empty() && self.open.is_none() && self.assembling.is_empty();
                return if between_messages { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Completes when the stream ends or breaks. What arrives until then is kept for [`FrameReader::next`]; a peer
    /// that sends more than one buffer before it should is not read any further.
    pub(crate) async fn ended(&mut self) {
        while self.buffer.len() < READ_BYTES {
            self.buffer.reserve(READ_BYTES);
            match self.from.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        std::future::pending().await
    }

    /// Reads once: the rest of a chunk to where its body is put together, everything else into the buffer.
    async fn fill(&mut self) -> io::Result<usize> {
        if let Some(OpenFrame { header: Header { call, kind: Some(header::Kind::Chunk(_)), .. }, left }) =
            &mut self.open
            && let Some(assembling) = self.assembling.get_mut(call)
        {
            let read = self.from.read_buf(&mut (&mut assembling.body).limit(*left)).await?;
            *left -= read;
            return Ok(read);
        }
        self.buffer.reserve(READ_BYTES);
        self.from.read_buf(&mut self.buffer).await
    }

    /// A message that has been read already, without waiting.
    pub(crate) fn next_buffered(&mut self) -> io::Result<Option<Incoming>> {
        loop {
            let Some(OpenFrame { header, left }) =
                self.open.take().map_or_else(|| self.take_header(), |o| Ok(Some(o)))?
            else {
                return Ok(None);
            };
            let chunk = matches!(header.kind, Some(header::Kind::Chunk(_)));
            // Of a chunk it takes what is there; any other frame it takes whole.
            let take = if chunk { left.min(self.buffer.len()) } else { left };
            if self.buffer.len() < take {
                self.buffer.reserve(take - self.buffer.len());
                self.open = Some(OpenFrame { header, left });
                return Ok(None);
            }
            let part = self.buffer.split_to(take);
            let message = match chunk {
                false => self.accept(header, part.freeze())?,
                true => {
                    self.append(header.call, &part);
                    if left > take {
                        self.open = Some(OpenFrame { header, left: left - take });
                        return Ok(None);
                    }
                    self.assembled(header.call)
                }
            };
            if message.is_some() {
                return Ok(message);
            }
        }
    }

    fn take_header(&mut self) -> io::Result<Option<OpenFrame>> {
        let Some((head, _)) = self.buffer.split_first_chunk::<8>() else {
            return Ok(None);
        };
        let [a, b, c, d, e, f, g, h] = *head;
        let rest_bytes = u32::from_le_bytes([a, b, c, d]) as usize;
        let header_bytes = u32::from_le_bytes([e, f, g, h]) as usize;
        if header_bytes > HEADER_BYTES_MAX || header_bytes > rest_bytes || rest_bytes - header_bytes > CHUNK_BYTES {
            return Err(broken(format!("a frame of {rest_bytes} bytes with a header of {header_bytes}")));
        }
        if self.buffer.len() < 8 + header_bytes {
            self.buffer.reserve(8 + header_bytes - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(8);
        let header = Header::decode(&self.buffer[..header_bytes]).map_err(|error| broken(error.to_string()))?;
        self.buffer.advance(header_bytes);
        let left = rest_bytes - header_bytes;
        if matches!(header.kind, Some(header::Kind::Chunk(_))) {
            self.expect_chunk(header.call, left)?;
        }
        Ok(Some(OpenFrame { header, left }))
    }

    fn accept(&mut self, header: Header, body: Bytes) -> io::Result<Option<Incoming>> {
        let Header { call, body_bytes, kind } = header;
        let Some(kind) = kind else {
            return Err(broken("a frame of no kind".into()));
        };
        if matches!(kind, header::Kind::Cancel(_))
            && let Some(open) = self.assembling.remove(&call)
        {
            self.unwanted.insert(call, open.body_bytes - open.body.len());
        }
        if body_bytes > self.body_bytes_max {
            return Err(broken(format!("a body of {body_bytes} bytes, at most {} are taken", self.body_bytes_max)));
        }
        let body_bytes = body_bytes as usize;
        if body_bytes == body.len() {
            return Ok(Some(Incoming { call, kind, body, share: None }));
        }
        if self.assembling.contains_key(&call) || self.unwanted.contains_key(&call) {
            return Err(broken(format!("a second body for call {call}")));
        }
        if !body.is_empty() {
            return Err(broken(format!("{} of the {body_bytes} bytes of a body beside its header", body.len())));
        }
        let share = match &self.budget {
            None => None,
            Some(budget) => match budget.try_take(body_bytes as u64) {
                Some(share) => Some(share),
                None => return Ok(Some(self.do_without(call, body_bytes, over_budget(body_bytes, budget)))),
            },
        };
        let mut body = Vec::new();
        // A process whose memory is limited refuses what does not fit rather than end.
        if body.try_reserve_exact(body_bytes).is_err() {
            return Ok(Some(self.do_without(call, body_bytes, out_of_memory(body_bytes))));
        }
        self.assembling.insert(call, Assembling { kind, body, body_bytes, share });
        Ok(None)
    }

    /// Throws the body away as it comes; in the message's place there is a refusal.
    fn do_without(&mut self, call: u64, body_bytes: usize, refusal: Refusal) -> Incoming {
        self.unwanted.insert(call, body_bytes);
        let kind = header::Kind::Refused(crate::message::refusal_out(refusal));
        Incoming { call, kind, body: Bytes::new(), share: None }
    }

    /// A chunk of so many bytes begins: whether its body has room for it.
    fn expect_chunk(&self, call: u64, bytes: usize) -> io::Result<()> {
        if self.unwanted.contains_key(&call) {
            return Ok(());
        }
        let Some(Assembling { body, body_bytes, .. }) = self.assembling.get(&call) else {
            return Err(broken(format!("a chunk for call {call}, which has no open body")));
        };
        if body.len() + bytes > *body_bytes {
            return Err(broken(format!("chunks of call {call} exceed its {body_bytes} bytes")));
        }
        Ok(())
    }

    /// Bytes of a chunk that came with others.
    fn append(&mut self, call: u64, part: &[u8]) {
        if let Some(assembling) = self.assembling.get_mut(&call) {
            assembling.body.extend_from_slice(part);
        } else if let Some(left) = self.unwanted.get_mut(&call) {
            *left = left.saturating_sub(part.len());
            if *left == 0 {
                self.unwanted.remove(&call);
            }
        }
    }

    /// A chunk has ended: the message, if it was the last of its body.
    fn assembled(&mut self, call: u64) -> Option<Incoming> {
        let whole = |open: &Assembling| open.body.len() == open.body_bytes;
        if !self.assembling.get(&call).is_some_and(whole) {
            return None;
        }
        let Assembling { kind, body, share, .. } = self.assembling.remove(&call)?;
        Some(Incoming { call, kind, body: body.into(), share })
    }
}

/// The refusal of a body that this process cannot hold.
fn out_of_memory(body_bytes: usize) -> Refusal {
    let text = format!("{body_bytes} bytes of tensors do not fit into the memory that the environment may have");
    Refusal::new(ErrorCode::Exhausted, text).with_reason(reason::OUT_OF_HOST_MEMORY)
}

/// The refusal of an answer that there is no memory for.
fn over_budget(body_bytes: usize, budget: &ByteBudget) -> Refusal {
    let (taken, limit) = (budget.taken(), budget.limit());
    let text = format!("an answer of {body_bytes} bytes does not fit: {taken} of {limit} bytes of memory are taken");
    Refusal::shed(ShedReason::MemoryBudget, text, None)
}

fn broken(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the link's peer sent {what}"))
}
