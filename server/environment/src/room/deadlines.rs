//! Time in the room: requests that cannot be done in time are refused when they come, or at the latest before a batch
//! would run them for nothing; those whose deadline passes are answered then; a batch that never ends ends the room.
//!
//! Called by the room's loop. Every decision follows from `now`, the queue and the service times learned so far.

use super::{Room, RoomError};
use crate::queue::{LEVELS_MAX, Waiting};
use crate::specification::TimeoutAction;
use penstock_admission::{Backlog, Foretold, FullBatch, Queued, usable};
use penstock_domain::{ErrorCode, Refusal};
use penstock_executor::{BatchCost, Part};
use std::time::{Duration, Instant};

/// Of the time that a request had, so much is kept for its answer's way back.
const WAY_BACK_SHARE: u32 = 32;

/// A batch that a worker runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    /// When it was handed over.
    pub(super) since: Instant,
    /// When it could have been formed: before that, if it waited for its turn.
    pub(super) wanted: Instant,
    /// Whether it takes a turn at a shared device.
    pub(super) has_turn: bool,
    /// In the unit its cost grows with.
    pub(super) size: u64,
}

impl Room {
    /// In the unit a batch's cost grows with.
    pub(super) fn size(&self, items: u64, tokens: u64) -> u64 {
        match self.shape.cost {
            BatchCost::Items => items,
            BatchCost::Tokens { .. } => tokens,
        }
    }

    /// Whether strangers may share a batch.
    fn together(&self) -> bool {
        self.specification.batching.dynamic && self.shape.max_items > 0
    }

    /// The largest batch that may be formed.
    fn full_batch(&self) -> FullBatch {
        match self.together() {
            true => {
                let places = u64::from(self.shape.max_items);
                FullBatch { places, size: self.size(places, self.specification.batching.max_tokens).max(1) }
            }
            false => FullBatch::ALONE,
        }
    }

    fn queued(&self, Waiting { requests, items, tokens }: Waiting) -> Queued {
        Queued { places: if self.together() { items } else { requests }, size: self.size(items, tokens) }
    }

    /// Whether it is foretold that a request of these parts will be done by its deadline: not if nobody knows, or it has
    /// none. Errors: it cannot be.
    pub(super) fn foretell(
        &self,
        deadline: Option<Instant>,
        parts: &[Part],
        level: u8,
        now: Instant,
    ) -> Result<bool, Refusal> {
        let Some(deadline) = deadline else { return Ok(false) };
        let left = usable(deadline.saturating_duration_since(now));
        let items = parts.iter().map(|part| u64::from(part.items)).sum();
        let tokens = parts.iter().map(|part| u64::from(part.tokens)).sum();
        match self.done_in(self.size(items, tokens), level, now) {
            Some(foretold) if foretold.done_in > left => {
                Err(Refusal::unmeetable(foretold.done_in, left, foretold.in_time_in(left)))
            }
            known => Ok(known.is_some()),
        }
    }

    /// When a request of this size and level that comes now would be done.
    fn done_in(&self, size: u64, level: u8, now: Instant) -> Option<Foretold> {
        let time = |size| self.service.predict(size, now);
        let free_in = self.free_in(time, now)?;
        let (queued, full) = (self.queued(self.queue.ahead(level)), self.full_batch());
        self.backlog(queued, free_in).done_in(queued.joined_by(size, full), time, self.caution)
    }

    fn backlog(&self, queued: Queued, free_in: Duration) -> Backlog {
        Backlog::new(queued, self.full_batch(), self.workers.len() as u32, free_in)
    }

    /// How long until a worker is free, where a batch of a size takes `time`.
    fn free_in(&self, time: impl Fn(u64) -> Option<Duration>, now: Instant) -> Option<Duration> {
        let mut free_in = Duration::MAX;
        for running in &self.running {
            let left = match running {
                None => Duration::ZERO,
                Some(running) => time(running.size)?.saturating_sub(now.saturating_duration_since(running.wanted)),
            };
            free_in = free_in.min(left);
        }
        Some(free_in)
    }

    /// How long, in the mean, until `share` of what waits has left the queue: until the first batch of it begins, at least.
    pub(super) fn room_in(&self, share: f64, now: Instant) -> Duration {
        let time = |size| self.service.expect(size, now);
        let room_in = self.free_in(time, now).and_then(|free_in| {
            let backlog = self.backlog(self.queued(self.queue.ahead(LEVELS_MAX)), free_in);
            // The first begins when a worker is free.
            let more = ((backlog.batches * share).ceil() - 1.0).max(0.0);
            Backlog { batches: more, ..backlog }.begins_in(time)
        });
        room_in.unwrap_or_else(|| self.drain_rate.wait((self.queue.requests() as f64 * share).ceil().max(1.0) as u64))
    }

    /// Refuses what waits and would rather be late than not, even if it ran in the very next batch.
    pub(super) fn drop_late(&mut self, now: Instant) {
        if self.deadlines.is_empty() || self.queue.is_empty() {
            return;
        }
        let (_, next_batch_size) = self.queued(self.queue.ahead(LEVELS_MAX)).batches(self.full_batch());
        let Some(takes) = self.service.expect(next_batch_size as u64, now) else { return };
        let waits = |call: &u64| self.calls.get(call).is_some_and(|call| !call.is_preparing() && !call.has_begun());
        // The way back takes its time, too; more than a batch is not kept for it.
        let way_back = |(deadline, call): &(Instant, u64)| {
            let whole = self.calls.get(call).map(|call| deadline.saturating_duration_since(call.received));
            whole.unwrap_or_default() / WAY_BACK_SHARE
        };
        let near = self.deadlines.iter().take_while(|(deadline, _)| *deadline < now + takes + takes);
        let late = near.filter(|entry| entry.0 < now + takes + way_back(entry));
        let late: Vec<_> = late.copied().filter(|(_, call)| waits(call)).collect();
        if late.iter().any(|(_, call)| self.was_foretold(*call)) {
            self.caution.late();
        }
        for (deadline, call) in late {
            self.cancel(call);
            let left = deadline.saturating_duration_since(now);
            self.refuse(call, Refusal::unmeetable(takes, left, takes.saturating_sub(left)));
        }
    }

    fn was_foretold(&self, call: u64) -> bool {
        self.calls.get(&call).is_some_and(|call| call.foretold)
    }

    /// Answers those whose time is up.
    pub(super) fn expire(&mut self, now: Instant) {
        let mut expired = self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now);
        if expired.any(|(_, call)| self.was_foretold(*call)) {
            self.caution.late();
        }
        while let Some((deadline, number)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.cancel(number);
            let text = "the deadline passed before the answer was ready";
            self.refuse(number, Refusal::new(ErrorCode::DeadlineExceeded, text));
        }
        while let Some((at, number)) = self.timeouts.first().copied()
            && at <= now
        {
            self.timeouts.remove(&(at, number));
            self.waited_too_long(number);
        }
    }

    /// The queue's policy has a limit to waiting, and this request has reached it with nothing begun.
    fn waited_too_long(&mut self, number: u64) {
        match &self.specification.queue.timeout {
            Some(timeout) if timeout.action == TimeoutAction::Refuse => {
                let after_us = timeout.after_us;
                self.cancel(number);
                let text = format!("the request waited {after_us} us in the queue, the most that its policy allows");
                self.refuse(number, Refusal::new(ErrorCode::DeadlineExceeded, text));
            }
            _ => {
                if let Some(call) = self.calls.get_mut(&number) {
                    call.timeout = None;
                    call.behind = true;
                    self.queue.send_behind(number);
                }
            }
        }
    }

    /// When the batch that has run longest will have run too long.
    pub(super) fn hang_at(&self) -> Option<Instant> {
        let longest = Duration::from_micros(self.specification.batching.run_timeout_us);
        let since = self.running.iter().flatten().map(|running| running.since).min()?;
        (!longest.is_zero()).then_some(since)?.checked_add(longest)
    }

    /// Ends the room when a batch has run too long: a thread that hangs in a model cannot be stopped, a process can.
    pub(super) fn watch(&self, now: Instant) -> Result<(), RoomError> {
        match self.hang_at() {
            Some(at) if at <= now => {
                let longest_ms = self.specification.batching.run_timeout_us / 1000;
                Err(RoomError::Broken(format!("a batch has not ended within {longest_ms} ms: the model hangs")))
            }
            _ => Ok(()),
        }
    }
}
