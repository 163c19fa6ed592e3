//! The identity runtime: echoes tensors, at a cost that the configuration fixes.
//!
//! Called by an environment like any model. With `execute_delay_us` and `execute_delay_us_per_item` it is the
//! fixed-cost model of every overload test; without them it shows what the server itself costs.

use penstock_domain::{Datatype, Signature, Tensor, TensorSpec};
use penstock_executor::{
    Batch, ExecError, Executor, LoadError, Model, Outputs, Part, PartInput, PartOutputs, Prepared, Work,
};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How the cost is spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DelayKind {
    /// The worker sleeps: like a device that computes while the host waits.
    #[default]
    Sleep,
    /// The worker computes: like a model on this CPU.
    Spin,
}

/// What a batch costs: `execute_delay_us + items × execute_delay_us_per_item`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityOptions {
    /// Microseconds per batch.
    pub execute_delay_us: u64,
    /// Microseconds per item of a batch.
    pub execute_delay_us_per_item: u64,
    /// Sleep or spin.
    pub delay_kind: DelayKind,
    /// Most items in a batch; 0 for no batching.
    pub max_batch_size: u32,
    /// For tests of faults: a batch in which a tensor's first byte has this value ends the process, after its delay,
    /// as a crash in a model or a driver would.
    #[serde(default)]
    pub crash_on_first_byte: Option<u8>,
    /// For tests of faults: a batch in which a tensor's first byte has this value breaks the process's device context, as a
    /// kernel does that touches what it must not. Where there is no device the batch fails.
    #[serde(default)]
    pub device_fault_on_first_byte: Option<u8>,
    /// For tests of placement: the device memory that it says it takes, in bytes. It takes none.
    #[serde(default)]
    pub device_memory_bytes: Option<u64>,
}

/// A loaded identity.
pub struct Identity {
    options: IdentityOptions,
    signature: Signature,
}

impl Identity {
    /// Never fails: there is nothing to load. `inputs` and `outputs` are what the configuration declares, shown in the
    /// metadata and not enforced.
    pub fn new(options: IdentityOptions, inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> Self {
        let signature = Signature {
            platform: "identity".into(),
            inputs,
            outputs,
            max_batch_size: options.max_batch_size,
            any_tensors: true,
        };
        Self { options, signature }
    }
}

impl Model for Identity {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn prepare(&self, work: Work) -> Result<Prepared, ExecError> {
        let items = match self.options.max_batch_size {
            0 => 1,
            max => batch_items(&work.inputs, max)?,
        };
        let mut inputs = work.inputs;
        if !work.outputs.is_empty() {
            for wanted in &work.outputs {
                if !inputs.iter().any(|tensor| echo_name(&tensor.name) == wanted.name) {
                    return Err(ExecError::Invalid(format!(
                        "unexpected inference output '{}': identity answers {}",
                        wanted.name,
                        inputs.iter().map(|t| echo_name(&t.name)).collect::<Vec<_>>().join(", ")
                    )));
                }
            }
            inputs.retain(|tensor| work.outputs.iter().any(|wanted| echo_name(&tensor.name) == wanted.name));
        }
        for tensor in &mut inputs {
            tensor.name = echo_name(&tensor.name);
        }
        Ok(Prepared {
            parts: vec![Part { input: PartInput::Tensors(inputs), items, tokens: 0, kind: 0 }],
            parameters: Vec::new(),
        })
    }

    fn device_memory_bytes(&self) -> Option<u64> {
        self.options.device_memory_bytes
    }

    fn warmup(&self) -> Vec<Work> {
        let tensor = Tensor {
            name: "INPUT0".into(),
            datatype: Datatype::Fp32,
            shape: [1, 4].as_slice().into(),
            data: vec![0; 16].into(),
        };
        vec![Work { inputs: vec![tensor], parameters: Vec::new(), outputs: Vec::new() }]
    }

    fn executor(&self, _worker: usize) -> Result<Box<dyn Executor>, LoadError> {
        Ok(Box::new(Echo(self.options)))
    }
}

/// `INPUT…` is answered as `OUTPUT…`, as Triton's identity backend names them; any other name stays.
fn echo_name(input: &str) -> String {
    input.strip_prefix("INPUT").map_or_else(|| input.to_owned(), |rest| format!("OUTPUT{rest}"))
}

fn batch_items(inputs: &[Tensor], max: u32) -> Result<u32, ExecError> {
    let Some(first) = inputs.first() else {
        return Err(ExecError::Invalid("a request needs at least one input".into()));
    };
    let rows = |tensor: &Tensor| tensor.shape.first().copied().unwrap_or(0);
    let items = rows(first);
    if let Some(other) = inputs.iter().find(|tensor| rows(tensor) != items) {
        return Err(ExecError::Invalid(format!(
            "input '{}' has batch size {} and input '{}' has {}: all inputs of a request need the same",
            first.name,
            items,
            other.name,
            rows(other)
        )));
    }
    match u32::try_from(items) {
        Ok(0) | Err(_) => {
            Err(ExecError::Invalid(format!("input '{}': empty batch, at least one row is needed", first.name)))
        }
        Ok(items) if items > max => {
            Err(ExecError::Invalid(format!("inference request batch-size must be <= {max}, got {items}")))
        }
        Ok(items) => Ok(items),
    }
}

struct Echo(IdentityOptions);

impl Executor for Echo {
    fn execute(&mut self, batch: Batch) -> Result<Outputs, ExecError> {
        let items: u64 = batch.parts.iter().map(|part| u64::from(part.items)).sum();
        let delay = Duration::from_micros(self.0.execute_delay_us + items * self.0.execute_delay_us_per_item);
        let started = now();
        spend(delay, self.0.delay_kind, started);
        if let Some(value) = self.0.crash_on_first_byte
            && batch.parts.iter().any(|part| begins_with(part, value))
        {
            std::process::abort();
        }
        if let Some(value) = self.0.device_fault_on_first_byte
            && batch.parts.iter().any(|part| begins_with(part, value))
        {
            return Err(device_fault());
        }
        let parts = batch.parts.into_iter().map(|part| Ok(echo(part))).collect();
        let compute_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(Outputs { parts, compute_input_ns: 0, compute_ns, compute_output_ns: 0, padded_tokens: 0 })
    }
}

#[cfg(feature = "cuda")]
fn device_fault() -> ExecError {
    ExecError::Broken(penstock_device::Gpu::open().map_or_else(|error| error, |gpu| gpu.break_context()).to_string())
}

#[cfg(not(feature = "cuda"))]
fn device_fault() -> ExecError {
    ExecError::Failed("device_fault_on_first_byte: there is no device here".into())
}

fn begins_with(part: &Part, value: u8) -> bool {
    match &part.input {
        PartInput::Tensors(tensors) => tensors.iter().any(|tensor| tensor.data.first() == Some(&value)),
        PartInput::Tokens(_) => false,
    }
}

fn echo(part: Part) -> PartOutputs {
    match part.input {
        PartInput::Tensors(tensors) => tensors,
        PartInput::Tokens(_) => Vec::new(),
    }
}

/// The one place of this crate that reads the clock: a runtime worker's cost *is* time.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods)] // the delay is the model
fn spend(delay: Duration, kind: DelayKind, started: Instant) {
    match kind {
        _ if delay.is_zero() => {}
        DelayKind::Sleep => std::thread::sleep(delay),
        DelayKind::Spin => {
            while started.elapsed() < delay {
                std::hint::spin_loop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    //! Identity echoes, names its outputs, and refuses what a batching model refuses.
    use super::*;

    fn work(rows: i64) -> Work {
        let tensor = Tensor {
            name: "INPUT0".into(),
            datatype: Datatype::Int8,
            shape: [rows, 1].as_slice().into(),
            data: vec![7; rows as usize].into(),
        };
        Work { inputs: vec![tensor], parameters: vec![], outputs: vec![] }
    }

    fn model(max_batch_size: u32) -> Identity {
        Identity::new(IdentityOptions { max_batch_size, ..Default::default() }, vec![], vec![])
    }

    #[test]
    fn it_echoes_under_the_output_name() {
        let model = model(8);
        let prepared = model.prepare(work(3)).unwrap();
        assert_eq!(prepared.parts[0].items, 3);
        let outputs = model.executor(0).unwrap().execute(Batch { parts: prepared.parts }).unwrap();
        let tensor = &outputs.parts[0].as_ref().unwrap()[0];
        assert_eq!((tensor.name.as_str(), &tensor.data[..]), ("OUTPUT0", &[7u8, 7, 7][..]));
    }

    #[test]
    fn only_the_configured_byte_is_deadly() {
        let part = |rows| model(8).prepare(work(rows)).unwrap().parts.remove(0);
        assert!(begins_with(&part(1), 7));
        assert!(!begins_with(&part(1), 8));
        assert_eq!(IdentityOptions::default().crash_on_first_byte, None);
    }

    #[test]
    fn it_refuses_batches_out_of_range() {
        assert!(model(2).prepare(work(3)).unwrap_err().to_string().contains("must be <= 2, got 3"));
        assert!(model(2).prepare(work(0)).unwrap_err().to_string().contains("empty batch"));
        assert_eq!(model(0).prepare(work(0)).unwrap().parts.len(), 1);
    }
}
