//! Room 1, OpenAI door: the body of an embeddings request.
//!
//! Called by `embeddings`. Pure: reads the four forms of `input` straight into tensors.

use crate::http::{Cursor, Failure, JsonError, ReadError, Share, utf8, within};
use bytes::{BufMut, BytesMut};
use penstock_domain::{Datatype, Refusal, Tensor, encode_bytes_element};
use smallvec::smallvec;

/// Most inputs of one request, as OpenAI has it.
pub(crate) const INPUTS_MAX: usize = 2048;

/// An embeddings request, read.
#[derive(Debug, PartialEq)]
pub(crate) struct EmbeddingsRequest {
    /// `model`, as sent.
    pub(crate) model: String,
    /// `input`.
    pub(crate) inputs: Inputs,
    /// `encoding_format` is `base64` rather than `float`.
    pub(crate) base64: bool,
    /// `dimensions`.
    pub(crate) dimensions: Option<u64>,
    /// `truncate`, an extension: false refuses an input with more tokens than the model takes.
    pub(crate) truncate: Option<bool>,
}

/// `input` in one of its forms.
#[derive(Debug, PartialEq)]
pub(crate) enum Inputs {
    /// One string or several.
    Texts {
        /// How many.
        count: usize,
        /// As a BYTES tensor's elements.
        elements: BytesMut,
    },
    /// One list of token ids or several.
    Tokens {
        /// All ids.
        ids: Vec<i64>,
        /// Where each list ends in `ids`.
        ends: Vec<usize>,
    },
}

impl Inputs {
    /// How many inputs there are.
    pub(crate) fn count(&self) -> usize {
        match self {
            Inputs::Texts { count, .. } => *count,
            Inputs::Tokens { ends, .. } => ends.len(),
        }
    }

    /// As tensors: `text` BYTES [N, 1]; or `input_ids` and `attention_mask` INT64 [N, S], padded right with 0, of at
    /// most `bytes_max` each.
    pub(crate) fn into_tensors(self, bytes_max: usize, share: &mut Share) -> Result<Vec<Tensor>, Refusal> {
        let rows = self.count() as i64;
        match self {
            Inputs::Texts { elements, .. } => Ok(vec![Tensor {
                name: "text".into(),
                datatype: Datatype::Bytes,
                shape: smallvec![rows, 1],
                data: elements.freeze(),
            }]),
            Inputs::Tokens { ids, ends } => {
                let begins = || std::iter::once(0).chain(ends.iter().copied());
                let longest = begins().zip(&ends).map(|(begin, end)| end - begin).max().unwrap_or(0);
                let size = (ends.len() as u64).saturating_mul(longest as u64).saturating_mul(8);
                within(size, bytes_max, "`input`, padded to its longest list of token ids,")?;
                share.take(2 * size)?;
                let mut padded = BytesMut::with_capacity(size as usize);
                let mut mask = BytesMut::with_capacity(size as usize);
                for (begin, &end) in begins().zip(&ends) {
                    for &id in &ids[begin..end] {
                        padded.put_i64_le(id);
                        mask.put_i64_le(1);
                    }
                    let padding = (longest - (end - begin)) * 8;
                    padded.put_bytes(0, padding);
                    mask.put_bytes(0, padding);
                }
                let shape = smallvec![rows, longest as i64];
                let tensor = |name: &str, data: BytesMut| Tensor {
                    name: name.into(),
                    datatype: Datatype::Int64,
                    shape: Clone::clone(&shape),
                    data: data.freeze(),
                };
                Ok(vec![tensor("input_ids", padded), tensor("attention_mask", mask)])
            }
        }
    }
}

/// Reads a body. What is wrong is told with the name of its member.
pub(crate) fn read_embeddings(body: &[u8]) -> Result<EmbeddingsRequest, Failure> {
    let text = utf8(body)?;
    let mut param = None;
    let (mut model, mut inputs, mut base64, mut dimensions, mut truncate) = (None, None, false, None, None);
    let mut cursor = Cursor::new(text, 0);
    let read = cursor.object::<ReadError>("a JSON object", |cursor, key| {
        param = ["model", "input", "encoding_format", "dimensions", "truncate"].into_iter().find(|name| *name == key);
        match key {
            "encoding_format" | "dimensions" | "truncate" if cursor.null() => {}
            "model" => model = Some(cursor.string("a string as `model`")?.into_owned()),
            "input" => inputs = Some(read_inputs(cursor)?),
            "encoding_format" => base64 = read_format(cursor)?,
            "dimensions" => {
                let expected = || "a whole number of 1 or more as `dimensions`".to_owned();
                let before = cursor.clone();
                let number = cursor.number(expected, false)?.parse().ok().filter(|number| *number > 0);
                dimensions = Some(number.ok_or_else(|| before.clone().wrong(expected()))?);
            }
            "truncate" => truncate = Some(cursor.boolean("true or false as `truncate`")?),
            _ => cursor.skip()?,
        }
        param = None;
        Ok(())
    });
    read.and_then(|()| Ok(cursor.end()?)).map_err(|error| {
        let failure = Failure::from(error.into_refusal(text));
        param.map_or(failure.clone(), |param| failure.with_param(param))
    })?;
    let missing = |param| Failure::from(Refusal::invalid(format!("you must provide `{param}`"))).with_param(param);
    let model = model.ok_or_else(|| missing("model"))?;
    let inputs = inputs.ok_or_else(|| missing("input"))?;
    Ok(EmbeddingsRequest { model, inputs, base64, dimensions, truncate })
}

fn read_format(cursor: &mut Cursor<'_>) -> Result<bool, JsonError> {
    let before = cursor.clone();
    match &*cursor.string("\"float\" or \"base64\" as `encoding_format`")? {
        "float" => Ok(false),
        "base64" => Ok(true),
        _ => Err(before.clone().wrong("\"float\" or \"base64\" as `encoding_format`")),
    }
}

const FORMS: &str = "a string, an array of strings, an array of token ids, or an array of such arrays as `input`";

fn read_inputs(cursor: &mut Cursor<'_>) -> Result<Inputs, ReadError> {
    let mut texts = Texts::default();
    if cursor.peek() == Some(b'"') {
        texts.read(cursor)?;
        return Ok(texts.into());
    }
    let begin = cursor.offset();
    let mut ahead = cursor.clone();
    ahead.step();
    let first = ahead.peek();
    if cursor.peek() == Some(b'[') && first == Some(b']') {
        return Err(Refusal::invalid("`input` must not be empty: an empty array has nothing to embed").into());
    }
    let mut tokens = Tokens::default();
    match (cursor.peek(), first) {
        (Some(b'['), Some(b'"')) => cursor.array::<ReadError>(FORMS, |cursor| texts.read(cursor))?,
        (Some(b'['), Some(b'[')) => cursor.array::<ReadError>(FORMS, |cursor| tokens.read(cursor))?,
        (Some(b'['), Some(b'0'..=b'9' | b'-')) => tokens.read(cursor)?,
        _ => return Err(Cursor::wrong(cursor, FORMS).into()),
    }
    if texts.count > 0 {
        return Ok(texts.into());
    }
    debug_assert!(cursor.offset() > begin);
    Ok(Inputs::Tokens { ids: tokens.ids, ends: tokens.ends })
}

#[derive(Default)]
struct Texts {
    count: usize,
    elements: BytesMut,
}

impl From<Texts> for Inputs {
    fn from(Texts { count, elements }: Texts) -> Self {
        Inputs::Texts { count, elements }
    }
}

impl Texts {
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<(), ReadError> {
        let text = cursor.string("a string, as the first input is one")?;
        if text.is_empty() {
            let words = format!("input {} is an empty string: there is nothing to embed", self.count);
            return Err(Refusal::invalid(words).into());
        }
        self.count = one_more(self.count)?;
        encode_bytes_element(&mut self.elements, text.as_bytes());
        Ok(())
    }
}

#[derive(Default)]
struct Tokens {
    ids: Vec<i64>,
    ends: Vec<usize>,
}

impl Tokens {
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<(), ReadError> {
        let begin = self.ids.len();
        cursor.array::<ReadError>("an array of token ids, as the first input is one", |cursor| {
            let before = cursor.clone();
            let expected = || "a token id, a whole number of 0 or more".to_owned();
            let id = cursor.number(expected, false)?.parse().ok().filter(|id| *id >= 0);
            self.ids.push(id.ok_or_else(|| before.clone().wrong(expected()))?);
            Ok(())
        })?;
        if self.ids.len() == begin {
            let words = format!("input {} is an empty array of token ids: there is nothing to embed", self.ends.len());
            return Err(Refusal::invalid(words).into());
        }
        one_more(self.ends.len())?;
        self.ends.push(self.ids.len());
        Ok(())
    }
}

fn one_more(count: usize) -> Result<usize, Refusal> {
    if count == INPUTS_MAX {
        let words = format!("`input` has more than {INPUTS_MAX} inputs: split it over several requests");
        return Err(Refusal::invalid(words));
    }
    Ok(count + 1)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
