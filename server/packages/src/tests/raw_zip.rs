//! Archives byte by byte, so that they can say what no writer would.

/// One entry; what is not set says the truth about `packed`, which is stored.
#[derive(Clone, Default)]
pub(crate) struct RawEntry {
    pub(crate) name: Vec<u8>,
    /// The name in the local header, if another.
    pub(crate) local_name: Option<Vec<u8>>,
    /// The bytes as they lie in the archive.
    pub(crate) packed: Vec<u8>,
    /// What they unpack to; `packed` if not set.
    pub(crate) content: Option<Vec<u8>>,
    pub(crate) method: u16,
    pub(crate) flags: u16,
    pub(crate) mode: u32,
    /// Declared instead of the truth.
    pub(crate) declared_bytes: Option<u32>,
    pub(crate) checksum: Option<u32>,
    /// In both headers.
    pub(crate) extra: Vec<u8>,
    /// Left out of the list.
    pub(crate) unlisted: bool,
    /// Only in the list, with its local header at this place.
    pub(crate) elsewhere: Option<u32>,
}

pub(crate) fn stored(name: impl AsRef<[u8]>, content: &[u8]) -> RawEntry {
    RawEntry { name: name.as_ref().to_vec(), packed: content.to_vec(), ..RawEntry::default() }
}

impl RawEntry {
    fn content(&self) -> &[u8] {
        self.content.as_deref().unwrap_or(&self.packed)
    }

    fn common(&self, name: &[u8]) -> Vec<u8> {
        let checksum = self.checksum.unwrap_or_else(|| crc32fast::hash(self.content()));
        let declared = self.declared_bytes.unwrap_or(self.content().len() as u32);
        let mut common = [20, self.flags, self.method, 0, 33].map(u16::to_le_bytes).concat();
        common.extend([checksum, self.packed.len() as u32, declared].map(u32::to_le_bytes).concat());
        common.extend([name.len() as u16, self.extra.len() as u16].map(u16::to_le_bytes).concat());
        common
    }

    pub(crate) fn local(&self) -> Vec<u8> {
        let name = self.local_name.as_ref().unwrap_or(&self.name);
        [b"PK\x03\x04".as_slice(), &self.common(name), name, &self.extra, &self.packed].concat()
    }

    fn listed(&self, at: u32) -> Vec<u8> {
        let mut header = b"PK\x01\x02\x14\x03".to_vec();
        header.extend(self.common(&self.name));
        header.extend([0; 6]);
        header.extend([self.mode << 16, at].map(u32::to_le_bytes).concat());
        [header.as_slice(), &self.name, &self.extra].concat()
    }
}

/// The archive.
pub(crate) fn raw_zip(entries: &[RawEntry]) -> Vec<u8> {
    let mut zip = Vec::new();
    let mut list = Vec::new();
    for entry in entries {
        let at = entry.elsewhere.unwrap_or(zip.len() as u32);
        if entry.elsewhere.is_none() {
            zip.extend(entry.local());
        }
        if !entry.unlisted {
            list.extend(entry.listed(at));
        }
    }
    let count = entries.iter().filter(|entry| !entry.unlisted).count() as u16;
    let (bytes, at) = (list.len() as u32, zip.len() as u32);
    zip.extend(list);
    zip.extend(end(count, bytes, at, b""));
    zip
}

/// An end record.
pub(crate) fn end(entries: u16, list_bytes: u32, list_at: u32, comment: &[u8]) -> Vec<u8> {
    let mut end = b"PK\x05\x06\0\0\0\0".to_vec();
    end.extend([entries, entries].map(u16::to_le_bytes).concat());
    end.extend([list_bytes, list_at].map(u32::to_le_bytes).concat());
    end.extend((comment.len() as u16).to_le_bytes());
    end.extend(comment);
    end
}

/// A deflate stream of `1 + 258 * 8 * rounds` zeros: one literal, then copies of it, in the fixed code (RFC 1951, 3.2.6).
pub(crate) fn zeros(rounds: usize) -> Vec<u8> {
    // As they follow each other in the stream: final block, fixed code, the literal 0.
    let head = "1".to_owned() + "10" + "00110000";
    // Length 258, distance 1; eight of them are thirteen bytes.
    let copies = ("11000101".to_owned() + "00000").repeat(8);
    let shifted = |bits: &str| bits.as_bytes().chunks(8).map(byte).collect::<Vec<u8>>();
    // Eleven bits come before, so the last three of the head begin the first byte of a period.
    let (whole, rest) = head.split_at(8);
    let period = copies.split_at(copies.len() - rest.len());
    let first = shifted(&(rest.to_owned() + period.0));
    let later = shifted(&(period.1.to_owned() + period.0));
    let mut stream = shifted(whole);
    stream.extend(first);
    (1..rounds).for_each(|_| stream.extend(&later));
    stream.extend(shifted(&(period.1.to_owned() + "0000000")));
    stream
}

fn byte(bits: &[u8]) -> u8 {
    bits.iter().enumerate().map(|(place, bit)| (bit - b'0') << place).sum()
}

/// One deflate block that is stored, not the last.
pub(crate) fn quote(bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len() as u16;
    [&[0], length.to_le_bytes().as_slice(), &(!length).to_le_bytes(), bytes].concat()
}
