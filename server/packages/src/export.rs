//! A package as a ZIP again: what `GetFunction` gives a location of.
//!
//! Called by the control plane. The archive depends on the manifest alone, byte for byte: sorted entries, stored and not
//! compressed (weights do not pack, and compressors change), no times. It is not the archive that was uploaded, so its
//! hash is not the package's `CodeSha256`. Never sends a content that it has not hashed.
//!
//! Layout: APPNOTE.TXT 6.3.10, 4.3.7 to 4.3.16. All numbers are little-endian.

use crate::staging::CHUNK_BYTES;
use crate::{ContentSha256, ContentStore, FileEntry, Manifest, PackageError};
use crc32fast::Hasher;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};

/// From here on a number does not fit where ZIP first had it.
const WIDE_FROM: u64 = u32::MAX as u64;
const ENTRIES_WIDE_FROM: usize = u16::MAX as usize;
/// Readers need version 2.0 for folders in names and 4.5 for numbers of 64 bits.
const VERSION: u16 = 20;
const VERSION_WIDE: u16 = 45;
/// Made on Unix: the upper half of the attributes is a mode.
const UNIX: u16 = 3 << 8;
/// The name is UTF-8.
const UTF8_FLAG: u16 = 1 << 11;
/// The first day that ZIP can write: 1 January 1980.
const FIRST_DAY: u16 = 1 << 5 | 1;

impl ContentStore {
    /// Writes a package as a ZIP of [`Manifest::zip_bytes`] bytes. All contents are read and hashed before the first byte is
    /// written, so that a damaged one is an error and not a broken download; then they are read again.
    pub fn export_zip(&self, manifest_sha256: ContentSha256, mut writer: impl Write) -> Result<(), PackageError> {
        let manifest = self.manifest(manifest_sha256)?;
        let _hold = self.hold(&manifest);
        let mut checksums = BTreeMap::new();
        for (sha256, bytes) in manifest.contents() {
            let mut hasher = Hasher::new();
            self.verify(&manifest, sha256, bytes, &mut |chunk| hasher.update(chunk))?;
            checksums.insert(sha256, hasher.finalize());
        }
        let mut content = |file: &FileEntry, writer: &mut dyn Write| self.copy(file, writer);
        write_zip(&manifest, &checksums, WIDE_FROM, &mut writer, &mut content)?;
        writer.flush().map_err(failed)
    }

    fn copy(&self, file: &FileEntry, writer: &mut dyn Write) -> Result<(), PackageError> {
        let blob = self.blob(file.sha256);
        let mut reader = File::open(&blob).map_err(PackageError::io("open", &blob))?.take(file.bytes);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) if reader.limit() == 0 => return Ok(()),
                Ok(0) => return Err(PackageError::io("read", &blob)(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => writer.write_all(&chunk[..read]).map_err(failed)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(PackageError::io("read", &blob)(error)),
            }
        }
    }
}

impl Manifest {
    /// Bytes of the ZIP that [`ContentStore::export_zip`] writes.
    pub fn zip_bytes(&self) -> u64 {
        let mut count = Counting(0);
        let skip = &mut |_: &FileEntry, _: &mut dyn Write| Ok(());
        write_zip(self, &BTreeMap::new(), WIDE_FROM, &mut count, skip).expect("counting takes everything");
        count.0 + self.unpacked_bytes()
    }
}

/// Writes the archive; `content` writes a file's bytes. `wide_from` is [`WIDE_FROM`] outside tests.
pub(crate) fn write_zip(
    manifest: &Manifest,
    checksums: &BTreeMap<ContentSha256, u32>,
    wide_from: u64,
    writer: &mut impl Write,
    content: &mut dyn FnMut(&FileEntry, &mut dyn Write) -> Result<(), PackageError>,
) -> Result<(), PackageError> {
    let mut at = 0u64;
    let mut list = Vec::new();
    for file in manifest.files() {
        let checksum = checksums.get(&file.sha256).copied().unwrap_or_default();
        let entry = Entry { file, checksum, at, wide_from };
        let local = entry.local();
        writer.write_all(&local).map_err(failed)?;
        content(file, &mut *writer)?;
        at += local.len() as u64 + file.bytes;
        list.extend(entry.listed());
    }
    let end = end(manifest.files().len(), list.len() as u64, at, wide_from);
    list.extend(end);
    writer.write_all(&list).map_err(failed)
}

/// What is written about a file, once before its bytes and once in the list at the end.
struct Entry<'a> {
    file: &'a FileEntry,
    checksum: u32,
    /// Where it begins, in bytes from the start.
    at: u64,
    wide_from: u64,
}

impl Entry<'_> {
    fn local(&self) -> Vec<u8> {
        let wide = self.wide_bytes();
        let mut header = b"PK\x03\x04".to_vec();
        header.extend(self.common(&wide));
        header.extend(self.file.path.as_bytes());
        header.extend(extra_field(&wide));
        header
    }

    fn listed(&self) -> Vec<u8> {
        let mut wide = self.wide_bytes();
        if self.at >= self.wide_from {
            wide.push(self.at);
        }
        let mode: u32 = if self.file.executable { 0o100_755 } else { 0o100_644 };
        let mut header = b"PK\x01\x02".to_vec();
        header.extend((UNIX | VERSION_WIDE).to_le_bytes());
        header.extend(self.common(&wide));
        // No comment, first disk, no internal attributes.
        header.extend([0; 6]);
        header.extend((mode << 16).to_le_bytes());
        header.extend(narrow(self.at, self.wide_from).to_le_bytes());
        header.extend(self.file.path.as_bytes());
        header.extend(extra_field(&wide));
        header
    }

    /// Both lengths, unpacked and packed, if they need 64 bits.
    fn wide_bytes(&self) -> Vec<u64> {
        if self.file.bytes >= self.wide_from { vec![self.file.bytes; 2] } else { Vec::new() }
    }

    /// The 26 bytes that both headers have, where `wide` is written after the name.
    fn common(&self, wide: &[u64]) -> Vec<u8> {
        let version = if wide.is_empty() { VERSION } else { VERSION_WIDE };
        let flags = if self.file.path.is_ascii() { 0 } else { UTF8_FLAG };
        let (stored, midnight) = (0, 0);
        let bytes = narrow(self.file.bytes, self.wide_from);
        let name_bytes = self.file.path.len() as u16;
        let extra_bytes = extra_field(wide).len() as u16;
        let mut common = [version, flags, stored, midnight, FIRST_DAY].map(u16::to_le_bytes).concat();
        common.extend([self.checksum, bytes, bytes].map(u32::to_le_bytes).concat());
        common.extend([name_bytes, extra_bytes].map(u16::to_le_bytes).concat());
        common
    }
}

/// The numbers that need 64 bits, behind a name.
fn extra_field(wide: &[u64]) -> Vec<u8> {
    if wide.is_empty() {
        return Vec::new();
    }
    let mut field = [1, 8 * wide.len() as u16].map(u16::to_le_bytes).concat();
    field.extend(wide.iter().flat_map(|number| number.to_le_bytes()));
    field
}

/// The end of an archive of so many entries, whose list has `list_bytes` bytes and begins at `list_at`.
fn end(entries: usize, list_bytes: u64, list_at: u64, wide_from: u64) -> Vec<u8> {
    let mut end = Vec::new();
    if entries >= ENTRIES_WIDE_FROM || list_bytes >= wide_from || list_at >= wide_from {
        end.extend(b"PK\x06\x06");
        // The length of what follows, versions, disks.
        end.extend(44u64.to_le_bytes());
        end.extend([UNIX | VERSION_WIDE, VERSION_WIDE, 0, 0, 0, 0].map(u16::to_le_bytes).concat());
        end.extend([entries as u64, entries as u64, list_bytes, list_at].map(u64::to_le_bytes).concat());
        end.extend(b"PK\x06\x07\0\0\0\0");
        end.extend((list_at + list_bytes).to_le_bytes());
        end.extend(1u32.to_le_bytes());
    }
    let entries = entries.min(ENTRIES_WIDE_FROM) as u16;
    end.extend(b"PK\x05\x06");
    end.extend([0, 0, entries, entries].map(u16::to_le_bytes).concat());
    end.extend([narrow(list_bytes, wide_from), narrow(list_at, wide_from)].map(u32::to_le_bytes).concat());
    end.extend([0; 2]);
    end
}

fn narrow(number: u64, wide_from: u64) -> u32 {
    if number >= wide_from { u32::MAX } else { number as u32 }
}

fn failed(source: io::Error) -> PackageError {
    PackageError::Write { source }
}

/// Counts what is written.
struct Counting(u64);

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
