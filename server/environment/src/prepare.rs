//! Preparation: turning requests into parts (tokenization) on threads of its own, so that it blocks neither a runtime
//! worker nor the room.

use crate::call::Gone;
use crate::room::Event;
use crossbeam_channel::Sender;
use penstock_executor::{ExecError, Model, Work};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc::UnboundedSender;

/// A request to prepare.
struct Task {
    call: u64,
    work: Work,
    gone: Gone,
}

/// The threads. What waits for them is bounded by the requests an environment takes. They end when this is dropped.
pub(crate) struct Preparation(Sender<Task>);

impl Preparation {
    pub(crate) fn start(
        threads: usize,
        model: &Arc<dyn Model>,
        events: &UnboundedSender<Event>,
    ) -> std::io::Result<Self> {
        let (give, take) = crossbeam_channel::unbounded::<Task>();
        for index in 0..threads.max(1) {
            let (take, model, events) = (take.clone(), model.clone(), events.clone());
            std::thread::Builder::new().name(format!("prepare-{index}")).spawn(move || {
                crate::worker::step_back();
                while let Ok(Task { call, work, gone }) = take.recv() {
                    if gone.load(Ordering::Relaxed) {
                        continue; // its caller left, or its deadline passed, while it waited here
                    }
                    let prepared = catch_unwind(AssertUnwindSafe(|| model.prepare(work)))
                        .unwrap_or_else(|_| Err(ExecError::Failed("preparing the request panicked".into())));
                    if events.send(Event::Prepared(call, prepared)).is_err() {
                        return;
                    }
                }
            })?;
        }
        Ok(Self(give))
    }

    /// Prepares a request, unless it is `gone` by then; the room hears of it by [`Event::Prepared`].
    pub(crate) fn prepare(&self, call: u64, work: Work, gone: Gone) {
        // Cannot fail while the threads live, and they live as long as this.
        let _ = self.0.send(Task { call, work, gone });
    }
}
