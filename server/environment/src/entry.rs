//! The environment's own process, from its first instruction to its last.
//!
//! Called by the executable when it is started as an environment. Descriptor 0 is the link; its end is the process's.

use crate::frame::{Body, FrameReader, Outbox, write_frames};
use crate::isolation;
use crate::prepare::Preparation;
use crate::room::{Event, Room, RoomError};
use crate::specification::{Measure, ReadyReport, Specification};
use crate::worker;
use penstock_executor::{LoadError, Model};
use penstock_proto::link::{self, Header, header::Kind};
use prost::Message;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// A specification never comes near this.
const START_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long what is already answered may take to leave once the room has ended.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Loads the version a specification names.
pub type Load = Box<dyn FnOnce(&Specification) -> Result<Arc<dyn Model>, LoadError> + Send>;

/// Runs an environment on descriptor 0 until the link ends or it is drained. Call with a single thread running, so
/// that isolation covers all of them.
pub fn run(load: Load) -> ExitCode {
    match start(load) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the environment ended");
            ExitCode::FAILURE
        }
    }
}

fn start(load: Load) -> Result<(), RoomError> {
    let mut link = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let specification = read_start(&mut link)?;
    let measures = isolation::enter(&specification.isolation);
    link.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let (from, to) = tokio::net::UnixStream::from_std(link)?.into_split();
        serve(from, to, specification, measures, load).await
    });
    // Threads may be deep in a model: the process ends without them.
    runtime.shutdown_background();
    result
}

/// The first frame, read before there is a runtime. Whatever follows stays in the socket.
fn read_start(link: &mut impl Read) -> Result<Specification, RoomError> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut head = [0; 8];
    link.read_exact(&mut head)?;
    let [a, b, c, d, ..] = head;
    let bytes = u32::from_le_bytes([a, b, c, d]) as usize;
    if bytes > START_BYTES_MAX {
        return Err(invalid(format!("a first frame of {bytes} bytes")).into());
    }
    let mut frame = vec![0; bytes];
    link.read_exact(&mut frame)?;
    let header = Header::decode(&frame[..]).map_err(|error| invalid(error.to_string()))?;
    let Some(Kind::Start(start)) = header.kind else {
        return Err(invalid("a first frame that is not a start".into()).into());
    };
    serde_json::from_str(&start.specification).map_err(|error| invalid(error.to_string()).into())
}

/// Serves a specification that has been read, over any byte streams.
pub async fn serve<R, W>(
    from: R,
    to: W,
    specification: Specification,
    isolation: Vec<Measure>,
    load: Load,
) -> Result<(), RoomError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let outbox = Outbox::new();
    let writer = tokio::spawn(write_frames(outbox.clone(), to));
    let mut reader = FrameReader::new(from, specification.body_bytes_max);
    let (give, mut events) = mpsc::unbounded_channel();
    let loading = open(specification, isolation, load, outbox.clone(), give);
    let result = tokio::select! {
        biased;
        room = loading => match room {
            Ok(room) => room.run(&mut reader, &mut events).await,
            Err(error) => {
                let permanent = matches!(error, LoadError::Invalid(_));
                let failed = link::LoadFailed { message: error.to_string(), permanent };
                outbox.send(0, Kind::LoadFailed(failed), Body::new());
                Ok(())
            }
        },
        // Nothing is sent before the environment is ready: this is the end of the link.
        _ = reader.ended() => Ok(()),
    };
    outbox.close();
    // A peer that does not read any more does not keep this process.
    let _ = tokio::time::timeout(FLUSH_TIMEOUT, writer).await;
    result
}

/// Loads, warms up and reports.
async fn open(
    specification: Specification,
    isolation: Vec<Measure>,
    load: Load,
    outbox: Outbox,
    events: mpsc::UnboundedSender<Event>,
) -> Result<Room, LoadError> {
    let began = tokio::time::Instant::now();
    let (specification, model) = tokio::task::spawn_blocking(move || {
        let model = load(&specification);
        model.map(|model| (specification, model))
    })
    .await
    .unwrap_or_else(|panic| Err(LoadError::Invalid(format!("loading panicked: {panic}"))))?;
    let loaded = tokio::time::Instant::now();
    let thread_error = |error: io::Error| LoadError::Failed(format!("cannot start a thread: {error}"));
    let mut workers = Vec::new();
    // One after the other: each may use all the threads that they share.
    for index in 0..specification.workers.max(1) {
        let (assign, started) = worker::start(index, model.clone(), events.clone()).map_err(thread_error)?;
        workers.push(assign);
        started.await.map_err(|_| LoadError::Failed("a runtime worker ended while starting".into()))??;
    }
    let preparation = match model.prepares_slowly() {
        true => {
            let threads = specification.preparation_threads;
            Some(Preparation::start(threads, &model, &events).map_err(thread_error)?)
        }
        false => None,
    };
    let ready = tokio::time::Instant::now();
    let mut report = ReadyReport::new(&*model, isolation);
    report.load_ms = (loaded - began).as_millis() as u64;
    report.warmup_ms = (ready - loaded).as_millis() as u64;
    let report = serde_json::to_string(&report).map_err(|error| LoadError::Failed(error.to_string()))?;
    outbox.send(0, Kind::Ready(link::Ready { report }), Body::new());
    Ok(Room::new(specification, model, workers, preparation, outbox, isolation::used, ready.into_std()))
}
