//! Principals: who a caller turned out to be, and its scope.
//!
//! Made by the two doors of this crate; the front end keeps one beside the request and asks it for the scope that the
//! route needs. It never holds a secret, so it may be logged and counted by.

use crate::{Denied, DeniedCode};
use std::fmt;
use std::str::FromStr;

/// What a key may be used for. A key that may operate may also invoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Inference: invoke a function, by any protocol, and ask what it is.
    Invoke,
    /// All else: load and unload, configuration, metrics, the Lambda control plane's reads and writes.
    Operate,
}

impl Scope {
    /// Whether a key of this scope may do what needs `needed`.
    pub fn covers(self, needed: Scope) -> bool {
        self == Self::Operate || needed == Self::Invoke
    }

    /// As the configuration spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invoke => "invoke",
            Self::Operate => "operate",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A scope that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("scope: expected \"invoke\" or \"operate\", found {0:?}")]
pub struct UnknownScope(String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        [Self::Invoke, Self::Operate]
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// A caller that has shown a good key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The access key id, or the first 8 hexadecimal digits of the token's SHA-256. Stable for as long as the key is.
    pub name: String,
    /// What its key may be used for.
    pub scope: Scope,
    /// The region the request was signed for; `None` for a bearer token, which has none.
    pub region: Option<String>,
}

impl Principal {
    /// Denied, if the key has not the scope: `AccessDenied` for a signed request, `Forbidden` for a bearer token.
    pub fn require(&self, needed: Scope) -> Result<(), Denied> {
        if self.scope.covers(needed) {
            return Ok(());
        }
        let code = if self.region.is_some() { DeniedCode::AccessDenied } else { DeniedCode::Forbidden };
        let message = format!("this needs a key of scope \"{needed}\"; {} has \"{}\"", self.name, self.scope);
        Err(Denied::new(code, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_operates_may_invoke_and_not_the_other_way() {
        use Scope::{Invoke, Operate};
        let table =
            [(Invoke, Invoke, true), (Invoke, Operate, false), (Operate, Invoke, true), (Operate, Operate, true)];
        for (has, needed, passes) in table {
            for (region, code) in [(Some("eu".to_owned()), DeniedCode::AccessDenied), (None, DeniedCode::Forbidden)] {
                let result = Principal { name: "k".into(), scope: has, region }.require(needed);
                assert_eq!(result.map_err(|denied| denied.code), if passes { Ok(()) } else { Err(code) });
            }
        }
    }

    #[test]
    fn scopes_are_spelled_as_they_are_read() {
        for scope in [Scope::Invoke, Scope::Operate] {
            assert_eq!(scope.to_string().parse(), Ok(scope));
        }
        let message = "Invoke".parse::<Scope>().unwrap_err().to_string();
        assert_eq!(message, "scope: expected \"invoke\" or \"operate\", found \"Invoke\"");
    }
}
