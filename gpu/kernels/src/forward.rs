//! The encoder's forward pass on a device: one [`Encoder`] a runtime worker, sharing [`Weights`].
//!
//! Called by the encoder's engine. A run is one copy in (all its integers, side by side), some fifty kernels and products, one
//! copy out; buffers are allocated when the worker starts, so a run allocates nothing on the device. Small runs are
//! bound by the launches, not by the device's work: runs of a shape seen before are given as one captured graph, for which a
//! run is filled up to a [`Shape`] with tokens that nobody reads.

#![allow(unsafe_code)]

use crate::launch::{DeviceNorm, Kernels};
use crate::tiles;
use crate::weights::{Architecture, EncoderWeights, Linear, NormWeights};
use half::f16;
use penstock_device::{Buffer, DeviceError, Gpu, Graph, Lane, Mark, Pinned};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Tokens up to which a run is worth a graph.
const GRAPH_TOKENS_MAX: usize = 2048;
/// Graphs of one worker, at most: each holds its launches' arguments on the device.
const GRAPHS_MAX: usize = 128;

struct DeviceLinear {
    weight: Buffer<f16>,
    bias: Buffer<f32>,
}

impl DeviceLinear {
    fn shape(&self) -> [usize; 2] {
        [self.bias.len(), self.weight.len() / self.bias.len()]
    }
}

struct DeviceLayer {
    projections: DeviceLinear,
    attention_output: DeviceLinear,
    attention_norm: DeviceNorm,
    intermediate: DeviceLinear,
    output: DeviceLinear,
    output_norm: DeviceNorm,
}

/// Everything that workers share. Never written once it is there.
pub struct Weights {
    gpu: Gpu,
    kernels: Kernels,
    architecture: Architecture,
    words: Buffer<f16>,
    places: Buffer<f16>,
    norm: DeviceNorm,
    layers: Vec<DeviceLayer>,
}

impl Weights {
    /// Loads the kernels, and puts an encoder's weights on the device.
    pub fn new(gpu: &Gpu, weights: &EncoderWeights) -> Result<Weights, DeviceError> {
        let EncoderWeights { architecture, words, places, norm, layers } = weights;
        let norm_of = |norm: &NormWeights| -> Result<DeviceNorm, DeviceError> {
            let NormWeights { weight, bias } = norm;
            Ok(DeviceNorm { weight: gpu.upload(weight)?, bias: gpu.upload(bias)?, eps: architecture.eps })
        };
        let linear_of = |linear: &Linear| -> Result<DeviceLinear, DeviceError> {
            Ok(DeviceLinear { weight: gpu.upload(&linear.weight)?, bias: gpu.upload(&linear.bias)? })
        };
        let mut placed = Vec::with_capacity(layers.len());
        for layer in layers {
            placed.push(DeviceLayer {
                projections: linear_of(&layer.projections)?,
                attention_output: linear_of(&layer.attention_output)?,
                attention_norm: norm_of(&layer.attention_norm)?,
                intermediate: linear_of(&layer.intermediate)?,
                output: linear_of(&layer.output)?,
                output_norm: norm_of(&layer.output_norm)?,
            });
        }
        Ok(Weights {
            gpu: gpu.clone(),
            kernels: Kernels::load(gpu)?,
            architecture: *architecture,
            words: gpu.upload(words)?,
            places: gpu.upload(places)?,
            norm: norm_of(norm)?,
            layers: placed,
        })
    }

    /// Bytes of the tables and matrices on the device; biases and normalisations are small beside them.
    pub fn device_bytes(&self) -> usize {
        let of_layer = |layer: &DeviceLayer| {
            let DeviceLayer { projections, attention_output, intermediate, output, .. } = layer;
            [projections, attention_output, intermediate, output]
                .map(|linear| linear.weight.len())
                .iter()
                .sum::<usize>()
        };
        (self.words.len() + self.places.len() + self.layers.iter().map(of_layer).sum::<usize>()) * 2
    }

    fn intermediate(&self) -> usize {
        self.layers.iter().map(|layer| layer.intermediate.bias.len()).max().unwrap_or(0)
    }
}

/// How large a run is, as launches see it; where its integers lie follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    tokens: usize,
    tiles: usize,
    rows: usize,
}

impl Shape {
    /// Filled up so that there are few: to 16 tokens, or an eighth of the power of two below.
    fn rounded(self) -> Shape {
        let step = (self.tokens.next_power_of_two() / 16).max(16);
        let tiles = self.tiles.next_power_of_two();
        Shape { tokens: self.tokens.next_multiple_of(step), tiles, rows: self.rows.next_power_of_two() }
    }

    /// Where the ids, the positions and the rows' starts begin, and where all ends: tiles come first, because they are read 16
    /// bytes at a time.
    fn places(self) -> [usize; 4] {
        let ids = self.tiles * 4;
        let positions = ids + self.tokens;
        let starts = positions + self.tokens;
        [ids, positions, starts, starts + self.rows + 1]
    }
}

/// What is known of a shape.
enum Known {
    /// It runs, or has run, once: what the libraries load at a first time is there after that, which a capture must not do.
    Seen,
    Captured(Graph),
    /// There was no memory for it, or something came between.
    NotCaptured,
}

/// What a run writes on the device.
struct Working {
    input: Buffer<u32>,
    state: Buffer<f16>,
    projected: Buffer<f16>,
    context: Buffer<f16>,
    product: Buffer<f16>,
    wide: Buffer<f16>,
    pooled: Buffer<f32>,
}

/// When the phases of a run began and ended on the device.
struct Marks {
    begun: Mark,
    copied_in: Mark,
    computed: Mark,
    copied_out: Mark,
}

/// One worker's: used and dropped on its thread.
pub struct Encoder {
    /// Before the buffers and the lane: a graph holds their addresses.
    graphs: HashMap<Shape, Known>,
    uses_graphs: bool,
    marks: Option<Marks>,
    working: Working,
    integers: Pinned<u32>,
    embeddings: Pinned<f32>,
    lane: Lane,
    weights: Arc<Weights>,
    tokens_max: usize,
    rows_max: usize,
    shape: Shape,
    rows: usize,
}

impl Encoder {
    /// For runs of up to so many tokens and rows.
    pub fn new(weights: Arc<Weights>, tokens_max: usize, rows_max: usize) -> Result<Encoder, DeviceError> {
        let lane = weights.gpu.lane()?;
        let hidden = weights.architecture.hidden;
        // Room for what graphs are filled up with.
        let tokens = tokens_max.next_multiple_of(16).max(GRAPH_TOKENS_MAX);
        let rows = rows_max.next_power_of_two();
        let largest = Shape { tokens, tiles: (tokens / 64 + 1 + rows).next_power_of_two(), rows };
        let integers = largest.places()[3];
        let working = Working {
            input: lane.buffer(integers)?,
            state: lane.buffer(tokens * hidden)?,
            projected: lane.buffer(tokens * hidden * 3)?,
            context: lane.buffer(tokens * hidden)?,
            product: lane.buffer(tokens * hidden)?,
            wide: lane.buffer(tokens * weights.intermediate())?,
            pooled: lane.buffer(rows * hidden)?,
        };
        Ok(Encoder {
            graphs: HashMap::new(),
            uses_graphs: true,
            marks: None,
            integers: lane.pinned(integers)?,
            embeddings: lane.pinned(rows * hidden)?,
            working,
            lane,
            weights,
            tokens_max,
            rows_max,
            shape: Shape { tokens: 0, tiles: 0, rows: 0 },
            rows: 0,
        })
    }

    /// Each kernel by itself from now on: to measure what graphs give.
    pub fn without_graphs(&mut self) {
        self.uses_graphs = false;
    }

    /// Waits spinning for so long from now on, before it sleeps: to measure what that gives.
    pub fn spin_for(&mut self, spinning: Duration) {
        self.integers.spin_for(spinning);
        self.embeddings.spin_for(spinning);
    }

    /// Notes from now on when the phases of a run are: to measure what runs beside what.
    pub fn note_phases(&mut self) -> Result<(), DeviceError> {
        let mark = || self.lane.mark();
        self.marks = Some(Marks { begun: mark()?, copied_in: mark()?, computed: mark()?, copied_out: mark()? });
        Ok(())
    }

    /// When the last run's copy in began and ended, its work ended, and its copy out ended, in milliseconds since
    /// `base`; if that is noted, and something ran.
    pub fn phases(&self, base: &Mark) -> Result<Option<[f64; 4]>, DeviceError> {
        let Some(Marks { begun, copied_in, computed, copied_out }) = &self.marks else { return Ok(None) };
        let since = |mark: &Mark| mark.ms_since(base);
        Ok(Some([since(begun)?, since(copied_in)?, since(computed)?, since(copied_out)?]))
    }

    fn set(&self, mark: impl Fn(&Marks) -> &Mark) -> Result<(), DeviceError> {
        self.marks.as_ref().map_or(Ok(()), |marks| self.lane.set(mark(marks)))
    }

    /// Bytes on the device, weights aside.
    pub fn device_bytes(&self) -> usize {
        let Working { input, state, projected, context, product, wide, pooled } = &self.working;
        let halves = [state, projected, context, product, wide].map(|buffer| buffer.len() * 2);
        halves.iter().sum::<usize>() + (input.len() + pooled.len()) * 4 + self.lane.device_bytes()
    }

    /// Lays out the rows of a run, none of them empty: at most as many as were named, every id and position in its table.
    ///
    /// # Panics
    ///
    /// Otherwise.
    pub fn gather(&mut self, rows: &[&[u32]]) -> Result<(), DeviceError> {
        let Weights { architecture, words, places, .. } = &*self.weights;
        let hidden = architecture.hidden;
        let (vocabulary, longest) = ((words.len() / hidden) as u32, places.len() / hidden);
        let tokens: usize = rows.iter().map(|row| row.len()).sum();
        assert!(tokens <= self.tokens_max && rows.len() <= self.rows_max, "a run of {tokens} tokens");
        assert!(rows.iter().all(|row| !row.is_empty() && row.len() <= longest), "a row's length");
        assert!(rows.iter().all(|row| row.iter().all(|&id| id < vocabulary)), "an id that is not in the table");
        let tiles = || tiles(rows.iter().map(|row| row.len()));
        let exact = Shape { tokens, tiles: tiles().count(), rows: rows.len() };
        self.shape = if self.uses_graphs && tokens <= GRAPH_TOKENS_MAX { exact.rounded() } else { exact };
        self.rows = rows.len();
        let [ids, positions, starts, end] = self.shape.places();
        let values = &mut self.integers.values_mut()?[..end];
        let (of_tiles, others) = values.split_at_mut(ids);
        of_tiles[exact.tiles * 4..].fill(0);
        of_tiles.as_chunks_mut().0.iter_mut().zip(tiles()).for_each(|(place, tile)| *place = tile);
        let (of_ids, others) = others.split_at_mut(positions - ids);
        let (of_positions, of_starts) = others.split_at_mut(starts - positions);
        let mut start = 0;
        for (row, at) in rows.iter().zip(&mut *of_starts) {
            of_ids[start..start + row.len()].copy_from_slice(row);
            of_positions[start..start + row.len()].iter_mut().zip(0..).for_each(|(place, position)| *place = position);
            *at = start as u32;
            start += row.len();
        }
        of_ids[start..].fill(0);
        of_positions[start..].fill(0);
        of_starts[rows.len()..].fill(start as u32);
        Ok(())
    }

    /// Embeds the rows that were gathered: `[rows, hidden]`.
    pub fn run(&mut self) -> Result<&[f32], DeviceError> {
        let (shape, hidden) = (self.shape, self.weights.architecture.hidden);
        self.set(|marks| &marks.begun)?;
        self.lane.copy_in(&self.integers, &mut self.working.input, shape.places()[3])?;
        self.set(|marks| &marks.copied_in)?;
        let worth = self.uses_graphs && shape.tokens <= GRAPH_TOKENS_MAX;
        if let Some(Known::Seen) = self.graphs.get(&shape) {
            let captured = self.lane.capture(|| forward(&self.weights, &mut self.working, &self.lane, shape));
            // Whatever kept it from being captured, each by itself may run; what is broken for good says so again there.
            self.graphs.insert(shape, captured.map_or(Known::NotCaptured, Known::Captured));
        } else if worth && !self.graphs.contains_key(&shape) {
            if self.graphs.len() >= GRAPHS_MAX {
                // What has come once only makes room.
                self.graphs.retain(|_, known| !matches!(known, Known::Seen));
            }
            if self.graphs.len() < GRAPHS_MAX {
                self.graphs.insert(shape, Known::Seen);
            }
        }
        match self.graphs.get(&shape) {
            // SAFETY: the buffers and the weights in it are this encoder's, and dropped after it.
            Some(Known::Captured(graph)) => unsafe { self.lane.replay(graph)? },
            _ => forward(&self.weights, &mut self.working, &self.lane, shape)?,
        }
        self.set(|marks| &marks.computed)?;
        self.lane.copy_out(&self.working.pooled, &mut self.embeddings, self.rows * hidden)?;
        self.set(|marks| &marks.copied_out)?;
        Ok(&self.embeddings.values()?[..self.rows * hidden])
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // Nothing of it runs when its buffers go. If the device is lost there is nobody to tell.
        let _ = self.lane.wait();
    }
}

fn forward(weights: &Weights, working: &mut Working, lane: &Lane, shape: Shape) -> Result<(), DeviceError> {
    let Weights { kernels, architecture, words, places, norm, layers, .. } = weights;
    let Working { input, state, projected, context, product, wide, pooled } = working;
    let Shape { tokens, .. } = shape;
    let [ids, positions, starts, end] = shape.places();
    let linear = |layer: &DeviceLinear, from: &Buffer<f16>, to: &mut Buffer<f16>| {
        let [outputs, inputs] = layer.shape();
        lane.linear(from, &layer.weight, to, [tokens, outputs, inputs])
    };
    let tiles = input.slice(..ids);
    kernels.embed(lane, &input.slice(ids..positions), &input.slice(positions..starts), words, places, norm, state)?;
    for layer in layers {
        linear(&layer.projections, state, projected)?;
        kernels.attend(lane, tokens, projected, &layer.projections.bias, &tiles, architecture.heads, context)?;
        linear(&layer.attention_output, context, product)?;
        kernels.add_norm(lane, tokens, product, &layer.attention_output.bias, &layer.attention_norm, state)?;
        linear(&layer.intermediate, state, wide)?;
        kernels.activate(lane, tokens, wide, &layer.intermediate.bias, architecture.activation)?;
        linear(&layer.output, wide, product)?;
        kernels.add_norm(lane, tokens, product, &layer.output.bias, &layer.output_norm, state)?;
    }
    kernels.pool(
        lane,
        architecture.hidden,
        state,
        &input.slice(starts..end),
        architecture.mean,
        architecture.unit,
        pooled,
    )
}
