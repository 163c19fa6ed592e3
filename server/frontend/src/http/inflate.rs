//! Room 1, front end: gzip and deflate, both ways, with the memory a request may use as the bound.
//!
//! Called by `body` (requests) and `compress` (answers).

use super::body::Share;
use super::failure::Failure;
use bytes::Bytes;
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, StatusCode, header};
use penstock_domain::{ErrorCode, Refusal};
use std::io::Read;

/// Bytes inflated between two looks at the limit, the budget and the other requests of this thread.
const STEP_BYTES: usize = 64 << 10;

/// A content coding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950 as HTTP defines it; requests may also be RFC 1951, as some clients send it.
    Deflate,
}

impl Coding {
    /// The name in headers.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        }
    }

    /// How a request's body is coded. More than one coding, or another, is 415.
    pub(crate) fn of_request(headers: &HeaderMap) -> Result<Option<Self>, Failure> {
        let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Ok(None) };
        let name = String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase();
        match name.as_str() {
            "" | "identity" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Coding::Gzip)),
            "deflate" => Ok(Some(Coding::Deflate)),
            _ => Err(Failure::http(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Refusal::invalid(format!("Content-Encoding is `{name}`: gzip, deflate and identity are understood")),
            )),
        }
    }

    /// What a client would like best of what we have: gzip before deflate at equal weight, `None` if neither.
    pub(crate) fn of_answer(headers: &HeaderMap) -> Option<Self> {
        let mut best = None;
        let lists = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        for entry in lists.flat_map(|list| list.split(',')) {
            let (name, parameters) = entry.split_once(';').unwrap_or((entry, ""));
            let weight = parameters.trim().strip_prefix("q=").map_or(Ok(1.0), |q| q.trim().parse::<f32>());
            let coding = match name.trim().to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => (Coding::Gzip, 1),
                "deflate" => (Coding::Deflate, 0),
                _ => continue,
            };
            let weight = weight.unwrap_or(0.0);
            if weight > 0.0 && best.is_none_or(|(w, rank, _)| (weight, coding.1) > (w, rank)) {
                best = Some((weight, coding.1, coding.0));
            }
        }
        best.map(|(_, _, coding)| coding)
    }
}

/// Inflates a body that has been read, at most to `bytes_max`.
pub(crate) async fn inflate(
    body: Bytes,
    coding: Coding,
    bytes_max: usize,
    share: &mut Share,
) -> Result<Bytes, Refusal> {
    let mut decoder: Box<dyn Read + Send> = match coding {
        Coding::Gzip => Box::new(MultiGzDecoder::new(&body[..])),
        Coding::Deflate if has_zlib_head(&body) => Box::new(ZlibDecoder::new(&body[..])),
        Coding::Deflate => Box::new(DeflateDecoder::new(&body[..])),
    };
    let mut out = Vec::new();
    let mut step = vec![0; STEP_BYTES];
    loop {
        let read = decoder.read(&mut step).map_err(|error| {
            Refusal::invalid(format!("request body is not valid {}: {error}, after {} bytes", coding.name(), out.len()))
        })?;
        if read == 0 {
            return Ok(out.into());
        }
        if out.len() + read > bytes_max {
            let message =
                format!("request body inflates from {} bytes to more than the limit of {bytes_max}", body.len());
            return Err(Refusal::new(ErrorCode::TooLarge, message));
        }
        share.take(read as u64)?;
        if out.capacity() < out.len() + read {
            // Twice as much each time, but never past the limit: the last copy would hold three times as much.
            let wanted = (out.capacity() * 2).min(bytes_max).max(out.len() + read);
            out.reserve_exact(wanted - out.len());
        }
        out.extend_from_slice(&step[..read]);
        tokio::task::yield_now().await;
    }
}

/// RFC 1950: method 8, and a check that makes the first two bytes a multiple of 31.
fn has_zlib_head(body: &[u8]) -> bool {
    matches!(body, [first, second, ..] if first & 15 == 8 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0)
}

/// Compresses an answer. Fast rather than small: the network is rarely slower than level 6.
pub(crate) fn deflate(body: &[u8], coding: Coding) -> Bytes {
    let level = flate2::Compression::fast();
    let mut out = Vec::with_capacity(body.len() / 2 + 64);
    let result = match coding {
        Coding::Gzip => flate2::bufread::GzEncoder::new(body, level).read_to_end(&mut out),
        Coding::Deflate => flate2::bufread::ZlibEncoder::new(body, level).read_to_end(&mut out),
    };
    result.expect("reading from memory into memory does not fail");
    out.into()
}
