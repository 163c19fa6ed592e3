//! How the rows of a run lie in memory: end to end for everything, side by side for attention. Called by the executor,
//! read by both engines. Pure arithmetic on indices; its buffers are used again and again.
//!
//! The projections of a run are `[tokens, 3 * hidden]`. Seen as `[tokens * 3 * heads, head_size]`, one gather takes
//! queries (or keys, or values) out as `[rows, heads, longest, head_size]`: it places rows side by side and heads
//! outermost in the same step, so attention needs no transposition. A second gather takes the results back.

use crate::folder::Pooling;

/// What is added to the score of a key that is not there. Finite, so that no row can become NaN.
const ABSENT: f32 = -1e30;

/// One run's indices. Shapes are in terms of `rows`, `longest` (tokens of the longest row), `tokens` (of all rows).
#[derive(Debug, Default)]
pub(crate) struct Layout {
    pub(crate) rows: usize,
    pub(crate) longest: usize,
    pub(crate) tokens: usize,
    /// `[tokens]`: token ids.
    pub(crate) ids: Vec<i64>,
    /// `[tokens]`: position of each token in its row.
    pub(crate) positions: Vec<i64>,
    /// `[rows, heads, longest]`: where the query of each place is; its key is `heads` further on, its value twice
    /// that. A place past a row's end points at the row's last token: its result is never read.
    pub(crate) query_index: Vec<i64>,
    /// `[tokens, heads]`: where each token's result is, in `[rows * heads * longest, head_size]`.
    pub(crate) context_index: Vec<i64>,
    /// `[rows, 1, 1, longest]`: 0 where there is a key, else [`ABSENT`].
    pub(crate) mask: Vec<f32>,
    /// `[rows, tokens]`: pooling as a matrix; times `[tokens, hidden]` gives `[rows, hidden]`.
    pub(crate) pool: Vec<f32>,
}

impl Layout {
    /// Lays out `rows`, none of them empty.
    pub(crate) fn fill(&mut self, rows: &[&[u32]], heads: usize, pooling: Pooling) {
        self.rows = rows.len();
        self.longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        self.tokens = rows.iter().map(|row| row.len()).sum();
        let (longest, tokens) = (self.longest, self.tokens);
        self.ids.clear();
        self.positions.clear();
        self.query_index.clear();
        self.context_index.clear();
        self.mask.clear();
        self.pool.clear();
        self.pool.resize(self.rows * tokens, 0.0);
        let mut start = 0;
        for (number, row) in rows.iter().enumerate() {
            self.ids.extend(row.iter().map(|&id| i64::from(id)));
            self.positions.extend(0..row.len() as i64);
            for head in 0..heads {
                let place = |token: usize| (((start + token) * 3) * heads + head) as i64;
                self.query_index.extend((0..row.len()).map(place));
                let filled = self.query_index.len() + longest - row.len();
                self.query_index.resize(filled, place(row.len() - 1));
            }
            for token in 0..row.len() {
                let place = |head: usize| ((number * heads + head) * longest + token) as i64;
                self.context_index.extend((0..heads).map(place));
            }
            let filled = self.mask.len() + row.len();
            self.mask.resize(filled, 0.0);
            self.mask.resize(filled + longest - row.len(), ABSENT);
            let weights = &mut self.pool[number * tokens + start..][..row.len()];
            match pooling {
                Pooling::Mean => weights.fill(1.0 / row.len() as f32),
                Pooling::Cls => weights[0] = 1.0,
            }
            start += row.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_gathered_to_its_place_and_back() {
        let (heads, rows): (usize, [&[u32]; 2]) = (2, [&[7, 8, 9], &[5]]);
        let mut layout = Layout::default();
        layout.fill(&[&[1; 9]], heads, Pooling::Mean); // leaves nothing behind
        layout.fill(&rows, heads, Pooling::Mean);
        assert_eq!((layout.rows, layout.longest, layout.tokens), (2, 3, 4));
        assert_eq!(layout.ids, [7, 8, 9, 5]);
        assert_eq!(layout.positions, [0, 1, 2, 0]);
        assert_eq!(layout.query_index, [0, 6, 12, 1, 7, 13, 18, 18, 18, 19, 19, 19]);
        assert_eq!(layout.context_index, [0, 3, 1, 4, 2, 5, 6, 9]);
        assert_eq!(layout.mask, [0.0, 0.0, 0.0, 0.0, ABSENT, ABSENT]);
        let third = 1.0 / 3.0;
        assert_eq!(layout.pool, [third, third, third, 0.0, 0.0, 0.0, 0.0, 1.0]);
        layout.fill(&rows, heads, Pooling::Cls);
        assert_eq!(layout.pool, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    }
}
