//! When requests should be sent: a pure sequence of times from a rate and a seed. Called by `drive`.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// How the gaps between requests are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Process {
    /// Equal gaps.
    Constant,
    /// Exponential gaps: what many independent clients add up to.
    Poisson,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Process::Constant { "constant" } else { "poisson" })
    }
}

/// Times in microseconds from the start of a step, without end.
pub struct Arrivals {
    process: Process,
    gap_us: f64,
    next_us: f64,
    count: u64,
    chance: SmallRng,
}

impl Arrivals {
    /// `rate` in requests a second, above 0.
    pub fn new(process: Process, rate: f64, seed: u64) -> Self {
        Self { process, gap_us: 1e6 / rate, next_us: 0.0, count: 0, chance: SmallRng::seed_from_u64(seed) }
    }
}

impl Iterator for Arrivals {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let at = self.next_us as u64;
        self.count += 1;
        self.next_us = match self.process {
            // Multiplied, not added up, so that rounding does not add up either.
            Process::Constant => self.count as f64 * self.gap_us,
            // The inverse of the exponential distribution; 1 - u is never 0.
            Process::Poisson => self.next_us - self.gap_us * (1.0 - self.chance.random::<f64>()).ln(),
        };
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrivals, Process};

    fn gaps(process: Process, seed: u64) -> (f64, f64) {
        let times: Vec<f64> = Arrivals::new(process, 100.0, seed).take(50_001).map(|us| us as f64).collect();
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        (mean, gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64)
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_variance_of_their_rate() {
        for seed in 0..5 {
            let (mean, variance) = gaps(Process::Poisson, seed);
            assert!((mean / 10_000.0 - 1.0).abs() < 0.03, "seed {seed}: mean {mean}");
            assert!((variance / 1e8 - 1.0).abs() < 0.06, "seed {seed}: variance {variance}");
        }
    }

    #[test]
    fn constant_gaps_do_not_vary_and_do_not_drift() {
        let (mean, variance) = gaps(Process::Constant, 1);
        assert!((mean - 10_000.0).abs() < 1e-6 && variance < 1.0);
        // A gap that is no whole number of microseconds must not add up to an error.
        assert_eq!(Arrivals::new(Process::Constant, 3.0, 1).nth(3_000_000), Some(1_000_000_000_000));
    }

    #[test]
    fn a_seed_repeats() {
        let take = |seed| Arrivals::new(Process::Poisson, 1000.0, seed).take(100).collect::<Vec<_>>();
        assert_eq!(take(7), take(7));
        assert_ne!(take(7), take(8));
    }
}
