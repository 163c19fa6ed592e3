//! Machines and what is put on them: shapes, needs, and which types a capacity provider may buy. Pure facts.

use penstock_domain::Architecture;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What one environment takes of an instance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Needs {
    /// Virtual cores.
    pub vcpu: u32,
    /// Host memory, in MiB.
    pub memory_mib: u64,
    /// Memory of one device, in MiB; 0 for none. An environment is on one device, which it may share.
    pub device_memory_mib: u64,
    /// What its code is built for.
    pub architecture: Architecture,
}

/// What an instance has.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shape {
    /// Virtual cores.
    pub vcpu: u32,
    /// Host memory, in MiB.
    pub memory_mib: u64,
    /// Devices.
    pub devices: u32,
    /// Memory of each, in MiB.
    pub device_memory_mib: u64,
    /// Its processor.
    pub architecture: Architecture,
}

impl Shape {
    /// How many environments that need this fit on an empty instance, beside its agent.
    pub fn holds(&self, needs: &Needs) -> u32 {
        Room::of(self).fits(needs, u32::MAX)
    }

    /// Whether so many of each fit on an empty instance together, beside its agent.
    pub fn holds_all<'a>(&self, all: impl IntoIterator<Item = (&'a Needs, u32)>) -> bool {
        let mut room = Room::of(self);
        all.into_iter().all(|(needs, count)| (0..count).all(|_| room.take(needs)))
    }
}

/// A type of instance that can be bought.
#[derive(Clone, PartialEq, Debug)]
pub struct InstanceType {
    /// Its name, such as `g6.xlarge`.
    pub name: String,
    /// What it has.
    pub shape: Shape,
    /// What an hour costs, in US dollars.
    pub usd_per_hour: f64,
    /// Zones where it is offered.
    pub zones: Vec<String>,
}

/// What is left of an instance for environments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Room {
    vcpu: u32,
    memory_mib: u64,
    /// Free memory of each device, in MiB.
    devices: Vec<u64>,
    architecture: Architecture,
}

/// Kept for the agent on each instance, as Lambda's Managed Instances do: one core and one GiB.
const AGENT_VCPU: u32 = 1;
const AGENT_MEMORY_MIB: u64 = 1024;

impl Shape {
    /// What is left for environments: cores, and host memory in MiB.
    pub fn for_environments(&self) -> (u32, u64) {
        (self.vcpu.saturating_sub(AGENT_VCPU), self.memory_mib.saturating_sub(AGENT_MEMORY_MIB))
    }
}

impl Room {
    /// Of an instance without environments.
    pub(crate) fn of(shape: &Shape) -> Self {
        let (vcpu, memory_mib) = shape.for_environments();
        Self {
            vcpu,
            memory_mib,
            devices: vec![shape.device_memory_mib; shape.devices as usize],
            architecture: shape.architecture,
        }
    }

    /// The same where so much is left of each device, in MiB.
    pub(crate) fn with_devices(shape: &Shape, left: &[u64]) -> Self {
        Self { devices: left.to_vec(), ..Self::of(shape) }
    }

    /// Takes room for one environment, on the fullest device that has it; `false` if it does not fit.
    pub(crate) fn take(&mut self, needs: &Needs) -> bool {
        if needs.device_memory_mib == 0 {
            return self.take_host(needs);
        }
        let Some(device) = fullest_device(&self.devices, needs.device_memory_mib) else { return false };
        let taken = self.take_host(needs);
        if taken {
            self.devices[device] -= needs.device_memory_mib;
        }
        taken
    }

    /// The same beside its device, which it has already.
    pub(crate) fn take_host(&mut self, needs: &Needs) -> bool {
        if needs.architecture != self.architecture || needs.vcpu > self.vcpu || needs.memory_mib > self.memory_mib {
            return false;
        }
        self.vcpu -= needs.vcpu;
        self.memory_mib -= needs.memory_mib;
        true
    }

    /// How many of these fit, at most `most`. Takes nothing.
    pub(crate) fn fits(&self, needs: &Needs, most: u32) -> u32 {
        if needs.architecture != self.architecture {
            return 0;
        }
        let share = |has: u64, wants: u64| has.checked_div(wants).unwrap_or(u64::from(most));
        let host = share(self.vcpu.into(), needs.vcpu.into()).min(share(self.memory_mib, needs.memory_mib));
        let device = match needs.device_memory_mib {
            0 => host,
            wants => self.devices.iter().map(|free| free / wants).sum(),
        };
        host.min(device).min(u64::from(most)) as u32
    }

    /// Cores that are free.
    pub(crate) fn vcpu(&self) -> u32 {
        self.vcpu
    }
}

/// The device on which an environment goes that needs so much memory: of those that have it left, the one that has the least, so
/// that a large one still fits elsewhere.
pub fn fullest_device(left: &[u64], device_memory_mib: u64) -> Option<usize> {
    let fitting = left.iter().enumerate().filter(|(_, left)| **left >= device_memory_mib);
    fitting.min_by_key(|(_, left)| **left).map(|(index, _)| index)
}

/// A name of instance types with `*` for any part of it, as capacity providers write them: `g6.*`, `*.xlarge`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TypePattern(String);

impl TypePattern {
    /// Reads one; it has been checked to be of letters, digits, `.`, `-` and `*`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether a name is meant.
    pub fn is(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        true
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_look_like() {
        for (pattern, name, is) in [
            ("g6.xlarge", "g6.xlarge", true),
            ("g6.xlarge", "g6.xlarge2", false),
            ("g6.*", "g6.2xlarge", true),
            ("g6.*", "g6e.2xlarge", false),
            ("*.xlarge", "c7g.xlarge", true),
            ("*.xlarge", "c7g.2xlarge", false),
            ("g*.*xlarge", "g5.12xlarge", true),
            ("g*.*xlarge", "p5.48xlarge", false),
            ("*", "anything", true),
            ("a*a", "a", false),
            ("a*b*a", "aba", true),
        ] {
            assert_eq!(TypePattern::new(pattern).is(name), is, "{pattern} {name}");
        }
    }

    #[test]
    fn an_environment_is_on_one_device_and_leaves_room_for_others() {
        let shape = Shape {
            vcpu: 9,
            memory_mib: 33 * 1024,
            devices: 2,
            device_memory_mib: 24_000,
            architecture: Architecture::X86,
        };
        let needs =
            |device_memory_mib| Needs { vcpu: 1, memory_mib: 2048, device_memory_mib, architecture: Architecture::X86 };
        let mut room = Room::of(&shape);
        assert_eq!(room.fits(&needs(0), 100), 8);
        assert_eq!(room.fits(&needs(10_000), 100), 4, "two on each");
        assert!(room.take(&needs(16_000)) && room.take(&needs(8_000)), "the second beside the first");
        assert!(room.take(&needs(24_000)), "so that a large one still fits");
        assert!(!room.take(&needs(1)));
        assert!(!room.take(&Needs { architecture: Architecture::Arm, ..needs(0) }));
        assert_eq!([0, 10_000, 24_001].map(|device_memory_mib| shape.holds(&needs(device_memory_mib))), [8, 4, 0]);
        assert!(shape.holds_all([(&needs(24_000), 2), (&needs(0), 6)]));
        assert!(!shape.holds_all([(&needs(24_000), 2), (&needs(1), 1)]) && !shape.holds_all([(&needs(0), 9)]));
    }
}
