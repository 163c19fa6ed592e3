//! Room 1, front end: `grpc-timeout`, read by ourselves. tonic's own server would answer CANCELLED from outside.

use http::HeaderMap;
use penstock_domain::Refusal;
use std::time::Duration;

/// The header of the timeout.
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The timeout a call brought: at most eight digits and a unit, `H M S m u n` (gRPC over HTTP/2, "Timeout").
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    parse(value.as_bytes()).map(Some).ok_or_else(|| {
        Refusal::invalid(format!(
            "{GRPC_TIMEOUT}: found {value:?}, expected at most eight digits and one of H, M, S, m, u, n, such as '100m'"
        ))
    })
}

fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_and_nothing_else() {
        for (text, timeout) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("100m", Duration::from_millis(100)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(timeout), "{text}");
        }
        for text in ["", "m", "1", "1s", "-1m", "1.5S", "123456789m", " 1m"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
