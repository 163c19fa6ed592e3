//! Requests that botocore signed (`make_vectors.py` wrote them), as the front end would read them.
#![allow(dead_code, clippy::unwrap_used)] // helpers of tests; not every test uses all

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use penstock_authority::{Authoriser, Denied, KeyEntry, Keys, Principal, Scope};
use serde_json::Value;
use sha2::{Digest, Sha256};

#[derive(Clone, Debug)]
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) method: String,
    pub(crate) target: Vec<u8>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) now_unix_s: i64,
    pub(crate) principal: Principal,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn unhexed(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// Who knows the vectors' keys, and their services.
pub(crate) fn authoriser(secret_suffix: &str) -> Authoriser {
    let file: Value = serde_json::from_str(include_str!("../botocore_vectors.json")).unwrap();
    let secret = text(&file["secret"]) + secret_suffix;
    let ids = file["access_key_ids"].as_array().unwrap();
    let entry = |id| KeyEntry { id: Some(text(id)), secret: secret.clone(), scope: Scope::Operate };
    Authoriser::new(Keys::new(ids.iter().map(entry).collect()).unwrap(), vec!["lambda".into(), "service".into()])
}

pub(crate) fn all() -> Vec<Vector> {
    let file: Value = serde_json::from_str(include_str!("../botocore_vectors.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap().iter();
    let pair = |pair: &Value| (text(&pair[0]), text(&pair[1]).into_bytes());
    let vector = |vector: &Value| Vector {
        name: text(&vector["name"]),
        method: text(&vector["method"]),
        target: text(&vector["target"]).into_bytes(),
        headers: vector["headers"].as_array().unwrap().iter().map(pair).collect(),
        body: unhexed(vector["body_hex"].as_str().unwrap()),
        now_unix_s: vector["now_unix_s"].as_i64().unwrap(),
        principal: Principal {
            name: text(&vector["access_key_id"]),
            scope: Scope::Operate,
            region: Some(text(&vector["region"])),
        },
    };
    vectors.map(vector).collect()
}

impl Vector {
    /// The names that its signature covers.
    pub(crate) fn signed_headers(&self) -> Vec<String> {
        let header = self.headers.iter().find(|(name, _)| name == "authorization").map(|(_, value)| value.clone());
        let text = String::from_utf8(header.unwrap_or_else(|| self.target.clone())).unwrap();
        let list = text.split_once("SignedHeaders=").unwrap().1;
        let list = list.split([',', '&']).next().unwrap().replace("%3B", ";");
        list.split(';').map(str::to_owned).collect()
    }

    /// What the authoriser says; `None` if no HTTP server would have read this request.
    pub(crate) fn judged_by(&self, authoriser: &Authoriser) -> Option<Result<Principal, Denied>> {
        let method = Method::from_bytes(self.method.as_bytes()).ok()?;
        if !self.target.starts_with(b"/") {
            return None; // another form of target: the path is not where it was
        }
        let uri = Uri::try_from(self.target.as_slice()).ok()?;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value).ok()?);
        }
        let head = authoriser.signed_head(&method, &uri, &headers, self.now_unix_s);
        Some(head.and_then(|head| head.verify(Sha256::digest(&self.body).into())))
    }
}
