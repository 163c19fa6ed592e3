//! How large a package may be.
//!
//! Given by the caller to `ingest` and read by `directory`, `archive` and `unpack`. Holds numbers and never enforces one.

/// Bounds of one package, each with its reason. All are the most that is allowed, not the first that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackageLimits {
    /// Bytes of the archive as sent: what it costs to receive and to hash. Not looked at for a manifest.
    pub zip_bytes: u64,
    /// Bytes of all files together, counted as they are written and not as they are declared: what it costs on disk.
    pub unpacked_bytes: u64,
    /// Files, and for an archive folders too: each costs a name in memory, an inode and a flush.
    pub files: usize,
    /// Bytes unpacked for each byte of the archive. Weights pack to nine tenths of their size, text to a fifth and a bomb
    /// to a thousandth, which is where deflate ends; the bound lies between. Not looked at for a manifest.
    pub ratio: u64,
    /// Unpacked bytes up to which `ratio` is not looked at: small archives of zeros are common and cheap.
    pub ratio_free_bytes: u64,
}

impl PackageLimits {
    /// What Lambda lets a ZIP unpack to, in bytes.
    pub const LAMBDA_UNPACKED_BYTES: u64 = 262_144_000;
    /// Files of a large package where nothing else is said: a model's folder has tens, and its scan looks at this many.
    pub const DEFAULT_FILES: usize = 4096;
    /// Bytes of a large package where nothing else is said: 64 GiB, the weights of a model that fills one GPU.
    pub const DEFAULT_PACKAGE_BYTES: u64 = 64 << 30;

    /// As Lambda has them: 50 MiB as a ZIP, 262,144,000 bytes unpacked. Lambda states no number of files; here it is the
    /// most that a ZIP without the ZIP64 extension can have, since code with its libraries soon has ten thousand.
    pub const fn lambda() -> Self {
        Self {
            zip_bytes: 50 << 20,
            unpacked_bytes: Self::LAMBDA_UNPACKED_BYTES,
            files: 65_535,
            ratio: u64::MAX,
            ratio_free_bytes: Self::LAMBDA_UNPACKED_BYTES,
        }
    }

    /// For models: at most `max_package_bytes`, as a ZIP and unpacked. What Lambda would take is never a bomb here.
    pub const fn large(max_package_bytes: u64) -> Self {
        Self {
            zip_bytes: max_package_bytes,
            unpacked_bytes: max_package_bytes,
            files: Self::DEFAULT_FILES,
            ratio: 100,
            ratio_free_bytes: Self::LAMBDA_UNPACKED_BYTES,
        }
    }

    /// Bytes of the central directory, which is read into memory: 2 KiB for each entry that there is, where names
    /// are at most 1 KiB and what tools add to them is below 100 bytes.
    pub(crate) fn directory_bytes(entries: u64) -> u64 {
        entries.saturating_mul(2048)
    }

    /// Bytes that an archive of `zip_bytes` may unpack to by its ratio.
    pub(crate) fn ratio_bytes(&self, zip_bytes: u64) -> u64 {
        zip_bytes.saturating_mul(self.ratio).max(self.ratio_free_bytes)
    }
}

impl Default for PackageLimits {
    fn default() -> Self {
        Self::large(Self::DEFAULT_PACKAGE_BYTES)
    }
}
