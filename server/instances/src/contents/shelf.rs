//! The agent's side: what was sent, kept by content for as long as the disk has room for it.

use super::{Answer, BUSY_EVERY, LIMITS, PIECE_BYTES, STALL_TIMEOUT};
use crate::protocol::write;
use penstock_packages::{ContentSha256, ContentStore, Hold, Manifest, PackageError};
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{Mutex, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Pieces of a content that wait to be written.
const PIECES_MAX: usize = 8;

/// Bytes that stay free beside what is laid out: more than those below which an instance says that its disk is full.
const SPARE_BYTES: u64 = 256 << 20;

/// Contents and folders of an instance.
pub(crate) struct Shelf {
    store: Arc<ContentStore>,
    /// One thing is laid out at a time: what several environments read is sent once.
    turn: Mutex<()>,
    spare_bytes: u64,
}

impl Shelf {
    /// Opens what a folder holds. Blocks. Errors: it cannot be used, or another process does.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        if let Some(parent) = folder.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let store = ContentStore::open(folder).map_err(io::Error::other)?;
        Ok(Self { store: Arc::new(store), turn: Mutex::new(()), spare_bytes: SPARE_BYTES })
    }

    /// Has these folders laid out, and says where. What is lacking comes on the connection; where there is no room for it, what
    /// nobody holds goes. Gives what keeps them here. Errors: the connection is of no use any more.
    pub(crate) async fn lay(
        &self,
        folders: Vec<Manifest>,
        connection: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> io::Result<Vec<Hold>> {
        let _turn = at_it(self.turn.lock(), connection).await?;
        // Before it is seen what is here.
        let holds = folders.iter().map(|manifest| self.store.hold(manifest)).collect();
        let mut lacking: Vec<(ContentSha256, u64)> = Vec::new();
        for manifest in &folders {
            let lengths = manifest.contents();
            let missing = self.store.missing(manifest).into_iter().map(|sha256| (sha256, lengths[&sha256]));
            let new: Vec<_> = missing.filter(|one| !lacking.contains(one)).collect();
            lacking.extend(new);
        }
        let wanted: u64 = lacking.iter().map(|(_, bytes)| bytes).sum();
        let (store, spare) = (self.store.clone(), self.spare_bytes);
        let made = spawn_blocking(move || make_room(&store, wanted, spare));
        let free = at_it(made, connection).await?.map_err(io::Error::other)?;
        let refused = match free {
            Ok(free) if free >= wanted => None,
            Ok(free) => Some(format!(
                "the instance's disk has {free} bytes left beside what its environments use, and {wanted} are to be sent: \
                 give it a larger one"
            )),
            Err(error) => Some(format!("an instance cannot make room for what is to be sent: {error}")),
        };
        if let Some(text) = refused {
            write(connection, &Answer::Failed(text)).await?;
            return Ok(Vec::new());
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
            let laid = folders.into_iter().map(|manifest| Ok(store.ingest_manifest(manifest, &LIMITS)?.folder));
            laid.collect::<Result<Vec<PathBuf>, PackageError>>()
        });
        let answer = match at_it(laid, connection).await?.map_err(io::Error::other)? {
            Ok(places) => Answer::Laid(places),
            Err(error) => Answer::Failed(format!("an instance cannot lay out what was sent: {error}")),
        };
        write(connection, &answer).await?;
        Ok(holds)
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

/// Bytes that are free, after what nobody holds has gone if that many and some to spare were not. Blocks.
fn make_room(store: &ContentStore, wanted: u64, spare: u64) -> Result<u64, PackageError> {
    let enough = wanted.saturating_add(spare);
    // What came since the last time is left the first time.
    for _ in 0..2 {
        let free = store.free_bytes()?;
        if wanted == 0 || free >= enough {
            return Ok(free);
        }
        let gone = store.retain(|| Some(BTreeSet::new()))?;
        tracing::info!(bytes = gone.bytes, contents = gone.contents, "what no environment reads any more is gone");
    }
    store.free_bytes()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::read;
    use penstock_packages::FileEntry;
    use tokio::io::AsyncWriteExt;

    /// Lays out one file; what had to be sent for it, and where it lies.
    async fn laid(shelf: &Shelf, text: &str) -> (usize, PathBuf, Vec<Hold>) {
        let sha256 = ContentSha256::of(text.as_bytes());
        let bytes = text.len() as u64;
        let file = FileEntry { path: "file".into(), sha256, bytes, executable: false };
        let manifest = Manifest::new(vec![file]).unwrap();
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        let fleet = async {
            let mut sent = 0;
            loop {
                match read(&mut far).await.unwrap() {
                    Answer::Lacking(all) => {
                        sent += all.len();
                        far.write_all(text.as_bytes()).await.unwrap();
                    }
                    Answer::Laid(places) => return (sent, places[0].join("file")),
                    Answer::Busy => {}
                    Answer::Failed(why) => panic!("{why}"),
                }
            }
        };
        let (holds, (sent, place)) = tokio::join!(shelf.lay(vec![manifest], &mut near), fleet);
        (sent, place, holds.unwrap())
    }

    #[tokio::test]
    async fn what_nobody_reads_goes_when_there_is_no_room_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut shelf = Shelf::open(folder.path().join("contents")).unwrap();
        shelf.spare_bytes = 0;
        let (sent, first, held) = laid(&shelf, "first").await;
        let (_, second, unheld) = laid(&shelf, "second").await;
        drop(unheld);
        assert_eq!((sent, laid(&shelf, "second").await.0), (1, 0), "sent once");
        // No disk has as much.
        shelf.spare_bytes = u64::MAX;
        let (sent, third, _) = laid(&shelf, "third").await;
        assert_eq!((sent, first.exists(), second.exists(), third.exists()), (1, true, false, true));
        assert_eq!(std::fs::read_to_string(&first).unwrap(), "first");
        drop(held);
        assert_eq!(laid(&shelf, "second").await.0, 1, "sent again");
        assert!(!first.exists());
    }
}
