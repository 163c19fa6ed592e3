//! Names of functions and providers as Lambda's API takes them: bare, partial ARN or whole ARN, with a qualifier or not.
//!
//! Called for every operation. Pure.

use crate::error::ControlError;
use penstock_domain::{Qualifier, VersionNumber};

/// Longest name of a function that can be created, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Longest text that names a function, in bytes.
const REFERENCE_BYTES_MAX: usize = 256;

/// The region and account in ARNs.
#[derive(Clone, Debug)]
pub struct Account {
    /// Such as `us-east-1`.
    pub region: String,
    /// Twelve digits.
    pub id: String,
}

impl Account {
    /// ARN of a function.
    pub fn function_arn(&self, name: &str) -> String {
        format!("arn:aws:lambda:{}:{}:function:{name}", self.region, self.id)
    }

    /// ARN of a version or an alias.
    pub fn qualified_arn(&self, name: &str, qualifier: &str) -> String {
        format!("{}:{qualifier}", self.function_arn(name))
    }

    /// ARN of a capacity provider.
    pub fn provider_arn(&self, name: &str) -> String {
        format!("arn:aws:lambda:{}:{}:capacity-provider:{name}", self.region, self.id)
    }
}

/// `$LATEST`, or `$LATEST.PUBLISHED`, or a number, or an alias.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Which {
    /// `$LATEST`, which never serves.
    Latest,
    /// A version or an alias.
    Published(Qualifier),
}

/// A function, and perhaps a qualifier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionRef {
    /// Its bare name.
    pub name: String,
    /// As it was written; `None` if there was none.
    pub qualifier: Option<String>,
}

impl FunctionRef {
    /// Reads what stands in the path, decoded, and in the query. Errors: text that names nothing, two qualifiers that
    /// disagree, an ARN of another region or account than `own`.
    pub fn parse(text: &str, query: Option<&str>, own: &Account) -> Result<Self, ControlError> {
        let invalid = || {
            let pattern = "Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:)?\
                           ((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\\d{1}:)?(\\d{12}:)?(function:)?\
                           ([a-zA-Z0-9-_\\.]+)(:(\\$LATEST(\\.PUBLISHED)?|[a-zA-Z0-9-_]+))?";
            ControlError::validation(text, "functionName", pattern)
        };
        if text.len() > REFERENCE_BYTES_MAX {
            return Err(invalid());
        }
        let mut parts: Vec<&str> = text.split(':').collect();
        if parts.first() == Some(&"arn") {
            let lambda =
                parts.len() >= 7 && parts[1].starts_with("aws") && parts[2] == "lambda" && parts[5] == "function";
            if !lambda {
                return Err(invalid());
            }
            if parts[3] != own.region || parts[4] != own.id {
                let text = format!("Function not found: {text}. Functions here are of {} in {}.", own.id, own.region);
                return Err(ControlError::not_found(text));
            }
            parts.drain(..6);
        } else if let Some(at) = parts.iter().position(|part| *part == "function").filter(|at| *at + 1 < parts.len()) {
            if at > 2 {
                return Err(invalid());
            }
            parts.drain(..=at);
        }
        let (name, own) = match parts[..] {
            [name] => (name, None),
            [name, qualifier] => (name, Some(qualifier)),
            _ => return Err(invalid()),
        };
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || !name.chars().all(word) || own.is_some_and(|own| !is_qualifier(own)) {
            return Err(invalid());
        }
        if let Some(query) = query.filter(|query| !is_qualifier(query)) {
            let pattern = "Member must satisfy regular expression pattern: \\$(LATEST(\\.PUBLISHED)?)|[a-zA-Z0-9-_$]+";
            return Err(ControlError::validation(query, "qualifier", pattern));
        }
        if own.is_some() && query.is_some() && own != query {
            let text = "The derived qualifier from the function name does not match the specified qualifier.";
            return Err(ControlError::invalid(text));
        }
        Ok(Self { name: name.to_owned(), qualifier: own.or(query).map(str::to_owned) })
    }

    /// The bare name, of an operation that takes no qualifier.
    pub fn unqualified(self) -> Result<String, ControlError> {
        match self.qualifier {
            None => Ok(self.name),
            Some(qualifier) if qualifier == "$LATEST" => Ok(self.name),
            Some(qualifier) => {
                let text =
                    format!("This operation is on a whole function: '{}' without ':{qualifier}' is right.", self.name);
                Err(ControlError::invalid(text))
            }
        }
    }

    /// What the qualifier means.
    pub fn which(&self) -> Option<Which> {
        self.qualifier.as_deref().map(which)
    }
}

/// What a qualifier means.
pub fn which(qualifier: &str) -> Which {
    match qualifier {
        "$LATEST" => Which::Latest,
        text => Which::Published(
            VersionNumber::parse(text).map_or_else(|| Qualifier::Alias(text.into()), Qualifier::Version),
        ),
    }
}

fn is_qualifier(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    matches!(text, "$LATEST" | "$LATEST.PUBLISHED") || (!text.is_empty() && text.len() <= 128 && text.chars().all(word))
}

/// Checks the name of a function that is to be created.
pub fn check_new_name(name: &str) -> Result<(), ControlError> {
    if name.len() > NAME_BYTES_MAX || name.contains('.') {
        let constraint =
            format!("Member must have length less than or equal to {NAME_BYTES_MAX} and match [a-zA-Z0-9-_]+");
        return Err(ControlError::validation(name, "functionName", constraint));
    }
    Ok(())
}

/// The name of a capacity provider, bare or as an ARN.
pub fn provider_name(text: &str) -> Result<&str, ControlError> {
    let name = match text.strip_prefix("arn:") {
        None => text,
        Some(rest) => match rest.split(':').collect::<Vec<_>>()[..] {
            [_, "lambda", _, _, "capacity-provider", name] => name,
            _ => "",
        },
    };
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > 140 || !name.chars().all(word) {
        let constraint = "Member must satisfy regular expression pattern: (arn:aws[a-zA-Z-]*:lambda:[a-z0-9-]+:\\d{12}:\
                          capacity-provider:)?[a-zA-Z0-9-_]+";
        return Err(ControlError::validation(text, "capacityProviderName", constraint));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn own() -> Account {
        Account { region: "us-east-1".into(), id: "123456789012".into() }
    }

    #[test]
    fn every_way_to_name_a_function() {
        let parse = |text: &str, query: Option<&str>| {
            FunctionRef::parse(text, query, &own())
                .map(|named| (named.name, named.qualifier))
                .map_err(|error| error.kind)
        };
        let arn = "arn:aws:lambda:us-east-1:123456789012:function:f";
        for text in ["f", arn, "123456789012:function:f", "us-east-1:123456789012:function:f", "function:f"] {
            assert_eq!(parse(text, None), Ok(("f".into(), None)), "{text}");
            for qualifier in ["1", "live", "$LATEST", "$LATEST.PUBLISHED"] {
                let right = Ok(("f".into(), Some(qualifier.to_owned())));
                assert_eq!(parse(&format!("{text}:{qualifier}"), None), right);
                assert_eq!(parse(text, Some(qualifier)), right);
                assert_eq!(parse(&format!("{text}:{qualifier}"), Some(qualifier)), right);
            }
        }
        assert_eq!(parse("f:1", Some("2")), Err(ErrorKind::InvalidParameterValue));
        for bad in ["", "a b", "f:", "f:1:2", "f:$X", "arn:aws:s3:::f", "arn:aws:lambda:r:1:layer:f", "ü"] {
            assert_eq!(parse(bad, None), Err(ErrorKind::Validation), "{bad}");
        }
        for elsewhere in [arn.replace("us-east", "eu-west"), arn.replace("12345", "54321")] {
            assert_eq!(parse(&elsewhere, None), Err(ErrorKind::ResourceNotFound), "{elsewhere}");
        }
        assert_eq!(parse("f", Some("a b")), Err(ErrorKind::Validation));
        assert_eq!(parse(&"f".repeat(300), None), Err(ErrorKind::Validation));
    }

    #[test]
    fn what_a_qualifier_means() {
        assert_eq!(which("$LATEST"), Which::Latest);
        assert_eq!(which("7"), Which::Published(Qualifier::Version(VersionNumber(7))));
        assert_eq!(which("$LATEST.PUBLISHED"), Which::Published(Qualifier::Version(VersionNumber::LATEST_PUBLISHED)));
        assert_eq!(which("live"), Which::Published(Qualifier::Alias("live".into())));
    }

    #[test]
    fn every_way_to_name_a_provider() {
        let arn = "arn:aws:lambda:us-east-1:123456789012:capacity-provider:p";
        assert_eq!((provider_name("p").unwrap(), provider_name(arn).unwrap()), ("p", "p"));
        assert!(["", "a b", "arn:aws:lambda:r:1:function:p"].iter().all(|bad| provider_name(bad).is_err()));
    }
}
