//! A number that changes over time: what it is, the most that it was, and its integral, exactly.
//!
//! Kept by the books, one for each thing that is counted.

/// A number over time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Level {
    value: u64,
    since_ns: u64,
    /// Integral until then, in units × nanoseconds.
    sum: u128,
    most: u64,
    /// The most since the last mark.
    recent: u64,
}

impl Level {
    pub(crate) fn value(&self) -> u64 {
        self.value
    }

    /// The most that it ever was.
    pub(crate) fn most(&self) -> u64 {
        self.most
    }

    /// It is more from `now_ns` on.
    pub(crate) fn add(&mut self, now_ns: u64, more: u64) {
        self.sum = self.until(now_ns);
        (self.value, self.since_ns) = (self.value + more, now_ns);
        self.most = self.most.max(self.value);
        self.recent = self.recent.max(self.value);
    }

    /// It is less from `now_ns` on; never less than nothing.
    pub(crate) fn take(&mut self, now_ns: u64, less: u64) {
        debug_assert!(less <= self.value, "{less} of {}", self.value);
        self.sum = self.until(now_ns);
        (self.value, self.since_ns) = (self.value.saturating_sub(less), now_ns);
    }

    /// Its integral until `now_ns`, in units × nanoseconds.
    pub(crate) fn until(&self, now_ns: u64) -> u128 {
        self.sum + u128::from(self.value) * u128::from(now_ns.saturating_sub(self.since_ns))
    }

    /// The most since this was last asked.
    pub(crate) fn mark(&mut self) -> u64 {
        std::mem::replace(&mut self.recent, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_integral_is_exact() {
        let mut level = Level::default();
        level.add(10, 3);
        level.add(20, 2);
        level.take(30, 4);
        assert_eq!((level.value(), level.most(), level.until(100)), (1, 5, 30 + 50 + 70));
        assert_eq!((level.mark(), level.mark()), (5, 1));
    }
}
