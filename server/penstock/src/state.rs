//! Where the control plane's state is kept, as the settings say: in the data directory, or in etcd.
//!
//! Checked by `serve` before a port opens, opened by `control`. A program that is built without the feature `etcd` knows the
//! settings and says how to have it.

use crate::config::Config;
use crate::control::ControlPlaneError;
use penstock_registry::store::{LocalStore, LocalStoreOptions, Store};
use penstock_trust::Authority;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Where it is kept.
pub(crate) enum State {
    /// In a file of this machine.
    Local,
    /// In etcd; where this server is reached is filled in when its port is known.
    #[cfg(feature = "etcd")]
    Etcd(Box<penstock_etcd::EtcdOptions>),
}

/// Reads the settings. Errors: which of them is wrong.
pub(crate) fn settings(config: &Config) -> Result<State, String> {
    if config.text("state.store") == "local" {
        return Ok(State::Local);
    }
    if config.list("etcd.endpoints").is_empty() {
        return Err(
            "etcd.endpoints: nothing found, and state.store is etcd; name its members, such as http://127.0.0.1:2379"
                .into(),
        );
    }
    let prefix = config.text("etcd.prefix");
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if prefix.trim_matches('/').is_empty() || prefix.len() > 128 || !prefix.chars().all(word) {
        return Err(format!(
            "etcd.prefix: found '{prefix}', expected 1 to 128 letters, digits and any of -_./, such as penstock"
        ));
    }
    if config.text("packages.s3_bucket").is_empty() {
        let text = "packages.s3_bucket: nothing found, and state.store is etcd: servers that share functions fetch their packages from \
                    a bucket; name one";
        return Err(text.into());
    }
    let (own, address) = (config.text("state.address"), config.address("state.listen"));
    if own.is_empty() && address.ip().is_unspecified() {
        return Err(format!(
            "state.address: nothing found, and state.listen is {address}, which leads nowhere: say where other servers reach this one, \
             as host:port"
        ));
    }
    let is_alone = config.list("etcd.endpoints").iter().all(|endpoint| is_loopback(endpoint));
    if own.is_empty() && address.ip().is_loopback() && !is_alone {
        return Err(format!(
            "state.address: nothing found, and state.listen is {address}, which other machines do not reach: say where they reach this \
             server, as host:port"
        ));
    }
    if !own.is_empty() && address.port() == 0 {
        return Err(format!(
            "state.listen: found {address}, and state.address is {own}: expected the port that leads there, such as 0.0.0.0:8020"
        ));
    }
    if !own.is_empty() && !own.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok())
    {
        return Err(format!("state.address: found '{own}', expected host:port, such as 10.0.0.7:8020"));
    }
    etcd(config)
}

pub(crate) fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
    ["127.", "localhost", "[::1]"].iter().any(|own| host.starts_with(own))
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
}

#[cfg(not(feature = "etcd"))]
fn etcd(_config: &Config) -> Result<State, String> {
    let text = "state.store: found 'etcd', and this program is built without it: build it with `cargo build --release --features \
                penstock/etcd` (which needs protoc), or use local";
    Err(text.into())
}

#[cfg(feature = "etcd")]
fn etcd(config: &Config) -> Result<State, String> {
    use std::time::Duration;
    let read = |key: &str| -> Result<Option<Vec<u8>>, String> {
        let Some(file) = config.path(key) else { return Ok(None) };
        std::fs::read(&file).map(Some).map_err(|error| format!("{key}: {} cannot be read: {error}", file.display()))
    };
    let both = |one: (&str, bool), other: (&str, bool)| match (one.1, other.1) {
        (true, false) => Err(format!("{}: nothing found, and {} is set; set both, or neither", other.0, one.0)),
        (false, true) => Err(format!("{}: nothing found, and {} is set; set both, or neither", one.0, other.0)),
        _ => Ok(()),
    };
    let (name, password) = (config.text("etcd.user"), read("etcd.password_file")?);
    both(("etcd.user", !name.is_empty()), ("etcd.password_file", password.is_some()))?;
    let user = password.map(|password| {
        let text = String::from_utf8(password).map_err(|_| "etcd.password_file: expected text".to_owned())?;
        Ok::<_, String>((name.to_owned(), text.trim_end_matches(['\r', '\n']).to_owned()))
    });
    let (certificate, key) = (read("etcd.certificate_file")?, read("etcd.key_file")?);
    both(("etcd.certificate_file", certificate.is_some()), ("etcd.key_file", key.is_some()))?;
    let authorities = read("etcd.ca_file")?;
    for endpoint in config.list("etcd.endpoints") {
        match endpoint.split_once("://") {
            Some(("https", host)) if !host.is_empty() && authorities.is_some() => {}
            Some(("https", _)) => {
                return Err(format!(
                    "etcd.ca_file: nothing found, and etcd.endpoints has {endpoint}; name the certificates that are believed"
                ));
            }
            Some(("http", host)) if !host.is_empty() && authorities.is_none() => {}
            Some(("http", host)) if !host.is_empty() => {
                return Err(format!(
                    "etcd.endpoints: found '{endpoint}', and etcd.ca_file is set: expected https://{host}"
                ));
            }
            _ => return Err(format!("etcd.endpoints: found '{endpoint}', expected http:// or https:// and host:port")),
        }
    }
    crate::servers::own(config).map_err(|error| error.to_string())?;
    let identity = certificate.zip(key);
    if identity.is_some() && authorities.is_none() {
        return Err(
            "etcd.ca_file: nothing found, and etcd.certificate_file is set; name the certificates that are believed"
                .into(),
        );
    }
    Ok(State::Etcd(Box::new(penstock_etcd::EtcdOptions {
        endpoints: config.list("etcd.endpoints").to_vec(),
        prefix: config.text("etcd.prefix").into(),
        address: config.text("state.address").into(),
        user: user.transpose()?,
        tls: authorities.map(|authorities| penstock_etcd::EtcdTls { authorities, identity }),
        timeout: Duration::from_millis(config.integer("etcd.timeout_ms")),
        lease: Duration::from_secs(config.integer("etcd.lease_s")),
    })))
}

impl State {
    /// Other servers have it too, and send changes to the one that leads.
    pub(crate) fn is_shared(&self) -> bool {
        !matches!(self, State::Local)
    }

    /// Opens it. `address` is where this server hears others. Blocks.
    #[cfg_attr(not(feature = "etcd"), expect(unused_variables, reason = "there are no others"))]
    pub(crate) fn open(
        self,
        config: &Config,
        folder: &Path,
        address: Option<SocketAddr>,
    ) -> Result<Opened, ControlPlaneError> {
        match self {
            State::Local => {
                let store = LocalStore::open(&folder.join("state"), LocalStoreOptions::default())?;
                Ok(Opened { store: Arc::new(store), servers: None })
            }
            #[cfg(feature = "etcd")]
            State::Etcd(mut options) => {
                if let Some(address) = address.filter(|_| options.address.is_empty()) {
                    options.address = address.to_string();
                }
                options.address = format!("https://{}", options.address);
                let runtime = tokio::runtime::Handle::current();
                let store = runtime.block_on(penstock_etcd::EtcdStore::open(*options))?;
                let servers = runtime.block_on(crate::servers::authority(config, &store))?;
                Ok(Opened { store: Arc::new(store), servers: Some(servers) })
            }
        }
    }
}

/// A state that was opened.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    /// Who signs for the servers that share it, if several do.
    pub(crate) servers: Option<Arc<Authority>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn found(more: &[(&str, &str)]) -> Result<State, String> {
        let known =
            [("state.store", "etcd"), ("etcd.endpoints", "http://127.0.0.1:2379"), ("packages.s3_bucket", "packages")];
        let options: Vec<_> =
            known.iter().chain(more).map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let mut last: std::collections::BTreeMap<String, String> = options.into_iter().collect();
        last.retain(|_, value| !value.is_empty());
        let options: Vec<_> = last.into_iter().collect();
        settings(&Config::resolve(&Sources { file: None, variable: &|_| None, options: &options }).unwrap())
    }

    #[test]
    fn wrong_settings_name_their_field_and_what_would_be_right() {
        for (settings, text) in [
            (&[("etcd.endpoints", "")][..], "etcd.endpoints: nothing found"),
            (&[("etcd.prefix", "a b")], "etcd.prefix: found 'a b'"),
            (&[("packages.s3_bucket", "")], "packages.s3_bucket: nothing found"),
            (&[("state.listen", "0.0.0.0:8020")], "state.address: nothing found, and state.listen is 0.0.0.0:8020"),
            (&[("etcd.endpoints", "http://e:2379")], "state.address: nothing found, and state.listen is 127.0.0.1:0"),
            (
                &[("state.address", "10.0.0.7:8000")],
                "state.listen: found 127.0.0.1:0, and state.address is 10.0.0.7:8000",
            ),
            (
                &[("state.address", "me"), ("state.listen", "0.0.0.0:8020")],
                "state.address: found 'me', expected host:port",
            ),
        ] {
            let error = found(settings).err().unwrap_or_default();
            assert!(error.contains(text), "{settings:?}: {error}");
        }
        assert!(matches!(found(&[("state.store", "local"), ("etcd.endpoints", "")]), Ok(State::Local)));
    }

    #[cfg(not(feature = "etcd"))]
    #[test]
    fn a_program_without_etcd_says_how_to_have_it() {
        let error = found(&[]).err().unwrap_or_default();
        assert!(error.contains("state.store: found 'etcd'") && error.contains("--features penstock/etcd"), "{error}");
    }

    #[cfg(feature = "etcd")]
    #[test]
    fn wrong_settings_of_etcd_name_their_field() {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        for (settings, text) in [
            (&[("etcd.endpoints", "https://127.0.0.1:2379")][..], "etcd.ca_file: nothing found"),
            (&[("etcd.ca_file", here)], "etcd.endpoints: found 'http://127.0.0.1:2379'"),
            (&[("etcd.endpoints", "127.0.0.1:2379")], "expected http:// or https://"),
            (&[("etcd.user", "me")], "etcd.password_file: nothing found"),
            (&[("etcd.password_file", here)], "etcd.user: nothing found"),
            (&[("etcd.key_file", here)], "etcd.certificate_file: nothing found"),
            (&[("etcd.ca_file", "/nowhere")], "etcd.ca_file: /nowhere cannot be read"),
            (&[("state.ca_file", here)], "state.ca_key_file is missing: expected the key of state.ca_file"),
            (&[("state.ca_key_file", here)], "state.ca_file is missing: expected the certificate of state.ca_key_file"),
            (&[("state.ca_file", here), ("state.ca_key_file", here)], "Cargo.toml: expected a certificate in PEM"),
        ] {
            let error = found(settings).err().unwrap_or_default();
            assert!(error.contains(text), "{settings:?}: {error}");
        }
        assert!(matches!(found(&[]), Ok(State::Etcd(_))));
    }
}
