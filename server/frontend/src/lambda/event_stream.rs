//! Room 8, Lambda door: frames of `application/vnd.amazon.eventstream`. Pure.
//!
//! Called by `stream`. Big endian: total bytes, bytes of headers, CRC-32 of those eight; headers; payload; CRC-32 of all
//! before. (Smithy's event stream specification, "Amazon Event Stream".)

use bytes::{BufMut, Bytes, BytesMut};

/// Type 7 of a header: a string.
const STRING: u8 = 7;
/// Bytes of a frame beside its headers and payload.
const AROUND: usize = 16;

/// One event.
pub(crate) fn event(kind: &str, content_type: &str, payload: &[u8]) -> Bytes {
    let mut headers = BytesMut::new();
    for (name, value) in [(":message-type", "event"), (":event-type", kind), (":content-type", content_type)] {
        headers.put_u8(name.len() as u8);
        headers.put_slice(name.as_bytes());
        headers.put_u8(STRING);
        headers.put_u16(value.len() as u16);
        headers.put_slice(value.as_bytes());
    }
    let total = AROUND + headers.len() + payload.len();
    let mut frame = BytesMut::with_capacity(total);
    frame.put_u32(total as u32);
    frame.put_u32(headers.len() as u32);
    frame.put_u32(crc32fast::hash(&frame));
    frame.put_slice(&headers);
    frame.put_slice(payload);
    frame.put_u32(crc32fast::hash(&frame));
    frame.freeze()
}

/// A piece of the answer.
pub(crate) fn chunk(payload: &[u8]) -> Bytes {
    event("PayloadChunk", "application/octet-stream", payload)
}

/// The end of the answer: `{}`, or `ErrorCode`, `ErrorDetails` and `LogResult`.
pub(crate) fn complete(json: &serde_json::Value) -> Bytes {
    event("InvokeComplete", "application/json", json.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Frames that boto3 was seen to read.
    #[test]
    fn frames_are_byte_for_byte_those_that_clients_read() {
        assert_eq!(
            hex(&chunk(b"hello")),
            "0000006f0000005af5fe871f0d3a6d6573736167652d747970650700056576656e740b3a6576656e742d7479706507000c5061796c6f61644\
             368756e6b0d3a636f6e74656e742d747970650700186170706c69636174696f6e2f6f637465742d73747265616d68656c6c6f4fe061f2"
        );
        assert_eq!(
            hex(&complete(&serde_json::json!({}))),
            "00000066000000541f56c8690d3a6d6573736167652d747970650700056576656e740b3a6576656e742d7479706507000e496e766f6b65436\
             f6d706c6574650d3a636f6e74656e742d747970650700106170706c69636174696f6e2f6a736f6e7b7dface259a"
        );
    }
}
