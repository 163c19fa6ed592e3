//! The server's side: what there is to send, by content.

use super::{Answer, LIMITS, Lay, PIECE_BYTES, STALL_TIMEOUT};
use crate::protocol::{FromFleet, read, write};
use crate::transport::{Reader, Writer};
use parking_lot::Mutex;
use penstock_environment::Specification;
use penstock_packages::{ContentSha256, FileEntry, Manifest};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// An instance has these itself: those of its system.
const OF_THE_SYSTEM: [&str; 7] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/proc", "/sys", "/dev"];
/// Folders in one another.
const DEPTH_MAX: usize = 32;
/// Hashes of files that are remembered.
const KNOWN_MAX: usize = 65_536;

/// Hashes of the server's files, each of which is read once while it does not change.
#[derive(Default)]
pub(crate) struct Catalog {
    /// One look at a time: what several environments read is hashed once.
    turn: tokio::sync::Mutex<()>,
    known: Mutex<HashMap<Seen, ContentSha256>>,
}

/// A file as it was when it was read.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Seen {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// A folder or file of the server's, and what it is made of.
pub(crate) struct Folder {
    path: PathBuf,
    manifest: Manifest,
    files: BTreeMap<ContentSha256, PathBuf>,
}

impl Catalog {
    /// What an environment reads, by content. Reads all of it that it has not read before. Errors: something cannot be read.
    pub(crate) async fn look(self: &Arc<Self>, paths: Vec<PathBuf>) -> io::Result<Vec<Folder>> {
        let _turn = self.turn.lock().await;
        let catalog = self.clone();
        tokio::task::spawn_blocking(move || catalog.describe(paths)).await.map_err(io::Error::other)?
    }

    /// Sends these, as far as the agent lacks them, and says what is where then: the server's path, the instance's. Errors:
    /// something cannot be read any more, or the agent cannot keep it.
    pub(crate) async fn send(
        folders: Vec<Folder>,
        token: &str,
        (from, to): (&mut Reader, &mut Writer),
    ) -> io::Result<Vec<(PathBuf, PathBuf)>> {
        if folders.is_empty() {
            return Ok(Vec::new());
        }
        let manifests = folders.iter().map(|folder| folder.manifest.clone()).collect();
        write(to, &FromFleet::Lay(Lay { token: token.to_owned(), folders: manifests })).await?;
        loop {
            match timeout(STALL_TIMEOUT, read(from)).await?? {
                Answer::Lacking(contents) => {
                    for sha256 in contents {
                        let file = folders.iter().find_map(|folder| folder.files.get(&sha256));
                        let file = file.ok_or_else(|| io::Error::other("the agent asks for something else"))?;
                        let mut bytes = tokio::fs::File::open(file).await?;
                        send_file(&mut bytes, to).await?;
                    }
                }
                Answer::Laid(places) if places.len() == folders.len() => {
                    return Ok(folders.into_iter().map(|folder| folder.path).zip(places).collect());
                }
                Answer::Laid(_) => return Err(io::Error::other("the agent has laid out something else")),
                Answer::Busy => {}
                Answer::Failed(why) => return Err(io::Error::other(why)),
            }
        }
    }

    /// What is to be sent of these paths; nothing of what an instance has itself, or what is empty.
    fn describe(&self, paths: Vec<PathBuf>) -> io::Result<Vec<Folder>> {
        let own = |path: &PathBuf| !OF_THE_SYSTEM.iter().any(|system| path.starts_with(system));
        let mut folders = Vec::new();
        for path in paths.into_iter().filter(own) {
            let mut found = Vec::new();
            let meta = std::fs::metadata(&path).map_err(|error| at(&path, error))?;
            if meta.is_dir() {
                walk(&path, "", &mut found, 0)?;
            } else if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
                found.push((name.to_owned(), path.clone(), meta.clone()));
            }
            let (mut entries, mut files) = (Vec::new(), BTreeMap::new());
            for (name, file, meta) in found {
                let sha256 = self.hash(&file, &meta).map_err(|error| at(&file, error))?;
                let executable = meta.permissions().mode() & 0o100 != 0;
                entries.push(FileEntry { path: name, sha256, bytes: meta.len(), executable });
                files.insert(sha256, file);
            }
            if !entries.is_empty() {
                let manifest = Manifest::new(entries).map_err(|error| at(&path, io::Error::other(error)))?;
                LIMITS.check_manifest(&manifest).map_err(|error| at(&path, io::Error::other(error)))?;
                let path = if meta.is_dir() { path } else { path.parent().map(Path::to_owned).unwrap_or_default() };
                folders.push(Folder { path, manifest, files });
            }
        }
        Ok(folders)
    }

    fn hash(&self, file: &Path, meta: &Metadata) -> io::Result<ContentSha256> {
        let changed = (meta.mtime(), meta.mtime_nsec());
        let seen = Seen { device: meta.dev(), inode: meta.ino(), bytes: meta.len(), changed };
        if let Some(known) = self.known.lock().get(&seen) {
            return Ok(*known);
        }
        let (mut hash, mut bytes, mut open) = (Sha256::new(), vec![0; PIECE_BYTES], File::open(file)?);
        loop {
            match open.read(&mut bytes)? {
                0 => break,
                read => hash.update(&bytes[..read]),
            }
        }
        let sha256 = ContentSha256::from_digest(hash.finalize().into());
        let mut known = self.known.lock();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(seen, sha256);
        Ok(sha256)
    }
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The files below a folder, by their names there. What is linked to counts as what it is.
fn walk(folder: &Path, name: &str, found: &mut Vec<(String, PathBuf, Metadata)>, depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(at(folder, io::Error::other(format!("more than {DEPTH_MAX} folders in one another"))));
    }
    for entry in std::fs::read_dir(folder).map_err(|error| at(folder, error))? {
        let path = entry.map_err(|error| at(folder, error))?.path();
        let Some(last) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(at(&path, io::Error::other("its name is not UTF-8")));
        };
        let name = if name.is_empty() { last.to_owned() } else { format!("{name}/{last}") };
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => walk(&path, &name, found, depth + 1)?,
            Ok(meta) if meta.is_file() => found.push((name, path, meta)),
            // A link that leads nowhere, or something that is no file: nobody can read it here either.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at(&path, error)),
        }
        if found.len() > LIMITS.files {
            let text = format!("more than {} files", LIMITS.files);
            return Err(at(folder, io::Error::other(text)));
        }
    }
    Ok(())
}

async fn send_file(file: &mut tokio::fs::File, to: &mut Writer) -> io::Result<()> {
    use tokio::io::AsyncReadExt;
    let mut bytes = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut bytes).await? {
            0 => return timeout(STALL_TIMEOUT, to.flush()).await?,
            read => {
                timeout(STALL_TIMEOUT, to.write_all(&bytes[..read])).await??;
                penstock_telemetry::instance_sent(read as u64);
            }
        }
    }
}

/// The same specification where each path of the server's is the instance's. Errors: it is none any more.
pub(crate) fn relocate(specification: &Specification, places: &[(PathBuf, PathBuf)]) -> io::Result<Specification> {
    let mut value = serde_json::to_value(specification).map_err(io::Error::other)?;
    // What is named by the longest path is meant.
    let mut places: Vec<_> = places.iter().collect();
    places.sort_by_key(|(here, _)| std::cmp::Reverse(here.as_os_str().len()));
    let move_text = |text: &mut String| {
        let moved =
            places.iter().find_map(|(here, there)| Some(there.join(Path::new(&*text).strip_prefix(here).ok()?)));
        if let Some(moved) = moved {
            // Joined with nothing, a path ends with a slash.
            *text = moved.components().collect::<PathBuf>().to_string_lossy().into_owned();
        }
    };
    for_each_text(&mut value["runtime"], &move_text);
    for_each_text(&mut value["isolation"]["readable"], &move_text);
    serde_json::from_value(value).map_err(io::Error::other)
}

fn for_each_text(value: &mut Value, change: &impl Fn(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| for_each_text(item, change)),
        Value::Object(members) => members.values_mut().for_each(|member| for_each_text(member, change)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_server_become_those_of_the_instance() {
        let places: Vec<(PathBuf, PathBuf)> = [("/m", "/there/1"), ("/m/deep", "/there/2"), ("/lib-own", "/there/3")]
            .map(|(a, b)| (a.into(), b.into()))
            .into();
        let mut specification = crate::tests::specification(1);
        specification.runtime = serde_json::json!({
            "file": "/m/1/model.onnx", "folder": "/m", "other": "/mm/1", "text": "not /m", "deep": ["/m/deep/x"], "number": 1,
        });
        specification.isolation.readable = ["/m", "/lib-own", "/usr/lib/x"].map(PathBuf::from).into();
        let moved = relocate(&specification, &places).unwrap();
        let expected = serde_json::json!({
            "file": "/there/1/1/model.onnx", "folder": "/there/1", "other": "/mm/1", "text": "not /m", "deep": ["/there/2/x"],
            "number": 1,
        });
        assert_eq!(moved.runtime, expected);
        assert_eq!(moved.isolation.readable, ["/there/1", "/there/3", "/usr/lib/x"].map(PathBuf::from));
    }

    #[test]
    fn what_is_read_is_described_by_content_and_hashed_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("model/1")).unwrap();
        std::fs::create_dir_all(at("empty")).unwrap();
        std::fs::write(at("model/1/weights"), "w").unwrap();
        std::os::unix::fs::symlink("weights", at("model/1/same")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("model/1/lost")).unwrap();
        let catalog = Catalog::default();
        let all = catalog.describe(vec![at("model"), at("empty"), at("model/1/weights"), "/usr/lib".into()]).unwrap();
        let names = |folder: &Folder| folder.manifest.files().iter().map(|file| file.path.clone()).collect::<Vec<_>>();
        assert_eq!(all.iter().map(names).collect::<Vec<_>>(), [vec!["1/same", "1/weights"], vec!["weights"]]);
        assert_eq!((&all[0].path, &all[1].path), (&at("model"), &at("model/1")));
        assert_eq!((all[0].files.len(), catalog.known.lock().len()), (1, 1), "one content");
        std::fs::write(at("model/1/weights"), "changed").unwrap();
        let again = catalog.describe(vec![at("model")]).unwrap();
        assert_ne!(again[0].manifest, all[0].manifest);
        let error = catalog.describe(vec![at("not there")]).err().unwrap().to_string();
        assert!(error.contains("not there"), "{error}");
    }
}
