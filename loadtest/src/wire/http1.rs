//! HTTP/1.1 on one kept-alive connection: one request at a time. Called by `drive`; skips bodies without reading them.

use super::{Answer, Loss, Reply, Ticket, WireError};
use bytes::Bytes;

/// A response that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Http1Error {
    /// The head is not one of HTTP/1.1.
    #[error("the response head is malformed")]
    Head,
    /// A chunk size is not hexadecimal.
    #[error("a chunk of the response is malformed")]
    Chunk,
    /// Bytes without a request.
    #[error("a response came without a request")]
    Unasked,
    /// The head does not end.
    #[error("the response head is longer than {HEAD_BYTES} bytes")]
    Long,
}

const HEAD_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    /// So many bytes of the body are still to come.
    Sized(usize),
    ChunkSize,
    /// The rest of a chunk, its line end included.
    Chunk(usize),
    Trailers,
}

/// One connection.
pub struct Http1 {
    /// Bytes to be written to the socket.
    pub(super) out: Vec<u8>,
    ticket: Option<Ticket>,
    reply: Reply,
    part: Part,
    inbox: Vec<u8>,
    closing: bool,
}

impl Default for Http1 {
    fn default() -> Self {
        Self {
            out: Vec::new(),
            ticket: None,
            reply: Reply::default(),
            part: Part::Head,
            inbox: Vec::new(),
            closing: false,
        }
    }
}

impl Http1 {
    pub(super) fn is_ready(&self) -> bool {
        self.ticket.is_none() && !self.closing
    }

    pub(super) fn is_finished(&self) -> bool {
        self.closing && self.ticket.is_none()
    }

    pub(super) fn in_flight(&self) -> usize {
        usize::from(self.ticket.is_some())
    }

    pub(super) fn send(&mut self, ticket: Ticket, request: &Bytes) {
        self.ticket = Some(ticket);
        self.out.extend_from_slice(request);
    }

    pub(super) fn abandon(&mut self, answers: &mut Vec<Answer>) {
        answers.extend(self.ticket.take().map(|ticket| Answer { ticket, result: Err(Loss::ConnectionLost) }));
    }

    pub(super) fn receive(&mut self, bytes: &[u8], answers: &mut Vec<Answer>) -> Result<(), WireError> {
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut rest = if inbox.is_empty() {
            bytes
        } else {
            inbox.extend_from_slice(bytes);
            &inbox
        };
        while let Some(used) = self.step(rest, answers)? {
            rest = &rest[used..];
        }
        self.inbox = rest.to_vec();
        Ok(())
    }

    /// Takes one part from the front; `None` when more bytes are needed.
    fn step(&mut self, bytes: &[u8], answers: &mut Vec<Answer>) -> Result<Option<usize>, Http1Error> {
        if bytes.is_empty() {
            return Ok(None);
        }
        match self.part {
            Part::Head => {
                if self.ticket.is_none() {
                    return Err(Http1Error::Unasked);
                }
                let Some(end) = find(bytes, b"\r\n\r\n") else {
                    return if bytes.len() > HEAD_BYTES { Err(Http1Error::Long) } else { Ok(None) };
                };
                self.part = self.head(&bytes[..end])?;
                if self.part == Part::Sized(0) {
                    self.end(answers);
                }
                Ok(Some(end + 4))
            }
            Part::Sized(left) => {
                let used = left.min(bytes.len());
                self.part = Part::Sized(left - used);
                if used == left {
                    self.end(answers);
                }
                Ok(Some(used))
            }
            Part::ChunkSize => {
                let Some(end) = find(bytes, b"\r\n") else { return Ok(None) };
                let digits = bytes[..end].split(|byte| *byte == b';').next().unwrap_or_default();
                let text = std::str::from_utf8(digits).map_err(|_| Http1Error::Chunk)?;
                let size = usize::from_str_radix(text.trim(), 16).map_err(|_| Http1Error::Chunk)?;
                self.part = if size == 0 { Part::Trailers } else { Part::Chunk(size.saturating_add(2)) };
                Ok(Some(end + 2))
            }
            Part::Chunk(left) => {
                let used = left.min(bytes.len());
                self.part = if used == left { Part::ChunkSize } else { Part::Chunk(left - used) };
                Ok(Some(used))
            }
            Part::Trailers => {
                let Some(end) = find(bytes, b"\r\n") else { return Ok(None) };
                if end == 0 {
                    self.end(answers);
                }
                Ok(Some(end + 2))
            }
        }
    }

    fn head(&mut self, head: &[u8]) -> Result<Part, Http1Error> {
        let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let status = lines.next().and_then(|line| line.get(9..12)).ok_or(Http1Error::Head)?;
        self.reply.field(b":status", status);
        let mut part = Part::Sized(0);
        for line in lines {
            let at = line.iter().position(|byte| *byte == b':').ok_or(Http1Error::Head)?;
            let (name, value) = (line[..at].to_ascii_lowercase(), line[at + 1..].trim_ascii());
            match name.as_slice() {
                b"content-length" => {
                    let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    part = Part::Sized(length.ok_or(Http1Error::Head)?);
                }
                b"transfer-encoding" => part = Part::ChunkSize,
                b"connection" => self.closing |= value.eq_ignore_ascii_case(b"close"),
                _ => self.reply.field(&name, value),
            }
        }
        Ok(part)
    }

    fn end(&mut self, answers: &mut Vec<Answer>) {
        self.part = Part::Head;
        let reply = std::mem::take(&mut self.reply);
        answers.extend(self.ticket.take().map(|ticket| Answer { ticket, result: Ok(reply) }));
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::Http1;
    use crate::wire::{Answer, Ticket};
    use bytes::Bytes;

    #[test]
    fn reads_sized_and_chunked_responses_cut_anywhere() {
        let sized = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 5\r\nRetry-After: 2\r\n\
            X-Penstock-Shed-Reason: queue_requests\r\n\r\nhello";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nserver-timing: queue;dur=1\r\n\r\n\
            3;x=y\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n";
        for cut in 1..sized.len().max(chunked.len()) {
            let mut client = Http1::default();
            let mut answers: Vec<Answer> = Vec::new();
            for text in [sized, chunked] {
                client.send(Ticket::default(), &Bytes::from_static(b"x"));
                for part in text.as_bytes().chunks(cut) {
                    client.receive(part, &mut answers).unwrap();
                }
                assert!(client.is_ready());
            }
            let replies: Vec<_> = answers.into_iter().map(|answer| answer.result.unwrap()).collect();
            assert_eq!(replies[0].http_status, 429);
            assert_eq!(replies[0].shed_reason.as_deref(), Some("queue_requests"));
            assert_eq!(replies[0].retry_after_ms, Some(2000));
            assert_eq!(replies[1].http_status, 200);
            assert_eq!(replies[1].stage_times.as_deref(), Some("queue;dur=1"));
        }
    }
}
