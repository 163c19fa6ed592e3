//! HTTP/2 of one client connection (RFC 9113), without a socket: bytes in, events and bytes out.
//!
//! Called by `unary` and `stream`. It does what a load generator needs and no more: one repeated request head, plain
//! text with prior knowledge, no push, no priorities. Frames of many requests leave in one write.

use super::frame::{END_HEADERS, END_STREAM, FRAME_HEAD, PADDED, PRIORITY, frame, kind, unpadded};
use super::hpack::{Decoder, HeadError, repeated_head};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The receive window offered, per stream and per connection; the connection's is topped up at half.
const WINDOW: u32 = (1 << 31) - 1;
/// A connection is replaced before its stream ids run out.
const LAST_STREAM: u32 = 1 << 30;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum H2Error {
    /// HPACK's state is lost.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// A frame that may not come like this.
    #[error("a frame of type {0} is malformed")]
    Frame(u8),
}

/// What a peer's bytes meant.
pub(crate) enum Event<'a> {
    /// A head or trailers: read its fields with the decoder given.
    Field { stream: u32, name: &'a [u8], value: &'a [u8] },
    /// Part of a body.
    Data { bytes: &'a [u8] },
    /// The peer has ended the stream.
    End { stream: u32 },
    /// The peer has reset the stream, or will not look at it any more.
    Reset { stream: u32 },
}

/// A DATA frame that has begun.
#[derive(Clone, Copy)]
struct Partial {
    stream: u32,
    left: usize,
    end: bool,
}

struct Pending {
    stream: u32,
    body: Bytes,
    end: bool,
}

/// One connection.
pub(crate) struct H2 {
    first_head: Vec<u8>,
    later_head: Vec<u8>,
    decoder: Decoder,
    inbox: Vec<u8>,
    partial: Option<Partial>,
    block: Vec<u8>,
    block_of: Option<(u32, u8)>,
    /// Bytes to be written to the socket.
    pub(crate) out: Vec<u8>,
    next_stream: u32,
    /// Send windows of streams whose body is not all sent.
    windows: HashMap<u32, i64>,
    pending: VecDeque<Pending>,
    window: i64,
    first_window: i64,
    frame_bytes: usize,
    /// How many streams the peer allows at once.
    pub(crate) stream_limit: usize,
    unacknowledged: u32,
    settled: bool,
    closing: bool,
}

impl H2 {
    /// A connection whose requests all have this head.
    pub(crate) fn new(head: &[(&str, &str)]) -> Self {
        let (first_head, later_head) = repeated_head(head);
        let mut out = PREFACE.to_vec();
        let mut settings = Vec::new();
        // ENABLE_PUSH = 0, INITIAL_WINDOW_SIZE.
        for (id, value) in [(2u16, 0u32), (4, WINDOW)] {
            settings.extend_from_slice(&id.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        frame(&mut out, kind::SETTINGS, 0, 0, &settings);
        frame(&mut out, kind::WINDOW_UPDATE, 0, 0, &(WINDOW - 65_535).to_be_bytes());
        Self {
            first_head,
            later_head,
            decoder: Decoder::new(),
            inbox: Vec::new(),
            partial: None,
            block: Vec::new(),
            block_of: None,
            out,
            next_stream: 1,
            windows: HashMap::new(),
            pending: VecDeque::new(),
            window: 65_535,
            first_window: 65_535,
            frame_bytes: 16_384,
            stream_limit: usize::MAX,
            unacknowledged: 0,
            settled: false,
            closing: false,
        }
    }

    /// Whether a stream may be opened, the peer's limit apart.
    pub(crate) fn is_open(&self) -> bool {
        self.settled && !self.closing
    }

    /// Whether no further stream will ever be opened here.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Opens a stream; with a body, sends that and ends it, else leaves it open for [`H2::send`].
    pub(crate) fn open(&mut self, body: Option<Bytes>) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        self.closing |= self.next_stream > LAST_STREAM;
        let head = if stream == 1 { &self.first_head } else { &self.later_head };
        frame(&mut self.out, kind::HEADERS, END_HEADERS, stream, head);
        match body {
            Some(body) if self.pending.is_empty() && body.len() as i64 <= self.window.min(self.first_window) => {
                self.window -= body.len() as i64;
                self.write(stream, &body, true);
            }
            body => {
                self.windows.insert(stream, self.first_window);
                if let Some(body) = body {
                    self.queue(stream, body, true);
                }
            }
        }
        stream
    }

    /// Sends more on an open stream.
    pub(crate) fn send(&mut self, stream: u32, body: Bytes) {
        self.queue(stream, body, false);
    }

    fn queue(&mut self, stream: u32, body: Bytes, end: bool) {
        self.pending.push_back(Pending { stream, body, end });
        self.send_pending();
    }

    fn write(&mut self, stream: u32, mut body: &[u8], end: bool) {
        while body.len() > self.frame_bytes {
            let (head, rest) = body.split_at(self.frame_bytes);
            frame(&mut self.out, kind::DATA, 0, stream, head);
            body = rest;
        }
        frame(&mut self.out, kind::DATA, if end { END_STREAM } else { 0 }, stream, body);
    }

    /// Sends what the windows let through, in order within each stream.
    fn send_pending(&mut self) {
        let mut at = 0;
        while self.window > 0 && at < self.pending.len() {
            let stream = self.pending[at].stream;
            let Some(room) = self.windows.get_mut(&stream) else {
                self.pending.remove(at);
                continue;
            };
            let count = (self.pending[at].body.len() as i64).min(self.window).min(*room).max(0);
            *room -= count;
            self.window -= count;
            let part = self.pending[at].body.split_to(count as usize);
            let done = self.pending[at].body.is_empty();
            let end = done && self.pending[at].end;
            if count > 0 {
                self.write(stream, &part, end);
            }
            if end {
                self.windows.remove(&stream);
            }
            if done {
                self.pending.remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// Takes bytes from the peer and hands out what they meant.
    pub(crate) fn receive(&mut self, bytes: &[u8], each: &mut dyn FnMut(Event<'_>)) -> Result<(), H2Error> {
        if self.inbox.is_empty() {
            let used = self.frames(bytes, each)?;
            self.inbox.extend_from_slice(&bytes[used..]);
        } else {
            let mut inbox = std::mem::take(&mut self.inbox);
            inbox.extend_from_slice(bytes);
            let used = self.frames(&inbox, each)?;
            inbox.drain(..used);
            self.inbox = inbox;
        }
        Ok(())
    }

    fn frames(&mut self, bytes: &[u8], each: &mut dyn FnMut(Event<'_>)) -> Result<usize, H2Error> {
        let mut used = self.rest_of_body(bytes, each);
        while let Some(head) = bytes.get(used..used + FRAME_HEAD) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            let rest = &bytes[used + FRAME_HEAD..];
            let Some(body) = rest.get(..length) else {
                if head[3] == kind::DATA && head[4] & PADDED == 0 {
                    // A body is handed out as it comes, and never copied to be made whole.
                    self.partial = Some(Partial { stream, left: length - rest.len(), end: head[4] & END_STREAM != 0 });
                    self.acknowledge(stream, rest.len(), false);
                    each(Event::Data { bytes: rest });
                    used = bytes.len();
                }
                break;
            };
            used += FRAME_HEAD + length;
            self.frame(head[3], head[4], stream, body, each)?;
        }
        Ok(used)
    }

    /// Hands out what was still to come of a DATA frame; returns the bytes used.
    fn rest_of_body(&mut self, bytes: &[u8], each: &mut dyn FnMut(Event<'_>)) -> usize {
        let Some(Partial { stream, left, end }) = self.partial else { return 0 };
        let used = left.min(bytes.len());
        let done = used == left;
        self.partial = (!done).then_some(Partial { stream, left: left - used, end });
        self.acknowledge(stream, used, done && end);
        each(Event::Data { bytes: &bytes[..used] });
        if done && end {
            each(Event::End { stream });
        }
        used
    }

    /// Gives receive window back, once half of it is used.
    fn acknowledge(&mut self, stream: u32, count: usize, ended: bool) {
        self.unacknowledged += count as u32;
        if self.unacknowledged > WINDOW / 2 {
            frame(&mut self.out, kind::WINDOW_UPDATE, 0, 0, &self.unacknowledged.to_be_bytes());
            if !ended {
                // Only a stream that lives long can have used up its share.
                frame(&mut self.out, kind::WINDOW_UPDATE, 0, stream, &self.unacknowledged.to_be_bytes());
            }
            self.unacknowledged = 0;
        }
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        body: &[u8],
        each: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), H2Error> {
        let number = || body.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)).ok_or(H2Error::Frame(kind));
        match kind {
            kind::DATA => {
                self.acknowledge(stream, body.len(), flags & END_STREAM != 0);
                each(Event::Data { bytes: unpadded(flags, body).ok_or(H2Error::Frame(kind))? });
                if flags & END_STREAM != 0 {
                    each(Event::End { stream });
                }
            }
            kind::HEADERS => {
                let mut block = unpadded(flags, body).ok_or(H2Error::Frame(kind))?;
                if flags & PRIORITY != 0 {
                    block = block.get(5..).ok_or(H2Error::Frame(kind))?;
                }
                if flags & END_HEADERS != 0 {
                    return self.head(stream, flags, block, each);
                }
                self.block.clear();
                self.block.extend_from_slice(block);
                self.block_of = Some((stream, flags));
            }
            kind::CONTINUATION => {
                let (stream, first_flags) = self.block_of.ok_or(H2Error::Frame(kind))?;
                self.block.extend_from_slice(body);
                if flags & END_HEADERS != 0 {
                    self.block_of = None;
                    let block = std::mem::take(&mut self.block);
                    self.head(stream, first_flags, &block, each)?;
                }
            }
            kind::RST_STREAM => {
                self.windows.remove(&stream);
                each(Event::Reset { stream });
            }
            kind::SETTINGS if flags & 1 == 0 => self.settings(body),
            kind::PING if flags & 1 == 0 => frame(&mut self.out, kind::PING, 1, 0, body),
            kind::GOAWAY => {
                self.closing = true;
                let last = number()? & WINDOW;
                for stream in ((last + 1) | 1..self.next_stream).step_by(2) {
                    each(Event::Reset { stream });
                }
            }
            kind::WINDOW_UPDATE => {
                let room = i64::from(number()? & WINDOW);
                if stream == 0 {
                    self.window += room;
                } else if let Some(window) = self.windows.get_mut(&stream) {
                    *window += room;
                }
                self.send_pending();
            }
            _ => {}
        }
        Ok(())
    }

    fn head(&mut self, stream: u32, flags: u8, block: &[u8], each: &mut dyn FnMut(Event<'_>)) -> Result<(), H2Error> {
        self.decoder.decode(block, |name, value| each(Event::Field { stream, name, value }))?;
        if flags & END_STREAM != 0 {
            each(Event::End { stream });
        }
        Ok(())
    }

    fn settings(&mut self, body: &[u8]) {
        for setting in body.chunks_exact(6) {
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            match u16::from_be_bytes([setting[0], setting[1]]) {
                // A smaller table would forget the head: send it in full each time.
                1 if value < 4096 => self.later_head = self.first_head.clone(),
                3 => self.stream_limit = value as usize,
                4 => {
                    let change = i64::from(value) - self.first_window;
                    self.first_window += change;
                    self.windows.values_mut().for_each(|window| *window += change);
                }
                // Smaller than this is not allowed, and 0 would never end.
                5 => self.frame_bytes = (value as usize).max(16_384),
                _ => {}
            }
        }
        frame(&mut self.out, kind::SETTINGS, 1, 0, &[]);
        self.settled = true;
        self.send_pending();
    }
}
