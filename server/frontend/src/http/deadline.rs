//! Room 1, front end: how long a caller will wait.
//!
//! Called by the infer and embeddings handlers. Two things set a deadline, and the earlier holds: the header
//! `x-penstock-timeout-ms` (any request) and the OIP request parameter `timeout` (microseconds; 0 means none). Both
//! count from the moment the request's head was read. Other protocols' headers, such as `grpc-timeout`, mean nothing
//! here.

use http::HeaderMap;
use penstock_domain::Refusal;
use std::time::Duration;
use tokio::time::Instant;

/// Milliseconds after which an answer is worth nothing.
pub(crate) const TIMEOUT_MS: &str = "x-penstock-timeout-ms";

/// The deadline the headers set.
pub(crate) fn deadline_of(headers: &HeaderMap, received: Instant) -> Result<Option<Instant>, Refusal> {
    let Some(value) = headers.get(TIMEOUT_MS) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok()).filter(|ms| *ms > 0);
    let ms = number.ok_or_else(|| {
        let found = String::from_utf8_lossy(value.as_bytes()).into_owned();
        Refusal::invalid(format!("header {TIMEOUT_MS}: expected whole milliseconds of 1 or more, found {found:?}"))
    })?;
    Ok(received.checked_add(Duration::from_millis(ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn milliseconds_of_1_or_more() {
        let now = Instant::now();
        let mut headers = HeaderMap::new();
        assert_eq!(deadline_of(&headers, now), Ok(None));
        headers.insert(TIMEOUT_MS, "20".parse().unwrap());
        assert_eq!(deadline_of(&headers, now), Ok(Some(now + Duration::from_millis(20))));
        for bad in ["0", "-1", "1.5", "soon"] {
            headers.insert(TIMEOUT_MS, bad.parse().unwrap());
            assert!(deadline_of(&headers, now).unwrap_err().message.contains(bad));
        }
    }
}
