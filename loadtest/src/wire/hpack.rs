//! HPACK (RFC 7541): decodes response heads, and encodes the one request head a connection repeats.
//!
//! Called by `h2`. It never encodes with Huffman and never changes its own table after the first request: a generator
//! sends the same head every time, so the second and all later ones are one byte a field.

use super::huffman::Huffman;
use std::collections::VecDeque;

/// Names of the static table, from index 1.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

/// The default size of the dynamic table, in RFC bytes; this client never asks for another.
const TABLE_BYTES: usize = 4096;

/// A head block that cannot be read; the connection is lost, as the table's state is unknown from here on.
#[derive(Debug, thiserror::Error)]
#[error("a header block is malformed")]
pub struct HeadError;

struct Entry {
    name: Box<[u8]>,
    value: Box<[u8]>,
}

impl Entry {
    fn size(&self) -> usize {
        self.name.len() + self.value.len() + 32
    }
}

/// The decoding side of one connection.
pub(crate) struct Decoder {
    huffman: Huffman,
    entries: VecDeque<Entry>,
    bytes: usize,
    limit: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            huffman: Huffman::new(),
            entries: VecDeque::new(),
            bytes: 0,
            limit: TABLE_BYTES,
            name: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Reads one whole block and hands out its fields in order.
    pub(crate) fn decode(&mut self, mut block: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(), HeadError> {
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                let (name, value) = self.lookup(index)?;
                each(name, value);
            } else if first & 0xe0 == 0x20 {
                self.limit = integer(&mut block, 5)?.min(TABLE_BYTES);
                self.evict(0);
            } else {
                let keep = first & 0x40 != 0;
                let index = integer(&mut block, if keep { 6 } else { 4 })?;
                let mut name = std::mem::take(&mut self.name);
                let mut value = std::mem::take(&mut self.value);
                name.clear();
                value.clear();
                if index == 0 {
                    self.string(&mut block, &mut name)?;
                } else {
                    name.extend_from_slice(self.lookup(index)?.0);
                }
                self.string(&mut block, &mut value)?;
                each(&name, &value);
                if keep {
                    self.insert(Entry { name: name.as_slice().into(), value: value.as_slice().into() });
                }
                (self.name, self.value) = (name, value);
            }
        }
        Ok(())
    }

    fn lookup(&self, index: usize) -> Result<(&[u8], &[u8]), HeadError> {
        match index {
            0 => Err(HeadError),
            1..=61 => Ok((STATIC[index - 1].0.as_bytes(), STATIC[index - 1].1.as_bytes())),
            _ => self.entries.get(index - 62).map(|entry| (&*entry.name, &*entry.value)).ok_or(HeadError),
        }
    }

    fn insert(&mut self, entry: Entry) {
        let size = entry.size();
        self.evict(size);
        if size <= self.limit {
            self.bytes += size;
            self.entries.push_front(entry);
        }
    }

    fn evict(&mut self, room: usize) {
        while self.bytes + room > self.limit {
            let Some(entry) = self.entries.pop_back() else { return };
            self.bytes -= entry.size();
        }
    }

    fn string(&self, block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), HeadError> {
        let coded = block.first().ok_or(HeadError)? & 0x80 != 0;
        let length = integer(block, 7)?;
        let bytes = block.get(..length).ok_or(HeadError)?;
        *block = &block[length..];
        if coded {
            self.huffman.decode(bytes, out).ok_or(HeadError)
        } else {
            out.extend_from_slice(bytes);
            Ok(())
        }
    }
}

/// An integer with an N-bit prefix (RFC 7541 section 5.1).
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, HeadError> {
    let mask = (1u32 << prefix) - 1;
    let (&first, mut rest) = block.split_first().ok_or(HeadError)?;
    let mut number = usize::from(first) & mask as usize;
    if number == mask as usize {
        for shift in (0..28).step_by(7) {
            let (&byte, tail) = rest.split_first().ok_or(HeadError)?;
            rest = tail;
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *block = rest;
                return Ok(number);
            }
        }
        return Err(HeadError);
    }
    *block = rest;
    Ok(number)
}

fn put_integer(out: &mut Vec<u8>, prefix: u32, flags: u8, mut number: usize) {
    let mask = (1usize << prefix) - 1;
    if number < mask {
        out.push(flags | number as u8);
        return;
    }
    out.push(flags | mask as u8);
    number -= mask;
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The two blocks of a repeated head: the first fills the peer's table, the second refers to it.
pub(crate) fn repeated_head(fields: &[(&str, &str)]) -> (Vec<u8>, Vec<u8>) {
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for (at, (name, value)) in fields.iter().enumerate() {
        first.push(0x40);
        for text in [name, value] {
            put_integer(&mut first, 7, 0, text.len());
            first.extend_from_slice(text.as_bytes());
        }
        // The newest entry has index 62.
        put_integer(&mut later, 7, 0x80, 62 + fields.len() - 1 - at);
    }
    (first, later)
}

#[cfg(test)]
mod tests {
    use super::{Decoder, repeated_head};

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
        let mut out = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        decoder.decode(block, |name, value| out.push((text(name), text(value)))).unwrap();
        out
    }

    #[test]
    fn a_repeated_head_reads_the_same_twice() {
        let head = [(":method", "POST"), (":path", "/inference.GRPCInferenceService/ModelInfer"), ("te", "trailers")];
        let (first, later) = repeated_head(&head);
        let mut decoder = Decoder::new();
        let once = fields(&mut decoder, &first);
        assert_eq!(once.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect::<Vec<_>>(), head);
        assert_eq!(later.len(), 3);
        assert_eq!(fields(&mut decoder, &later), once);
    }

    #[test]
    fn reads_the_huffman_response_of_rfc_7541_c6() {
        let hex = "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3";
        let block: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        let mut decoder = Decoder::new();
        let read = fields(&mut decoder, &block);
        assert_eq!(read[0], (":status".into(), "302".into()));
        assert_eq!(read[3], ("location".into(), "https://www.example.com".into()));
        // The next response of the example: 307, everything else from the table.
        let read = fields(&mut decoder, &[0x48, 0x83, 0x64, 0x0e, 0xff, 0xc1, 0xc0, 0xbf]);
        assert_eq!(read[0], (":status".into(), "307".into()));
        assert_eq!(read[1], ("cache-control".into(), "private".into()));
        assert_eq!(read[3], ("location".into(), "https://www.example.com".into()));
    }
}
