//! The other half: signing a request of our own, as `penstock deploy` sends it.
//!
//! Called by whoever sends. It makes what [`super::SignedHead`] judges, of the same canonical request.

use super::canonical::{self, Query};
use super::credential::Credential;
use super::{ALGORITHM, signing, stamp};
use crate::{Denied, hex};
use hmac::{Hmac, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use sha2::{Digest, Sha256};
use std::fmt;

/// A key to sign with, for one region and service.
#[derive(Clone)]
pub struct Signer {
    access_key_id: String,
    session_token: Option<HeaderValue>,
    region: String,
    service: String,
    /// Keyed with `"AWS4" + secret`.
    begun: Hmac<Sha256>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

impl Signer {
    /// `session_token` comes with keys that are lent for a time. Errors: it holds what no header can.
    pub fn new(
        access_key_id: &str,
        secret: &str,
        session_token: Option<&str>,
        region: &str,
        service: &str,
    ) -> Result<Self, http::header::InvalidHeaderValue> {
        let keyed = Hmac::new_from_slice(format!("AWS4{secret}").as_bytes());
        Ok(Self {
            access_key_id: access_key_id.to_owned(),
            session_token: session_token.map(HeaderValue::from_str).transpose()?,
            region: region.to_owned(),
            service: service.to_owned(),
            begun: keyed.expect("HMAC takes a key of any length"),
        })
    }

    /// Adds to `headers` what a request with a body of this SHA-256 needs, sent at `now_unix_s` (seconds). `uri` is what goes on
    /// the wire, whole: the host is its authority, and is set here.
    pub fn sign(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &mut HeaderMap,
        body_sha256: &[u8; 32],
        now_unix_s: i64,
    ) -> Result<(), Denied> {
        let of_text = |text: &str| HeaderValue::from_str(text).map_err(|_| unwritable(text));
        let (date, body) = (stamp::show(now_unix_s), hex::of(body_sha256));
        if let Some(authority) = uri.authority() {
            headers.insert(header::HOST, of_text(authority.as_str())?);
        }
        headers.insert(HeaderName::from_static("x-amz-date"), of_text(&date)?);
        headers.insert(HeaderName::from_static("x-amz-content-sha256"), of_text(&body)?);
        if let Some(token) = &self.session_token {
            headers.insert(HeaderName::from_static("x-amz-security-token"), token.clone());
        }
        let signed = |name: &&str| name.starts_with("x-amz-") || *name == "host";
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).filter(signed).collect();
        names.sort_unstable();
        let signed_headers = names.join(";");
        let query = Query::new(uri.query().unwrap_or_default());
        let mut canonical = Sha256::new();
        canonical.update(format!("{method}\n{}\n{}\n", canonical::path(uri.path()), query.canonical()));
        canonical::hash_headers(&mut canonical, &names, headers, uri.authority())?;
        canonical.update(format!("\n{signed_headers}\n{body}"));
        let scope = format!("{}/{}/{}/aws4_request", &date[..8], self.region, self.service);
        let text = format!("{}/{scope}", self.access_key_id);
        let to_sign = format!("{ALGORITHM}\n{date}\n{scope}\n{}", hex::of(&canonical.finalize().into()));
        let key = signing::key(&self.begun, &Credential::read(&text)?);
        let signature = hex::of(&signing::hmac(&key, to_sign.as_bytes()));
        let authorization =
            format!("{ALGORITHM} Credential={text}, SignedHeaders={signed_headers}, Signature={signature}");
        headers.insert(header::AUTHORIZATION, of_text(&authorization)?);
        Ok(())
    }
}

fn unwritable(text: &str) -> Denied {
    super::claims::incomplete(format!("{} cannot be written into a header", crate::denied::quoted(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authoriser, DeniedCode, KeyEntry, Keys, Principal, Scope};

    const ID: &str = "AKIDEXAMPLEAKIDEXAMPLE";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn judged(uri: &str, sent: &str, came: &str, now_s: i64) -> Result<Principal, Denied> {
        let keys =
            Keys::new(vec![KeyEntry { id: Some(ID.into()), secret: SECRET.into(), scope: Scope::Operate }]).unwrap();
        let authoriser = Authoriser::new(keys, vec!["lambda".to_owned()]);
        let signer = Signer::new(ID, SECRET, Some("lent"), "eu-north-1", "lambda").unwrap();
        assert!(!format!("{signer:?}").contains("wJalr"));
        let (uri, mut headers) = (uri.parse::<Uri>().unwrap(), HeaderMap::new());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-amz-invocation-type", HeaderValue::from_static("Event"));
        signer.sign(&Method::POST, &uri, &mut headers, &Sha256::digest(sent).into(), 1_440_938_160).unwrap();
        let on_wire: Uri = uri.path_and_query().unwrap().as_str().parse().unwrap();
        authoriser.signed_head(&Method::POST, &on_wire, &headers, now_s)?.verify(Sha256::digest(came).into())
    }

    #[test]
    fn what_is_signed_here_is_let_in_there() {
        for uri in [
            "http://127.0.0.1:8000/2015-03-31/functions",
            "https://penstock.example/2015-03-31/functions/a%3Ab/invocations?Qualifier=%24LATEST.PUBLISHED&b=a+c",
            "http://h/",
        ] {
            let principal = judged(uri, "{}", "{}", 1_440_938_160 + 200).unwrap();
            assert_eq!((&*principal.name, principal.region.as_deref()), (ID, Some("eu-north-1")), "{uri}");
        }
        let code = |came, now_s| judged("http://h/a", "{}", came, now_s).unwrap_err().code;
        assert_eq!(code("{ }", 1_440_938_160), DeniedCode::InvalidSignature);
        assert_eq!(code("{}", 1_440_938_160 + 301), DeniedCode::InvalidSignature);
    }
}
