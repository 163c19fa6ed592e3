//! Where an alias leads: one version, or two of them by weight.
//!
//! Made by the control plane, asked by the dispatch room once for each request. Pure.

use penstock_domain::VersionNumber;

/// The versions behind an alias.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Route {
    /// Has what the other leaves.
    pub main: VersionNumber,
    /// Another, and its share of the requests, 0 to 1.
    pub extra: Option<(VersionNumber, f64)>,
}

impl Route {
    /// The version of one request; `random` is a uniform draw.
    pub fn pick(&self, random: u64) -> VersionNumber {
        match self.extra {
            // The 53 highest bits: as many as a double has, so that they are uniform in [0, 1).
            Some((version, share)) if ((random >> 11) as f64) < share * (1u64 << 53) as f64 => version,
            _ => self.main,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_kept_and_its_ends_are_exact() {
        let [one, two] = [VersionNumber(1), VersionNumber(2)];
        let route = |extra| Route { main: one, extra };
        assert_eq!(route(None).pick(u64::MAX), one);
        assert_eq!([0, u64::MAX].map(|random| route(Some((two, 0.0))).pick(random)), [one, one]);
        assert_eq!([0, u64::MAX].map(|random| route(Some((two, 1.0))).pick(random)), [two, two]);
        // An even walk through the numbers.
        let step = u64::MAX / 1000;
        let picked = (0..1000).filter(|i| route(Some((two, 0.1))).pick(i * step + step / 2) == two).count();
        assert_eq!(picked, 100);
    }
}
