//! Reads protobuf fields without decoding whole messages. Called by `reply` and `stream`; never copies and never fails
//! loudly: a malformed message reads as one that ends early.

/// The fields of one message, in order.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

/// A field's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content<'a> {
    /// Wire types 0, 1 and 5.
    Number(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
}

impl<'a> Content<'a> {
    pub(crate) fn bytes(self) -> &'a [u8] {
        match self {
            Content::Bytes(bytes) => bytes,
            Content::Number(_) => &[],
        }
    }

    pub(crate) fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    pub(crate) fn number(self) -> u64 {
        match self {
            Content::Number(number) => number,
            Content::Bytes(_) => 0,
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Content<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = varint(&mut self.0)?;
        let take = |bytes: &mut &'a [u8], length: usize| {
            let (head, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Some(head)
        };
        let content = match key & 7 {
            0 => Content::Number(varint(&mut self.0)?),
            1 => Content::Number(u64::from_le_bytes(take(&mut self.0, 8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(varint(&mut self.0)?).ok()?;
                Content::Bytes(take(&mut self.0, length)?)
            }
            5 => Content::Number(u32::from_le_bytes(take(&mut self.0, 4)?.try_into().ok()?).into()),
            _ => return None,
        };
        Some((key >> 3, content))
    }
}
