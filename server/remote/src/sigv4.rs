//! AWS Signature Version 4 of a request with a body and without a query; S3's requests are signed by its own client.
//!
//! Called by `sqs`. Pure: the time is an argument.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use crate::Credentials;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use time::OffsetDateTime;
use time::macros::format_description;

/// What is signed.
pub(crate) struct ToSign<'a> {
    /// Whose request, which region, which service.
    pub(crate) credentials: &'a Credentials,
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
    /// Of the path `/`.
    pub(crate) method: &'a str,
    /// Names in lower case, with `host`; those of AWS that are signed always are added.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: &'a [u8],
}

impl ToSign<'_> {
    /// All headers of the request, the signature among them.
    pub(crate) fn sign(self, now: OffsetDateTime) -> Vec<(&'static str, String)> {
        let stamp = now.format(format_description!("[year][month][day]T[hour][minute][second]Z")).unwrap_or_default();
        let date = stamp.get(..8).unwrap_or_default();
        let mut headers = self.headers;
        headers.push(("x-amz-date", stamp.clone()));
        if let Some(token) = &self.credentials.session_token {
            headers.push(("x-amz-security-token", token.clone()));
        }
        headers.sort();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let mut canonical = format!("{}\n/\n\n", self.method);
        for (name, value) in &headers {
            // Writing to a String cannot fail.
            let _ = writeln!(canonical, "{name}:{}", value.trim());
        }
        let _ = write!(canonical, "\n{names}\n{}", hex(&Sha256::digest(self.body)));
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let secret = format!("AWS4{}", self.credentials.secret_access_key);
        let key = [date, self.region, self.service, "aws4_request"]
            .iter()
            .fold(secret.into_bytes(), |key, part| hmac(&key, part.as_bytes()));
        let signature = hex(&hmac(&key, to_sign.as_bytes()));
        let id = &self.credentials.access_key_id;
        let authorization =
            format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
        headers.push(("authorization", authorization));
        headers
    }
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let keyed = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    keyed.chain_update(text).finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn sign(method: &str, headers: Vec<(&'static str, String)>, body: &[u8], token: Option<&str>) -> String {
        let credentials = Credentials {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
            session_token: token.map(str::to_owned),
        };
        let to_sign =
            ToSign { credentials: &credentials, region: "us-east-1", service: "service", method, headers, body };
        let signed = to_sign.sign(datetime!(2015-08-30 12:36:00 UTC));
        signed.into_iter().find(|(name, _)| *name == "authorization").unwrap().1
    }

    /// From AWS's own test suite: get-vanilla, post-vanilla, post-x-www-form-urlencoded.
    #[test]
    fn signatures_are_those_of_aws_examples() {
        let host = || ("host", "example.amazonaws.com".to_owned());
        let signature = |text: String| text.rsplit_once("Signature=").unwrap().1.to_owned();
        assert_eq!(
            sign("GET", vec![host()], b"", None),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, \
             Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
        assert_eq!(
            signature(sign("POST", vec![host()], b"", None)),
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
        );
        let form = ("content-type", "application/x-www-form-urlencoded".to_owned());
        assert_eq!(
            signature(sign("POST", vec![host(), form], b"Param1=value1", None)),
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        );
        assert!(
            sign("GET", vec![host()], b"", Some("t")).contains("SignedHeaders=host;x-amz-date;x-amz-security-token,")
        );
    }
}
