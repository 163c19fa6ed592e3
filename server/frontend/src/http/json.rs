//! Room 1, front end: a JSON reader that walks a request once and hands out slices of it.
//!
//! Called by the OIP and OpenAI doors. It exists because the numbers of a tensor should become little-endian bytes
//! without a tree of values in between, because f32 wants one correct rounding from its decimal digits, and because
//! every error should name a line, a column and what was expected. Beyond RFC 8259 it knows `NaN`, `Infinity` and
//! `-Infinity` where a caller of [`Cursor::number`] allows them, since Python's and Triton's writers print them.
//! Never allocates for what has no escapes, never recurses deeper than [`DEPTH_MAX`].

use super::json_number::{non_finite_length, number_length};
use penstock_domain::Refusal;
use std::borrow::Cow;

/// Deepest nesting of values that are skipped.
const DEPTH_MAX: u32 = 128;
/// Most bytes of what was found that an error quotes.
const QUOTED_BYTES_MAX: usize = 24;

/// What is wrong, and where: a byte offset into the text, turned into line and column when it is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (byte {offset})")]
pub(crate) struct JsonError {
    /// Offset of the first byte that is wrong.
    pub(crate) offset: usize,
    /// What was expected and what was found.
    pub(crate) message: String,
}

/// Why a request could not be read: its text is wrong, or there is no room for it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The text.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Anything else, already in words.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl ReadError {
    /// The refusal a client gets, with line and column (in bytes, both from 1) of `text`.
    pub(crate) fn into_refusal(self, text: &str) -> Refusal {
        match self {
            ReadError::Refused(refusal) => refusal,
            ReadError::Json(error) => {
                let before = &text.as_bytes()[..error.offset.min(text.len())];
                let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
                let column = before.iter().rev().take_while(|&&byte| byte != b'\n').count() + 1;
                Refusal::invalid(format!("request body, line {line} column {column}: {}", error.message))
            }
        }
    }
}

/// The text of a body; the protocol knows no other encoding than UTF-8.
pub(crate) fn utf8(body: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(body).map_err(|error| {
        Refusal::invalid(format!("request body is not UTF-8: byte {} cannot stand there", error.valid_up_to()))
    })
}

/// A place in a JSON text.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// At `offset`, which must be where a value begins (0, or an offset that [`Cursor::offset`] gave).
    pub(crate) fn new(text: &'a str, offset: usize) -> Self {
        Self { text, at: offset }
    }

    /// Where the next value begins.
    pub(crate) fn offset(&mut self) -> usize {
        self.peek();
        self.at
    }

    /// The next byte that is not white space.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Steps over the byte that [`Cursor::peek`] saw.
    #[inline]
    pub(crate) fn step(&mut self) {
        self.at += 1;
    }

    /// Steps over `byte` if it comes next.
    #[inline]
    pub(crate) fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// An error here: `expected` and what stands there instead.
    #[cold]
    pub(crate) fn wrong(&mut self, expected: impl std::fmt::Display) -> JsonError {
        let found = match self.peek() {
            None => "the end".to_owned(),
            Some(_) => self.excerpt(self.at),
        };
        JsonError { offset: self.at, message: format!("expected {expected}, found {found}") }
    }

    /// What stands at `offset`, for an error.
    fn excerpt(&self, offset: usize) -> String {
        let rest = &self.text[offset..];
        let stop = |c: char| matches!(c, ',' | ']' | '}' | '\n' | '\r');
        let end = rest.char_indices().skip(1).find(|&(i, c)| stop(c) || i >= QUOTED_BYTES_MAX);
        let end = end.map_or(rest.len(), |(i, _)| i);
        format!("`{}`", rest[..end].trim_end())
    }

    /// Walks an object; `member` reads (or skips) the value of each key.
    pub(crate) fn object<E: From<JsonError>>(
        &mut self,
        expected: &str,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.accept(b'{') {
            return Err(self.wrong(expected).into());
        }
        if self.accept(b'}') {
            return Ok(());
        }
        loop {
            let key = self.string("a member name in quotes")?;
            if !self.accept(b':') {
                return Err(self.wrong("`:`").into());
            }
            member(self, &key)?;
            if self.accept(b'}') {
                return Ok(());
            }
            if !self.accept(b',') {
                return Err(self.wrong("`,` or `}`").into());
            }
        }
    }

    /// Walks an array; `element` reads (or skips) each.
    pub(crate) fn array<E: From<JsonError>>(
        &mut self,
        expected: &str,
        mut element: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.accept(b'[') {
            return Err(self.wrong(expected).into());
        }
        if self.accept(b']') {
            return Ok(());
        }
        loop {
            element(self)?;
            if self.accept(b']') {
                return Ok(());
            }
            if !self.accept(b',') {
                return Err(self.wrong("`,` or `]`").into());
            }
        }
    }

    /// A string, borrowed if it has no escapes.
    pub(crate) fn string(&mut self, expected: &str) -> Result<Cow<'a, str>, JsonError> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong(expected));
        }
        let begin = self.at + 1;
        let rest = &self.text[begin..];
        let stop = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\') || byte < 0x20);
        match stop.map(|i| (i, rest.as_bytes()[i])) {
            Some((i, b'"')) => {
                self.at = begin + i + 1;
                Ok(Cow::Borrowed(&rest[..i]))
            }
            _ => self.string_with_escapes(begin).map(Cow::Owned),
        }
    }

    /// The slow way: finds the closing quote, then lets serde_json resolve the escapes (and judge them).
    fn string_with_escapes(&mut self, begin: usize) -> Result<String, JsonError> {
        let bytes = self.text.as_bytes();
        let mut end = begin;
        loop {
            match bytes.get(end) {
                None => return Err(JsonError { offset: end, message: "expected `\"`, found the end".into() }),
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(byte) if *byte < 0x20 => {
                    let message = format!("a string must not hold the control character 0x{byte:02x} unescaped");
                    return Err(JsonError { offset: end, message });
                }
                Some(_) => end += 1,
            }
        }
        let text: String = serde_json::from_str(&self.text[begin - 1..=end]).map_err(|_| JsonError {
            offset: begin - 1,
            message: "a string has an escape that JSON does not know, or half of a surrogate pair".into(),
        })?;
        self.at = end + 1;
        Ok(text)
    }

    /// A number as it is written, by JSON's grammar; `NaN`, `Infinity` and `-Infinity`, bare or in quotes, if
    /// `non_finite`.
    #[inline]
    pub(crate) fn number(&mut self, expected: impl Fn() -> String, non_finite: bool) -> Result<&'a str, JsonError> {
        self.peek();
        let rest = &self.text[self.at..];
        let length = number_length(rest.as_bytes());
        let (quoted, length) = match length {
            Some(length) => (0, length),
            None => match non_finite.then(|| non_finite_length(rest)).flatten() {
                Some(found) => found,
                None => return Err(self.wrong(expected())),
            },
        };
        self.at += length + 2 * quoted;
        Ok(&rest[quoted..quoted + length])
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, expected: &str) -> Result<bool, JsonError> {
        if self.word("true") {
            Ok(true)
        } else if self.word("false") {
            Ok(false)
        } else {
            Err(self.wrong(expected))
        }
    }

    /// Steps over `null` if it comes next.
    pub(crate) fn null(&mut self) -> bool {
        self.word("null")
    }

    fn word(&mut self, word: &str) -> bool {
        self.peek();
        let found = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += if found { word.len() } else { 0 };
        found
    }

    /// Steps over one value of any kind.
    pub(crate) fn skip(&mut self) -> Result<(), JsonError> {
        self.skip_within(DEPTH_MAX)
    }

    fn skip_within(&mut self, depth: u32) -> Result<(), JsonError> {
        let Some(inner) = depth.checked_sub(1) else {
            return Err(JsonError { offset: self.at, message: format!("nested deeper than {DEPTH_MAX}") });
        };
        match self.peek() {
            Some(b'{') => self.object("an object", |cursor, _| cursor.skip_within(inner)),
            Some(b'[') => self.array("an array", |cursor| cursor.skip_within(inner)),
            Some(b'"') => self.string("a string").map(drop),
            Some(b't' | b'f') => self.boolean("a value").map(drop),
            Some(b'n') if self.null() => Ok(()),
            _ => self.number(|| "a value".into(), true).map(drop),
        }
    }

    /// Checks that nothing but white space is left.
    pub(crate) fn end(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong("the end of the JSON text")),
        }
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
