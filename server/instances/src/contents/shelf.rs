//! The agent's side: what was sent, kept by content.

use super::{Answer, BUSY_EVERY, PIECE_BYTES, STALL_TIMEOUT};
use crate::protocol::write;
use penstock_packages::{ContentSha256, ContentStore, Manifest, PackageLimits};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{Mutex, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Pieces of a content that wait to be written.
const PIECES_MAX: usize = 8;

/// Contents and folders of an instance.
pub(crate) struct Shelf {
    store: Arc<ContentStore>,
    /// One thing is laid out at a time: what several environments read is sent once.
    turn: Mutex<()>,
}

impl Shelf {
    /// Opens what a folder holds. Blocks. Errors: it cannot be used, or another process does.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        if let Some(parent) = folder.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let store = ContentStore::open(folder).map_err(io::Error::other)?;
        Ok(Self { store: Arc::new(store), turn: Mutex::new(()) })
    }

    /// Has these folders laid out, and says where. What is lacking comes on the connection. Errors: the connection is of no
    /// use any more.
    pub(crate) async fn lay(
        &self,
        folders: Vec<Manifest>,
        connection: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let _turn = at_it(self.turn.lock(), connection).await?;
        let mut lacking: Vec<(ContentSha256, u64)> = Vec::new();
        for manifest in &folders {
            let lengths = manifest.contents();
            let missing = self.store.missing(manifest).into_iter().map(|sha256| (sha256, lengths[&sha256]));
            let new: Vec<_> = missing.filter(|one| !lacking.contains(one)).collect();
            lacking.extend(new);
        }
        let wanted: u64 = lacking.iter().map(|(_, bytes)| bytes).sum();
        if let Some(free) = self.store.free_bytes().ok().filter(|free| *free < wanted) {
            let text =
                format!("the instance's disk has {free} bytes left, and {wanted} are to be sent: give it a larger one");
            return write(connection, &Answer::Failed(text)).await;
        }
        if !lacking.is_empty() {
            let contents = lacking.iter().map(|(sha256, _)| *sha256).collect();
            write(connection, &Answer::Lacking(contents)).await?;
        }
        for (sha256, bytes) in lacking {
            self.receive(sha256, bytes, connection).await?;
        }
        let store = self.store.clone();
        let laid = spawn_blocking(move || {
            let limits = PackageLimits::default();
            let laid = folders.into_iter().map(|manifest| Ok(store.ingest_manifest(manifest, &limits)?.folder));
            laid.collect::<Result<Vec<PathBuf>, penstock_packages::PackageError>>()
        });
        let answer = match at_it(laid, connection).await?.map_err(io::Error::other)? {
            Ok(places) => Answer::Laid(places),
            Err(error) => Answer::Failed(format!("an instance cannot lay out what was sent: {error}")),
        };
        write(connection, &answer).await
    }

    /// Keeps one content, which comes next. Errors: it does not come, is another, or cannot be written.
    async fn receive(
        &self,
        sha256: ContentSha256,
        bytes: u64,
        from: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let (give, take) = mpsc::channel(PIECES_MAX);
        let store = self.store.clone();
        let kept = spawn_blocking(move || {
            store.put_blob(sha256, Pieces { come: take, piece: Vec::new(), at: 0 }, bytes).map_err(io::Error::other)
        });
        let mut left = bytes;
        while left > 0 {
            let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES)];
            timeout(STALL_TIMEOUT, from.read_exact(&mut piece)).await??;
            left -= piece.len() as u64;
            if give.send(piece).await.is_err() {
                break;
            }
        }
        drop(give);
        at_it(kept, from).await?.map_err(io::Error::other)?
    }
}

/// Waits for something, and says on the connection that it does. Errors: the connection is of no use any more.
async fn at_it<T>(wait: impl Future<Output = T>, connection: &mut (impl AsyncWrite + Unpin)) -> io::Result<T> {
    tokio::pin!(wait);
    loop {
        match timeout(BUSY_EVERY, &mut wait).await {
            Ok(done) => return Ok(done),
            Err(_) => write(connection, &Answer::Busy).await?,
        }
    }
}

/// Reads what comes in pieces.
struct Pieces {
    come: mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            (self.piece, self.at) = (self.come.blocking_recv().unwrap_or_default(), 0);
        }
        let count = (self.piece.len() - self.at).min(to.len());
        to[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
