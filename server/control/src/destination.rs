//! Where the ends of asynchronous invocations are told: files of one folder, a line of JSON each, or other services.
//!
//! Called by the queue of events, and when a destination is set. Only plain files below that folder are written, whatever
//! a client asks for: no links, no devices, nothing elsewhere. Which services may be told is theirs to say.

use crate::error::ControlError;
use crate::queue::Event;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_remote::{Remote, Target};
use rustix::fs::OFlags;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Longest destination that clients send, in bytes.
const BYTES_MAX: usize = 350;

/// A destination.
#[derive(Debug)]
pub(crate) enum Destination {
    /// On this machine.
    File(DestinationFile),
    /// Another service.
    Elsewhere(Target),
}

/// A file.
#[derive(Debug)]
pub(crate) struct DestinationFile {
    folder: PathBuf,
    file: PathBuf,
}

impl Destination {
    /// Reads `file://FOLDER/NAME`, an HTTP URL or the ARN of a queue. Errors: it is another folder, no plain name, nothing that
    /// is known, or not allowed.
    pub(crate) fn parse(text: &str, folder: &Path, remote: &Remote) -> Result<Self, ControlError> {
        if text.len() > BYTES_MAX {
            let constraint = format!("Member must have length less than or equal to {BYTES_MAX}");
            return Err(ControlError::validation(text, "destinationConfig.destination", constraint));
        }
        if Self::is_elsewhere(text) {
            return remote.target(text).map(Self::Elsewhere).map_err(|expected| {
                let constraint = format!("Member must {expected}; or be file://{}/NAME", folder.display());
                ControlError::validation(text, "destinationConfig.destination", constraint)
            });
        }
        let name = text.strip_prefix("file://").and_then(|path| Path::new(path).strip_prefix(folder).ok()?.to_str());
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        match name {
            Some(name) if !name.is_empty() && !name.starts_with('.') && name.chars().all(word) => {
                Ok(Self::File(DestinationFile { folder: folder.to_owned(), file: folder.join(name) }))
            }
            _ => {
                let constraint = format!("Member must be file://{}/NAME, with a plain name", folder.display());
                Err(ControlError::validation(text, "destinationConfig.destination", constraint))
            }
        }
    }

    /// Whether it is outside this machine, by how it is written.
    pub(crate) fn is_elsewhere(text: &str) -> bool {
        !text.starts_with("file://")
    }
}

impl DestinationFile {
    /// Appends a record. Blocks.
    pub(crate) fn append(&self, record: &Value) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).append(true).custom_flags(flags.bits() as i32).open(&self.file)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other(format!("{} is no plain file", self.file.display())));
        }
        file.write_all(format!("{record}\n").as_bytes())?;
        file.sync_data()
    }
}

/// Lambda's record of an end. `arn` makes one of a qualifier.
pub(crate) fn record(
    event: &Event,
    now: &str,
    arn: impl Fn(&str) -> String,
    condition: &str,
    version: Option<String>,
    payload: Value,
) -> Value {
    let done = condition == "Success";
    let qualifier = version.as_deref().or(event.qualifier.as_deref()).unwrap_or("$LATEST");
    let request = STANDARD.decode(&event.payload).unwrap_or_default();
    let mut response = json!({ "statusCode": 200, "executedVersion": version });
    if !done {
        response["functionError"] = "Unhandled".into();
    }
    json!({
        "version": "1.0",
        "timestamp": now,
        "requestContext": {
            "requestId": event.id,
            "functionArn": arn(qualifier),
            "condition": condition,
            "approximateInvokeCount": event.failures + u32::from(done),
        },
        "requestPayload": serde_json::from_slice::<Value>(&request).unwrap_or_default(),
        "responseContext": response,
        "responsePayload": payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_files_of_the_folder_are_written() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("told");
        let shown = folder.display();
        let remote = Remote::new(penstock_remote::RemoteOptions::default()).unwrap();
        let parse = |text: &str| match Destination::parse(text, &folder, &remote)? {
            Destination::File(file) => Ok::<_, ControlError>(file),
            Destination::Elsewhere(_) => panic!("no service may be told"),
        };
        for bad in ["", "..", ".hidden", "a/b", "../x", "a b", "a\0"] {
            assert!(parse(&format!("file://{shown}/{bad}")).is_err(), "{bad:?}");
        }
        let elsewhere = ["file:///etc/passwd", "/etc/passwd", "arn:aws:sqs:us-east-1:1:q", "https://example.com/a"];
        assert!(elsewhere.iter().all(|bad| parse(bad).is_err()));
        let done = parse(&format!("file://{shown}/done.jsonl")).unwrap();
        done.append(&json!({ "a": 1 })).unwrap();
        done.append(&json!(2)).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("done.jsonl")).unwrap(), "{\"a\":1}\n2\n");
        std::os::unix::fs::symlink(root.path().join("elsewhere"), folder.join("link")).unwrap();
        assert!(parse(&format!("file://{shown}/link")).unwrap().append(&json!(1)).is_err());
        assert!(!root.path().join("elsewhere").exists());
        rustix::fs::mknodat(
            rustix::fs::CWD,
            folder.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(parse(&format!("file://{shown}/pipe")).unwrap().append(&json!(1)).is_err(), "and nobody waits");
    }
}
