//! Addresses of services, as settings give them.
//!
//! Called by `remote`. Pure.

use crate::RemoteError;
use reqwest::Url;

/// Reads the setting `key`: a URL of scheme and host alone; `None` if it is empty.
pub(crate) fn endpoint(key: &'static str, text: &str) -> Result<Option<Url>, RemoteError> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || RemoteError::Setting {
        key,
        found: without_user(text),
        expected: "http:// or https:// with a host, a port if need be, and nothing after it",
    };
    let url = Url::parse(text).map_err(|_| wrong())?;
    let bare = plain(&url) && url.path() == "/" && url.query().is_none();
    bare.then_some(Some(url)).ok_or_else(wrong)
}

/// Whether a URL is of HTTP, with a host and without a name, a password or a fragment.
pub(crate) fn plain(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none()
}

/// What was given as a URL, as it may be shown: a name, a password and a query in it are secrets, wherever they are.
pub(crate) fn without_user(text: &str) -> String {
    let is_scheme = |scheme: &str| scheme.chars().all(|c| c.is_ascii_alphanumeric());
    let scheme =
        text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)).map_or(0, |(scheme, _)| scheme.len() + 3);
    let (scheme, rest) = text.split_at(scheme);
    let shown = rest.rsplit_once('@').map_or(rest.to_owned(), |(_, rest)| format!("***@{rest}"));
    match shown.find(['?', '#']) {
        Some(at) => format!("{scheme}{}***", &shown[..=at]),
        None => format!("{scheme}{shown}"),
    }
}

/// Whether a text can be part of a host's name, as a region is.
pub(crate) fn is_region(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() <= 32 && text.chars().all(word) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_a_scheme_and_a_host() {
        let read = |text: &str| endpoint("s3.endpoint_url", text).map(|url| url.map(String::from));
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read("http://127.0.0.1:9000").unwrap().unwrap(), "http://127.0.0.1:9000/");
        assert_eq!(read("https://s3.example.com/").unwrap().unwrap(), "https://s3.example.com/");
        for bad in
            ["s3.example.com", "ftp://a", "http://", "http://me:word@a", "http://a/b", "http://a?b", "http://a#b"]
        {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.starts_with("s3.endpoint_url: found") && error.contains("expected http"), "{bad}: {error}");
            assert!(!error.contains("word"), "{error}");
        }
        for (given, shown) in [
            ("http://me:w@rd@host/a", "http://***@host/a"),
            ("http://me:w/rd?x@host", "http://***@host"),
            ("me:word@host", "***@host"),
            ("http:/me:word@host", "***@host"),
            ("me:word@a://host", "***@a://host"),
            ("http://host/a?word#b", "http://host/a?***"),
            ("http://host", "http://host"),
        ] {
            assert_eq!(without_user(given), shown);
        }
        assert!(is_region("us-east-1") && !is_region("") && !is_region("a.b") && !is_region("a/b") && !is_region("-a"));
    }
}
