//! Huffman decoding of HPACK strings (RFC 7541, appendix B). Called by `hpack`; never encodes, as requests are sent plain.
//!
//! The code is canonical: symbols of one length are numbered in order, and lengths follow each other without gaps. So
//! the lengths alone give the code, and decoding compares the bits read so far with the first code of each length.

/// Bits of the code of each byte value. The end-of-string symbol has 30 and is never part of a valid string.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

const LONGEST: usize = 30;

/// The code, laid out for canonical decoding.
pub(crate) struct Huffman {
    /// The first code of each length.
    first: [u32; LONGEST + 1],
    /// How many symbols have each length.
    count: [u32; LONGEST + 1],
    /// Where the symbols of each length begin in `symbols`.
    start: [u32; LONGEST + 1],
    /// Symbols by length, then by value.
    symbols: Vec<u8>,
}

impl Huffman {
    /// Builds the tables; done once a connection.
    pub(crate) fn new() -> Self {
        let mut table = Self { first: [0; 31], count: [0; 31], start: [0; 31], symbols: Vec::with_capacity(256) };
        let mut code = 0u32;
        for length in 1..=LONGEST {
            code <<= 1;
            table.first[length] = code;
            table.start[length] = table.symbols.len() as u32;
            for (symbol, &bits) in LENGTHS.iter().enumerate() {
                if usize::from(bits) == length {
                    table.symbols.push(symbol as u8);
                    code += 1;
                }
            }
            table.count[length] = table.symbols.len() as u32 - table.start[length];
        }
        table
    }

    /// Appends the decoded string to `out`; `None` if the bits are no valid string.
    pub(crate) fn decode(&self, coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let (mut code, mut length) = (0u32, 0usize);
        for &byte in coded {
            for shift in (0..8).rev() {
                code = code << 1 | u32::from(byte >> shift & 1);
                length += 1;
                if length > LONGEST {
                    return None;
                }
                let offset = code.wrapping_sub(self.first[length]);
                if offset < self.count[length] {
                    out.push(self.symbols[(self.start[length] + offset) as usize]);
                    (code, length) = (0, 0);
                }
            }
        }
        // What is left must be padding: fewer than 8 ones.
        (length < 8 && code == (1 << length) - 1).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::Huffman;

    fn decode(hex: &str) -> String {
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        let mut out = Vec::new();
        Huffman::new().decode(&bytes, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn decodes_the_examples_of_rfc_7541() {
        assert_eq!(decode("f1e3c2e5f23a6ba0ab90f4ff"), "www.example.com");
        assert_eq!(decode("a8eb10649cbf"), "no-cache");
        assert_eq!(decode("d07abe941054d444a8200595040b8166e082a62d1bff"), "Mon, 21 Oct 2013 20:13:21 GMT");
        assert_eq!(decode("9d29ad171863c78f0b97c8e9ae82ae43d3"), "https://www.example.com");
    }
}
