//! Which keys of etcd the state lies under.
//!
//! Used by all of this crate. Pure.

/// The keys of one state. Entries and blobs lie side by side, so that one watch sees both; the leader's key is beside them.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub(crate) fn below(prefix: &str) -> Self {
        Self { prefix: prefix.trim_matches('/').to_owned() }
    }

    /// Held by the lease of the server that leads; its value is where that is reached.
    pub(crate) fn leader(&self) -> Vec<u8> {
        format!("{}/leader", self.prefix).into_bytes()
    }

    /// One that is written once, by whoever comes first.
    pub(crate) fn once(&self, name: &str) -> Vec<u8> {
        format!("{}/once/{name}", self.prefix).into_bytes()
    }

    pub(crate) fn of(&self, is_blob: bool, key: &str) -> Vec<u8> {
        format!("{}/{}/{key}", self.prefix, kind(is_blob)).into_bytes()
    }

    /// From the first key of the state, blobs first, to the one after the last.
    pub(crate) fn state(&self) -> (Vec<u8>, Vec<u8>) {
        (self.of(true, ""), end_of(self.of(false, "")))
    }

    /// The keys of a page, from the first to the one after the last.
    pub(crate) fn page(&self, is_blob: bool, prefix: &str, after: Option<&str>) -> (Vec<u8>, Vec<u8>) {
        let start = match after.filter(|after| *after >= prefix) {
            None => self.of(is_blob, prefix),
            Some(after) => [self.of(is_blob, after), vec![0]].concat(),
        };
        (start, end_of(self.of(is_blob, prefix)))
    }

    /// The key as the control plane has it; `None` of one that is not text.
    pub(crate) fn name<'a>(&self, is_blob: bool, key: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(key.get(self.of(is_blob, "").len()..)?).ok()
    }
}

fn kind(is_blob: bool) -> &'static str {
    if is_blob { "blob" } else { "entry" }
}

/// The first key after all that begin with this one, which is text: its last byte is never the highest.
fn end_of(mut prefix: Vec<u8>) -> Vec<u8> {
    if let Some(last) = prefix.last_mut() {
        *last += 1;
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_ranges_of_keys() {
        let keys = Keys::below("/a/");
        let page = |prefix, after| {
            let (start, end) = keys.page(false, prefix, after);
            (String::from_utf8(start).unwrap(), String::from_utf8(end).unwrap())
        };
        assert_eq!(page("f/", None), ("a/entry/f/".into(), "a/entry/f0".into()));
        assert_eq!(page("f/", Some("f/1")), ("a/entry/f/1\0".into(), "a/entry/f0".into()));
        assert_eq!(page("f/", Some("a")), ("a/entry/f/".into(), "a/entry/f0".into()));
        assert_eq!(page("", None), ("a/entry/".into(), "a/entry0".into()));
        assert_eq!(keys.state(), (b"a/blob/".to_vec(), b"a/entry0".to_vec()));
        assert!(keys.state().1 < keys.leader());
        assert_eq!(keys.name(true, b"a/blob/e/1"), Some("e/1"));
    }
}
