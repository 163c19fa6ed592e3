//! What a response says about itself: status, reason of a shed, stage times, when to come back.
//!
//! Filled field by field from HTTP headers and gRPC trailers by the clients of this folder; read by `record`.

use super::protobuf::Fields;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Binary metadata of gRPC comes with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The parts of a response that are recorded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reply {
    /// HTTP status, 0 before it is known.
    pub http_status: u16,
    /// `grpc-status`, if it is a gRPC response.
    pub grpc_status: Option<u16>,
    /// Why it was shed: `x-penstock-shed-reason`, else `ErrorInfo.reason`.
    pub shed_reason: Option<String>,
    /// Text of `Server-Timing` or `penstock-timing`.
    pub stage_times: Option<String>,
    /// When to come back, in milliseconds, from the finest of the headers that say so.
    pub retry_after_ms: Option<u64>,
    /// The error of one message of a stream, which has no status of its own.
    pub stream_error: bool,
}

impl Reply {
    /// Takes one header or trailer. Names are lower case, as HTTP/2 has them.
    pub(crate) fn field(&mut self, name: &[u8], value: &[u8]) {
        let text = || String::from_utf8_lossy(value).into_owned();
        let number = || std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<u64>().ok());
        match name {
            b":status" => self.http_status = number().unwrap_or(0) as u16,
            b"grpc-status" => self.grpc_status = Some(number().unwrap_or(2) as u16),
            b"penstock-timing" | b"server-timing" => self.stage_times = Some(text()),
            b"x-penstock-shed-reason" => self.shed_reason = Some(text()),
            b"grpc-retry-pushback-ms" | b"x-amz-retry-after" => self.retry_after_ms = number().or(self.retry_after_ms),
            b"retry-after" if self.retry_after_ms.is_none() => {
                self.retry_after_ms = number().map(|seconds| seconds * 1000);
            }
            b"grpc-status-details-bin" => self.details(value),
            _ => {}
        }
    }

    /// Reads `google.rpc.Status`: ErrorInfo{1 reason} and RetryInfo{1 Duration{1 seconds, 2 nanos}} among details (3).
    fn details(&mut self, value: &[u8]) {
        let Ok(status) = BASE64.decode(value) else { return };
        for (_, any) in Fields(&status).filter(|(field, _)| *field == 3) {
            let (mut kind, mut inner) = (String::new(), &[][..]);
            for (field, content) in Fields(any.bytes()) {
                match field {
                    1 => kind = content.text(),
                    2 => inner = content.bytes(),
                    _ => {}
                }
            }
            let first = Fields(inner).find(|(field, _)| *field == 1).map(|(_, content)| content);
            let Some(first) = first else { continue };
            if kind.ends_with("google.rpc.ErrorInfo") && self.shed_reason.is_none() {
                self.shed_reason = Some(first.text());
            } else if kind.ends_with("google.rpc.RetryInfo") && self.retry_after_ms.is_none() {
                let part =
                    |wanted| Fields(first.bytes()).find(|(field, _)| *field == wanted).map_or(0, |(_, n)| n.number());
                self.retry_after_ms = Some(part(1) * 1000 + part(2) / 1_000_000);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BASE64, Reply};
    use base64::Engine;

    #[test]
    fn reads_error_info_and_retry_info_from_the_details() {
        fn nested(field: u8, bytes: &[u8]) -> Vec<u8> {
            [&[field << 3 | 2, bytes.len() as u8], bytes].concat()
        }
        let any = |kind: &str, inner: &[u8]| nested(3, &[nested(1, kind.as_bytes()), nested(2, inner)].concat());
        let status = [
            vec![8, 8],
            any("type.googleapis.com/google.rpc.ErrorInfo", &nested(1, b"queue_requests")),
            // Duration{seconds: 1, nanos: 250_000_000}
            any("type.googleapis.com/google.rpc.RetryInfo", &nested(1, &[8, 1, 16, 0x80, 0xe5, 0x9a, 0x77])),
        ]
        .concat();
        let mut reply = Reply::default();
        reply.field(b"grpc-status-details-bin", BASE64.encode(&status).trim_end_matches('=').as_bytes());
        assert_eq!(reply.shed_reason.as_deref(), Some("queue_requests"));
        assert_eq!(reply.retry_after_ms, Some(1250));
    }

    #[test]
    fn the_finer_wait_wins_over_whole_seconds_in_any_order() {
        for names in [["retry-after", "x-amz-retry-after"], ["x-amz-retry-after", "retry-after"]] {
            let mut reply = Reply::default();
            for name in names {
                reply.field(name.as_bytes(), if name == "retry-after" { b"1" } else { b"40" });
            }
            assert_eq!(reply.retry_after_ms, Some(40));
        }
    }
}
