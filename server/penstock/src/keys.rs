//! The keys of `penstock serve`: read from their file, checked, and what may be without them.
//!
//! Called by `main` before a port opens. Never prints a secret.

use crate::config::Config;
use penstock_authority::{Authoriser, KeyEntry, Keys, Scope};
use std::path::Path;

/// Whose signatures count.
const SERVICE: &str = "lambda";
const DOORS: [&str; 3] = ["listen.http", "listen.grpc", "listen.metrics"];

/// The authoriser, or `None` where there are no keys. Errors: what is wrong with the file, or with having none.
pub(crate) fn authoriser(config: &Config) -> Result<Option<Authoriser>, String> {
    if let Some(file) = config.path("auth.keys_file") {
        let keys = read(&file).map_err(|error| format!("auth.keys_file: {}: {error}", file.display()))?;
        return Ok(Some(Authoriser::new(keys, vec![SERVICE.to_owned()])));
    }
    let outside = DOORS.into_iter().find(|door| !config.address(door).ip().is_loopback());
    match outside {
        Some(door) if config.text("auth.allow_unauthenticated") != "true" => Err(format!(
            "{door} is {}, which others can reach, and there are no keys: set auth.keys_file, or \
             auth.allow_unauthenticated = \"true\" if somebody else keeps strangers out",
            config.address(door)
        )),
        _ => Ok(None),
    }
}

fn read(file: &Path) -> Result<Keys, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let table = secret_table(&text)?;
    let entries = table.get("keys").and_then(toml::Value::as_array).filter(|entries| !entries.is_empty());
    let entries = entries.ok_or("expected at least one [[keys]]")?;
    if let Some(other) = table.keys().find(|key| *key != "keys") {
        return Err(format!("expected [[keys]] only, found '{other}'"));
    }
    let entries: Result<Vec<KeyEntry>, String> =
        entries.iter().enumerate().map(|(at, entry)| entry_of(at, entry)).collect();
    Keys::new(entries?).map_err(|error| error.to_string())
}

/// A file that holds secrets, as TOML. The parser's own words would quote the line, and with it perhaps a secret.
pub(crate) fn secret_table(text: &str) -> Result<toml::Table, String> {
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(0, |span| text.get(..span.start).unwrap_or_default().lines().count().max(1));
        format!("line {line} is not TOML")
    })
}

fn entry_of(at: usize, entry: &toml::Value) -> Result<KeyEntry, String> {
    let table = entry.as_table().ok_or_else(|| format!("keys[{at}]: expected a table"))?;
    if let Some(other) = table.keys().find(|key| !matches!(key.as_str(), "id" | "secret" | "scope")) {
        return Err(format!("keys[{at}]: expected id, secret and scope, found '{other}'"));
    }
    let text = |key: &str| {
        table.get(key).map(|value| value.as_str().ok_or_else(|| format!("keys[{at}].{key}: expected text")))
    };
    let missing = |key: &str| format!("keys[{at}].{key} is missing");
    let scope = text("scope").ok_or_else(|| missing("scope"))??;
    let scope: Scope = scope.parse().map_err(|error| format!("keys[{at}].{error}"))?;
    let secret = text("secret").ok_or_else(|| missing("secret"))??.to_owned();
    Ok(KeyEntry { id: text("id").transpose()?.map(str::to_owned), secret, scope })
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn a_file_of_keys_is_read_and_no_error_tells_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.toml");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            read(&file).map(drop)
        };
        let secret = "0123456789abcdefSECRET";
        let good = format!("[[keys]]\nid = 'AKIAIOSFODNN7EXAMPLE'\nsecret = '{secret}'\nscope = 'operate'\n");
        assert_eq!(read(&good), Ok(()));
        for (text, words) in [
            (String::new(), "expected at least one"),
            (format!("[[keys]]\nsecret = '{secret}'\n"), "keys[0].scope is missing"),
            (format!("[[keys]]\nsecret = '{secret}'\nscope = 'all'\n"), "keys[0].scope: expected"),
            (format!("[[keys]]\nsecret = '{secret}' oops\n"), "line 2 is not TOML"),
            (format!("[[keys]]\nsecrets = '{secret}'\nscope = 'invoke'\n"), "found 'secrets'"),
            ("[[keys]]\nsecret = 'short'\nscope = 'invoke'\n".to_owned(), "at least 16 bytes"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(words) && !error.contains(secret), "{text}: {error}");
        }
    }
}
