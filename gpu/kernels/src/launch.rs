//! The kernels' launches: each checks what its kernel relies on.

#![allow(unsafe_code)]

use crate::{Activation, HIDDEN_MAX, WIDTHS};
use half::f16;
use penstock_device::{Buffer, DeviceError, Function, Gpu, Lane, PushKernelArg, View};

/// Compiled from `encoder.cu`, for the generations that the build names, and as PTX for later ones.
const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/encoder.fatbin"));
/// As in `encoder.cu`.
const THREADS: u32 = 128;
const WARPS: u32 = 4;

/// The kernels, loaded. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Kernels {
    embed: Function,
    add_norm: Function,
    activate: Function,
    attend: [Function; 2],
    pool: Function,
}

/// Weight and bias of a layer normalisation on the device, `[hidden]` each.
pub(crate) struct DeviceNorm {
    /// Factors.
    pub(crate) weight: Buffer<f32>,
    /// Terms.
    pub(crate) bias: Buffer<f32>,
    /// Added to the variance.
    pub(crate) eps: f32,
}

impl DeviceNorm {
    /// Checked: as long as each other, and as the kernels can take it.
    fn hidden(&self) -> u32 {
        let hidden = self.weight.len();
        assert!(hidden == self.bias.len() && hidden <= HIDDEN_MAX && hidden.is_multiple_of(2), "hidden: {hidden}");
        hidden as u32
    }
}

impl Kernels {
    /// Loads them.
    pub(crate) fn load(gpu: &Gpu) -> Result<Kernels, DeviceError> {
        let module = gpu.load(IMAGE)?;
        let function = |name: &str| module.function(name);
        Ok(Kernels {
            embed: function("embed")?,
            add_norm: function("add_norm")?,
            activate: function("activate")?,
            attend: [function("attend_32")?, function("attend_64")?],
            pool: function("pool")?,
        })
    }

    /// [`crate::reference::embed`]. An id or a position that has no line in its table would be read outside of it: the caller
    /// has checked each.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn embed(
        &self,
        lane: &Lane,
        ids: &View<u32>,
        positions: &View<u32>,
        words: &Buffer<f16>,
        places: &Buffer<f16>,
        norm: &DeviceNorm,
        out: &mut Buffer<f16>,
    ) -> Result<(), DeviceError> {
        let (tokens, hidden) = (ids.len() as u32, norm.hidden());
        assert!(positions.len() == ids.len() && ids.len() * hidden as usize <= out.len(), "embed: {tokens} tokens");
        let mut arguments = lane.arguments(&self.embed);
        arguments.arg(ids).arg(positions).arg(words).arg(places).arg(&norm.weight).arg(&norm.bias).arg(out);
        arguments.arg(&tokens).arg(&hidden).arg(&norm.eps);
        // SAFETY: in order of the parameters; a warp a token, each inside `out` as checked; ids as the caller promises.
        unsafe { Lane::launch(arguments, [tokens.div_ceil(WARPS), 1], THREADS) }
    }

    /// [`crate::reference::add_norm`], for the first `tokens`; `state` becomes the result.
    pub(crate) fn add_norm(
        &self,
        lane: &Lane,
        tokens: usize,
        product: &Buffer<f16>,
        product_bias: &Buffer<f32>,
        norm: &DeviceNorm,
        state: &mut Buffer<f16>,
    ) -> Result<(), DeviceError> {
        let hidden = norm.hidden();
        let values = tokens * hidden as usize;
        assert!(values <= product.len() && values <= state.len(), "add_norm: {tokens} tokens");
        assert!(product_bias.len() == hidden as usize, "add_norm: a bias of {}", product_bias.len());
        let tokens = tokens as u32;
        let mut arguments = lane.arguments(&self.add_norm);
        arguments.arg(product).arg(product_bias).arg(&norm.weight).arg(&norm.bias).arg(state);
        arguments.arg(&tokens).arg(&hidden).arg(&norm.eps);
        // SAFETY: in order of the parameters; a warp a token, each inside both as checked.
        unsafe { Lane::launch(arguments, [tokens.div_ceil(WARPS), 1], THREADS) }
    }

    /// [`crate::reference::activate`], in place, for the first `tokens` lines of the bias's length.
    pub(crate) fn activate(
        &self,
        lane: &Lane,
        tokens: usize,
        values: &mut Buffer<f16>,
        bias: &Buffer<f32>,
        activation: Activation,
    ) -> Result<(), DeviceError> {
        let width = bias.len();
        assert!(tokens * width <= values.len() && width.is_multiple_of(8), "activate: {tokens} lines of {width}");
        let (eights, width, kind) = ((tokens * width / 8) as u32, width as u32, activation as u32);
        let mut arguments = lane.arguments(&self.activate);
        arguments.arg(values).arg(bias).arg(&eights).arg(&width).arg(&kind);
        // SAFETY: in order of the parameters; eight values a thread, inside as checked; buffers are aligned to 256 bytes.
        unsafe { Lane::launch(arguments, [eights.div_ceil(THREADS), 1], THREADS) }
    }

    /// [`crate::reference::attend`], by [`crate::tiles`], four numbers each, all of whose rows lie inside `tokens`, as the caller
    /// has seen to.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn attend(
        &self,
        lane: &Lane,
        tokens: usize,
        projected: &Buffer<f16>,
        bias: &Buffer<f32>,
        tiles: &View<u32>,
        heads: usize,
        out: &mut Buffer<f16>,
    ) -> Result<(), DeviceError> {
        let hidden = bias.len() / 3;
        let which = WIDTHS.iter().position(|width| width * heads == hidden);
        let which = which.unwrap_or_else(|| panic!("attend: {heads} heads in {hidden}"));
        assert!(tokens * hidden * 3 <= projected.len() && tokens * hidden <= out.len(), "attend: {tokens} tokens");
        let (blocks, heads, scale) = (tiles.len() as u32 / 4, heads as u32, 1.0 / (WIDTHS[which] as f32).sqrt());
        let mut arguments = lane.arguments(&self.attend[which]);
        arguments.arg(projected).arg(bias).arg(tiles).arg(out).arg(&heads).arg(&scale);
        // SAFETY: in order of the parameters; rows are inside as promised, and so what a block touches.
        unsafe { Lane::launch(arguments, [blocks, heads], THREADS) }
    }

    /// [`crate::reference::pool`]; rows are between `starts`, all inside `state`, as the caller has seen to.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn pool(
        &self,
        lane: &Lane,
        hidden: usize,
        state: &Buffer<f16>,
        starts: &View<u32>,
        mean: bool,
        unit: bool,
        out: &mut Buffer<f32>,
    ) -> Result<(), DeviceError> {
        let rows = starts.len() - 1;
        assert!(rows * hidden <= out.len() && hidden <= HIDDEN_MAX && hidden.is_multiple_of(2), "pool: {rows} rows");
        let (hidden, mean, unit) = (hidden as u32, u32::from(mean), u32::from(unit));
        let mut arguments = lane.arguments(&self.pool);
        arguments.arg(state).arg(starts).arg(out).arg(&hidden).arg(&mean).arg(&unit);
        // SAFETY: in order of the parameters; a block a row, inside `out` as checked and `state` as promised.
        unsafe { Lane::launch(arguments, [rows as u32, 1], THREADS) }
    }
}
