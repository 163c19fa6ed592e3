//! Hexadecimal digits of a hash, as SigV4 writes them.
//!
//! Called within this crate. It never reads any: what a caller sends is compared as text.

/// 64 lower-case digits.
pub(crate) fn of(hash: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    hash.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn digits() {
        let mut hash = [0; 32];
        hash[0] = 0x0f;
        hash[31] = 0xa9;
        assert_eq!(super::of(&hash), format!("0f{}a9", "00".repeat(30)));
    }
}
