//! Instruction sets of processors.

use serde::{Deserialize, Serialize};

/// A processor's instruction set.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Architecture {
    /// x86_64.
    X86,
    /// arm64.
    Arm,
}

impl Architecture {
    /// All that there are.
    pub const ALL: [Self; 2] = [Self::X86, Self::Arm];
    /// This program's own.
    pub const OWN: Self = if cfg!(target_arch = "aarch64") { Self::Arm } else { Self::X86 };

    /// What Lambda and EC2 call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86_64",
            Self::Arm => "arm64",
        }
    }

    /// The one of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }
}

impl Default for Architecture {
    fn default() -> Self {
        Self::OWN
    }
}
