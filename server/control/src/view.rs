//! Records as Lambda's API tells them.
//!
//! Called by the operations. Pure.

use crate::error::ControlError;
use crate::names::Account;
use penstock_registry::{AliasRecord, Content, FunctionRecord, Reason, Standing, VersionRecord};
use serde_json::{Map, Value, json};

/// An object of JSON.
pub(crate) type Object = Map<String, Value>;

/// `FunctionConfiguration` of `$LATEST`.
pub(crate) fn of_function(
    function: &FunctionRecord,
    account: &Account,
    qualified: bool,
) -> Result<Object, ControlError> {
    let arn = match qualified {
        true => account.qualified_arn(&function.name, "$LATEST"),
        false => account.function_arn(&function.name),
    };
    configuration(&function.name, arn, "$LATEST", &function.latest, &function.standing)
}

/// `FunctionConfiguration` of a version.
pub(crate) fn of_version(version: &VersionRecord, account: &Account) -> Result<Object, ControlError> {
    let number = penstock_domain::VersionNumber(version.number).to_string();
    let arn = account.qualified_arn(&version.function, &number);
    configuration(&version.function, arn, &number, &version.content, &version.standing)
}

fn configuration(
    name: &str,
    arn: String,
    version: &str,
    content: &Content,
    standing: &Standing,
) -> Result<Object, ControlError> {
    let Value::Object(mut told) = serde_json::to_value(&content.configuration)? else { return Ok(Object::new()) };
    let configuration = Value::Object(told.clone()).to_string();
    let mut put = |key: &str, value: Value| told.insert(key.to_owned(), value);
    put("FunctionName", name.into());
    put("FunctionArn", arn.into());
    put("Version", version.into());
    put("PackageType", "Zip".into());
    put("CodeSha256", content.code.code_sha256.clone().into());
    put("CodeSize", content.code.code_size.into());
    put("ConfigSha256", penstock_packages::ContentSha256::of(configuration.as_bytes()).base64().into());
    put("LastModified", standing.last_modified.clone().into());
    put("RevisionId", standing.revision_id.clone().into());
    put("State", standing.state.name().into());
    if let Some(Reason { code, text }) = &standing.reason {
        put("StateReason", text.clone().into());
        put("StateReasonCode", code.clone().into());
    }
    if let Some(update) = standing.update {
        put("LastUpdateStatus", json!(update));
    }
    if let Some(Reason { code, text }) = &standing.update_reason {
        put("LastUpdateStatusReason", text.clone().into());
        put("LastUpdateStatusReasonCode", code.clone().into());
    }
    Ok(told)
}

/// The same without what lists leave out.
pub(crate) fn in_list(mut told: Object) -> Value {
    told.retain(|key, _| !key.starts_with("State") && !key.starts_with("LastUpdateStatus"));
    Value::Object(told)
}

/// `AliasConfiguration`.
pub(crate) fn of_alias(alias: &AliasRecord, account: &Account) -> Value {
    let mut told = json!({
        "AliasArn": account.qualified_arn(&alias.function, &alias.name),
        "Name": alias.name,
        "FunctionVersion": alias.version,
        "Description": alias.description,
        "RevisionId": alias.revision_id,
    });
    if let Some((version, share)) = &alias.extra {
        told["RoutingConfig"] = json!({ "AdditionalVersionWeights": { version.as_str(): share } });
    }
    told
}

/// One page of a list: what comes after the marker, and the next marker where there is more.
pub(crate) fn page<T>(
    items: Vec<T>,
    marker_of: impl Fn(&T) -> String,
    page: &crate::requests::Page,
    most: usize,
) -> (Vec<T>, Option<String>) {
    let limit = page.max_items.unwrap_or(most).clamp(1, most);
    let after = page.marker.as_deref();
    let mut items: Vec<T> =
        items.into_iter().skip_while(|item| after.is_some_and(|after| marker_of(item).as_str() <= after)).collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(&marker_of);
    (items, next)
}

/// A list as it is told.
pub(crate) fn listed(key: &str, items: Vec<Value>, next: Option<String>) -> Value {
    let mut told = json!({ key: items });
    if let Some(next) = next {
        told["NextMarker"] = next.into();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::page;
    use crate::requests::Page;

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let all: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        let (mut seen, mut marker) = (Vec::new(), None);
        loop {
            let asked = Page { marker: marker.clone(), max_items: Some(2) };
            let (items, next) = page(all.clone(), Clone::clone, &asked, 50);
            assert!(items.len() <= 2);
            seen.extend(items);
            marker = next;
            if marker.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
        assert_eq!(page(all.clone(), Clone::clone, &Page::default(), 3).0.len(), 3);
    }
}
