//! The store's file: `state.redb` in its folder, its tables and its format.
//!
//! Called by the store's thread alone. It decides nothing: what is written has been decided before.
//!
//! The file appears under its name when it is whole, so one that is empty or cut off is damaged and never new. Each
//! opening verifies the checksum of every page, which reads the whole file.

use super::image::{BlobStat, Draft, Image};
use super::{Entry, OpenError};
use bytes::Bytes;
use redb::{Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use redb::{StorageError, WriteTransaction};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The newest format that is known here.
pub(super) const FORMAT: u64 = 1;
const NAME: &str = "state.redb";
/// redb's cache of pages, bytes: the image answers the reads, so it is for the inner pages and one group of commits.
const CACHE_BYTES: usize = 32 << 20;

/// `format` and `revision`.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// By key: revision, value.
const ENTRIES: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("entries");
const BLOBS: TableDefinition<&str, &[u8]> = TableDefinition::new("blobs");
/// By key: revision, bytes. Apart from the blobs, so that opening need not read those.
const BLOB_STATS: TableDefinition<&str, (u64, u64)> = TableDefinition::new("blob_stats");

/// The open file, locked against other processes until it is closed.
pub(super) struct StateFile {
    database: Database,
}

impl StateFile {
    /// Opens the file in this folder, both made if they are not there, and reads what is in it.
    pub(super) fn open(folder: &Path) -> Result<(Self, Image), OpenError> {
        let path = folder.join(NAME);
        let made = make_folder(folder).and_then(|()| path.try_exists());
        if !made.map_err(|error| access(folder, error))? {
            create(folder, &path)?;
        }
        let opened = builder().open(&path).map_err(|error| open_error(&path, error))?;
        Self::with(opened, &path)
    }

    /// Reads what is in an open database, which must have been initialised.
    pub(super) fn with(database: Database, path: &Path) -> Result<(Self, Image), OpenError> {
        let file = Self { database };
        let image = file.load(path)?;
        Ok((file, image))
    }

    fn load(&self, path: &Path) -> Result<Image, OpenError> {
        let damaged = |what: String| OpenError::Damaged { file: path.to_owned(), what };
        let meta = self.meta().map_err(|error| damaged(error.to_string()))?;
        match meta {
            (Some(found), _) if found > FORMAT => Err(OpenError::Newer { file: path.to_owned(), found, known: FORMAT }),
            (Some(FORMAT), Some(revision)) => self.image(revision).map_err(|error| damaged(error.to_string())),
            found => Err(damaged(format!("no format and revision of ours in it, but {found:?}"))),
        }
    }

    fn meta(&self) -> Result<(Option<u64>, Option<u64>), redb::Error> {
        let meta = self.database.begin_read()?.open_table(META)?;
        let value = |name| Ok::<_, redb::Error>(meta.get(name)?.map(|value| value.value()));
        Ok((value("format")?, value("revision")?))
    }

    fn image(&self, revision: u64) -> Result<Image, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut image = Image::at(revision);
        for row in transaction.open_table(ENTRIES)?.iter()? {
            let (key, value) = row?;
            let (revision, value) = value.value();
            image.load_entry(key.value().to_owned(), Entry { value: Bytes::copy_from_slice(value), revision });
        }
        for row in transaction.open_table(BLOB_STATS)?.iter()? {
            let (key, stat) = row?;
            let (revision, bytes) = stat.value();
            image.load_blob(key.value().to_owned(), BlobStat { revision, bytes });
        }
        Ok(image)
    }

    /// A transaction with the draft's changes, durable once it is committed. Nothing happens if it is dropped.
    pub(super) fn fill(&self, draft: &Draft) -> Result<WriteTransaction, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.open_table(META)?.insert("revision", draft.revision)?;
        let mut entries = transaction.open_table(ENTRIES)?;
        for (key, entry) in &draft.entries {
            match entry {
                Some(entry) => entries.insert(key.as_str(), (entry.revision, &entry.value[..]))?,
                None => entries.remove(key.as_str())?,
            };
        }
        drop(entries);
        let (mut blobs, mut stats) = (transaction.open_table(BLOBS)?, transaction.open_table(BLOB_STATS)?);
        for (key, blob) in &draft.blobs {
            match blob {
                Some(Entry { value, revision }) => {
                    blobs.insert(key.as_str(), &value[..])?;
                    stats.insert(key.as_str(), (*revision, value.len() as u64))?;
                }
                None => {
                    blobs.remove(key.as_str())?;
                    stats.remove(key.as_str())?;
                }
            }
        }
        drop((blobs, stats));
        Ok(transaction)
    }

    /// A blob, as the last commit left it.
    pub(super) fn blob(&self, key: &str) -> Result<Option<Entry>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let Some(stat) = transaction.open_table(BLOB_STATS)?.get(key)? else { return Ok(None) };
        let (revision, bytes) = stat.value();
        match transaction.open_table(BLOBS)?.get(key)? {
            Some(value) if value.value().len() as u64 == bytes => {
                Ok(Some(Entry { value: Bytes::copy_from_slice(value.value()), revision }))
            }
            _ => Err(redb::Error::Corrupted(format!("blob `{key}` is not the {bytes} bytes that were written"))),
        }
    }

    /// Leaves the file so that the next opening finds it closed in order.
    pub(super) fn close(self) -> Result<(), redb::Error> {
        Ok(self.database.close()?)
    }
}

pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

/// Writes format, revision 0 and empty tables into an empty database.
pub(super) fn initialise(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    let mut meta = transaction.open_table(META)?;
    meta.insert("format", FORMAT)?;
    meta.insert("revision", 0)?;
    drop(meta);
    drop((transaction.open_table(ENTRIES)?, transaction.open_table(BLOBS)?, transaction.open_table(BLOB_STATS)?));
    Ok(transaction.commit()?)
}

/// Makes the file beside its place, whole and durable, and moves it there.
fn create(folder: &Path, path: &Path) -> Result<(), OpenError> {
    let denied = |error| access(path, error);
    // Two processes that begin at once must not both move a file into place. Let go at the end: from then on, redb's
    // lock on the file is what holds.
    let lock = File::open(folder).map_err(denied)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { file: path.to_owned() }),
        Err(TryLockError::Error(error)) => return Err(access(folder, error)),
    }
    if path.try_exists().map_err(denied)? {
        return Ok(());
    }
    // One that is there was never moved, so nobody's commits are in it.
    let new = folder.join(format!("{NAME}.new"));
    let fresh = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(denied)?;
    let database = builder().create(&new).map_err(|error| open_error(&new, error))?;
    initialise(&database).and_then(|()| Ok(database.close()?)).map_err(|error| access(&new, error))?;
    fresh.sync_all().and_then(|()| std::fs::rename(&new, path)).and_then(|()| lock.sync_all()).map_err(denied)
}

/// Makes a folder that only this user may look into, and those above it, durably. One that is there stays as it is.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|part| !part.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    for part in missing {
        let above = part.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

fn access(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> OpenError {
    OpenError::Access { path: path.to_owned(), source: error.into() }
}

/// What an error of redb's means to whoever starts the process.
fn open_error(path: &Path, error: DatabaseError) -> OpenError {
    let file = PathBuf::from(path);
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { file },
        DatabaseError::Storage(StorageError::Io(error))
            if !matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidInput
            ) =>
        {
            access(path, error)
        }
        error => OpenError::Damaged { file, what: error.to_string() },
    }
}
