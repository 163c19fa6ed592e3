//! An environment's log: what its process writes to standard error, line by line, under its name.
//!
//! Called by the supervisor, one task for each process. Whatever is written, however long or strange, costs at most one
//! line of memory and never ends the reading. A flood blocks the environment at its pipe, not the house; of one on an
//! instance what is not read in time is left out.

use parking_lot::Mutex;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Most bytes of a line that are passed on; the rest is counted.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// Most characters of the last line that are told as a reason.
const WORDS_MAX: usize = 300;
/// Read at once.
const READ_BYTES: usize = 8 * 1024;

/// Gives every line to `each` until the end of `from`. Bytes that are not UTF-8 become replacement characters.
pub(crate) async fn pass_on(mut from: impl AsyncRead + Unpin, mut each: impl FnMut(&str)) {
    let mut buffer = vec![0; READ_BYTES];
    let mut line = Line::default();
    // An error is the end too: there is nothing more to read.
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        let mut pieces = buffer[..bytes].split(|byte| *byte == b'\n');
        line.extend(pieces.next().unwrap_or_default());
        for piece in pieces {
            line.end(&mut each);
            line.extend(piece);
        }
    }
    if !line.bytes.is_empty() {
        line.end(&mut each);
    }
}

/// What a process said last, for the reason of its end.
#[derive(Clone, Default)]
pub(crate) struct LastWords(Arc<Mutex<String>>);

impl LastWords {
    /// One more line. Empty ones and notes on how to debug tell nothing.
    pub(crate) fn heard(&self, line: &str) {
        if !line.trim().is_empty() && !line.starts_with("note:") {
            *self.0.lock() = line.chars().take(WORDS_MAX).collect();
        }
    }

    /// `": "` and the words, or nothing.
    pub(crate) fn told(&self) -> String {
        let words = self.0.lock();
        if words.is_empty() { String::new() } else { format!(": {words}") }
    }
}

/// The line that is being read.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    cut: usize,
}

impl Line {
    fn extend(&mut self, piece: &[u8]) {
        let taken = piece.len().min(LINE_BYTES_MAX - self.bytes.len());
        self.bytes.extend_from_slice(&piece[..taken]);
        self.cut += piece.len() - taken;
    }

    fn end(&mut self, each: &mut impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.bytes);
        let text = text.strip_suffix('\r').unwrap_or(&text);
        match self.cut {
            0 => each(text),
            cut => each(&format!("{text} [{cut} more bytes in this line]")),
        }
        self.bytes.clear();
        self.cut = 0;
    }
}

#[cfg(test)]
mod tests {
    //! Lines over an in-memory pipe, in pieces of any size.
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn lines(pipe_bytes: usize, written: Vec<u8>) -> Vec<String> {
        let (mut near, far) = tokio::io::duplex(pipe_bytes);
        let writing = tokio::spawn(async move { near.write_all(&written).await });
        let mut lines = Vec::new();
        pass_on(far, |line| lines.push(line.to_owned())).await;
        writing.await.unwrap().unwrap();
        lines
    }

    #[tokio::test]
    async fn lines_arrive_whole_whatever_the_pipe_does() {
        for pipe_bytes in [1, 2, 7, 4096] {
            assert_eq!(lines(pipe_bytes, b"one\n\nthree\r\nno end".to_vec()).await, ["one", "", "three", "no end"]);
            assert_eq!(lines(pipe_bytes, Vec::new()).await, [""; 0]);
        }
    }

    #[tokio::test]
    async fn a_long_line_is_cut_and_says_so_and_the_next_is_whole() {
        for (bytes, told) in
            [(0, ""), (1, " [1 more bytes in this line]"), (1 << 20, " [1048576 more bytes in this line]")]
        {
            let mut written = vec![b'x'; LINE_BYTES_MAX + bytes];
            written.extend(b"\nnext\n");
            let expected = ["x".repeat(LINE_BYTES_MAX) + told, "next".to_owned()];
            assert_eq!(lines(3000, written).await, expected);
        }
    }

    #[tokio::test]
    async fn what_is_not_text_does_not_end_the_log() {
        assert_eq!(lines(64, b"a\xff\xfeb\nnext\n".to_vec()).await, ["a\u{fffd}\u{fffd}b", "next"]);
    }
}
