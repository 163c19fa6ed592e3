//! One request inside an environment: its parts on their way, and how their outputs become its answer. Pure.

use crate::message::reason;
use bytes::{Bytes, BytesMut};
use penstock_domain::{BatchReport, ErrorCode, Parameters, Refusal, RequestedOutput, StageTimes, Tensor};
use penstock_executor::{ExecError, PartOutputs, Prepared};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Set once nobody waits for a request any more; shared with the thread that prepares it.
pub(crate) type Gone = Arc<AtomicBool>;

/// A request that has been read and not been answered.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) received: Instant,
    pub(crate) deadline: Option<Instant>,
    /// When it will have waited too long; `None` once it has begun or has been sent behind.
    pub(crate) timeout: Option<Instant>,
    pub(crate) alone: bool,
    /// Of priority, 0 the highest.
    pub(crate) level: u8,
    /// It was foretold, when it was admitted, that it would be in time.
    pub(crate) foretold: bool,
    /// It has waited too long and goes behind those that have not.
    pub(crate) behind: bool,
    /// Outputs wanted, in order; empty means all.
    wanted: Vec<RequestedOutput>,
    /// Told when it leaves while a thread prepares it.
    gone: Option<Gone>,
    /// `None` while it is being prepared.
    prepared: Option<Instant>,
    parameters: Parameters,
    /// Of all its parts.
    tokens: u64,
    outputs: Vec<Option<PartOutputs>>,
    missing: usize,
    begun: bool,
    batch: Option<u64>,
    error: Option<Refusal>,
    timing: StageTimes,
}

impl Call {
    pub(crate) fn new(
        received: Instant,
        deadline: Option<Instant>,
        timeout: Option<Instant>,
        alone: bool,
        wanted: Vec<RequestedOutput>,
        gone: Option<Gone>,
    ) -> Self {
        Self {
            received,
            deadline,
            timeout,
            alone,
            level: 0,
            foretold: false,
            behind: false,
            wanted,
            gone,
            prepared: None,
            parameters: Parameters::new(),
            tokens: 0,
            outputs: Vec::new(),
            missing: 0,
            begun: false,
            batch: None,
            error: None,
            timing: StageTimes::default(),
        }
    }

    /// Nobody waits for it any more.
    pub(crate) fn leave(&self) {
        if let Some(gone) = &self.gone {
            gone.store(true, Ordering::Relaxed);
        }
    }

    /// Its parts are not known yet.
    pub(crate) fn is_preparing(&self) -> bool {
        self.prepared.is_none()
    }

    /// A part of it has been handed to a worker.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Its parts are known.
    pub(crate) fn prepared(&mut self, prepared: &mut Prepared, now: Instant) {
        self.prepared = Some(now);
        self.timing.prepare_ns = nanos(now.saturating_duration_since(self.received));
        self.parameters = std::mem::take(&mut prepared.parameters);
        self.tokens = prepared.parts.iter().map(|part| u64::from(part.tokens)).sum();
        self.missing = prepared.parts.len();
        self.outputs.resize_with(self.missing, || None);
    }

    /// One of its parts is in batch number `batch`, formed at `now`.
    pub(crate) fn begun(&mut self, now: Instant) {
        self.begun = true;
        let waited = nanos(now.saturating_duration_since(self.prepared.unwrap_or(now)));
        self.timing.queue_ns = self.timing.queue_ns.max(waited);
    }

    /// Adds a part's result from batch `number`, whose times count once however many parts of it are this request's.
    pub(crate) fn part_done(
        &mut self,
        row: u32,
        result: Result<PartOutputs, ExecError>,
        number: u64,
        batch: &BatchReport,
    ) {
        self.missing -= 1;
        match result {
            Ok(outputs) => self.outputs[row as usize] = Some(outputs),
            Err(error) => self.error = self.error.take().or_else(|| Some(refusal(&error))),
        }
        if self.batch.replace(number) != Some(number) {
            self.timing.compute_input_ns += batch.compute_input_ns;
            self.timing.compute_ns += batch.compute_ns;
            self.timing.compute_output_ns += batch.compute_output_ns;
            self.timing.batch_items = self.timing.batch_items.max(batch.items);
        }
    }

    /// Of its inputs, where the model counts them.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Whether every part is back.
    pub(crate) fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// The answer of a complete request, or why there is none.
    pub(crate) fn answer(self) -> Result<(Vec<Tensor>, Parameters, StageTimes), Refusal> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut tensors = join(self.outputs.into_iter().flatten().collect());
        if !self.wanted.is_empty() {
            tensors = self
                .wanted
                .iter()
                .filter_map(|wanted| tensors.iter().find(|tensor| tensor.name == wanted.name).cloned())
                .collect();
        }
        Ok((tensors, self.parameters, self.timing))
    }
}

/// Puts the rows of several parts together, tensor by tensor along dimension 0.
fn join(mut parts: Vec<PartOutputs>) -> Vec<Tensor> {
    if parts.len() < 2 {
        return parts.pop().unwrap_or_default();
    }
    let count = parts.iter().map(Vec::len).min().unwrap_or_default();
    (0..count)
        .map(|index| {
            let rows = parts.iter().map(|part| part[index].shape.first().copied().unwrap_or(1)).sum();
            let bytes = parts.iter().map(|part| part[index].data.len()).sum();
            let mut data = BytesMut::with_capacity(bytes);
            parts.iter().for_each(|part| data.extend_from_slice(&part[index].data));
            let first = &parts[0][index];
            let mut shape = first.shape.clone();
            if let Some(dimension) = shape.first_mut() {
                *dimension = rows;
            }
            Tensor { name: first.name.clone(), datatype: first.datatype, shape, data: Bytes::from(data) }
        })
        .collect()
}

/// What a caller is told of a failed execution.
pub(crate) fn refusal(error: &ExecError) -> Refusal {
    let text = error.to_string();
    match error {
        ExecError::Invalid(_) => Refusal::invalid(text),
        ExecError::OutOfMemory(_) => Refusal::new(ErrorCode::Exhausted, text).with_reason(reason::OUT_OF_MEMORY),
        ExecError::Failed(_) | ExecError::Broken(_) => {
            Refusal::new(ErrorCode::Internal, text).with_reason(reason::EXECUTION_FAILED)
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
