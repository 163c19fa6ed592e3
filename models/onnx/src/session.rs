//! One graph, ready to run on one thread. Called by the executors of this crate and of `models/bert`. Never batches,
//! never checks a request beyond what memory safety and a clear message need.

use crate::{AlignedBuffer, Library, failure, values};
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{ArenaExtendStrategy, ExecutionProviderDispatch};
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{OutputSelector, RunOptions, SessionInputValue};
use ort::value::ValueType;
use penstock_domain::{Datatype, Tensor};
use penstock_executor::{ExecError, LoadError};
use std::borrow::Cow;
use std::path::PathBuf;

/// Where a graph comes from.
#[derive(Debug, Clone)]
pub enum GraphSource {
    /// A `.onnx` file; external weights are looked for beside it.
    File(PathBuf),
    /// A serialized graph; external weights are looked for in the folder.
    Memory {
        /// The protobuf.
        bytes: Vec<u8>,
        /// Where its external weights are, if it has any. They are mapped, not read, so sessions share them.
        external_data_folder: Option<PathBuf>,
    },
}

impl GraphSource {
    /// How errors name it.
    fn name(&self) -> String {
        match self {
            GraphSource::File(path) => path.display().to_string(),
            GraphSource::Memory { .. } => "(in memory)".into(),
        }
    }
}

/// How a graph is run.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Threads that share the work of one node, the calling one included; 0 is read as 1.
    pub intra_threads: usize,
    /// Whether those threads wait for the next node of a run spinning, which saves them falling asleep some hundred times
    /// in each. Between runs they sleep in any case: a core belongs to whoever has work.
    pub spinning: bool,
    /// Whether ONNX Runtime rewrites the graph before running it.
    pub optimize: bool,
    /// Where to write the rewritten graph.
    pub optimized_dump: Option<PathBuf>,
    /// Remember, for every combination of input shapes, how memory was used. Turn off where shapes vary without end.
    pub memory_pattern: bool,
    /// Keep freed memory for the next run.
    pub arena: bool,
    /// Run on the first GPU that this process sees, with an arena of at most so many bytes there; what a graph has that the GPU
    /// cannot run stays on the CPU. Needs ONNX Runtime's CUDA provider, beside its library.
    pub gpu_memory_bytes: Option<u64>,
    /// Outputs are written where [`Outputs`] says.
    pub outputs: Outputs,
}

/// Where a run's outputs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outputs {
    /// Wherever ONNX Runtime likes, and then to the host's memory.
    #[default]
    Anywhere,
    /// Bound to the host's memory.
    Host,
    /// Bound to page-locked memory, to which a GPU copies by itself.
    Pinned,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            intra_threads: 1,
            spinning: false,
            optimize: true,
            optimized_dump: None,
            memory_pattern: true,
            arena: true,
            gpu_memory_bytes: None,
            outputs: Outputs::Anywhere,
        }
    }
}

/// An input or output of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphTensor {
    /// Its name in the graph.
    pub name: String,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions, the batch included if there is one; -1 where the graph leaves it open.
    pub dims: Vec<i64>,
    /// The graph's names of open dimensions, empty where it has none; as long as `dims`.
    pub symbols: Vec<String>,
}

/// A tensor to feed, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Input of the graph.
    pub name: &'a str,
    /// Element type.
    pub datatype: Datatype,
    /// The whole shape.
    pub dims: &'a [i64],
    /// Row-major, little-endian; BYTES elements length-prefixed. Not copied if it begins at a multiple of the element
    /// size.
    pub bytes: &'a [u8],
}

/// A graph, ready to run.
#[derive(Debug)]
pub struct Session {
    session: ort::session::Session,
    inputs: Vec<GraphTensor>,
    outputs: Vec<GraphTensor>,
    optional_inputs: Vec<GraphTensor>,
    foreign_outputs: Vec<String>,
    /// Copies of misaligned inputs, one buffer per input position.
    copies: Vec<AlignedBuffer>,
    /// Where outputs are bound.
    bound: Option<MemoryInfo<'static>>,
}

impl Session {
    /// Loads and optimizes a graph. Takes as long as that takes, and once its weights in memory.
    pub fn open(library: &Library, source: GraphSource, options: &SessionOptions) -> Result<Session, LoadError> {
        let name = source.name();
        if let GraphSource::File(path) = &source
            && !path.is_file()
        {
            return Err(LoadError::Invalid(format!("model {name}: there is no such file")));
        }
        let session = commit(library, &source, options).map_err(|error| failure::of_load(&name, &error))?;
        let mut inputs = Vec::new();
        for outlet in session.inputs() {
            inputs.push(graph_tensor(outlet.name(), outlet.dtype()).map_err(|found| {
                LoadError::Invalid(format!(
                    "model {name}: input '{}' is a {found}, which cannot be sent",
                    outlet.name()
                ))
            })?);
        }
        let (mut outputs, mut foreign_outputs) = (Vec::new(), Vec::new());
        for outlet in session.outputs() {
            match graph_tensor(outlet.name(), outlet.dtype()) {
                Ok(output) => outputs.push(output),
                Err(found) => foreign_outputs.push(format!("'{}' is a {found}", outlet.name())),
            }
        }
        let optional_inputs = session
            .overridable_initializers()
            .iter()
            .filter_map(|initializer| graph_tensor(initializer.name(), initializer.dtype()).ok())
            .collect();
        let bound = bound(options.outputs).map_err(|error| failure::of_load(&name, &error))?;
        // Sequences and maps have no memory to be bound to.
        let bound = bound.filter(|_| foreign_outputs.is_empty());
        Ok(Session { session, inputs, outputs, optional_inputs, foreign_outputs, copies: Vec::new(), bound })
    }

    /// Inputs that must be fed, in the graph's order.
    pub fn inputs(&self) -> &[GraphTensor] {
        &self.inputs
    }

    /// Inputs that may be fed: the graph holds a default.
    pub fn optional_inputs(&self) -> &[GraphTensor] {
        &self.optional_inputs
    }

    /// Outputs, in the graph's order.
    pub fn outputs(&self) -> &[GraphTensor] {
        &self.outputs
    }

    /// Outputs that no datatype of the protocol can carry, in words (sequences and maps, mostly).
    pub fn foreign_outputs(&self) -> &[String] {
        &self.foreign_outputs
    }

    /// Runs the graph. `outputs` names those wanted, each once; empty means all. They come back in that order.
    pub fn run(&mut self, inputs: &[Input<'_>], outputs: &[&str]) -> Result<Vec<Tensor>, ExecError> {
        if self.copies.len() < inputs.len() {
            self.copies.resize_with(inputs.len(), AlignedBuffer::default);
        }
        for (input, copy) in inputs.iter().zip(&mut self.copies) {
            if !values::is_aligned(input) {
                copy.clear();
                copy.extend(input.bytes);
            }
        }
        let mut fed: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::with_capacity(inputs.len());
        for (input, copy) in inputs.iter().zip(&self.copies) {
            let bytes = if values::is_aligned(input) { input.bytes } else { copy.bytes() };
            let input = Input { bytes, ..*input };
            let value = if self.bound.is_some() { values::to_owned_value(&input) } else { values::to_value(&input) };
            fed.push((Cow::Borrowed(input.name), value?));
        }
        if let Some(memory) = &self.bound {
            let wanted: Vec<&str> = match outputs {
                [] => self.outputs.iter().map(|output| output.name.as_str()).collect(),
                names => names.to_vec(),
            };
            let results =
                run_bound(&mut self.session, &fed, &wanted, memory).map_err(|error| failure::of_run(&error))?;
            // Inputs are copies that go with this call: one that the graph hands through has its input's name, and is copied.
            let taken = results.into_iter().map(|(name, value)| match inputs.iter().any(|input| input.name == name) {
                true => values::copied(&name, &value),
                false => values::from_value(&name, value, inputs, &self.copies),
            });
            return taken.collect();
        }
        let options;
        let results = if outputs.is_empty() && self.foreign_outputs.is_empty() {
            self.session.run(fed)
        } else {
            let wanted: Vec<&str> = match outputs {
                [] => self.outputs.iter().map(|output| output.name.as_str()).collect(),
                names => names.to_vec(),
            };
            let selector = wanted.into_iter().fold(OutputSelector::no_default(), OutputSelector::with);
            options = RunOptions::new().map_err(|error| failure::of_run(&error))?.with_outputs(selector);
            self.session.run_with_options(fed, &options)
        };
        let results = results.map_err(|error| failure::of_run(&error))?;
        results.into_iter().map(|(name, value)| values::from_value(name, value, inputs, &self.copies)).collect()
    }
}

fn bound(outputs: Outputs) -> Result<Option<MemoryInfo<'static>>, ort::Error> {
    let (device, allocator, memory) = match outputs {
        Outputs::Anywhere => return Ok(None),
        Outputs::Host => (AllocationDevice::CPU, AllocatorType::Arena, MemoryType::Default),
        Outputs::Pinned => (AllocationDevice::CUDA_PINNED, AllocatorType::Arena, MemoryType::CPUOutput),
    };
    Ok(Some(MemoryInfo::new(device, 0, allocator, memory)?))
}

/// With inputs copied to where the graph wants them, and outputs to `memory`: each run has a binding of its own, so that no
/// output's memory is written again while somebody reads it.
fn run_bound(
    session: &mut ort::session::Session,
    fed: &[(Cow<'_, str>, SessionInputValue<'_>)],
    wanted: &[&str],
    memory: &MemoryInfo<'_>,
) -> Result<Vec<(String, ort::value::DynValue)>, ort::Error> {
    let mut binding = session.create_binding()?;
    for (name, value) in fed {
        binding.bind_input(name.as_ref(), value)?;
    }
    for name in wanted {
        binding.bind_output_to_device(*name, memory)?;
    }
    binding.synchronize_inputs()?;
    let results = session.run_binding(&binding)?;
    binding.synchronize_outputs()?;
    Ok(results.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn commit(
    library: &Library,
    source: &GraphSource,
    options: &SessionOptions,
) -> Result<ort::session::Session, ort::Error> {
    let level = if options.optimize { GraphOptimizationLevel::All } else { GraphOptimizationLevel::Disable };
    let mut builder: SessionBuilder = ort::session::Session::builder(&library.environment)?
        .with_intra_threads(options.intra_threads.max(1))?
        .with_inter_threads(1)?
        .with_intra_op_spinning(options.spinning)?
        .with_inter_op_spinning(false)?
        .with_config_entry("session.force_spinning_stop", "1")?
        .with_optimization_level(level)?
        .with_memory_pattern(options.memory_pattern)?
        .with_execution_providers(providers(options))?;
    if let Some(path) = &options.optimized_dump {
        builder = builder.with_optimized_model_path(path)?;
    }
    match source {
        GraphSource::File(path) => builder.commit_from_file(path),
        GraphSource::Memory { bytes, external_data_folder } => {
            if let Some(folder) = external_data_folder {
                let folder = folder.to_str().ok_or_else(|| {
                    ort::Error::new(format!("external weights in {}: the path is not UTF-8", folder.display()))
                })?;
                builder = builder.with_config_entry("session.model_external_initializers_file_folder_path", folder)?;
            }
            builder.commit_from_memory(bytes)
        }
    }
}

/// In the order in which they are asked to take a node.
fn providers(options: &SessionOptions) -> Vec<ExecutionProviderDispatch> {
    let cuda = |bytes: u64| {
        let cuda = ort::ep::CUDA::default()
            .with_device_id(0)
            .with_memory_limit(usize::try_from(bytes).unwrap_or(usize::MAX))
            .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
            // The exhaustive search takes seconds for every new shape.
            .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic);
        // Else it would run on the CPU and say nothing.
        cuda.build().error_on_failure()
    };
    let cpu = ort::ep::CPU::default().with_arena_allocator(options.arena).build();
    options.gpu_memory_bytes.map(cuda).into_iter().chain([cpu]).collect()
}

fn graph_tensor(name: &str, value_type: &ValueType) -> Result<GraphTensor, String> {
    let ValueType::Tensor { ty, shape, dimension_symbols } = value_type else {
        return Err(value_type.to_string());
    };
    let datatype = values::datatype(*ty).ok_or_else(|| value_type.to_string())?;
    Ok(GraphTensor { name: name.into(), datatype, dims: shape.to_vec(), symbols: dimension_symbols.to_vec() })
}
