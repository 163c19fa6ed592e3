//! Whatever is changed in a signed request, it is not let in; whatever is sent, nothing panics.
#![allow(clippy::unwrap_used)] // helpers of tests

mod vectors;

use http::{HeaderMap, HeaderValue, Method, Uri};
use proptest::prelude::*;
use proptest::sample::Index;
use std::sync::LazyLock;
use vectors::Vector;

static AUTHORISER: LazyLock<penstock_authority::Authoriser> = LazyLock::new(|| vectors::authoriser(""));
static ALL: LazyLock<Vec<Vector>> = LazyLock::new(vectors::all);

/// What looks a little like an `Authorization` header.
const AUTHORIZATION: &str = "(AWS4-HMAC-SHA256|Bearer|AWS4-X)? ?((Credential|SignedHeaders|Signature|X)?=?[ -~é]{0,20}\
                             (/[a-z0-9_]{0,9}){0,6}[,;]? ?){0,5}";

/// What looks a little like a presigned request's path and query.
const TARGET: &str = "/[!-~é]{0,40}(\\?((X-Amz-(Algorithm|Credential|Signature|SignedHeaders|Date|Expires)|[a-z%]{0,5})=\
                      [!$-;=?-Z_a-z~]{0,30}&?){0,8})?";

fn vector() -> impl Strategy<Value = Vector> {
    any::<Index>().prop_map(|index| index.get(&ALL).clone())
}

/// Another byte at one place; `None` if there is no place.
fn changed(bytes: &mut [u8], at: Index, by: u8) -> Option<()> {
    let at = at.index(bytes.len().max(1));
    *bytes.get_mut(at)? ^= by;
    Some(())
}

/// What a query says: decoded names and values, without what order says.
fn meaning(query: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let decoded = |text: &[u8]| {
        let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
        percent_encoding::percent_decode(&spaced).collect::<Vec<u8>>()
    };
    let pairs = query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
    let split = pairs.map(|pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        (decoded(parts.next().unwrap_or_default()), decoded(parts.next().unwrap_or_default()))
    });
    let mut pairs: Vec<_> = split.collect();
    pairs.sort();
    pairs
}

/// A header's value, blanks being of no account.
fn words(value: &[u8]) -> Vec<Vec<u8>> {
    value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect()
}

/// Path and query; a fragment is no part of what is asked for.
fn halves(target: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let target = target.split(|byte| *byte == b'#').next().unwrap_or_default();
    let at = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    (target[..at].to_vec(), target.get(at + 1..).unwrap_or_default().to_vec())
}

/// A path's segments that count, and whether it ends with a slash.
fn segments(path: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let mut kept = Vec::new();
    for segment in path.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            segment => kept.push(segment.to_vec()),
        }
    }
    let slash = kept.is_empty() || path.ends_with(b"/");
    (kept, slash)
}

fn denied(vector: &Vector) -> Result<(), TestCaseError> {
    let judged = vector.judged_by(&AUTHORISER);
    prop_assert!(!matches!(judged, Some(Ok(_))), "{} was let in: {vector:?}", vector.name);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn another_byte_of_the_signature_is_denied(mut vector in vector(), at: Index, by in 1u8..) {
        let header = vector.headers.iter_mut().find(|(name, _)| name == "authorization").map(|(_, value)| value);
        let text = header.unwrap_or(&mut vector.target);
        let start = text.windows(10).position(|window| window == b"Signature=").unwrap() + 10;
        prop_assert_eq!(text.len() - start, 64);
        changed(&mut text[start..], at, by);
        denied(&vector)?;
    }

    #[test]
    fn another_byte_of_the_body_is_denied(mut vector in vector(), at: Index, by in 1u8.., more: bool) {
        prop_assume!(vector.name != "presigned/unsigned-payload");
        if more || changed(&mut vector.body, at, by).is_none() {
            vector.body.push(by);
        }
        denied(&vector)?;
    }

    #[test]
    fn another_byte_of_a_signed_header_is_denied(mut vector in vector(), which: Index, at: Index, by in 1u8..) {
        let signed = vector.signed_headers();
        let mut sent: Vec<_> = vector.headers.iter_mut().filter(|(name, _)| signed.contains(name)).collect();
        let which = which.index(sent.len());
        let value = &mut sent[which].1;
        let before = value.clone();
        changed(value, at, by);
        prop_assume!(words(&before) != words(value));
        denied(&vector)?;
    }

    #[test]
    fn a_signed_header_less_is_denied(mut vector in vector(), which: Index) {
        let signed = vector.signed_headers();
        let sent: Vec<_> = (0..vector.headers.len()).filter(|at| signed.contains(&vector.headers[*at].0)).collect();
        vector.headers.remove(*which.get(&sent));
        denied(&vector)?;
    }

    #[test]
    fn another_byte_of_the_path_or_the_query_is_denied(mut vector in vector(), at: Index, by in 1u8..) {
        let before = halves(&vector.target);
        changed(&mut vector.target, at, by);
        let after = halves(&vector.target);
        // Else the same is asked for: `%3a` for `%3A` in a query, `//` for `/.`.
        prop_assume!(segments(&before.0) != segments(&after.0) || meaning(&before.1) != meaning(&after.1));
        denied(&vector)?;
    }

    #[test]
    fn another_method_is_denied(mut vector in vector(), method in "[A-Z]{1,8}") {
        prop_assume!(method != vector.method);
        vector.method = method;
        denied(&vector)?;
    }

    #[test]
    fn another_time_than_the_signature_s_is_denied(mut vector in vector(), seconds in 3601i64..1_000_000, later: bool) {
        vector.now_unix_s += if later { seconds } else { -seconds };
        denied(&vector)?;
    }

    #[test]
    fn no_splice_panics(
        mut vector in vector(),
        place in any::<Index>(),
        ends in (any::<Index>(), any::<Index>()),
        insert in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let place = place.index(vector.headers.len() + 1);
        let text = if let Some((_, value)) = vector.headers.get_mut(place) { value } else { &mut vector.target };
        let (one, other) = (ends.0.index(text.len() + 1), ends.1.index(text.len() + 1));
        text.splice(one.min(other)..one.max(other), insert);
        vector.judged_by(&AUTHORISER);
    }

    #[test]
    fn no_header_panics(
        authorization in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            AUTHORIZATION.prop_map(String::into_bytes),
        ],
        date in "[0-9]{8}T[0-9]{6}Z|[ -~]{0,20}",
        hash in proptest::option::of("[ -~]{0,70}"),
        target in TARGET,
        now: i64,
    ) {
        let mut headers = HeaderMap::new();
        let (date, hash) = (Some(date.into_bytes()), hash.map(String::into_bytes));
        for (name, value) in [("authorization", Some(authorization)), ("x-amz-date", date), ("x-amz-content-sha256", hash)] {
            let value = value.and_then(|value| HeaderValue::from_bytes(&value).ok());
            value.map(|value| headers.insert(name, value));
        }
        let uri = target.parse::<Uri>().unwrap_or_default();
        if let Ok(head) = AUTHORISER.signed_head(&Method::POST, &uri, &headers, now) {
            prop_assert!(head.verify([7; 32]).is_err());
        }
        prop_assert!(AUTHORISER.bearer(&headers).is_err());
    }
}
