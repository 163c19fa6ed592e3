//! Archives cut short and changed at random: an error or the same package, and never anything left.

use super::raw_zip::end;
use super::{House, MODEL, zip_by, zip_of};
use crate::Package;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use zip::CompressionMethod;

const SMALL: &[(&str, &[u8])] = &[("a/b.txt", b"some text, some text, some text"), ("a/", b""), ("c", b"")];

/// What a package holds; a changed bit may say that a file can be run.
fn contents(package: &Package) -> Vec<(String, String)> {
    package.manifest.files().iter().map(|file| (file.path.clone(), file.sha256.to_string())).collect()
}

/// Ingests damaged archives of one package.
struct Damage {
    house: House,
    right: Package,
    listing: BTreeSet<PathBuf>,
}

impl Damage {
    fn new(zip: &[u8]) -> Self {
        let house = House::new();
        let right = house.ingest(zip).unwrap();
        let listing = house.listing();
        Self { house, right, listing }
    }

    /// The same package comes of it, or it is refused and leaves nothing; says which.
    fn is_refused(&mut self, zip: &[u8]) -> bool {
        let result = self.house.ingest(zip);
        let listing = self.house.listing();
        match result {
            Ok(package) => {
                assert_eq!(contents(&package), contents(&self.right));
                self.listing = listing;
                false
            }
            Err(_) => {
                assert_eq!(listing, self.listing);
                true
            }
        }
    }
}

#[test]
fn cut_at_every_byte() {
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let house = House::new();
        let zip = zip_by(method, SMALL);
        let empty = house.listing();
        for length in 0..zip.len() {
            assert!(house.ingest(&zip[..length]).is_err(), "{length} of {} bytes", zip.len());
        }
        for first in 1..zip.len() {
            assert!(house.ingest(&zip[first..]).is_err(), "from byte {first}");
        }
        assert_eq!(house.listing(), empty);
        assert!(house.ingest(&zip).is_ok());
    }
}

#[test]
fn every_byte_changed_once() {
    let zip = zip_of(SMALL);
    let mut damage = Damage::new(&zip);
    let mut refused = 0;
    for place in 0..zip.len() {
        for bit in [0, 2, 7] {
            let mut changed = zip.clone();
            changed[place] ^= 1 << bit;
            refused += usize::from(damage.is_refused(&changed));
        }
    }
    // The rest are bits that nobody reads: versions, attributes, lengths of nothing.
    assert!(refused > 3 * zip.len() * 3 / 5, "{refused} of {}", 3 * zip.len());
}

/// One store for all cases of a property.
fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() })
}

/// Bytes changed, cut out and put in.
#[test]
fn changed_at_random() {
    let whole = zip_of(MODEL);
    let damage = RefCell::new(Damage::new(&whole));
    let edits = prop::collection::vec((0..3u8, any::<prop::sample::Index>(), any::<u8>()), 1..6);
    let outcome = runner(800).run(&edits, |edits| {
        let mut zip = whole.clone();
        for (what, place, byte) in edits {
            let place = place.index(zip.len());
            match what {
                0 => zip[place] = byte,
                1 => zip.insert(place, byte),
                _ => {
                    zip.remove(place);
                }
            }
        }
        damage.borrow_mut().is_refused(&zip);
        Ok(())
    });
    outcome.unwrap();
}

/// Bytes of any kind, with an end record so that they are looked into.
#[test]
fn any_bytes() {
    let house = House::new();
    let before = house.listing();
    let bytes = (prop::collection::vec(any::<u8>(), 0..200), 0..4u16, 0..200u32);
    let outcome = runner(3000).run(&bytes, |(mut bytes, entries, list)| {
        let list = list.min(bytes.len() as u32);
        if bytes.len() > list as usize + 4 {
            bytes[list as usize..][..4].copy_from_slice(b"PK\x01\x02");
        }
        let end = end(entries, bytes.len() as u32 - list, list, b"");
        bytes.extend(end);
        prop_assert!(house.ingest(&bytes).is_err());
        Ok(())
    });
    outcome.unwrap();
    assert_eq!(house.listing(), before);
}
