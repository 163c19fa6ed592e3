//! Credentials: which key signed, and for what.
//!
//! Called by [`super::SignedHead::read`]. It never sees a secret: `keyid/date/region/service/aws4_request` is public.

use super::stamp::Stamp;
use crate::denied::quoted;
use crate::{Denied, DeniedCode};

/// What a credential's scope ends with.
pub(super) const TERMINATOR: &str = "aws4_request";

/// `keyid/date/region/service/aws4_request`, taken apart.
pub(super) struct Credential<'a> {
    pub(super) access_key_id: &'a str,
    pub(super) date: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    terminator: &'a str,
}

impl<'a> Credential<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, Denied> {
        let mut parts = text.split('/');
        let mut part = || parts.next();
        if let (Some(access_key_id), Some(date), Some(region), Some(service), Some(terminator), None) =
            (part(), part(), part(), part(), part(), part())
        {
            return Ok(Self { access_key_id, date, region, service, terminator });
        }
        let form = "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term";
        Err(Denied::new(DeniedCode::IncompleteSignature, format!("{form}, got {}", quoted(text))))
    }

    /// Denied, with all that is wrong, unless it is for a region, one of `services` and the day of `stamp`.
    pub(super) fn judge(&self, stamp: &Stamp<'_>, services: &[String]) -> Result<(), Denied> {
        let mut wrong = Vec::new();
        // Regions become part of names that Penstock answers with.
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=64).contains(&self.region.len()) || !self.region.bytes().all(letter) {
            wrong.push(format!("Credential should be scoped to a valid region, not {}.", quoted(self.region)));
        }
        if !services.iter().any(|service| service == self.service) {
            let names: Vec<_> = services.iter().map(|service| format!("'{service}'")).collect();
            wrong.push(format!("Credential should be scoped to correct service: {}.", names.join(" or ")));
        }
        if self.terminator != TERMINATOR {
            let found = quoted(self.terminator);
            wrong.push(format!("Credential should be scoped with a valid terminator: '{TERMINATOR}', not {found}."));
        }
        if self.date != stamp.day() {
            wrong.push(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: {} != '{}', from '{}'.",
                quoted(self.date),
                stamp.day(),
                stamp.text,
            ));
        }
        if wrong.is_empty() { Ok(()) } else { Err(Denied::new(DeniedCode::InvalidSignature, wrong.join(" "))) }
    }

    /// `date/region/service/aws4_request`.
    pub(super) fn scope(&self) -> String {
        format!("{}/{}/{}/{TERMINATOR}", self.date, self.region, self.service)
    }
}
