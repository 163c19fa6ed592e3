//! The end of a function's log, as `penstock logs` prints it. Not Lambda's own.
//!
//! Called by the front end.

use crate::error::ControlError;
use crate::names::{FunctionRef, Which};
use crate::plane::{ControlPlane, as_text};
use penstock_domain::{FunctionName, Qualifier, VersionNumber};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

impl ControlPlane {
    /// What the environments of a function, or of one version, said last and what became of them: the lines after number `after`,
    /// and the number of the last.
    pub async fn function_log(&self, named: &FunctionRef, after: u64) -> Result<Value, ControlError> {
        self.get_configuration(&FunctionRef { name: named.name.clone(), qualifier: None }).await?;
        let version = match named.which() {
            None => None,
            Some(Which::Published(Qualifier::Version(number))) => Some(number),
            Some(Which::Published(Qualifier::Alias(alias))) => {
                let found = self.alias(&named.name, &alias).await?;
                let not_found = || self.function_not_found(&named.name, Some(&alias));
                VersionNumber::parse(&found.ok_or_else(not_found)?.0.version)
            }
            Some(_) => return Err(ControlError::invalid("Qualifier: $LATEST never runs, and has no log")),
        };
        let name = FunctionName::new(&named.name).map_err(|error| ControlError::invalid(error.to_string()))?;
        let (lines, last) = self.house.log(&name, after);
        let told = lines.into_iter().filter(|line| version.is_none_or(|version| line.version == version)).map(|line| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(line.at_ms);
            json!({
                "Number": line.number,
                "Time": as_text(at),
                "Version": line.version.to_string(),
                "Text": line.text,
            })
        });
        Ok(json!({ "Lines": told.collect::<Vec<_>>(), "Last": last }))
    }
}
