//! Which rows of a batch run together. Called by the executor. Pure.
//!
//! Linear layers see no padding, so rows of any lengths may share a run as far as they are concerned, and gain from it
//! until the matrix unit is full. Attention sees its run's rows side by side, padded to the longest: its cost, and its
//! memory, grow with `rows * longest^2`. So rows run in order of length, and a run ends when it is full, or when it is
//! worth running alone and the next row is less than half as long as its first.

/// Splits rows of `lengths` tokens into runs, each a list of row numbers, longest first. `full` is the number of tokens
/// from which a larger run is no faster per token; `worth` the number from which a run may stand alone.
pub(crate) fn runs(lengths: &[usize], full: usize, worth: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
    let mut runs: Vec<Vec<usize>> = Vec::new();
    let (mut tokens, mut longest) = (0, 0);
    for row in order {
        let ends = tokens >= full || (tokens >= worth && lengths[row] * 2 < longest);
        match runs.last_mut() {
            Some(run) if !ends => run.push(row),
            _ => {
                runs.push(vec![row]);
                (tokens, longest) = (0, lengths[row]);
            }
        }
        tokens += lengths[row];
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn every_row_runs_once_and_like_runs_with_like() {
        assert_eq!(runs(&[], 256, 128), Vec::<Vec<usize>>::new());
        assert_eq!(runs(&[7], 256, 128), [[0]]);
        assert_eq!(runs(&[8, 256, 8, 8], 256, 128), [vec![1], vec![0, 2, 3]]);
        assert_eq!(runs(&[8, 60, 8], 256, 128), [[1, 0, 2]], "too little to be worth a run of its own");
        assert_eq!(runs(&[16; 40], 256, 128).iter().map(Vec::len).collect::<Vec<_>>(), [16, 16, 8]);
    }

    #[test]
    fn attention_never_costs_much_more_than_it_must() {
        // Every mix of two lengths in every proportion: the padded square is bounded by the square each row needs.
        for long in [16, 64, 128, 256, 512] {
            for short in [2, 8, 64] {
                for count in 0..32 {
                    let lengths: Vec<usize> = std::iter::repeat_n(short, count).chain([long]).collect();
                    for run in runs(&lengths, 256, 128) {
                        let longest = lengths[run[0]];
                        let padded = run.len() * longest * longest;
                        assert!(padded <= 200_000 || run.iter().all(|&row| lengths[row] * 2 >= longest));
                    }
                }
            }
        }
    }
}
