//! The bearer door: `Authorization: Bearer <token>`.
//!
//! Called by [`crate::Authoriser::bearer`] for every protocol but Lambda's. It never looks a token up by its text: see
//! [`Keys::bearer_of`].

use crate::{Denied, DeniedCode, Keys, Principal};
use http::HeaderMap;
use http::header::AUTHORIZATION;

const SCHEME: &[u8] = b"bearer";

pub(crate) fn judge(headers: &HeaderMap, keys: &Keys) -> Result<Principal, Denied> {
    let denied = |message: &str| Denied::new(DeniedCode::Unauthenticated, message);
    let mut sent = headers.get_all(AUTHORIZATION).into_iter();
    let Some(header) = sent.next() else {
        return Err(denied("a key is needed: send the header 'Authorization: Bearer <key>'"));
    };
    if sent.next().is_some() {
        return Err(denied("header Authorization: expected once, found several"));
    }
    let Some(token) = token_of(header.as_bytes()) else {
        return Err(denied("header Authorization: expected 'Bearer <key>'"));
    };
    keys.bearer_of(token).ok_or_else(|| denied("header Authorization: the key is not one that is known here"))
}

/// The token of `Bearer <token>`: the scheme in any case, then spaces, then the token without any (RFC 6750, 2.1).
fn token_of(header: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = header.split_at_checked(SCHEME.len())?;
    let token = rest.strip_prefix(b" ")?.trim_ascii();
    let one = !token.is_empty() && token.iter().all(u8::is_ascii_graphic);
    (scheme.eq_ignore_ascii_case(SCHEME) && one).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyEntry, Scope};
    use http::HeaderValue;

    fn keys() -> Keys {
        let entry = |secret: &str, scope| KeyEntry { id: None, secret: secret.into(), scope };
        let signing =
            KeyEntry { id: Some("AKIAIOSFODNN7EXAMPLE".into()), secret: "x".repeat(20), scope: Scope::Operate };
        Keys::new(vec![entry("first-0123456789", Scope::Invoke), signing, entry("second-0123456789", Scope::Operate)])
            .unwrap()
    }

    fn judged(sent: &[&[u8]]) -> Result<Principal, Denied> {
        let mut headers = HeaderMap::new();
        for value in sent {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        judge(&headers, &keys())
    }

    #[test]
    fn a_known_token_is_a_principal() {
        let first = judged(&[b"Bearer first-0123456789"]).unwrap();
        let expected = Principal { name: "e6c98da6".into(), scope: Scope::Invoke, region: None };
        assert_eq!(first, expected);
        for text in ["bearer second-0123456789", "BEARER   second-0123456789 "] {
            assert_eq!(judged(&[text.as_bytes()]).unwrap().scope, Scope::Operate);
        }
    }

    #[test]
    fn each_denial_has_its_text() {
        let malformed = "header Authorization: expected 'Bearer <key>'";
        let unknown = "header Authorization: the key is not one that is known here";
        let table: [(&[&[u8]], &str); 12] = [
            (&[], "a key is needed: send the header 'Authorization: Bearer <key>'"),
            (
                &[b"Bearer first-0123456789", b"Bearer first-0123456789"],
                "header Authorization: expected once, found several",
            ),
            (&[b""], malformed),
            (&[b"Bearer"], malformed),
            (&[b"Bearer "], malformed),
            (&[b"Bearerfirst-0123456789"], malformed),
            (&[b"Bearer first-0123456789 first-0123456789"], malformed),
            (&[b"Basic first-0123456789"], malformed),
            (&[b"Bearer first-0123456789\xff"], malformed),
            (&[b"Bearer first-012345678"], unknown),
            (&[b"Bearer First-0123456789"], unknown),
            (&[b"Bearer xxxxxxxxxxxxxxxxxxxx"], unknown), // a signing secret is no token
        ];
        for (sent, message) in table {
            let expected = Denied::new(DeniedCode::Unauthenticated, message);
            assert_eq!(judged(sent), Err(expected), "{sent:?}");
        }
    }

    #[test]
    fn without_keys_nobody_gets_in() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "Bearer first-0123456789".parse().unwrap());
        assert_eq!(judge(&headers, &Keys::default()).unwrap_err().code, DeniedCode::Unauthenticated);
    }
}
