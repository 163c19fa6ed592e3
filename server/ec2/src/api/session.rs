//! The keys that calls are signed with: the identity's own, or those of the operator role, lent by STS.
//!
//! Called by [`super::Api`] before each attempt. Nothing here is ever shown: not in `Debug`, not in an error.

use super::error::{ApiError, Fault};
use super::query::Params;
use super::wire::{Answer, Call, Service, Wire};
use super::xml::Element;
use crate::metadata::Metadata;
use crate::options::{Identity, OperatorRole};
use penstock_remote::Credentials;
use std::fmt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Mutex;

/// How long keys are lent for, in seconds: what STS gives by default.
const LENT_S: u32 = 3600;
/// Before their end, when others are taken, in seconds.
const EARLY_S: i64 = 300;

/// Keys for a while.
struct Lent {
    keys: Credentials,
    ends_unix_s: i64,
}

/// Where keys come from, and those that are lent now.
pub(crate) struct Session {
    identity: Identity,
    metadata: Metadata,
    role: Option<OperatorRole>,
    name: String,
    lent: Mutex<Option<Lent>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("role", &self.role).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Session {
    /// `fleet` names the session in AWS's records.
    pub(crate) fn new(identity: Identity, metadata: Metadata, role: Option<OperatorRole>, fleet: &str) -> Self {
        let mut name = format!("penstock-{fleet}");
        name.truncate(64);
        Self { identity, metadata, role, name, lent: Mutex::default() }
    }

    /// Keys that hold for some minutes at least. Errors: there are none, or the role may not be assumed.
    pub(crate) async fn keys(&self, wire: &Wire) -> Result<Credentials, ApiError> {
        let now = wire.now_unix_s();
        // Held while others are asked for: all who come meanwhile get the same.
        let mut lent = self.lent.lock().await;
        if let Some(lent) = lent.as_ref().filter(|lent| lent.ends_unix_s - now > EARLY_S) {
            return Ok(lent.keys.clone());
        }
        let own = self.own().await?;
        let found = match &self.role {
            None => own,
            Some(role) => {
                let ends = assume(wire, &own.keys, role, &self.name).await?;
                tracing::info!(role = role.arn, "the operator role is assumed");
                ends
            }
        };
        let keys = found.keys.clone();
        *lent = Some(found);
        Ok(keys)
    }

    /// These keys were refused: others are to be asked for.
    pub(crate) async fn forget(&self, refused: &Credentials) {
        let mut lent = self.lent.lock().await;
        if lent.as_ref().is_some_and(|lent| lent.keys == *refused) {
            *lent = None;
        }
    }

    /// The identity's own. Those of a file are read each time: they are changed from outside.
    async fn own(&self) -> Result<Lent, ApiError> {
        match &self.identity {
            Identity::Keys(source) => {
                let keys = source.read().map_err(|error| ApiError::new("credentials", Fault::Denied, error))?;
                Ok(Lent { keys, ends_unix_s: 0 })
            }
            Identity::InstanceProfile => {
                let found = self.metadata.credentials().await;
                let (keys, ends) =
                    found.map_err(|error| ApiError::new("instance metadata", Fault::Unavailable, error))?;
                Ok(Lent { keys, ends_unix_s: seconds(&ends).unwrap_or(0) })
            }
        }
    }
}

async fn assume(wire: &Wire, own: &Credentials, role: &OperatorRole, name: &str) -> Result<Lent, ApiError> {
    let mut params =
        Params::new().with("RoleArn", &role.arn).with("RoleSessionName", name).with("DurationSeconds", LENT_S);
    if let Some(external_id) = &role.external_id {
        params.set("ExternalId", external_id);
    }
    let call = Call::query(Service::Sts, "AssumeRole", params);
    let Answer::Xml(root) = wire.send(&call, own).await? else {
        return Err(ApiError::new(&call.name(), Fault::Wrong, "an answer that is not XML"));
    };
    lent(root.child("AssumeRoleResult").child("Credentials"))
        .ok_or_else(|| ApiError::new(&call.name(), Fault::Wrong, "an answer without keys"))
}

fn lent(answer: &Element) -> Option<Lent> {
    let keys = Credentials {
        access_key_id: answer.text("AccessKeyId")?.to_owned(),
        secret_access_key: answer.text("SecretAccessKey")?.to_owned(),
        session_token: Some(answer.text("SessionToken")?.to_owned()),
    };
    Some(Lent { keys, ends_unix_s: seconds(answer.text("Expiration")?)? })
}

/// A moment as AWS writes it, in seconds since 1970.
pub(crate) fn seconds(text: &str) -> Option<i64> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}
