//! What a graph takes and gives, said once: derived from the graph, or declared in config.pbtxt and checked against it.
//! Called at load. Follows Triton's auto-complete; pure.

use crate::{GraphTensor, OnnxOptions, Session};
use penstock_domain::{Signature, TensorSpec};

/// Most rows in a batch where nobody said. It also bounds the rows of one request, so Triton's default of 4 would refuse
/// clients that batch for themselves. A limit, not an aim: how large a batch is worth forming is for the environment to
/// learn from measured costs (on a CPU some graphs gain nothing: `examples/time_model.rs` shows it).
pub const DEFAULT_MAX_BATCH_SIZE: u32 = 64;

/// The platform's name in Triton's metadata.
const PLATFORM: &str = "onnxruntime_onnx";

/// The parts of a session that matter here.
pub(crate) struct Graph<'a> {
    pub(crate) inputs: &'a [GraphTensor],
    pub(crate) optional_inputs: &'a [GraphTensor],
    pub(crate) outputs: &'a [GraphTensor],
    pub(crate) foreign_outputs: &'a [String],
}

/// The signature of a session's graph under `options`, or what does not fit, in words.
pub(crate) fn resolve(session: &Session, options: &OnnxOptions) -> Result<Signature, String> {
    let graph = Graph {
        inputs: session.inputs(),
        optional_inputs: session.optional_inputs(),
        outputs: session.outputs(),
        foreign_outputs: session.foreign_outputs(),
    };
    resolve_graph(&graph, options)
}

pub(crate) fn resolve_graph(graph: &Graph<'_>, options: &OnnxOptions) -> Result<Signature, String> {
    let max_batch_size = match options.max_batch_size {
        Some(size) => size,
        None if batches(graph, options) => DEFAULT_MAX_BATCH_SIZE,
        None => 0,
    };
    if max_batch_size > 0 {
        for (kind, tensor) in with_kind(graph) {
            // An output of unknown rank is checked when it is there.
            if tensor.dims.first().is_some_and(|&dim| dim != -1) || (kind == "input" && tensor.dims.is_empty()) {
                return Err(format!(
                    "{kind} '{}': config.pbtxt says max_batch_size: {max_batch_size}, which needs an open first \
                     dimension; the graph says {:?}. Say max_batch_size: 0, or export the graph with a dynamic batch",
                    tensor.name, tensor.dims
                ));
            }
        }
    }
    let batching = max_batch_size > 0;
    let inputs: Vec<TensorSpec> = match &options.inputs {
        None => graph.inputs.iter().map(|tensor| derived(tensor, batching)).collect(),
        Some(declared) => declared_inputs(graph, declared, batching)?,
    };
    let outputs: Vec<TensorSpec> = match &options.outputs {
        Some(declared) => declared
            .iter()
            .map(|spec| {
                let found = graph.outputs.iter().find(|tensor| tensor.name == spec.name);
                agreed("output", spec, found.ok_or_else(|| unknown("output", spec, graph.outputs))?, batching)
            })
            .collect::<Result<_, String>>()?,
        None if graph.foreign_outputs.is_empty() => {
            graph.outputs.iter().map(|tensor| derived(tensor, batching)).collect()
        }
        None => {
            return Err(format!(
                "output {}, which cannot be sent; declare the outputs to serve in config.pbtxt, or export the graph \
                 without it",
                graph.foreign_outputs.join(", output ")
            ));
        }
    };
    unique("input", &inputs)?;
    unique("output", &outputs)?;
    Ok(Signature { platform: PLATFORM.into(), inputs, outputs, max_batch_size, any_tensors: false })
}

/// Whether the graph looks as if dimension 0 were a batch: open in every input and output. If dims are declared, they
/// say it too, by leaving that dimension out.
fn batches(graph: &Graph<'_>, options: &OnnxOptions) -> bool {
    let declared = |specs: &Option<Vec<TensorSpec>>, tensors: &[GraphTensor]| {
        specs.iter().flatten().all(|spec| {
            tensors.iter().find(|tensor| tensor.name == spec.name).is_none_or(|t| t.dims.len() == spec.shape.len() + 1)
        })
    };
    !graph.inputs.is_empty()
        && with_kind(graph).all(|(_, tensor)| tensor.dims.first() == Some(&-1))
        && declared(&options.inputs, graph.inputs)
        && declared(&options.outputs, graph.outputs)
}

fn with_kind<'a>(graph: &Graph<'a>) -> impl Iterator<Item = (&'static str, &'a GraphTensor)> {
    let inputs = graph.inputs.iter().map(|tensor| ("input", tensor));
    inputs.chain(graph.outputs.iter().map(|tensor| ("output", tensor)))
}

fn derived(tensor: &GraphTensor, batching: bool) -> TensorSpec {
    TensorSpec::new(&tensor.name, tensor.datatype, tensor.dims.get(usize::from(batching)..).unwrap_or_default())
}

fn declared_inputs(graph: &Graph<'_>, declared: &[TensorSpec], batching: bool) -> Result<Vec<TensorSpec>, String> {
    if let Some(missing) = graph.inputs.iter().find(|tensor| declared.iter().all(|spec| spec.name != tensor.name)) {
        return Err(format!("input '{}': the graph needs it, config.pbtxt does not declare it", missing.name));
    }
    let agreed_input = |spec: &TensorSpec| {
        if let Some(tensor) = graph.inputs.iter().find(|tensor| tensor.name == spec.name) {
            if spec.optional {
                return Err(format!(
                    "input '{}': config.pbtxt says optional: true, but the graph has no default for it",
                    spec.name
                ));
            }
            return agreed("input", spec, tensor, batching);
        }
        let tensor = graph.optional_inputs.iter().find(|tensor| tensor.name == spec.name);
        agreed("input", spec, tensor.ok_or_else(|| unknown("input", spec, graph.inputs))?, batching)
    };
    declared.iter().map(agreed_input).collect()
}

/// The declared tensor, with dimensions as fixed as either side has them.
fn agreed(kind: &str, spec: &TensorSpec, tensor: &GraphTensor, batching: bool) -> Result<TensorSpec, String> {
    if spec.datatype != tensor.datatype {
        return Err(format!(
            "{kind} '{}': config.pbtxt says {}, the graph says {}",
            spec.name, spec.datatype, tensor.datatype
        ));
    }
    // ONNX Runtime says no dimensions both for a scalar and where the graph does not say.
    let Some(graph_dims) = tensor.dims.get(usize::from(batching)..).filter(|_| !tensor.dims.is_empty()) else {
        return Ok(spec.clone());
    };
    let fits = |(&declared, &graph): (&i64, &i64)| declared == graph || declared == -1 || graph == -1;
    if spec.shape.len() != graph_dims.len() || !spec.shape.iter().zip(graph_dims).all(fits) {
        let without = if batching { " (without the batch dimension)" } else { "" };
        return Err(format!(
            "{kind} '{}': config.pbtxt says dims {:?}, the graph says {graph_dims:?}{without}",
            spec.name, spec.shape
        ));
    }
    let shape = spec.shape.iter().zip(graph_dims).map(|(&declared, &graph)| declared.max(graph)).collect();
    Ok(TensorSpec { shape, ..spec.clone() })
}

fn unknown(kind: &str, spec: &TensorSpec, tensors: &[GraphTensor]) -> String {
    let names: Vec<_> = tensors.iter().map(|tensor| format!("'{}'", tensor.name)).collect();
    format!("{kind} '{}': config.pbtxt declares it, the graph has only {}", spec.name, names.join(", "))
}

fn unique(kind: &str, specs: &[TensorSpec]) -> Result<(), String> {
    for (index, spec) in specs.iter().enumerate() {
        if specs[..index].iter().any(|earlier| earlier.name == spec.name) {
            return Err(format!("{kind} '{}': config.pbtxt declares it twice", spec.name));
        }
    }
    Ok(())
}
