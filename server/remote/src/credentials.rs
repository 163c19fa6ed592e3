//! Keys for the services that are called: fixed ones, or a file as AWS's tools have it.
//!
//! Made by the composition root, read before each request, so that keys that are changed in the file are used from then on.
//! Never shows a secret, in `Debug` or in an error.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most bytes of a file of keys.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Keys of one identity.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Public: it is sent as it is.
    pub access_key_id: String,
    /// Secret: requests are signed with it.
    pub secret_access_key: String,
    /// Secret: sent with keys that are lent for a while.
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// Where keys come from.
#[derive(Clone, Debug)]
pub enum CredentialSource {
    /// These.
    Fixed(Credentials),
    /// A profile of a file of AWS's form: `[profile]`, then `aws_access_key_id = …`, `aws_secret_access_key = …` and perhaps
    /// `aws_session_token = …`.
    File {
        /// The file.
        file: PathBuf,
        /// The profile.
        profile: String,
    },
}

/// Why there are no keys. Names the file and what is missing, never what is in it.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("aws.credentials_file: {}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no such profile, or a key is missing from it.
    #[error("aws.credentials_file: {}: expected [{profile}] with {missing}", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// The profile.
        profile: String,
        /// What is not there.
        missing: &'static str,
    },
}

impl CredentialSource {
    /// The keys as they are now. Reads a small file. Errors: there are none.
    pub fn read(&self) -> Result<Credentials, CredentialsError> {
        match self {
            Self::Fixed(credentials) => Ok(credentials.clone()),
            Self::File { file, profile } => read(file, profile),
        }
    }
}

fn read(file: &Path, profile: &str) -> Result<Credentials, CredentialsError> {
    let failed = |source| CredentialsError::File { file: file.to_owned(), source };
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    let missing = |missing| CredentialsError::Missing { file: file.to_owned(), profile: profile.to_owned(), missing };
    let value = |key: &str| value(&text, profile, key).filter(|value| !value.is_empty()).map(str::to_owned);
    Ok(Credentials {
        access_key_id: value("aws_access_key_id").ok_or_else(|| missing("aws_access_key_id"))?,
        secret_access_key: value("aws_secret_access_key").ok_or_else(|| missing("aws_secret_access_key"))?,
        session_token: value("aws_session_token"),
    })
}

/// The value of a key of a section; the last one counts.
fn value<'a>(text: &'a str, profile: &str, key: &str) -> Option<&'a str> {
    let (mut inside, mut found) = (false, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let section = section.trim();
            inside = section == profile || section.strip_prefix("profile ").is_some_and(|name| name.trim() == profile);
        } else if inside && !line.starts_with(['#', ';']) {
            let pair = line.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case(key));
            found = pair.map(|(_, value)| value.trim()).or(found);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_and_no_error_tells_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        let secret = "wJalrXUtnFEMI/K7MDENG=bPxRfiCY";
        let text = format!(
            "; ours\n[default]\naws_access_key_id = A\naws_secret_access_key={secret}\n\n[profile two]\n\
             AWS_ACCESS_KEY_ID=B\n# aws_access_key_id=C\naws_secret_access_key = s\naws_session_token = t\n\
             [half]\naws_secret_access_key = {secret}\n"
        );
        std::fs::write(&file, text).unwrap();
        let read = |profile: &str| CredentialSource::File { file: file.clone(), profile: profile.into() }.read();
        let default = read("default").unwrap();
        assert_eq!((default.access_key_id.as_str(), default.secret_access_key.as_str()), ("A", secret));
        assert_eq!(default.session_token, None);
        let two = read("two").unwrap();
        assert_eq!((two.access_key_id.as_str(), two.session_token.as_deref()), ("B", Some("t")));
        for (profile, words) in [("half", "[half] with aws_access_key_id"), ("none", "[none] with aws_access_key_id")] {
            let error = read(profile).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains(secret), "{error}");
        }
        assert!(!format!("{default:?}").contains(secret));
        std::fs::remove_file(&file).unwrap();
        assert!(read("default").unwrap_err().to_string().starts_with("aws.credentials_file: "));
    }
}
