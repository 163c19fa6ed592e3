//! Room 1, front end: where a number in a JSON text ends.
//!
//! Called by the reader in `json`. Pure.

/// Bytes of the number at the start: `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`.
#[inline]
pub(super) fn number_length(bytes: &[u8]) -> Option<usize> {
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || (whole > 1 && bytes[at] == b'0') {
        return None;
    }
    at += whole;
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits((at + 1 + sign).min(bytes.len()));
        if exponent == 0 {
            return None;
        }
        at += 1 + sign + exponent;
    }
    Some(at)
}

/// Quotes (0 or 1 on each side) and bytes of a number that is not finite.
#[cold]
pub(super) fn non_finite_length(rest: &str) -> Option<(usize, usize)> {
    ["NaN", "Infinity", "-Infinity"].into_iter().find_map(|word| {
        if rest.starts_with(word) {
            return Some((0, word.len()));
        }
        let inner = rest.strip_prefix('"')?.strip_prefix(word)?;
        inner.starts_with('"').then_some((1, word.len()))
    })
}
