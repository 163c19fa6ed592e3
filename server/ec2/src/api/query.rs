//! Parameters of a call, as AWS's Query API takes them: names and values in a form.
//!
//! Called by whoever calls EC2 and STS. Pure.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::fmt::{self, Display, Write};

/// All but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Names and values, in the order in which they were added.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Params(Vec<(String, String)>);

/// Names alone: among the values are secrets.
impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Params {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub(crate) fn set(&mut self, name: impl Into<String>, value: impl Display) {
        self.0.push((name.into(), value.to_string()));
    }

    /// The same, in a chain.
    pub(crate) fn with(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.set(name, value);
        self
    }

    /// A list: `name.1`, `name.2` and so on.
    pub(crate) fn list<T: Display>(mut self, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        for (index, value) in values.into_iter().enumerate() {
            self.set(format!("{name}.{}", index + 1), value);
        }
        self
    }

    /// A filter with the number `index`, from 1: what is asked for has one of these values.
    pub(crate) fn filter<T: Display>(self, index: usize, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        self.with(format!("Filter.{index}.Name"), name).list(&format!("Filter.{index}.Value"), values)
    }

    /// As it is sent.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            let between = if text.is_empty() { "" } else { "&" };
            let (name, value) = (utf8_percent_encode(name, RESERVED), utf8_percent_encode(value, RESERVED));
            // Writing to a text does not fail.
            let _ = write!(text, "{between}{name}={value}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_filters_are_numbered_from_one() {
        let params = Params::new().with("A", "b c&=ü~").list("Id", ["x", "y"]).filter(2, "tag:a", [1, 2]);
        assert_eq!(
            params.encode(),
            "A=b%20c%26%3D%C3%BC~&Id.1=x&Id.2=y&Filter.2.Name=tag%3Aa&Filter.2.Value.1=1&Filter.2.Value.2=2"
        );
        assert!(!format!("{params:?}").contains("b c"));
    }
}
