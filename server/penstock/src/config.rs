//! Configuration: one TOML file, overridden by variables, overridden by options; all checked before a port opens.
//!
//! Called by the composition root. Pure: the file's text and the variables are arguments. A wrong value names its
//! field, what was found and what would be right.

use crate::fields::{Field, Kind, fields};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ConfigError {
    #[error("{file}: {message}")]
    Toml { file: String, message: String },
    #[error("{origin}: there is no setting '{key}'{hint}; `penstock config` lists them all")]
    Unknown { origin: String, key: String, hint: String },
    #[error("{key} ({origin}): found '{found}', expected {expected}")]
    Value { key: &'static str, origin: String, found: String, expected: String },
    #[error("{key} ({origin}): {message}")]
    Relation { key: &'static str, origin: String, message: String },
}

#[derive(Clone, Debug, PartialEq)]
struct Value {
    text: String,
    list: Vec<String>,
    origin: String,
}

/// The resolved configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config(BTreeMap<&'static str, Value>);

/// Where values come from, weakest first.
pub(crate) struct Sources<'a> {
    /// Name and text of the TOML file.
    pub(crate) file: Option<(&'a str, &'a str)>,
    /// Looks a variable up.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
    /// Keys and values given as options; a key may come several times for a list.
    pub(crate) options: &'a [(String, String)],
}

impl Config {
    /// Resolves and checks everything.
    pub(crate) fn resolve(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let home = (sources.variable)("HOME").unwrap_or_else(|| "/root".into());
        let mut values: BTreeMap<&'static str, Value> = BTreeMap::new();
        for field in fields() {
            values.insert(field.key, split(field, field.default, "default"));
        }
        if let Some((file, text)) = sources.file {
            read_toml(file, text, &mut values)?;
        }
        for field in fields() {
            if let Some(text) = (sources.variable)(field.variable) {
                values.insert(field.key, split(field, &text, field.variable));
            }
        }
        let mut given: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for (key, text) in sources.options {
            let field = find("option", key)?;
            given.entry(field.key).or_default().push(text.clone());
        }
        for (key, list) in given {
            let text = list.last().cloned().unwrap_or_default();
            values.insert(key, Value { text, list, origin: "option".into() });
        }
        for field in fields() {
            let Some(value) = values.get_mut(field.key) else { continue };
            let resolved = |text: &String| match field.kind {
                Kind::Path | Kind::Paths => absolute(&expand(text, &home)),
                _ => expand(text, &home),
            };
            value.list = value.list.iter().map(resolved).collect();
            value.text = if field.kind == Kind::Paths { value.list.join(":") } else { resolved(&value.text) };
        }
        let config = Self(values);
        for field in fields() {
            config.check(field)?;
        }
        let (message, budget) = (config.integer("limits.message_bytes"), config.integer("limits.memory_budget_bytes"));
        if budget < message {
            return Err(ConfigError::Relation {
                key: "limits.memory_budget_bytes",
                origin: config.0["limits.memory_budget_bytes"].origin.clone(),
                message: format!(
                    "{budget} is less than limits.message_bytes ({message}): no large message could ever be taken"
                ),
            });
        }
        Ok(config)
    }

    fn check(&self, field: &'static Field) -> Result<(), ConfigError> {
        let value = &self.0[field.key];
        let expected = match field.kind {
            Kind::Address if address(&value.text).is_none() => "host:port, such as 127.0.0.1:8000".into(),
            Kind::Integer(low, high) if !value.text.parse::<u64>().is_ok_and(|n| (low..=high).contains(&n)) => {
                format!("a whole number of {} from {low} to {high}", field.unit)
            }
            Kind::Header if !is_header(&value.text) => {
                "the name of a header in lower case, such as x-api-key, or nothing".into()
            }
            Kind::Choice(words) if !words.contains(&value.text.as_str()) => format!("one of {}", words.join(", ")),
            _ => return Ok(()),
        };
        Err(ConfigError::Value { key: field.key, origin: value.origin.clone(), found: value.text.clone(), expected })
    }

    /// A text.
    pub(crate) fn text(&self, key: &str) -> &str {
        &self.0[key].text
    }

    /// A whole number; checked when the configuration was resolved.
    pub(crate) fn integer(&self, key: &str) -> u64 {
        self.text(key).parse().unwrap_or_default()
    }

    /// A whole number that fits 32 bits by its field's range.
    pub(crate) fn integer_u32(&self, key: &str) -> u32 {
        u32::try_from(self.integer(key)).unwrap_or(u32::MAX)
    }

    /// An address; checked when the configuration was resolved.
    pub(crate) fn address(&self, key: &str) -> SocketAddr {
        address(self.text(key)).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// A list.
    pub(crate) fn list(&self, key: &str) -> &[String] {
        &self.0[key].list
    }

    /// A path, or `None` if it is empty.
    pub(crate) fn path(&self, key: &str) -> Option<PathBuf> {
        let text = self.text(key);
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    /// The configuration as TOML, each value with its meaning, unit, variable and origin.
    pub(crate) fn print(&self) -> String {
        let mut out = String::new();
        for field in fields() {
            let value = &self.0[field.key];
            let shown = match field.kind {
                Kind::Integer(..) => value.text.clone(),
                Kind::Paths | Kind::Names => format!("{:?}", value.list),
                _ => format!("{:?}", value.text),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# {}\n# {}; {}; from {}", field.meaning, field.unit, field.variable, value.origin);
            let _ = writeln!(out, "{} = {shown}\n", field.key);
        }
        out
    }
}

fn split(field: &Field, text: &str, origin: &str) -> Value {
    let separator = if field.kind == Kind::Paths { ':' } else { ',' };
    let list = text.split(separator).filter(|item| !item.is_empty()).map(str::to_owned).collect();
    Value { text: text.to_owned(), list, origin: origin.to_owned() }
}

fn expand(text: &str, home: &str) -> String {
    match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{home}{rest}"),
        _ => text.to_owned(),
    }
}

/// Environments run in another folder, and a path means the same there.
fn absolute(path: &str) -> String {
    let absolute = (!path.is_empty()).then(|| std::path::absolute(path).ok()).flatten();
    absolute.map_or_else(|| path.to_owned(), |path| path.to_string_lossy().into_owned())
}

fn address(text: &str) -> Option<SocketAddr> {
    text.to_socket_addrs().ok()?.next()
}

fn is_header(text: &str) -> bool {
    text.is_empty() || penstock_frontend::options::header_name(text).is_some_and(|name| name.as_str() == text)
}

fn find(origin: &str, key: &str) -> Result<&'static Field, ConfigError> {
    fields().find(|field| field.key == key).ok_or_else(|| {
        let last = key.rsplit('.').next().unwrap_or(key);
        let near = fields().find(|field| field.key.ends_with(last) || last.ends_with(field.key));
        let hint = near.map_or_else(String::new, |field| format!(", did you mean '{}'?", field.key));
        ConfigError::Unknown { origin: origin.into(), key: key.into(), hint }
    })
}

fn read_toml(file: &str, text: &str, values: &mut BTreeMap<&'static str, Value>) -> Result<(), ConfigError> {
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| ConfigError::Toml { file: file.into(), message: error.to_string() })?;
    let mut waiting: Vec<(String, toml::Value)> = table.into_iter().collect();
    while let Some((key, value)) = waiting.pop() {
        if let toml::Value::Table(table) = value {
            waiting.extend(table.into_iter().map(|(inner, value)| (format!("{key}.{inner}"), value)));
            continue;
        }
        let field = find(file, &key)?;
        let plain = |value: &toml::Value| match value {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let value = match (&value, field.kind) {
            (toml::Value::Array(items), Kind::Paths | Kind::Names) => {
                let list: Vec<String> = items.iter().map(plain).collect();
                Value { text: list.join(","), list, origin: file.into() }
            }
            _ => split(field, &plain(&value), file),
        };
        values.insert(field.key, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    //! The configuration is resolved in order, and every wrong value names its field.
    use super::*;

    fn resolve(file: &str, variables: &[(&str, &str)], options: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        let options: Vec<_> = options.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Config::resolve(&Sources { file: Some(("p.toml", file)), variable: &variable, options: &options })
    }

    #[test]
    fn defaults_are_valid_and_documented() {
        let config = resolve("", &[("HOME", "/home/me")], &[]).unwrap();
        assert_eq!(config.text("cache_dir"), "/home/me/.cache/penstock");
        let printed = config.print();
        assert!(fields().all(|field| printed.contains(field.key) && printed.contains(field.variable)));
        let again: toml::Table = printed.parse().unwrap();
        assert!(again.contains_key("listen"), "what is printed is a valid file");
    }

    #[test]
    fn options_beat_variables_beat_the_file() {
        let file = "[listen]\nhttp = '127.0.0.1:1'\ngrpc = '127.0.0.1:2'\nmetrics = '127.0.0.1:3'";
        let config = resolve(
            file,
            &[("PENSTOCK_GRPC", "127.0.0.1:4"), ("PENSTOCK_METRICS", "127.0.0.1:5")],
            &[("listen.metrics", "127.0.0.1:6")],
        )
        .unwrap();
        let ports = ["listen.http", "listen.grpc", "listen.metrics"].map(|key| config.address(key).port());
        assert_eq!(ports, [1, 4, 6]);
    }

    #[test]
    fn paths_are_from_where_the_program_was_started() {
        let config =
            resolve("", &[("PENSTOCK_MODEL_REPOSITORY", "models:/srv/more")], &[("data_dir", "./state")]).unwrap();
        let here = std::env::current_dir().unwrap();
        let models = here.join("models").to_string_lossy().into_owned();
        assert_eq!(config.list("models.repository"), [models, "/srv/more".into()]);
        assert_eq!((config.path("data_dir"), config.path("devices.nvml")), (Some(here.join("state")), None));
    }

    #[test]
    fn wrong_values_name_their_field() {
        for (file, text) in [
            ("overload_codes = 'tritn'", "overload_codes (p.toml): found 'tritn', expected one of lambda, triton"),
            (
                "drain_timeout_s = -1",
                "drain_timeout_s (p.toml): found '-1', expected a whole number of seconds from 0 to 3600",
            ),
            ("[listen]\nhttp = 'x'", "listen.http (p.toml): found 'x', expected host:port"),
            ("htttp = 1", "there is no setting 'htttp'"),
            ("callers.header = 'X Key'", "callers.header (p.toml): found 'X Key', expected the name of a header"),
            ("[limits]\nmemory_budget_bytes = 1048576", "is less than limits.message_bytes"),
            ("a = ", "p.toml:"),
        ] {
            let error = resolve(file, &[], &[]).unwrap_err().to_string();
            assert!(error.contains(text), "{file}: {error}");
        }
    }
}
