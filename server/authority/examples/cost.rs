//! What a judgement costs, in microseconds on one core: a bearer token among few and many, both halves of a signature.
//!
//! `cargo run --release -p penstock-authority --example cost`

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "it measures")]

use hmac::{Hmac, Mac};
use http::{HeaderMap, HeaderValue, Method, Uri};
use penstock_authority::{Authoriser, KeyEntry, Keys, Scope};
use sha2::{Digest, Sha256};
use std::hint::black_box;
use std::time::Instant;

const CALLS: u32 = 100_000;

/// The median of nine rounds.
fn measure(what: &str, mut call: impl FnMut()) {
    let mut rounds: Vec<f64> = (0..9)
        .map(|_| {
            let begun = Instant::now();
            (0..CALLS).for_each(|_| call());
            begun.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{what:<48} {:7.2} us  ({:.2} to {:.2})", rounds[4], rounds[0], rounds[8]);
}

fn hmac(key: &[u8], text: &str) -> [u8; 32] {
    Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(text).finalize().into_bytes().into()
}

fn main() {
    let token = |n: usize| KeyEntry { id: None, secret: format!("token-0123456789-{n}"), scope: Scope::Invoke };
    let id = "AKIAIOSFODNN7EXAMPLE".to_owned();
    let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned();
    for tokens in [1, 1000] {
        let authoriser = Authoriser::new(Keys::new((0..tokens).map(token).collect()).unwrap(), Vec::new());
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer token-0123456789-0"));
        measure(&format!("bearer token, {tokens} known"), || drop(black_box(authoriser.bearer(&headers).unwrap())));
    }

    // lambda/invoke-latest-published of tests/botocore_vectors.json.
    let key = KeyEntry { id: Some(id), secret: secret.clone(), scope: Scope::Invoke };
    let authoriser = Authoriser::new(Keys::new(vec![key]).unwrap(), vec!["lambda".to_owned()]);
    let uri = Uri::from_static(
        "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-central-1%3A123456789012%3Afunction%3Aecho/invocations\
         ?Qualifier=%24LATEST.PUBLISHED",
    );
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "127.0.0.1:8000"),
        ("x-amz-client-context", "eyJhIjoxfQ=="),
        ("user-agent", "boto3 Botocore/1.44.8"),
        ("x-amz-date", "20261126T090807Z"),
        ("amz-sdk-invocation-id", "00000000-0000-4000-8000-000000000004"),
        ("amz-sdk-request", "attempt=1; max=3"),
        ("content-length", "0"),
        (
            "authorization",
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20261126/eu-central-1/lambda/aws4_request, \
             SignedHeaders=host;x-amz-client-context;x-amz-date, \
             Signature=d8bc3d0d52ced7507193e68a110dccf596c8d7bb0b9f33f9ab95a757d8f8eb4a",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let empty: [u8; 32] = Sha256::digest("").into();
    let read = || authoriser.signed_head(&Method::POST, &uri, &headers, 1_795_684_087).unwrap();
    measure("signature, head alone", || drop(black_box(read())));
    measure("signature, head and comparison", || drop(black_box(read().verify(empty).unwrap())));
    let begun = Hmac::<Sha256>::new_from_slice(format!("AWS4{secret}").as_bytes()).unwrap();
    measure("of it: the key of (date, region, service)", || {
        let date = begun.clone().chain_update(black_box("20261126")).finalize().into_bytes();
        black_box(hmac(&hmac(&hmac(&date, "eu-central-1"), "lambda"), "aws4_request"));
    });
    let body = vec![7; 1 << 20];
    let begun = Instant::now();
    for _ in 0..100 {
        black_box(Sha256::digest(&body));
    }
    println!("{:<48} {:7.0} MiB/s", "hashing a body", 100.0 / begun.elapsed().as_secs_f64());
}
