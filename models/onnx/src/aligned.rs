//! Bytes that begin where any element type may begin. Used by the session for inputs that came misaligned, and by the
//! executor to gather a batch. Never shrinks: what was needed once will be needed again.

/// A growing byte buffer, aligned to 8 bytes.
#[derive(Debug, Default)]
pub struct AlignedBuffer {
    words: Vec<u64>,
    len: usize,
}

impl AlignedBuffer {
    /// Forgets the content, keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Makes room for `additional` more bytes at once.
    pub fn reserve(&mut self, additional: usize) {
        let words = (self.len + additional).div_ceil(8);
        if words > self.words.len() {
            self.words.resize(words, 0);
        }
    }

    /// Appends.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let end = self.len + bytes.len();
        bytemuck::cast_slice_mut::<u64, u8>(&mut self.words)[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    /// What was appended since the last [`AlignedBuffer::clear`].
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice::<u64, u8>(&self.words)[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::AlignedBuffer;

    #[test]
    fn bytes_come_back_and_begin_aligned() {
        let mut buffer = AlignedBuffer::default();
        assert_eq!(buffer.bytes(), b"");
        buffer.extend(b"abc");
        buffer.extend(b"defghij");
        assert_eq!(buffer.bytes(), b"abcdefghij");
        assert_eq!(buffer.bytes().as_ptr().align_offset(8), 0);
        buffer.clear();
        buffer.extend(b"xy");
        assert_eq!(buffer.bytes(), b"xy");
    }
}
