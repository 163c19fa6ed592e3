//! When requests come. Pure: randomness is an argument.

use rand::Rng;
use std::time::Duration;

/// A way of arriving.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// Exponential gaps: what many independent clients add up to.
    Poisson,
    /// Silence, then many at the same moment.
    Bursts {
        /// So many at once.
        size: u32,
    },
    /// Pareto gaps of shape 1.5, whose variance has no bound: long silences and dense clusters.
    HeavyTail,
    /// Recorded gaps, in seconds, over and over, from one of them on, scaled to the wanted rate.
    Recorded(std::sync::Arc<[f64]>),
}

impl Arrivals {
    /// The first `count` moments, ascending, at `per_second` in the mean.
    pub fn draw(&self, count: usize, per_second: f64, random: &mut impl Rng) -> Vec<Duration> {
        let mean = 1.0 / per_second.max(1e-6);
        let mut at = 0.0;
        let recorded_from = random.random::<u32>() as usize;
        (0..count)
            .map(|index| {
                at += match self {
                    Arrivals::Poisson => -mean * (1.0 - random.random::<f64>()).ln(),
                    Arrivals::Bursts { size } if index % *size as usize == 0 => mean * f64::from(*size),
                    Arrivals::Bursts { .. } => 0.0,
                    // x_m·(1-u)^(-1/α) has the mean x_m·α/(α-1), so x_m is a third of the mean for α = 1.5.
                    Arrivals::HeavyTail => mean / 3.0 * (1.0 - random.random::<f64>()).powf(-1.0 / 1.5),
                    Arrivals::Recorded(gaps) => {
                        let recorded_mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
                        gaps[(recorded_from + index) % gaps.len()] / recorded_mean * mean
                    }
                };
                Duration::from_secs_f64(at)
            })
            .collect()
    }
}

/// The gaps of a recorded trace: a CSV whose first column is `YYYY-MM-DD hh:mm:ss.fraction`, of one day.
pub fn recorded(csv: &str) -> Arrivals {
    let seconds = |line: &str| {
        let clock = line.split(',').next()?.split(' ').nth(1)?;
        let mut parts = clock.splitn(3, ':').map(|part| part.parse::<f64>().ok());
        Some(parts.next()?? * 3600.0 + parts.next()?? * 60.0 + parts.next()??)
    };
    let moments: Vec<f64> = csv.lines().filter_map(seconds).collect();
    Arrivals::Recorded(moments.windows(2).map(|pair| (pair[1] - pair[0]).max(0.0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn each_way_keeps_its_rate() {
        let trace = recorded("T,a\n2023-11-16 18:17:03.5,1\n2023-11-16 18:17:04.0,1\n2023-11-16 18:17:06.0,2\n");
        assert_eq!(trace, Arrivals::Recorded([0.5, 2.0].as_slice().into()));
        for arrivals in [Arrivals::Poisson, Arrivals::Bursts { size: 20 }, Arrivals::HeavyTail, trace] {
            let moments = arrivals.draw(200_000, 100.0, &mut SmallRng::seed_from_u64(7));
            assert!(moments.is_sorted());
            let seconds = moments.last().unwrap().as_secs_f64();
            assert!((1500.0..2700.0).contains(&seconds), "{arrivals:?}: {seconds}");
        }
    }
}
