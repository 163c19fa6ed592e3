//! Execution roles: whose credentials an environment gets.
//!
//! Read once, before a port opens; asked at each load. The credentials of a role go into the environments of the functions that
//! name it and nowhere else: not into a log, an answer or another environment. Who may run instances is another role, which no
//! function can name.

use crate::config::Config;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Roles by their ARNs.
#[derive(Default)]
pub(crate) struct Roles(BTreeMap<String, Credentials>);

/// What a role's holder signs with.
#[derive(Clone)]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Roles {
    /// What `auth.roles_file` holds; nothing where it is not set. Errors: what is wrong with it, without a secret.
    pub(crate) fn new(config: &Config) -> Result<Self, String> {
        match config.path("auth.roles_file") {
            None => Ok(Self::default()),
            Some(file) => read(&file).map_err(|error| format!("auth.roles_file: {}: {error}", file.display())),
        }
    }

    /// Variables for the environment of a function with this role; none where the role is not known.
    pub(crate) fn variables(&self, role: &str) -> BTreeMap<String, String> {
        let Some(Credentials { access_key_id, secret_access_key, session_token }) = self.0.get(role) else {
            return BTreeMap::new();
        };
        let variable = |name: &str, value: &String| (name.to_owned(), value.clone());
        let keys = [variable("AWS_ACCESS_KEY_ID", access_key_id), variable("AWS_SECRET_ACCESS_KEY", secret_access_key)];
        keys.into_iter().chain(session_token.iter().map(|token| variable("AWS_SESSION_TOKEN", token))).collect()
    }
}

fn read(file: &Path) -> Result<Roles, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let table = crate::keys::secret_table(&text)?;
    if let Some(other) = table.keys().find(|key| *key != "roles") {
        return Err(format!("expected [[roles]] only, found '{other}'"));
    }
    let entries = table.get("roles").and_then(toml::Value::as_array).filter(|entries| !entries.is_empty());
    let mut roles = Roles::default();
    for (at, entry) in entries.ok_or("expected at least one [[roles]]")?.iter().enumerate() {
        let entry = entry.as_table().ok_or_else(|| format!("roles[{at}]: expected a table"))?;
        let known = ["arn", "access_key_id", "secret_access_key", "session_token"];
        if let Some(other) = entry.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(format!("roles[{at}]: expected {}, found '{other}'", known.join(", ")));
        }
        let text = |key: &str| match entry.get(key) {
            None => Ok(None),
            Some(value) => match value.as_str().filter(|text| !text.is_empty() && !text.contains('\0')) {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(format!("roles[{at}].{key}: expected text")),
            },
        };
        let needed = |key: &str| text(key)?.ok_or_else(|| format!("roles[{at}].{key} is missing"));
        let credentials = Credentials {
            access_key_id: needed("access_key_id")?,
            secret_access_key: needed("secret_access_key")?,
            session_token: text("session_token")?,
        };
        let arn = needed("arn")?;
        if roles.0.insert(arn.clone(), credentials).is_some() {
            return Err(format!("roles[{at}].arn: {arn} is there twice"));
        }
    }
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_has_its_own_credentials_and_no_error_tells_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("roles.toml");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            read(&file)
        };
        let one = "[[roles]]\narn = 'arn:a'\naccess_key_id = 'AKIA'\nsecret_access_key = 'SECRET'\n";
        let roles = read(&format!(
            "{one}[[roles]]\narn = 'arn:b'\naccess_key_id = 'B'\nsecret_access_key = 'S'\nsession_token = 'T'\n"
        ));
        let roles = roles.unwrap();
        assert_eq!(roles.variables("arn:a").into_values().collect::<Vec<_>>(), ["AKIA", "SECRET"]);
        assert_eq!(roles.variables("arn:b").len(), 3);
        assert!(roles.variables("arn:other").is_empty());
        assert_eq!(format!("{roles:?}"), r#"{"arn:a", "arn:b"}"#);
        for (text, words) in [
            (String::new(), "at least one"),
            (one.replace("arn = 'arn:a'", ""), "roles[0].arn is missing"),
            (format!("{one}{one}"), "roles[1].arn: arn:a is there twice"),
            (one.replace("access_key_id", "secret"), "found 'secret'"),
            (format!("{one}oops"), "is not TOML"),
            (one.replace("'SECRET'", "5"), "roles[0].secret_access_key: expected text"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(words) && !error.contains("SECRET"), "{text}: {error}");
        }
    }
}
