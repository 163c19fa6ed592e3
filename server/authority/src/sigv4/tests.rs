//! What the Lambda door says to each request that it does not let in, and what it makes of odd ones that are right.

use super::*;
use crate::{Authoriser, KeyEntry};
use http::HeaderValue;

const NOW_S: i64 = 1_440_938_160;
const ID: &str = "AKIDEXAMPLEAKIDEXAMPLE";
/// AWS's test suite, `get-vanilla`.
const VANILLA: &str = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn authoriser() -> Authoriser {
    let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned();
    let entry = KeyEntry { id: Some(ID.to_owned()), secret, scope: Scope::Operate };
    Authoriser::new(Keys::new(vec![entry]).unwrap(), vec!["service".to_owned(), "lambda".to_owned()])
}

fn authorization(credential: &str, signed: &str) -> String {
    format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={signed}, Signature={VANILLA}")
}

fn vanilla() -> String {
    authorization(&format!("{ID}/20150830/us-east-1/service/aws4_request"), "host;x-amz-date")
}

/// Headers, as they come.
type Sent<'a> = &'a [(&'a str, &'a str)];

fn judged(target: &str, headers: Sent) -> Result<Principal, Denied> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(http::HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let head = authoriser().signed_head(&Method::GET, &target.parse().unwrap(), &map, NOW_S)?;
    assert!(head.access_key_id() == ID && head.region().starts_with("us-east-"));
    assert!(!format!("{head:?}").contains("5fa0"));
    head.verify(Sha256::digest("").into())
}

const HOST: (&str, &str) = ("host", "example.amazonaws.com");
const DATE: (&str, &str) = ("x-amz-date", "20150830T123600Z");

#[test]
fn the_suite_s_plain_request_is_let_in() {
    let expected = Principal { name: ID.into(), scope: Scope::Operate, region: Some("us-east-1".into()) };
    let vanilla = vanilla();
    assert_eq!(judged("/", &[HOST, DATE, ("authorization", &vanilla)]), Ok(expected.clone()));
    let tight = vanilla.replace(", ", ",");
    assert_eq!(judged("/", &[HOST, DATE, ("authorization", &tight)]), Ok(expected.clone()));
    // What is no part of the signature may come along; and HTTP/2 has an authority where HTTP/1.1 has `Host`.
    let more = [HOST, DATE, ("authorization", &vanilla), ("x-amzn-trace-id", "Root=1"), ("accept", "*/*")];
    assert_eq!(judged("/?", &more), Ok(expected.clone()));
    assert_eq!(judged("http://example.amazonaws.com/", &[DATE, ("authorization", &vanilla)]), Ok(expected));
}

#[test]
fn each_refusal_of_a_header_has_its_code_and_text() {
    use DeniedCode::*;
    let credential = format!("{ID}/20150830/us-east-1/service/aws4_request");
    let with = |credential: &str| authorization(credential, "host;x-amz-date");
    let vanilla = vanilla();
    let table = [
        (
            String::new(),
            IncompleteSignature,
            "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter. Authorization header requires 'SignedHeaders' parameter.",
        ),
        (
            "Bearer hush-hush-hush-hush".into(),
            IncompleteSignature,
            "Authorization header requires 'Credential' parameter.",
        ),
        ("hush-hush-hush-hush".into(), IncompleteSignature, "Authorization header requires 'Credential' parameter."),
        (
            "AWS4-HMAC-SHA256 hush-hush-hush-hush".into(),
            IncompleteSignature,
            "Invalid key=value pair (missing equal-sign) in Authorization header.",
        ),
        (
            format!("AWS4-HMAC-SHA256 Credential={credential}"),
            IncompleteSignature,
            "Authorization header requires 'Signature' parameter. Authorization header requires 'SignedHeaders' parameter.",
        ),
        (
            format!("{vanilla}, Signature=x"),
            IncompleteSignature,
            "Authorization header: 'Signature' parameter: expected once",
        ),
        (
            vanilla.replace("SHA256", "SHA512"),
            IncompleteSignature,
            "Unsupported AWS 'algorithm': 'AWS4-HMAC-SHA512' (only AWS4-HMAC-SHA256 for now).",
        ),
        (
            with("a/b/c/d"),
            IncompleteSignature,
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got 'a/b/c/d'",
        ),
        (
            with(&credential.replace("service", "s3")),
            InvalidSignature,
            "Credential should be scoped to correct service: 'service' or 'lambda'.",
        ),
        (
            with(&credential.replace("us-east-1", "US")),
            InvalidSignature,
            "Credential should be scoped to a valid region, not 'US'.",
        ),
        (
            with(&credential.replace("us-east-1", "")),
            InvalidSignature,
            "Credential should be scoped to a valid region, not ''.",
        ),
        (
            with(&credential.replace("aws4_request", "aws4")),
            InvalidSignature,
            "Credential should be scoped with a valid terminator: 'aws4_request', not 'aws4'.",
        ),
        (
            with(&credential.replace("20150830", "20150829")),
            InvalidSignature,
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '20150829' != '20150830', from '20150830T123600Z'.",
        ),
        (
            with(&credential.replace(ID, "AKIDUNKNOWNUNKNOWN")),
            UnrecognizedClient,
            "The security token included in the request is invalid.",
        ),
        (with(&credential.replace("us-east-1", "us-east-2")), InvalidSignature, MISMATCH),
        (with(&credential.replace("service", "lambda")), InvalidSignature, MISMATCH),
        (
            authorization(&credential, "x-amz-date"),
            InvalidSignature,
            "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.",
        ),
        (authorization(&credential, ""), IncompleteSignature, "SignedHeaders: expected header names in lower case"),
        (
            authorization(&credential, "host;Host"),
            IncompleteSignature,
            "SignedHeaders: expected header names in lower case",
        ),
        (
            authorization(&credential, "x-amz-date;host"),
            IncompleteSignature,
            "SignedHeaders: expected header names in lower case",
        ),
        (
            authorization(&credential, "host;host;x-amz-date"),
            IncompleteSignature,
            "SignedHeaders: expected header names in lower case",
        ),
        (authorization(&credential, "host"), InvalidSignature, "'x-amz-date' must be a 'SignedHeader'"),
        (
            authorization(&credential, "content-type;host;x-amz-date"),
            InvalidSignature,
            "the signed header 'content-type' is not in the request",
        ),
        (vanilla.replace(VANILLA, &VANILLA.to_uppercase()), InvalidSignature, MISMATCH),
        (vanilla.replace(VANILLA, &VANILLA[..63]), InvalidSignature, MISMATCH),
        (vanilla.replace(VANILLA, ""), InvalidSignature, MISMATCH),
    ];
    for (header, code, message) in table {
        let denied = judged("/", &[HOST, DATE, ("authorization", &header)]).unwrap_err();
        let shown = format!("{header}: {denied}");
        assert!(denied.code == code && denied.message.starts_with(message), "{shown}");
        assert!(!denied.message.contains("hush"), "{shown}");
    }
}

#[test]
fn each_refusal_of_the_headers_has_its_code_and_text() {
    use DeniedCode::*;
    let vanilla = vanilla();
    let sent = ("authorization", vanilla.as_str());
    let signed =
        authorization(&format!("{ID}/20150830/us-east-1/service/aws4_request"), "host;x-amz-content-sha256;x-amz-date");
    let hashed = |hash| [HOST, DATE, ("authorization", signed.as_str()), ("x-amz-content-sha256", hash)];
    let (other, streaming) = (VANILLA, "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
    let table: [(Sent, DeniedCode, &str); 14] = [
        (&[HOST, DATE], MissingAuthenticationToken, "Missing Authentication Token"),
        (&[HOST, DATE, sent, sent], IncompleteSignature, "header authorization: expected once, found several"),
        (&[HOST, sent], IncompleteSignature, "Authorization header requires existence of a 'X-Amz-Date' header."),
        (&[HOST, DATE, DATE, sent], IncompleteSignature, "header x-amz-date: expected once, found several"),
        (&[HOST, HOST, DATE, sent], IncompleteSignature, "header host: expected once, found several"),
        (
            &[HOST, ("x-amz-date", "now"), sent],
            IncompleteSignature,
            "Date must be in ISO-8601 'basic format'. Got 'now'.",
        ),
        (
            &[HOST, ("x-amz-date", "20150830T123059Z"), sent],
            InvalidSignature,
            "Signature expired: 20150830T123059Z is now earlier than 20150830T123100Z (20150830T123600Z - 5 min.)",
        ),
        (
            &[HOST, ("x-amz-date", "20150830T124101Z"), sent],
            InvalidSignature,
            "Signature not yet current: 20150830T124101Z is still later than 20150830T124100Z (20150830T123600Z + 5 min.)",
        ),
        (
            &[HOST, DATE, sent, ("x-amz-security-token", "t")],
            InvalidSignature,
            "'x-amz-security-token' must be a 'SignedHeader'",
        ),
        (&[DATE, sent], InvalidSignature, "the signed header 'host' is not in the request"),
        (
            &hashed("UNSIGNED-PAYLOAD"),
            InvalidSignature,
            "x-amz-content-sha256: UNSIGNED-PAYLOAD is for presigned requests",
        ),
        (&hashed(streaming), InvalidSignature, "x-amz-content-sha256: expected the body's SHA-256"),
        (
            &hashed(other),
            InvalidSignature,
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        ),
        (&hashed(EMPTY), InvalidSignature, MISMATCH),
    ];
    for (headers, code, message) in table {
        let denied = judged("/", headers).unwrap_err();
        assert!(denied.code == code && denied.message.starts_with(message), "{denied}");
    }
}

#[test]
fn each_refusal_of_a_query_has_its_code_and_text() {
    use DeniedCode::*;
    let whole = format!(
        "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={ID}%2F20150830%2Fus-east-1%2Fservice%2Faws4_request\
         &X-Amz-Date=20150830T123600Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature={VANILLA}"
    );
    let header = ("authorization", vanilla());
    let lacks = "AWS query-string parameters must include 'X-Amz-Credential'. AWS query-string parameters must include \
                 'X-Amz-Signature'. AWS query-string parameters must include 'X-Amz-SignedHeaders'. AWS query-string parameters \
                 must include 'X-Amz-Date'. AWS query-string parameters must include 'X-Amz-Expires'. Re-examine the \
                 query-string parameters.";
    let table = [
        ("/?X-Amz-Algorithm=AWS4-HMAC-SHA256".to_owned(), IncompleteSignature, lacks),
        (whole.clone(), InvalidSignature, MISMATCH),
        (whole.replace("SHA256", "SHA1"), IncompleteSignature, "Unsupported AWS 'algorithm': 'AWS4-HMAC-SHA1'"),
        (
            whole.replace("Expires=60", "Expires=0"),
            IncompleteSignature,
            "X-Amz-Expires: expected 1 to 604800 whole seconds, found '0'",
        ),
        (whole.replace("Expires=60", "Expires=604801"), IncompleteSignature, "X-Amz-Expires: expected 1 to 604800"),
        (
            whole.replace("Expires=60", "Expires=%2B6"),
            IncompleteSignature,
            "X-Amz-Expires: expected 1 to 604800 whole seconds, found '+6'",
        ),
        (
            whole.replace("Expires=60", "Expires=%FF"),
            IncompleteSignature,
            "query-string parameter X-Amz-Expires: expected UTF-8",
        ),
        (
            whole.replace("123600", "123459"),
            InvalidSignature,
            "Signature expired: 20150830T123559Z is now earlier than 20150830T123600Z",
        ),
        (
            whole.clone() + "&X-Amz-Signature=x",
            IncompleteSignature,
            "query-string parameter X-Amz-Signature: expected once",
        ),
        (
            whole.clone() + "&X-Amz-Content-Sha256=x",
            InvalidSignature,
            "x-amz-content-sha256: expected the body's SHA-256",
        ),
        (whole.replace("=host&", "=x-a&"), InvalidSignature, "'Host' or ':authority' must be a 'SignedHeader'"),
    ];
    for (target, code, message) in table {
        let denied = judged(&target, &[HOST]).unwrap_err();
        assert!(denied.code == code && denied.message.starts_with(message), "{target}: {denied}");
    }
    let both = judged(&whole, &[HOST, DATE, (header.0, &header.1)]).unwrap_err();
    let message = "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header.";
    assert_eq!(both, Denied::new(InvalidSignature, message));
}

#[test]
fn paths_and_queries_have_one_form() {
    let paths = [
        ("/", "/"),
        ("", "/"),
        ("//a//b//", "/a/b/"),
        ("/a/./b/../c", "/a/c"),
        ("/../..", "/"),
        ("/a/..", "/"),
        ("/a%2Fb%3a", "/a%252Fb%253a"),
        ("/a b\u{e9}~-._", "/a%20b%C3%A9~-._"),
        ("*", "/%2A"),
    ];
    for (raw, expected) in paths {
        assert_eq!(canonical::path(raw), expected, "{raw}");
    }
    let queries = [
        ("", ""),
        ("b=2&a=1&a=0", "a=0&a=1&b=2"),
        ("a-b=1&a=2", "a=2&a-b=1"),
        ("A=1&a=2&B", "A=1&B=&a=2"),
        ("a=b+c%2b&&", "a=b%20c%2B"),
        ("a=%7e:/%3d=", "a=~%3A%2F%3D%3D"),
        ("%zz=%", "%25zz=%25"),
        ("=x", "=x"),
        ("X-Amz-Signature=1&a", "a="),
    ];
    for (raw, expected) in queries {
        assert_eq!(Query::new(raw).canonical(), expected, "{raw}");
    }
}
