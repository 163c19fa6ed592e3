//! Stamps: when a request was signed, and whether that is now.
//!
//! Called by [`super::SignedHead::read`]. It never asks a clock.

use crate::denied::quoted;
use crate::{Denied, DeniedCode};
use time::format_description::FormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// How far, in seconds, a caller's clock may be from ours in either direction; AWS's figure.
pub const CLOCK_SKEW_S: i64 = 300;

const BASIC: &[FormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]Z");

/// A moment, as text and as a number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp<'a> {
    /// `20260131T235959Z`.
    pub(super) text: &'a str,
    unix_s: i64,
}

impl<'a> Stamp<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let shape = |(at, byte): (usize, u8)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        };
        if text.len() != 16 || !text.bytes().enumerate().all(shape) {
            return None;
        }
        let unix_s = PrimitiveDateTime::parse(text, BASIC).ok()?.assume_utc().unix_timestamp();
        Some(Self { text, unix_s })
    }

    /// `20260131`.
    pub(super) fn day(&self) -> &'a str {
        &self.text[..8]
    }
}

/// A moment as text.
pub(super) fn show(unix_s: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(unix_s).ok().and_then(|moment| moment.format(BASIC).ok());
    moment.unwrap_or_else(|| format!("{unix_s} s"))
}

/// The stamp, if it is of now: at most [`CLOCK_SKEW_S`] off; presigned for `expires_s`, at most that old.
pub(super) fn judge(text: &str, expires_s: Option<u32>, now_unix_s: i64) -> Result<Stamp<'_>, Denied> {
    let Some(stamp) = Stamp::read(text) else {
        let message = format!(
            "Date must be in ISO-8601 'basic format'. Got {}. See http://en.wikipedia.org/wiki/ISO_8601",
            quoted(text)
        );
        return Err(Denied::new(DeniedCode::IncompleteSignature, message));
    };
    let (now, minutes) = (show(now_unix_s), CLOCK_SKEW_S / 60);
    let earliest = now_unix_s.saturating_sub(CLOCK_SKEW_S);
    let latest = now_unix_s.saturating_add(CLOCK_SKEW_S);
    let ends = stamp.unix_s.saturating_add(i64::from(expires_s.unwrap_or(0)));
    let message = if stamp.unix_s > latest {
        format!("Signature not yet current: {text} is still later than {} ({now} + {minutes} min.)", show(latest))
    } else if expires_s.is_some() && ends < now_unix_s {
        format!("Signature expired: {} is now earlier than {now}", show(ends))
    } else if expires_s.is_none() && stamp.unix_s < earliest {
        format!("Signature expired: {text} is now earlier than {} ({now} - {minutes} min.)", show(earliest))
    } else {
        return Ok(stamp);
    };
    Err(Denied::new(DeniedCode::InvalidSignature, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "20260131T235959Z";
    const AT_S: i64 = 1_769_903_999;

    #[test]
    fn a_stamp_is_of_now_or_says_how_it_is_not() {
        let expired =
            "Signature expired: 20260131T235959Z is now earlier than 20260201T000000Z (20260201T000500Z - 5 min.)";
        let early = "Signature not yet current: 20260131T235959Z is still later than 20260131T235958Z (20260131T235458Z + 5 min.)";
        let over = "Signature expired: 20260201T000959Z is now earlier than 20260201T001000Z";
        let table = [
            (None, AT_S, None),
            (None, AT_S + 300, None),
            (None, AT_S - 300, None),
            (None, AT_S + 301, Some(expired)),
            (None, AT_S - 301, Some(early)),
            (Some(600), AT_S + 600, None),
            (Some(600), AT_S + 601, Some(over)),
            (Some(600), AT_S - 300, None),
            (Some(600), AT_S - 301, Some(early)),
        ];
        for (expires_s, now, message) in table {
            let expected = message.map_or(Ok(()), |text| Err(Denied::new(DeniedCode::InvalidSignature, text)));
            assert_eq!(judge(AT, expires_s, now).map(|stamp| assert_eq!(stamp.day(), "20260131")), expected);
        }
    }

    #[test]
    fn clocks_at_the_end_of_time_judge_too() {
        for now in [i64::MIN, i64::MAX, -1] {
            for stamp in ["00000101T000000Z", "99991231T235959Z"] {
                assert_eq!(judge(stamp, None, now).unwrap_err().code, DeniedCode::InvalidSignature);
            }
        }
    }

    #[test]
    fn what_is_no_date_is_said_to_be_none() {
        for text in [
            "",
            "201",
            "20260231T000000Z",
            "20260131T250000Z",
            "2026-01-31T23:59Z",
            "20260131 235959Z",
            "+2026131T235959Z",
            "２０２６0",
        ] {
            let denied = judge(text, None, AT_S).unwrap_err();
            assert_eq!(denied.code, DeniedCode::IncompleteSignature);
            assert!(denied.message.contains(&format!("Got '{text}'.")), "{denied}");
        }
    }
}
