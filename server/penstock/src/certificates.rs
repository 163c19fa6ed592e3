//! The operator's own authority of certificates, as the settings name it: two files.
//!
//! Called at start, by whoever signs.

use crate::config::Config;
use penstock_trust::Authority;
use std::io;
use std::time::Duration;

/// The authority of the files that two settings name, certificates and the key of the first; `None` if neither is set. Errors: the
/// setting that is wrong.
pub(crate) fn own_authority(
    config: &Config,
    [file, key_file]: [&str; 2],
    name: &'static str,
    life: Duration,
) -> io::Result<Option<Authority>> {
    let missing = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    match (config.path(file), config.path(key_file)) {
        (None, None) => Ok(None),
        (Some(_), None) => missing(format!("{key_file} is missing: expected the key of {file}")),
        (None, Some(_)) => missing(format!("{file} is missing: expected the certificate of {key_file}")),
        (Some(certificates), Some(key)) => {
            let read = Authority::from_files(name, certificates, key, life, time::OffsetDateTime::now_utc);
            read.map(Some).map_err(|error| io::Error::new(error.kind(), format!("{file}, {key_file}: {error}")))
        }
    }
}
