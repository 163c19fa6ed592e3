//! The end of a ZIP: where its list of entries is, read so strictly that there is one way to read it.
//!
//! Called by `archive` before anything else looks at the bytes. Readers of ZIPs disagree where an archive is ambiguous
//! (two end records, a list that does not end where it should, a count that is not so), and attacks live on that: here
//! each of these is refused. Also bounds what the list costs in memory. Never looks at an entry's content.
//!
//! Layout: APPNOTE.TXT 6.3.10, 4.3.12 to 4.3.16. All numbers are little-endian.

use crate::{PackageError, PackageLimits};
use std::collections::BTreeSet;
use std::io::{BufReader, Read, Seek, SeekFrom};

const END: [u8; 4] = *b"PK\x05\x06";
const END_BYTES: usize = 22;
const LOCATOR: [u8; 4] = *b"PK\x06\x07";
const LOCATOR_BYTES: usize = 20;
const END64: [u8; 4] = *b"PK\x06\x06";
const END64_BYTES: usize = 56;
const ENTRY: [u8; 4] = *b"PK\x01\x02";
const ENTRY_BYTES: usize = 46;
const COMMENT_BYTES: usize = u16::MAX as usize;

/// What the end of an archive says, all of it checked.
pub(crate) struct Directory {
    /// Where the list of entries begins, in bytes from the start of the archive.
    pub(crate) start: u64,
    /// Names as they are in the list, in its order; none twice.
    pub(crate) names: Vec<Vec<u8>>,
}

/// Where the list is and how long it is, as an end record says.
struct Place {
    entries: u64,
    bytes: u64,
    start: u64,
    /// Where the list has to end, from the start of the archive.
    end: u64,
}

/// Reads it from an archive of `zip_bytes` bytes.
pub(crate) fn read(
    reader: &mut (impl Read + Seek),
    zip_bytes: u64,
    limits: &PackageLimits,
) -> Result<Directory, PackageError> {
    let place = place(reader, zip_bytes)?;
    if place.entries == 0 {
        return Err(PackageError::Empty);
    }
    if place.entries > limits.files as u64 {
        return Err(PackageError::TooManyFiles { found: place.entries, limit: limits.files });
    }
    if place.start.checked_add(place.bytes) != Some(place.end) {
        let text = format!(
            "it says that the list of entries is {} bytes from {}, which does not end where the record begins, at {}: there \
             is something before or inside the archive that does not belong there",
            place.bytes, place.start, place.end
        );
        return Err(end_record(text));
    }
    if place.bytes > PackageLimits::directory_bytes(place.entries) {
        return Err(end_record(format!(
            "the list of {} entries has {} bytes; at most 2048 for each are taken",
            place.entries, place.bytes
        )));
    }
    reader.seek(SeekFrom::Start(place.start)).map_err(failed)?;
    let names = names(&mut BufReader::new(reader.take(place.bytes)), &place)?;
    Ok(Directory { start: place.start, names })
}

fn place(reader: &mut (impl Read + Seek), zip_bytes: u64) -> Result<Place, PackageError> {
    let tail_bytes = zip_bytes.min((LOCATOR_BYTES + END_BYTES + COMMENT_BYTES) as u64);
    let tail_start = zip_bytes - tail_bytes;
    let mut tail = vec![0; tail_bytes as usize];
    reader.seek(SeekFrom::Start(tail_start)).and_then(|_| reader.read_exact(&mut tail)).map_err(failed)?;
    // The last signature counts: a reader that searches backwards meets it first, whatever it is part of.
    let Some(at) = tail.windows(END.len()).rposition(|bytes| bytes == END) else {
        return Err(no_end(reader, zip_bytes));
    };
    let record = &tail[at..];
    if record.len() < END_BYTES {
        return Err(end_record("it is cut short"));
    }
    let [disk, list_disk, here, entries] = [4, 6, 8, 10].map(|offset| u64::from(u16_at(record, offset)));
    let [bytes, start] = [12, 16].map(|offset| u64::from(u32_at(record, offset)));
    let comment_bytes = usize::from(u16_at(record, 20));
    if record.len() != END_BYTES + comment_bytes {
        let found = record.len() - END_BYTES;
        return Err(end_record(format!("it says that {comment_bytes} bytes follow it, and {found} do")));
    }
    let end = tail_start + at as u64;
    let before = at.checked_sub(LOCATOR_BYTES).map(|locator| &tail[locator..at]);
    let locator = before.filter(|bytes| bytes[..4] == LOCATOR);
    let (short, long) = (u64::from(u16::MAX), u64::from(u32::MAX));
    let asks_for_64 = [disk, list_disk, here, entries].contains(&short) || [bytes, start].contains(&long);
    let (disk, list_disk, here, place) = match locator {
        Some(locator) if asks_for_64 => {
            let wide = end64(reader, locator, end)?;
            let narrow = [(disk, wide.0, short), (list_disk, wide.1, short), (here, wide.2, short)];
            let same = [(entries, wide.3.entries, short), (bytes, wide.3.bytes, long), (start, wide.3.start, long)];
            if narrow.into_iter().chain(same).any(|(narrow, wide, unknown)| narrow != unknown && narrow != wide) {
                return Err(end_record("it and its ZIP64 form say different things"));
            }
            wide
        }
        // 65,535 entries need no more than this record.
        None if [disk, list_disk].contains(&short) || [bytes, start].contains(&long) => {
            return Err(end_record("it refers to a ZIP64 record, and there is none"));
        }
        None => (disk, list_disk, here, Place { entries, bytes, start, end }),
        Some(_) => return Err(end_record("there is a ZIP64 record that it does not refer to")),
    };
    if (disk, list_disk) != (0, 0) || here != place.entries {
        return Err(end_record("the archive is one part of several; send it as one file"));
    }
    Ok(place)
}

/// The ZIP64 end record that `locator`, the bytes before `end`, leads to.
fn end64(reader: &mut (impl Read + Seek), locator: &[u8], end: u64) -> Result<(u64, u64, u64, Place), PackageError> {
    let at = u64_at(locator, 8);
    let room = end - LOCATOR_BYTES as u64;
    if u32_at(locator, 4) != 0 || u32_at(locator, 16) > 1 || at.checked_add(END64_BYTES as u64).is_none_or(|e| e > room)
    {
        return Err(end_record("its ZIP64 locator leads nowhere"));
    }
    let mut record = [0; END64_BYTES];
    reader.seek(SeekFrom::Start(at)).and_then(|_| reader.read_exact(&mut record)).map_err(failed)?;
    // The record's own length leaves out its first twelve bytes.
    if record[..4] != END64 || u64_at(&record, 4).checked_add(12) != Some(room - at) {
        return Err(end_record("there is no ZIP64 record where its locator leads"));
    }
    let place = Place { entries: u64_at(&record, 32), bytes: u64_at(&record, 40), start: u64_at(&record, 48), end: at };
    Ok((u64::from(u32_at(&record, 16)), u64::from(u32_at(&record, 20)), u64_at(&record, 24), place))
}

/// The names in the list, which has to be exactly as long as the end record says.
fn names(reader: &mut impl Read, place: &Place) -> Result<Vec<Vec<u8>>, PackageError> {
    let mut names = Vec::new();
    let mut seen = BTreeSet::new();
    for number in 1..=place.entries {
        let cut = |_| PackageError::corrupt(format!("list entry {number}"), "the list of entries ends inside it");
        let mut header = [0; ENTRY_BYTES];
        reader.read_exact(&mut header).map_err(cut)?;
        if header[..4] != ENTRY {
            let text = format!("an entry begins with {:02x?} where {ENTRY:02x?} has to be", &header[..4]);
            return Err(PackageError::corrupt(format!("list entry {number}"), text));
        }
        let mut name = vec![0; usize::from(u16_at(&header, 28))];
        reader.read_exact(&mut name).map_err(cut)?;
        let more = u64::from(u16_at(&header, 30)) + u64::from(u16_at(&header, 32));
        if std::io::copy(&mut reader.take(more), &mut std::io::sink()).map_err(failed)? != more {
            return Err(PackageError::corrupt(format!("list entry {number}"), "the list of entries ends inside it"));
        }
        if !seen.insert(name.clone()) {
            let shown = String::from_utf8_lossy(&name).chars().take(200).collect();
            return Err(crate::TreeFault::Twice(shown).into());
        }
        names.push(name);
    }
    match reader.read(&mut [0]).map_err(failed)? {
        0 => Ok(names),
        _ => Err(end_record(format!("there is more in the list than the {} entries it counts", place.entries))),
    }
}

/// What an archive without an end record is.
fn no_end(reader: &mut (impl Read + Seek), zip_bytes: u64) -> PackageError {
    let mut first = [0; 4];
    let read = reader.rewind().and_then(|()| reader.read(&mut first));
    match read {
        Err(error) => failed(error),
        Ok(0) => PackageError::NotAZip { found: "it is empty".to_owned() },
        Ok(_) if first == *b"PK\x03\x04" => PackageError::corrupt(
            "its end",
            format!("no end record is in the last 64 KiB of {zip_bytes} bytes: it is cut short"),
        ),
        Ok(read) => PackageError::NotAZip {
            found: format!("{zip_bytes} bytes that begin with {:02x?} and have no end record", &first[..read]),
        },
    }
}

fn end_record(found: impl Into<String>) -> PackageError {
    PackageError::corrupt("the end record", found)
}

fn failed(source: std::io::Error) -> PackageError {
    PackageError::Read { source }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
