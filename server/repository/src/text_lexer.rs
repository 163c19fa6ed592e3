//! Cuts protobuf text format into tokens.
//!
//! Called by `text_format`. Never fails: what is wrong with a token is said by the parser, which knows what was
//! expected there. Positions are byte offsets; [`position`] turns one into a line and a column.

/// What a token is, by its first character.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TokenKind {
    /// `[A-Za-z_][A-Za-z0-9_]*`
    Word,
    /// Starts with a digit, a sign or a point and a digit; may still be no valid number.
    Number,
    /// A quoted string, quotes included.
    Quoted,
    /// A quoted string whose line ends before its closing quote.
    Unterminated,
    /// Any other single character.
    Symbol,
    /// After the last token; empty.
    End,
}

/// A piece of the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) kind: TokenKind,
    /// The text of it.
    pub(crate) text: &'a str,
    /// Where it starts, in bytes.
    pub(crate) offset: usize,
}

/// Line and column, both from 1; the column counts characters.
pub(crate) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().filter(|c| *c != '\u{feff}').count() + 1)
}

/// Cuts tokens off a text.
pub(crate) struct Lexer<'a> {
    text: &'a str,
    offset: usize,
}

impl<'a> Lexer<'a> {
    /// Starts at the beginning, behind a byte order mark if there is one.
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, offset: if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 } }
    }

    /// The next token, whitespace and comments skipped.
    pub(crate) fn next_token(&mut self) -> Token<'a> {
        self.skip_blank();
        let rest = &self.text[self.offset..];
        let Some(first) = rest.chars().next() else {
            return Token { kind: TokenKind::End, text: "", offset: self.offset };
        };
        let (kind, length) = match first {
            'a'..='z' | 'A'..='Z' | '_' => (TokenKind::Word, span(rest, |c| c.is_ascii_alphanumeric() || c == '_')),
            '0'..='9' | '+' | '-' => (TokenKind::Number, number_span(rest)),
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => (TokenKind::Number, number_span(rest)),
            '"' | '\'' => quoted_span(rest, first),
            other => (TokenKind::Symbol, other.len_utf8()),
        };
        let token = Token { kind, text: &rest[..length], offset: self.offset };
        self.offset += length;
        token
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = &self.text[self.offset..];
            let blank = span(rest, |c| matches!(c, ' ' | '\t' | '\r' | '\n' | '\u{b}' | '\u{c}'));
            self.offset += blank;
            let rest = &rest[blank..];
            if !rest.starts_with('#') {
                return;
            }
            self.offset += rest.find('\n').unwrap_or(rest.len());
        }
    }
}

/// Bytes at the start of `text` whose characters are `wanted`.
fn span(text: &str, wanted: impl Fn(char) -> bool) -> usize {
    text.find(|c| !wanted(c)).unwrap_or(text.len())
}

/// Everything that clings to a number, so that `8x` is one wrong number and not a number and a word.
fn number_span(text: &str) -> usize {
    1 + span(&text[1..], |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-'))
}

fn quoted_span(text: &str, quote: char) -> (TokenKind, usize) {
    let mut escaped = false;
    for (offset, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return (TokenKind::Unterminated, offset),
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return (TokenKind::Quoted, offset + c.len_utf8()),
            _ => {}
        }
    }
    (TokenKind::Unterminated, text.len())
}
