//! What a request meets on its way into the room: limits, checks that hold for every model, preparation, the queue.
//!
//! Called by the room's loop. Never runs anything itself.

use super::Room;
use crate::call::{Call, Gone, refusal};
use crate::message;
use penstock_domain::{ErrorCode, Refusal, RequestedOutput, ShedReason, Tensor};
use penstock_executor::{ExecError, Prepared, Work};
use penstock_proto::link;
use std::time::{Duration, Instant};

impl Room {
    pub(super) fn invoke(&mut self, call: u64, invoke: link::Invoke, body: bytes::Bytes, now: Instant) {
        if self.draining {
            let text = "the environment is draining";
            return self.refuse(call, Refusal::shed(ShedReason::Draining, text, None));
        }
        if self.is_full() {
            // Of what has just been read, a part may be about to run.
            self.assign(now);
        }
        if self.is_full() {
            return self.refuse(call, self.full(ShedReason::QueueRequests, 0.0, now));
        }
        let inputs = match message::tensors_in(invoke.inputs, body) {
            Ok(inputs) => inputs,
            Err(error) => return self.refuse(call, Refusal::new(ErrorCode::Internal, error.to_string())),
        };
        let level = self.specification.batching.level(invoke.priority);
        let deadline = invoke.deadline_us.map(|left| now + Duration::from_micros(left));
        let outputs = message::wanted_in(invoke.outputs);
        let parameters = message::parameters_in(invoke.parameters);
        if let Err(refusal) = self.judge(&inputs, &outputs, invoke.splittable) {
            return self.refuse(call, refusal);
        }
        // Before any work is put into it; once its size is known it is asked again.
        if let Err(refusal) = self.foretell(deadline, &[], level, now) {
            return self.refuse(call, refusal);
        }
        let timeout = self.specification.queue.timeout.as_ref();
        let timeout = timeout.and_then(|timeout| now.checked_add(Duration::from_micros(timeout.after_us)));
        let gone = self.preparation.as_ref().map(|_| Gone::default());
        let mut entering = Call::new(now, deadline, timeout, invoke.alone, outputs.clone(), gone.clone());
        entering.level = level;
        self.calls.insert(call, entering);
        self.deadlines.extend(deadline.map(|at| (at, call)));
        self.timeouts.extend(timeout.map(|at| (at, call)));
        self.preparing += 1;
        let work = Work { inputs, parameters, outputs };
        match self.preparation.as_ref().zip(gone) {
            Some((preparation, gone)) => preparation.prepare(call, work, gone),
            None => self.prepared(call, self.model.prepare(work), now),
        }
    }

    /// What holds for every model, before any work is put into the request: no name twice, and as many rows as one
    /// batch may have, or any number that is not 0 where it may be split.
    fn judge(&self, inputs: &[Tensor], outputs: &[RequestedOutput], splittable: bool) -> Result<(), Refusal> {
        for (index, output) in outputs.iter().enumerate() {
            if outputs[..index].iter().any(|earlier| earlier.name == output.name) {
                return Err(Refusal::invalid(format!("output '{}' is asked for twice, expected once", output.name)));
            }
        }
        for (index, input) in inputs.iter().enumerate() {
            if inputs[..index].iter().any(|earlier| earlier.name == input.name) {
                return Err(Refusal::invalid(format!("input '{}' is given twice, expected once", input.name)));
            }
        }
        let max = self.shape.max_items;
        for Tensor { name, shape, .. } in inputs.iter().filter(|_| max > 0) {
            match shape.first() {
                Some(0) => {
                    let text = format!(
                        "input '{name}' has an empty batch: found shape {:?}, expected 1 row or more",
                        shape.as_slice()
                    );
                    return Err(Refusal::invalid(text));
                }
                Some(rows) if !splittable && *rows > i64::from(max) => {
                    let text = format!(
                        "inference request batch-size must be <= {max} for '{}', got {rows}: input '{name}' has shape \
                         {:?}, and the first dimension is the batch",
                        self.specification.function,
                        shape.as_slice()
                    );
                    return Err(Refusal::invalid(text));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn prepared(&mut self, number: u64, prepared: Result<Prepared, ExecError>, now: Instant) {
        let Some(call) = self.calls.get(&number) else {
            return; // cancelled or expired meanwhile
        };
        let level = call.level;
        let (mut prepared, foretold) = match self.admit(call.deadline, level, prepared, now) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.forget(number);
                return self.refuse(number, refusal);
            }
        };
        let call = self.calls.get_mut(&number).expect("it was there above, and only its refusal forgets it");
        call.foretold = foretold;
        call.prepared(&mut prepared, now);
        self.load.changed = true;
        let (alone, behind, complete) = (call.alone, call.behind, call.is_complete());
        self.preparing -= 1;
        match (complete, behind) {
            (true, _) => self.finish(number, now),
            (false, true) => self.queue.push_behind(number, prepared.parts, now, alone, level),
            (false, false) => self.queue.push(number, prepared.parts, now, alone, level),
        }
    }

    /// What has been prepared enters the queue if there is room and time for it; with it, whether that was foretold.
    fn admit(
        &self,
        deadline: Option<Instant>,
        level: u8,
        prepared: Result<Prepared, ExecError>,
        now: Instant,
    ) -> Result<(Prepared, bool), Refusal> {
        let prepared = prepared.map_err(|error| refusal(&error))?;
        let fits = self.queue.fits(&prepared.parts, &self.specification.queue);
        fits.map_err(|share| self.full(ShedReason::QueueItems, share, now))?;
        let foretold = self.foretell(deadline, &prepared.parts, level, now)?;
        Ok((prepared, foretold))
    }

    /// Takes no further request: as many are in flight as may be, or as many wait as may wait. An idle worker is about
    /// to take one of those that wait, so there is room for one more for each.
    pub(super) fn is_full(&self) -> bool {
        let limits = &self.specification.queue;
        self.calls.len() >= limits.requests as usize
            || limits.waiting.is_some_and(|waiting| self.waiting() >= waiting as usize + self.idle.len())
    }

    /// Requests of which something waits, for its preparation or in the queue.
    fn waiting(&self) -> usize {
        self.queue.requests() + self.preparing
    }

    /// The refusal of a request that there is no room for until this share of what waits has left.
    fn full(&self, reason: ShedReason, share: f64, now: Instant) -> Refusal {
        let limits = &self.specification.queue;
        let text = match (reason, limits.waiting) {
            (ShedReason::QueueItems, _) => format!(
                "the queue is full: {} items and {} tokens wait, at most {} and {} may",
                self.queue.items(),
                self.queue.tokens(),
                limits.items,
                limits.tokens
            ),
            (_, Some(waiting)) if self.calls.len() < limits.requests as usize => {
                format!("the queue is full: {} requests wait, at most {waiting} may", self.waiting())
            }
            _ => format!(
                "the queue is full: {} requests are in flight, at most {} may",
                self.calls.len(),
                limits.requests
            ),
        };
        Refusal::shed(reason, text, Some(self.room_in(share, now)))
    }
}
