//! Runs batches of one model on one thread: gathers rows, runs the graph, hands rows back. Owned by a runtime worker.
//! Never retries: the environment decides whether a smaller batch may pass.

use crate::clock::{nanoseconds, now};
use crate::{AlignedBuffer, Input, Session};
use penstock_domain::{Datatype, Shape, Signature, Tensor, bytes_elements};
use penstock_executor::{Batch, ExecError, Executor, Outputs, Part, PartInput, PartOutputs};

/// One session and the memory it gathers into.
pub(crate) struct OnnxExecutor {
    session: Session,
    /// Outputs to ask for, in the signature's order.
    outputs: Vec<String>,
    batching: bool,
    gathered: Vec<AlignedBuffer>,
}

impl OnnxExecutor {
    pub(crate) fn new(session: Session, signature: &Signature) -> Self {
        let outputs = signature.outputs.iter().map(|spec| spec.name.clone()).collect();
        Self { session, outputs, batching: signature.max_batch_size > 0, gathered: Vec::new() }
    }

    /// Runs parts as one batch. `shapes` of the inputs are those of the first part, but for the rows.
    fn run_together(&mut self, parts: &[Part]) -> Result<Outputs, ExecError> {
        let started = now();
        let inputs = parts.iter().map(part_tensors).collect::<Result<Vec<_>, _>>()?;
        let Some((first, others)) = inputs.split_first() else {
            return Ok(Outputs {
                parts: Vec::new(),
                compute_input_ns: 0,
                compute_ns: 0,
                compute_output_ns: 0,
                padded_tokens: 0,
            });
        };
        let rows: i64 = parts.iter().map(|part| i64::from(part.items)).sum();
        let mut shapes: Vec<Shape> = first.iter().map(|tensor| tensor.shape.clone()).collect();
        if !others.is_empty() {
            gather(&mut self.gathered, &inputs)?;
            for shape in &mut shapes {
                shape[0] = rows;
            }
        }
        let fed: Vec<Input<'_>> = first
            .iter()
            .zip(&shapes)
            .enumerate()
            .map(|(position, (tensor, shape))| Input {
                name: &tensor.name,
                datatype: tensor.datatype,
                dims: shape,
                bytes: if others.is_empty() { &tensor.data } else { self.gathered[position].bytes() },
            })
            .collect();
        let names: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
        let gathered = now();
        let outputs = self.session.run(&fed, &names)?;
        let computed = now();
        let parts = if self.batching { scatter(outputs, parts, rows) } else { vec![Ok(outputs)] };
        let scattered = now();
        Ok(Outputs {
            parts,
            compute_input_ns: nanoseconds(started, gathered),
            compute_ns: nanoseconds(gathered, computed),
            compute_output_ns: nanoseconds(computed, scattered),
            padded_tokens: 0,
        })
    }
}

impl Executor for OnnxExecutor {
    fn execute(&mut self, batch: Batch) -> Result<Outputs, ExecError> {
        if self.batching || batch.parts.len() == 1 {
            return self.run_together(&batch.parts);
        }
        // Dimension 0 is not a batch: one after the other, each with its own end.
        let mut all = Outputs {
            parts: Vec::with_capacity(batch.parts.len()),
            compute_input_ns: 0,
            compute_ns: 0,
            compute_output_ns: 0,
            padded_tokens: 0,
        };
        for part in batch.parts.chunks(1) {
            match self.run_together(part) {
                Ok(one) => {
                    all.parts.extend(one.parts);
                    all.compute_input_ns += one.compute_input_ns;
                    all.compute_ns += one.compute_ns;
                    all.compute_output_ns += one.compute_output_ns;
                }
                Err(ExecError::Broken(text)) => return Err(ExecError::Broken(text)),
                Err(error) => all.parts.push(Err(error)),
            }
        }
        Ok(all)
    }
}

fn part_tensors(part: &Part) -> Result<&[Tensor], ExecError> {
    match &part.input {
        PartInput::Tensors(tensors) => Ok(tensors),
        PartInput::Tokens(_) => Err(ExecError::Failed("an ONNX graph takes tensors, not tokens".into())),
    }
}

/// Puts the rows of all parts one after another, input by input.
fn gather(gathered: &mut Vec<AlignedBuffer>, parts: &[&[Tensor]]) -> Result<(), ExecError> {
    let inputs = parts[0];
    if gathered.len() < inputs.len() {
        gathered.resize_with(inputs.len(), AlignedBuffer::default);
    }
    for (position, (input, buffer)) in inputs.iter().zip(gathered).enumerate() {
        buffer.clear();
        buffer.reserve(parts.iter().map(|tensors| tensors.get(position).map_or(0, |tensor| tensor.data.len())).sum());
        for tensors in parts {
            // Equal kinds promise this; a broken promise would give one caller another's rows.
            let tensor = tensors.get(position).filter(|tensor| {
                tensors.len() == inputs.len()
                    && tensor.name == input.name
                    && tensor.datatype == input.datatype
                    && tensor.shape.get(1..) == input.shape.get(1..)
            });
            let tensor = tensor.ok_or_else(|| ExecError::Failed("a batch holds parts of different kinds".into()))?;
            buffer.extend(&tensor.data);
        }
    }
    Ok(())
}

/// Gives every part its rows of every output, without copying them.
fn scatter(outputs: Vec<Tensor>, parts: &[Part], rows: i64) -> Vec<Result<PartOutputs, ExecError>> {
    if let Some(wrong) = outputs.iter().find(|output| output.shape.first() != Some(&rows)) {
        let error = ExecError::Failed(format!(
            "output '{}' has shape {:?} for a batch of {rows} rows: its first dimension must be the batch; serve this \
             graph with max_batch_size: 0",
            wrong.name,
            wrong.shape.as_slice()
        ));
        return parts.iter().map(|_| Err(error.clone())).collect();
    }
    if parts.len() == 1 {
        return vec![Ok(outputs)];
    }
    let mut scattered: Vec<Result<PartOutputs, ExecError>> =
        parts.iter().map(|_| Ok(Vec::with_capacity(outputs.len()))).collect();
    for output in outputs {
        let ends = row_ends(&output, parts, rows);
        let mut begin = 0;
        for ((part, end), given) in parts.iter().zip(ends).zip(&mut scattered) {
            let mut shape = output.shape.clone();
            shape[0] = i64::from(part.items);
            let data = output.data.slice(begin..end);
            begin = end;
            if let Ok(given) = given {
                given.push(Tensor { name: output.name.clone(), datatype: output.datatype, shape, data });
            }
        }
    }
    scattered
}

/// Where each part's bytes end in `output`.
fn row_ends(output: &Tensor, parts: &[Part], rows: i64) -> Vec<usize> {
    let last_rows = parts.iter().scan(0, |sum, part| {
        *sum += part.items as usize;
        Some(*sum)
    });
    if output.datatype != Datatype::Bytes {
        let row_bytes = output.data.len() / usize::try_from(rows).unwrap_or(usize::MAX).max(1);
        return last_rows.map(|row| row * row_bytes).collect();
    }
    let row_elements: usize = output.shape[1..].iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).product();
    let mut elements = bytes_elements(&output.name, &output.data);
    let (mut taken, mut end) = (0, 0);
    last_rows
        .map(|row| {
            let more = row * row_elements - taken;
            end += elements.by_ref().take(more).flatten().map(|element| 4 + element.len()).sum::<usize>();
            taken += more;
            end
        })
        .collect()
}
