//! Query strings as Lambda's clients send them: `Qualifier=%24LATEST`, `tagKeys=a&tagKeys=b`.
//!
//! Called by the handlers. Pure.

use penstock_control::ControlError;
use penstock_control::requests::Page;
use percent_encoding::percent_decode_str;

/// A query string, decoded.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query; `+` is a space, as signatures take it.
    pub(crate) fn read(query: Option<&str>) -> Self {
        let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect(),
        )
    }

    /// The first value of a key; an empty one is none.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(found, _)| found == key);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// All values of a key.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    /// The page asked for. Errors: of no entries, or of what is no number.
    pub(crate) fn page(&self) -> Result<Page, ControlError> {
        let number = |text: &str| match text.parse() {
            Ok(number @ 1..) => Ok(number),
            _ => Err(ControlError::validation(text, "maxItems", "Member must have value greater than or equal to 1")),
        };
        let max_items = self.get("MaxItems").map(number).transpose()?;
        Ok(Page { marker: self.get("Marker").map(str::to_owned), max_items })
    }
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn values_are_decoded_and_lists_kept() {
        let query = Query::read(Some("Qualifier=%24LATEST.PUBLISHED&tagKeys=a&tagKeys=b%20c+d&Marker=&x"));
        assert_eq!(query.get("Qualifier"), Some("$LATEST.PUBLISHED"));
        assert_eq!(query.all("tagKeys").collect::<Vec<_>>(), ["a", "b c d"]);
        assert_eq!((query.get("Marker"), query.get("x"), query.get("y")), (None, None, None));
        assert!(Query::read(None).get("a").is_none());
        assert_eq!(Query::read(Some("MaxItems=3&Marker=m")).page().unwrap().max_items, Some(3));
        for wrong in ["0", "-1", "x"] {
            assert!(Query::read(Some(&format!("MaxItems={wrong}"))).page().is_err(), "{wrong}");
        }
    }
}
