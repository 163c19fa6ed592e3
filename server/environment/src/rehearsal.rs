//! An environment without a process and without threads: the same room behind the same link, whose batches take as long
//! as a play says, on tokio's clock.
//!
//! Called by simulations, which run whole houses of these under a paused clock. Never by the server.

use crate::frame::{Body, FrameReader, Outbox, write_frames};
use crate::room::{Event, Room, Used};
use crate::specification::{ReadyReport, Specification};
use crate::worker::{Assignment, Hand, run_batch};
use penstock_executor::{LoadError, Model, Part};
use penstock_proto::link::{self, header::Kind};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;

/// A batch that is about to run.
pub struct Scene<'a> {
    /// The runtime worker, from 0.
    pub worker: usize,
    /// What runs together.
    pub parts: Vec<&'a Part>,
}

/// What becomes of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// It ends after so long; the model's executor says with what.
    Takes(Duration),
    /// It takes the environment with it after so long.
    Crashes(Duration),
    /// It never ends.
    Hangs,
}

/// Decides what becomes of each batch, at the moment it starts.
pub type Play = Arc<dyn Fn(&Scene<'_>) -> Act + Send + Sync>;

/// Serves `model` behind a link until the link ends, the room is drained or the play lets it crash. Its requests are
/// prepared where they are read, and nothing is warmed up.
pub async fn rehearse<R, W>(mut from: R, to: W, specification: Specification, model: Arc<dyn Model>, play: Play)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    if skip_start(&mut from).await.is_err() {
        return; // whoever launched it is gone
    }
    let outbox = Outbox::new();
    let writer = tokio::spawn(write_frames(outbox.clone(), to));
    let mut reader = FrameReader::new(from, specification.body_bytes_max);
    let (events, mut happened) = mpsc::unbounded_channel();
    let (crash, mut crashed) = mpsc::channel(1);
    let hands = (0..specification.workers.max(1)).map(|worker| {
        let (model, events, play, crash) = (model.clone(), events.clone(), play.clone(), crash.clone());
        let hand: Hand = Arc::new(move |assignment: Assignment| {
            let parts = assignment.entries.iter().map(|entry| &entry.part).collect();
            let act = play(&Scene { worker, parts });
            let (model, events, crash) = (model.clone(), events.clone(), crash.clone());
            tokio::spawn(perform(worker, act, assignment, model, events, crash));
        });
        hand
    });
    let hands = hands.collect();
    let now = tokio::time::Instant::now().into_std();
    let report = ReadyReport::new(&*model, Vec::new());
    if let Ok(report) = serde_json::to_string(&report) {
        outbox.send(0, Kind::Ready(link::Ready { report }), Body::new());
    }
    let room = Room::new(specification, model, hands, None, outbox.clone(), Used::default, now);
    tokio::select! {
        biased;
        _ = crashed.recv() => {
            // As a process that is killed: nothing more is written, and both ends of the link are closed.
            writer.abort();
            return;
        }
        _ = room.run(&mut reader, &mut happened) => {}
    }
    outbox.close();
    let _ = writer.await;
}

/// The first frame is the specification, which is known here.
async fn skip_start(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
    let bytes = u64::from(from.read_u32_le().await?) + 4;
    tokio::io::copy(&mut from.take(bytes), &mut tokio::io::sink()).await.map(drop)
}

async fn perform(
    worker: usize,
    act: Act,
    assignment: Assignment,
    model: Arc<dyn Model>,
    events: mpsc::UnboundedSender<Event>,
    crash: mpsc::Sender<()>,
) {
    let took = match act {
        Act::Takes(took) => took,
        Act::Crashes(after) => {
            tokio::time::sleep(after).await;
            let _ = crash.try_send(());
            return;
        }
        Act::Hangs => return,
    };
    tokio::time::sleep(took).await;
    let Ok(mut executor) = model.executor(worker).map_err(|_: LoadError| ()) else { return };
    let mut done = run_batch(worker, assignment.batch, assignment.entries, &*model, &mut executor);
    done.report.compute_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    // The room may be gone.
    let _ = events.send(Event::BatchDone(done));
}
