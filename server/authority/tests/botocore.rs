//! What botocore signs is let in: AWS's own test suite, a boto3 Lambda client's calls, presigned URLs, random requests.

mod vectors;

use penstock_authority::DeniedCode;

#[test]
fn every_request_that_botocore_signed_is_let_in() {
    let authoriser = vectors::authoriser("");
    let vectors = vectors::all();
    for vector in &vectors {
        let judged = vector.judged_by(&authoriser).unwrap_or_else(|| panic!("{}: no HTTP request", vector.name));
        assert_eq!(judged, Ok(vector.principal.clone()), "{}", vector.name);
    }
    for kind in ["suite/", "lambda/", "presigned/", "random/"] {
        assert!(vectors.iter().any(|vector| vector.name.starts_with(kind)), "none of {kind}");
    }
}

#[test]
fn none_is_with_another_secret() {
    let authoriser = vectors::authoriser("x");
    for vector in vectors::all() {
        let denied = vector.judged_by(&authoriser).unwrap().unwrap_err();
        assert_eq!(denied.code, DeniedCode::InvalidSignature, "{}", vector.name);
    }
}

#[test]
fn a_presigned_request_without_a_signed_payload_takes_any_body() {
    let authoriser = vectors::authoriser("");
    let mut vector = vectors::all().into_iter().find(|vector| vector.name == "presigned/unsigned-payload").unwrap();
    vector.body = b"anything".to_vec();
    assert_eq!(vector.judged_by(&authoriser), Some(Ok(vector.principal.clone())));
}

#[test]
fn a_presigned_request_is_good_until_it_expires() {
    let authoriser = vectors::authoriser("");
    for mut vector in vectors::all().into_iter().filter(|vector| vector.name.starts_with("presigned/get-function")) {
        vector.now_unix_s += 900;
        assert_eq!(vector.judged_by(&authoriser), Some(Ok(vector.principal.clone())));
        vector.now_unix_s += 1;
        let denied = vector.judged_by(&authoriser).unwrap().unwrap_err();
        assert_eq!(denied.message, "Signature expired: 20261126T092307Z is now earlier than 20261126T092308Z");
    }
}
