//! What a request counts as at the front end, which sees its tensors and not its tokens: those it reckons with are as many
//! as earlier requests of as many bytes of text, or of as many numbers, had.
//!
//! Called by the forecast. Never looks into a tensor's bytes.

use penstock_admission::{FullBatch, Queued};
use penstock_domain::{Datatype, Invocation};
use std::sync::atomic::{AtomicU64, Ordering};

/// Most rows of a request that may be split, as far as they count here.
const SPLITTABLE_ROWS_MAX: u64 = 1 << 20;
/// Bytes or numbers that are looked at, for each token that a row may have: what is longer is cut.
const UNITS_PER_TOKEN_MAX: u64 = 8;
/// Weight of the newest request in a [`TokenRate`].
const SMOOTHING: f64 = 0.02;

/// How an environment forms its batches, as far as the front end knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) workers: u32,
    /// Most items in a batch; `None` where each request is a batch of its own.
    pub(crate) batch_items_max: Option<u32>,
    /// Most rows of a request that may not be split; 0 where it has none.
    pub(crate) rows_max: u32,
    /// Tokens of one item and of a batch, at most, where its cost grows with them.
    pub(crate) tokens_max: Option<(u32, u64)>,
}

impl Shape {
    pub(crate) fn full_batch(&self) -> FullBatch {
        match self.batch_items_max {
            Some(items) => FullBatch { places: items.into(), size: self.batch_size_max() },
            None => FullBatch::ALONE,
        }
    }

    /// Size of the largest batch that runs.
    pub(crate) fn batch_size_max(&self) -> u64 {
        self.tokens_max.map_or(self.rows_max.into(), |(_, batch)| batch).max(1)
    }
}

/// What a request counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// In the mean, for what others wait for.
    pub(crate) queued: Queued,
    /// Its size is hardly less: what it is refused for by itself.
    pub(crate) size_min: u64,
    /// What its tokens are guessed from.
    told_by: Option<(Told, u64)>,
}

/// What tells of a request's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Bytes of text.
    Text,
    /// Token ids, padding among them.
    Ids,
}

/// Tokens of a unit (a byte, a number), learned.
#[derive(Debug, Default)]
struct TokenRate(AtomicU64);

impl TokenRate {
    /// 0 before any was seen.
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// Concurrent observations may lose one another: each is one of many.
    fn observe(&self, rate: f64) {
        let known = self.get();
        let rate = if known > 0.0 { known + SMOOTHING * (rate - known) } else { rate };
        self.0.store(rate.to_bits(), Ordering::Relaxed);
    }
}

/// Counts requests.
#[derive(Debug)]
pub(crate) struct Counting {
    shape: Shape,
    of_text: TokenRate,
    of_ids: TokenRate,
}

impl Counting {
    pub(crate) fn new(shape: Shape) -> Self {
        Self { shape, of_text: TokenRate::default(), of_ids: TokenRate::default() }
    }

    /// What a request counts as. Nobody has checked its tensors yet.
    pub(crate) fn demand(&self, invocation: &Invocation) -> Demand {
        let most = if invocation.splittable { SPLITTABLE_ROWS_MAX } else { self.shape.rows_max.into() };
        let rows = invocation.items(self.shape.rows_max > 0).clamp(1, most.max(1));
        let places = if self.shape.batch_items_max.is_some() { rows } else { 1 };
        let Some((longest, _)) = self.shape.tokens_max else {
            return Demand { queued: Queued { places, size: rows }, size_min: rows, told_by: None };
        };
        let tokens_max = rows.saturating_mul(longest.max(1).into());
        let units = |told| {
            let of_kind = invocation.inputs.iter().filter(|tensor| told_by(tensor.datatype) == told);
            let units = of_kind.map(|tensor| tensor.data.len() / tensor.datatype.element_bytes().unwrap_or(1)).max();
            (units.unwrap_or(0) as u64).min(tokens_max.saturating_mul(UNITS_PER_TOKEN_MAX))
        };
        let (told, units) = match units(Told::Text) {
            0 => (Told::Ids, units(Told::Ids)),
            bytes => (Told::Text, bytes),
        };
        let tokens = units as f64 * self.rate(told).get();
        let size = |tokens: f64| (tokens.round() as u64).clamp(rows, tokens_max);
        // Texts of as many bytes differ, seldom by more than that.
        let size_min = size(tokens / 2.0);
        Demand { queued: Queued { places, size: size(tokens) }, size_min, told_by: Some((told, units)) }
    }

    /// A request turned out to have so many tokens.
    pub(crate) fn observe(&self, demand: Demand, tokens: u64) {
        let Some((told, units)) = demand.told_by.filter(|(_, units)| *units > 0 && tokens > 0) else { return };
        let longest = self.shape.tokens_max.map_or(0, |(longest, _)| u64::from(longest));
        // Of what was cut, the bytes tell nothing.
        if tokens < demand.queued.places.saturating_mul(longest) {
            self.rate(told).observe(tokens as f64 / units as f64);
        }
    }

    fn rate(&self, told: Told) -> &TokenRate {
        match told {
            Told::Text => &self.of_text,
            Told::Ids => &self.of_ids,
        }
    }
}

fn told_by(datatype: Datatype) -> Told {
    if datatype == Datatype::Bytes { Told::Text } else { Told::Ids }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bytes::Bytes;
    use penstock_domain::{FunctionName, Tensor};

    pub(crate) const ITEMS: Shape = Shape { workers: 1, batch_items_max: Some(8), rows_max: 8, tokens_max: None };
    pub(crate) const TEXTS: Shape = Shape { tokens_max: Some((100, 200)), ..ITEMS };

    pub(crate) fn request(datatype: Datatype, rows: i64, bytes: usize) -> Invocation {
        let data = Bytes::from(vec![0; bytes]);
        let tensor = Tensor { name: "in".into(), datatype, shape: vec![rows, 1].into(), data };
        Invocation {
            function: FunctionName::new("f").unwrap(),
            qualifier: penstock_domain::Qualifier::Unnamed,
            id: String::new(),
            parameters: Vec::new(),
            inputs: vec![tensor],
            outputs: Vec::new(),
            deadline: None,
            priority: 0,
            caller: None,
            splittable: false,
        }
    }

    #[test]
    fn rows_count_as_far_as_a_batch_may_have_them() {
        let counted = |shape, rows, splittable| {
            let request = Invocation { splittable, ..request(Datatype::Fp32, rows, 0) };
            let Demand { queued, size_min, .. } = Counting::new(shape).demand(&request);
            assert_eq!(queued.size, size_min);
            (queued.places, queued.size)
        };
        assert_eq!([-1, 0, 5, i64::MAX].map(|rows| counted(ITEMS, rows, false)), [(1, 1), (1, 1), (5, 5), (8, 8)]);
        assert_eq!(counted(ITEMS, i64::MAX, true), (1 << 20, 1 << 20));
        let alone = Shape { batch_items_max: None, ..ITEMS };
        let bare = Shape { rows_max: 0, ..alone };
        assert_eq!((counted(alone, 5, false), counted(bare, 5, false)), ((1, 5), (1, 1)));
        assert_eq!((alone.full_batch(), alone.batch_size_max(), bare.batch_size_max()), (FullBatch::ALONE, 8, 1));
    }

    #[test]
    fn texts_count_as_many_tokens_as_others_of_as_many_bytes_had() {
        let counting = Counting::new(TEXTS);
        let sizes = |datatype, rows, bytes| {
            let Demand { queued, size_min, .. } = counting.demand(&request(datatype, rows, bytes));
            (queued.size, size_min)
        };
        assert_eq!((sizes(Datatype::Bytes, 2, 400), sizes(Datatype::Int64, 2, 400)), ((2, 2), (2, 2)), "nobody knows");
        for bytes in [100, 200, 300] {
            counting.observe(counting.demand(&request(Datatype::Bytes, 1, bytes)), bytes as u64 / 4);
        }
        // Half of them are padding.
        counting.observe(counting.demand(&request(Datatype::Int64, 1, 80)), 5);
        let texts = [40, 400, 40_000].map(|bytes| sizes(Datatype::Bytes, 2, bytes));
        assert_eq!(texts, [(10, 5), (100, 50), (200, 200)], "none is longer");
        assert_eq!(sizes(Datatype::Int64, 2, 400), (25, 13));
        // What was cut is no example.
        counting.observe(counting.demand(&request(Datatype::Bytes, 1, 1 << 20)), 100);
        assert_eq!(sizes(Datatype::Bytes, 2, 400), (100, 50));
        (0..400).for_each(|_| counting.observe(counting.demand(&request(Datatype::Bytes, 1, 100)), 50));
        assert_eq!(sizes(Datatype::Bytes, 2, 200), (100, 50), "what came lately counts");
    }
}
