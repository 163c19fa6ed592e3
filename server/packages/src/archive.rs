//! A ZIP whose every entry has been looked at before one is unpacked.
//!
//! Called by `ingest`. The end of the archive is read by `directory`, entries by the `zip` crate, and the two have to
//! agree; so have each entry's two headers. What is declared is checked here, since a refusal before anything is written
//! is cheap; that it is true is checked by `unpack`. Never writes.

use crate::directory;
use crate::path::{Kind, PathFault, check_path, check_tree};
use crate::{PackageError, PackageLimits};
use std::io::{BufReader, Read, Seek};
use zip::read::{ArchiveOffset, Config, ZipFile};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive, ZipReadOptions};

/// Flags of an entry that is encrypted or a patch: encrypted, compressed patch, strong encryption, masked header.
const UNREADABLE_FLAGS: u16 = 1 | 1 << 5 | 1 << 6 | 1 << 13;
/// The type of file in a Unix mode.
const TYPE_BITS: u32 = 0o170_000;

/// An archive that has passed every check that needs no unpacking.
pub(crate) struct Archive<R> {
    zip: ZipArchive<BufReader<R>>,
    /// In the archive's order, folders too.
    pub(crate) entries: Vec<Entry>,
}

/// One file or folder of an archive.
pub(crate) struct Entry {
    number: usize,
    /// Checked.
    pub(crate) path: String,
    /// File or folder.
    pub(crate) kind: Kind,
    /// Bytes unpacked, as declared.
    pub(crate) declared_bytes: u64,
    /// Its owner may run it.
    pub(crate) executable: bool,
}

impl<R: Read + Seek> Archive<R> {
    /// Of an archive of `zip_bytes` bytes.
    pub(crate) fn open(mut reader: R, zip_bytes: u64, limits: &PackageLimits) -> Result<Self, PackageError> {
        let directory = directory::read(&mut reader, zip_bytes, limits)?;
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let mut zip = ZipArchive::with_config(config, BufReader::new(reader)).map_err(|error| wrong(LIST, error))?;
        if zip.offset() != 0 || zip.central_directory_start() != directory.start || zip.len() != directory.names.len() {
            return Err(PackageError::corrupt(LIST, "it can be read in two ways"));
        }
        let entries = directory.names.iter().enumerate().map(|(number, listed)| entry(&mut zip, number, listed));
        let entries = entries.collect::<Result<Vec<Entry>, PackageError>>()?;
        zip.validate_header_consistency().map_err(|error| wrong("its entries", error))?;
        check_tree(entries.iter().map(|entry| (entry.path.as_str(), entry.kind)))?;
        if entries.iter().all(|entry| entry.kind == Kind::Folder) {
            return Err(PackageError::Empty);
        }
        let declared = entries.iter().fold(0, |sum: u64, entry| sum.saturating_add(entry.declared_bytes));
        check_size(limits, zip_bytes, declared, || "what the archive declares".to_owned())?;
        Ok(Self { zip, entries })
    }

    /// A reader of an entry's content, which ends with an error if its checksum or its declared length is not met.
    pub(crate) fn content(&mut self, number: usize) -> Result<ZipFile<'_, BufReader<R>>, PackageError> {
        let Entry { number, path, .. } = &self.entries[number];
        self.zip.by_index(*number).map_err(|error| wrong(format!("entry {path:?}"), error))
    }
}

const LIST: &str = "its list of entries";

/// Looks at one entry, whose name in the list of entries is `listed`.
fn entry<R: Read + Seek>(zip: &mut ZipArchive<R>, number: usize, listed: &[u8]) -> Result<Entry, PackageError> {
    let shown: String = String::from_utf8_lossy(listed).chars().take(200).collect();
    let found = zip.by_index_data(number).map_err(|error| wrong(format!("entry {shown:?}"), error))?;
    if found.name_raw() != listed {
        return Err(PackageError::corrupt(format!("entry {shown:?}"), "it has another name in its Unicode field"));
    }
    let name = std::str::from_utf8(listed).map_err(|_| PackageError::path(listed, PathFault::NotUtf8))?;
    let (path, kind) = match name.strip_suffix('/') {
        Some(folder) => (folder, Kind::Folder),
        None => (name, Kind::File),
    };
    check_path(path).map_err(|fault| PackageError::path(listed, fault))?;
    if found.encrypted() || found.flags().as_u16() & UNREADABLE_FLAGS != 0 {
        return Err(PackageError::Encrypted { entry: shown });
    }
    let method = found.compression();
    if method != CompressionMethod::Stored && method != CompressionMethod::Deflated {
        return Err(PackageError::UnsupportedCompression { entry: shown, method: method.to_string() });
    }
    // Whatever system it says that it is from: readers differ in whether they look at that.
    let mode = found.external_attributes() >> 16;
    if let Some(kind) = special(mode, kind) {
        return Err(PackageError::SpecialFile { entry: shown, kind });
    }
    let declared_bytes = found.size();
    if kind == Kind::Folder && declared_bytes != 0 {
        let text = format!("it is a folder, by the slash at its end, and has {declared_bytes} bytes");
        return Err(PackageError::corrupt(format!("entry {shown:?}"), text));
    }
    let path = path.to_owned();
    let strict = ZipReadOptions::new().enforce_header_consistency(true);
    zip.by_index_with_options(number, strict).map_err(|error| wrong(format!("entry {path:?}"), error))?;
    Ok(Entry { number, path, kind, declared_bytes, executable: mode & 0o100 != 0 })
}

/// What an entry of this mode is, if it is neither a file nor a folder, or not what its name says.
fn special(mode: u32, kind: Kind) -> Option<&'static str> {
    match mode & TYPE_BITS {
        0 => None,
        0o100_000 if kind == Kind::File => None,
        0o040_000 if kind == Kind::Folder => None,
        0o100_000 => Some("a file by its mode and a folder by its name"),
        0o040_000 => Some("a folder by its mode and a file by its name"),
        0o120_000 => Some("a symbolic link"),
        0o010_000 => Some("a named pipe"),
        0o140_000 => Some("a socket"),
        0o020_000 | 0o060_000 => Some("a device"),
        _ => Some("of an unknown type"),
    }
}

/// Whether so many bytes may come out of an archive of `zip_bytes`.
pub(crate) fn check_size(
    limits: &PackageLimits,
    zip_bytes: u64,
    unpacked_bytes: u64,
    place: impl FnOnce() -> String,
) -> Result<(), PackageError> {
    let (found, limit) = (unpacked_bytes, limits.ratio_bytes(zip_bytes));
    if found > limits.unpacked_bytes {
        return Err(PackageError::UnpackedTooLarge { place: place(), found, limit: limits.unpacked_bytes });
    }
    if found > limit {
        return Err(PackageError::RatioTooLarge { place: place(), found, zip_bytes, limit });
    }
    Ok(())
}

/// What the `zip` crate found wrong. An error of the operating system's is the reader's and not the archive's.
fn wrong(place: impl Into<String>, error: ZipError) -> PackageError {
    match error {
        ZipError::Io(source) if source.raw_os_error().is_some() => PackageError::Read { source },
        other => PackageError::corrupt(place, other.to_string()),
    }
}
