//! Texts to token ids, by the folder's `tokenizer.json`. Called by the model on preparation threads.
//!
//! The truncation and padding that `tokenizer.json` carries are switched off: what counts is `max_seq_length` of
//! `sentence_bert_config.json`, and rows are never padded.
//!
//! **Work is bounded by what is kept, not by what was sent.** A long text is first tokenized to 16 bytes for each token
//! that may be kept. Tokens count only if they cannot depend on what follows: they are not of the last word, and end
//! further from the cut than the longest added token (such as `[MASK]`) is long. If they do not suffice (a text of
//! spaces, or of one endless word), four times as much is tokenized, and so on, up to [`TEXT_BYTES_MAX`].

use penstock_executor::LoadError;
use std::path::Path;
use tokenizers::Tokenizer;

/// Longest text taken, in bytes; tokenizing it takes some 0.2 s, once, if it is the worst of its kind.
pub(crate) const TEXT_BYTES_MAX: usize = 1 << 20;

/// Bytes of text tokenized at first for each token that may be kept. English has about 4.
const BYTES_PER_TOKEN: usize = 16;

/// Bytes tokenized at first where the count is for an error message.
const COUNTED_BYTES: usize = 64 * 1024;

/// The tokenizer and what it wraps a text in.
#[derive(Debug)]
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
    /// Before every text: `[CLS]`.
    prefix: Vec<u32>,
    /// After every text: `[SEP]`.
    suffix: Vec<u32>,
    /// Bytes of the longest added token.
    added_bytes_max: usize,
    tokens_max: usize,
}

/// A tokenized text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenizedText {
    /// Special tokens included, `tokens_max` at most.
    pub(crate) ids: Vec<u32>,
    /// Whether the text had more.
    pub(crate) truncated: bool,
}

/// Why a text was not tokenized. The caller adds which row it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TextError {
    /// More bytes than are taken at all.
    #[error("{found} bytes of text, at most {TEXT_BYTES_MAX} are taken")]
    TooManyBytes { found: usize },
    /// Too long, and cutting was not allowed.
    #[error(
        "{} {found} tokens, at most {limit} fit (special tokens included); shorten the text, or leave the parameter \
         'truncate' out to have it cut",
        if *.at_least { "at least" } else { "has" }
    )]
    TooManyTokens { found: usize, at_least: bool, limit: usize },
    /// The tokenizer itself failed.
    #[error("cannot be tokenized: {0}")]
    Tokenizer(String),
}

impl TextTokenizer {
    /// Reads `tokenizer.json`. `tokens_max` includes special tokens; `vocabulary` is the size of the embedding table.
    pub(crate) fn open(folder: &Path, tokens_max: usize, vocabulary: usize) -> Result<TextTokenizer, LoadError> {
        let wrong = |reason: String| LoadError::Invalid(format!("tokenizer.json: {reason}"));
        let bytes = std::fs::read(folder.join("tokenizer.json")).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| wrong(error.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| wrong(error.to_string()))?;
        if let Some(id) = tokenizer.get_vocab(true).into_values().max().filter(|id| *id as usize >= vocabulary) {
            return Err(wrong(format!("found token id {id}; right would be less than vocab_size, {vocabulary}")));
        }
        let added = tokenizer.get_added_tokens_decoder();
        let added_bytes_max = added.values().map(|token| token.content.len()).max().unwrap_or(0);
        let sample = |special| tokenizer.encode_fast("a", special).map_err(|error| wrong(error.to_string()));
        let (plain, wrapped) = (sample(false)?, sample(true)?);
        let (plain, wrapped) = (plain.get_ids(), wrapped.get_ids());
        let begin = wrapped.windows(plain.len().max(1)).position(|window| window == plain);
        let Some(begin) = begin else {
            return Err(wrong("its special tokens do not surround the text, as BERT's do".into()));
        };
        let (prefix, suffix) = (wrapped[..begin].to_vec(), wrapped[begin + plain.len()..].to_vec());
        if prefix.len() + suffix.len() >= tokens_max || prefix.is_empty() {
            let (special, right) = (prefix.len() + suffix.len(), tokens_max.saturating_sub(1));
            return Err(wrong(format!(
                "found {special} special tokens; right would be 1 to {right}, the first in front"
            )));
        }
        Ok(TextTokenizer { tokenizer, prefix, suffix, added_bytes_max, tokens_max })
    }

    /// Tokenizes one text; a text that is too long is cut if `truncate`, else refused.
    pub(crate) fn tokenize(&self, text: &str, truncate: bool) -> Result<TokenizedText, TextError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TextError::TooManyBytes { found: text.len() });
        }
        let special = self.prefix.len() + self.suffix.len();
        let keep = self.tokens_max - special;
        let first_bytes = if truncate { keep * BYTES_PER_TOKEN } else { COUNTED_BYTES };
        let (content, whole) = self.content(text, keep, first_bytes)?;
        let truncated = content.len() > keep;
        if truncated && !truncate {
            let found = content.len() + special;
            return Err(TextError::TooManyTokens { found, at_least: !whole, limit: self.tokens_max });
        }
        let content = &content[..content.len().min(keep)];
        Ok(TokenizedText { ids: [&self.prefix, content, &self.suffix].concat(), truncated })
    }

    /// Ids of the text without special tokens: all of them (`true`), or more than `keep` of the first (`false`).
    fn content(&self, text: &str, keep: usize, first_bytes: usize) -> Result<(Vec<u32>, bool), TextError> {
        let failed = |error: tokenizers::Error| TextError::Tokenizer(error.to_string());
        let mut bytes = first_bytes.max(4);
        while bytes < text.len() {
            let start = &text[..text.floor_char_boundary(bytes)];
            let encoding = self.tokenizer.encode(start, false).map_err(failed)?;
            let last_word = encoding.get_word_ids().last().copied().flatten();
            let settled_end = start.len().saturating_sub(self.added_bytes_max);
            let settled = encoding
                .get_word_ids()
                .iter()
                .zip(encoding.get_offsets())
                .take_while(|(word, (_, end))| **word != last_word && *end <= settled_end)
                .count();
            if settled > keep {
                return Ok((encoding.get_ids()[..settled].to_vec(), false));
            }
            bytes = bytes.saturating_mul(4);
        }
        // Without offsets: faster, and here nobody asks for them.
        let encoding = self.tokenizer.encode_fast(text, false).map_err(failed)?;
        Ok((encoding.get_ids().to_vec(), true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::model_folder;

    fn tokenizer(tokens_max: usize) -> TextTokenizer {
        TextTokenizer::open(&model_folder(), tokens_max, 30522).unwrap()
    }

    fn texts() -> Vec<String> {
        let words =
            ["penstock", "naïve", "résumé", "unbelievably", "GPU,", "[MASK]", "東京", "e\u{301}", "--", "[SEP]x"];
        let mixed: String =
            (0..900).map(|i| words[i * 7 % words.len()].to_owned() + [" ", "", "\n", "  "][i % 4]).collect();
        let endless = "x".repeat(9_000) + " then words that count";
        let spaces = " ".repeat(9_000) + "late words";
        vec![mixed, endless, spaces, "東京とモスクワ".repeat(200), "[SEP]".repeat(500), "e\u{301}".repeat(2_000)]
    }

    #[test]
    fn what_is_kept_does_not_depend_on_how_much_was_read() {
        let tokenizer = tokenizer(256);
        for text in texts() {
            let whole = tokenizer.tokenizer.encode_fast(text.as_str(), false).unwrap();
            for keep in [1, 5, 30] {
                // Every place of a cut, and of a cut within a character.
                for first_bytes in 4..200 {
                    let (ids, _) = tokenizer.content(&text, keep, first_bytes).unwrap();
                    let length = keep.min(whole.len());
                    assert_eq!(ids[..length], whole.get_ids()[..length], "{first_bytes} of {:?}", &text[..20]);
                    assert_eq!(ids.len() > keep, whole.len() > keep);
                }
            }
        }
    }

    #[test]
    fn a_long_text_is_cut_to_what_the_tokenizers_own_truncation_gives() {
        let ours = tokenizer(256);
        let mut theirs = ours.tokenizer.clone();
        let truncation = tokenizers::TruncationParams { max_length: 256, ..Default::default() };
        theirs.with_truncation(Some(truncation)).unwrap();
        for text in texts().into_iter().chain(["".into(), "short".into(), "word ".repeat(100_000)]) {
            let right = theirs.encode(text.as_str(), true).unwrap();
            let found = ours.tokenize(&text, true).unwrap();
            assert_eq!(found.ids, right.get_ids(), "{:?}", text.get(..20));
            assert_eq!(found.truncated, !right.get_overflowing().is_empty());
        }
    }

    #[test]
    fn a_text_that_may_not_be_cut_is_refused_with_its_count() {
        let tokenizer = tokenizer(8);
        assert_eq!(tokenizer.tokenize("a b c d e f", false).unwrap().ids.len(), 8);
        let error = tokenizer.tokenize("a b c d e f g", false).unwrap_err();
        assert_eq!(error, TextError::TooManyTokens { found: 9, at_least: false, limit: 8 });
        assert!(error.to_string().starts_with("has 9 tokens, at most 8 fit"), "{error}");
        let error = tokenizer.tokenize(&"a ".repeat(100_000), false).unwrap_err();
        assert!(matches!(error, TextError::TooManyTokens { at_least: true, found: 9.., limit: 8 }), "{error}");
        let error = tokenizer.tokenize(&"a".repeat(TEXT_BYTES_MAX + 1), true).unwrap_err();
        assert_eq!(error, TextError::TooManyBytes { found: TEXT_BYTES_MAX + 1 });
    }
}
