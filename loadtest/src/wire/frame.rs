//! Frames of HTTP/2 (RFC 9113, section 4 and 6): numbers, writing one, and taking padding off. Called by `h2`.

/// Length of a frame's head.
pub(super) const FRAME_HEAD: usize = 9;

/// Types of frames.
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const RST_STREAM: u8 = 3;
    pub(in super::super) const SETTINGS: u8 = 4;
    pub(in super::super) const PING: u8 = 6;
    pub(in super::super) const GOAWAY: u8 = 7;
    pub(in super::super) const WINDOW_UPDATE: u8 = 8;
    pub(in super::super) const CONTINUATION: u8 = 9;
}
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const PRIORITY: u8 = 32;

/// Appends one frame.
pub(super) fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, body: &[u8]) {
    out.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(body);
}

/// What is inside a frame that may be padded; `None` if there is more padding than frame.
pub(super) fn unpadded(flags: u8, body: &[u8]) -> Option<&[u8]> {
    if flags & PADDED == 0 {
        return Some(body);
    }
    let (&padding, rest) = body.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(padding))?)
}
