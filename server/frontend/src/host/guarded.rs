//! Room 1, front end: a socket whose client must get on with it. A client that never says what it speaks, or that
//! reads nothing while answers wait, is cut; the timers only run while there is something to wait for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// No request of any protocol here is shorter than this, so so many bytes tell what the client speaks
/// (`GET / HTTP/1.1` and two line ends have 18, HTTP/2's preface has 24).
const FIRST_BYTES: usize = 16;

/// A stream with timers.
#[derive(Debug)]
pub(super) struct GuardedStream<T> {
    inner: T,
    /// Until `FIRST_BYTES` were read.
    opening: Option<Pin<Box<Sleep>>>,
    bytes_read: usize,
    stall: Pin<Box<Sleep>>,
    stalled: bool,
    stall_timeout: Duration,
}

impl<T> GuardedStream<T> {
    /// `head_timeout` for the first bytes, `stall_timeout` for each write to get further.
    pub(super) fn new(inner: T, head_timeout: Duration, stall_timeout: Duration) -> Self {
        Self {
            inner,
            opening: Some(Box::pin(tokio::time::sleep(head_timeout))),
            bytes_read: 0,
            stall: Box::pin(tokio::time::sleep(stall_timeout)),
            stalled: false,
            stall_timeout,
        }
    }

    /// Lets a write through, and times it out when it stands still.
    fn guard<R>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stalled = false;
            return written;
        }
        if !self.stalled {
            self.stalled = true;
            self.stall.as_mut().reset(Instant::now() + self.stall_timeout);
        }
        self.stall.as_mut().poll(cx).map(|()| Err(timed_out("the client reads nothing")))
    }
}

fn timed_out(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

impl<T: AsyncRead + Unpin> AsyncRead for GuardedStream<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buffer);
        if let Some(opening) = &mut this.opening {
            this.bytes_read += buffer.filled().len() - before;
            if this.bytes_read >= FIRST_BYTES {
                this.opening = None;
            } else if read.is_pending() {
                return opening.as_mut().poll(cx).map(|()| Err(timed_out("the client says nothing")));
            }
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for GuardedStream<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.guard(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, parts);
        this.guard(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.guard(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_cut_and_one_that_spoke_may_rest() {
        let (mut client, server) = duplex(64);
        let mut server = GuardedStream::new(server, TIMEOUT, TIMEOUT);
        client.write_all(b"GET").await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(server.read(&mut buffer).await.unwrap(), 3);
        assert_eq!(server.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let (mut client, server) = duplex(64);
        let mut server = GuardedStream::new(server, TIMEOUT, TIMEOUT);
        client.write_all(&[1; FIRST_BYTES]).await.unwrap();
        assert_eq!(server.read(&mut buffer).await.unwrap(), FIRST_BYTES);
        assert!(tokio::time::timeout(TIMEOUT * 10, server.read(&mut buffer)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_cut_and_a_slow_one_is_not() {
        let (client, server) = duplex(4);
        let mut server = GuardedStream::new(server, TIMEOUT, TIMEOUT);
        assert_eq!(server.write_all(&[0; 5]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(client);

        let (mut client, server) = duplex(4);
        let mut server = GuardedStream::new(server, TIMEOUT, TIMEOUT);
        let reader = async {
            for _ in 0..10 {
                tokio::time::sleep(TIMEOUT / 2).await;
                client.read_u8().await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(server.write_all(&[0; 10]), reader);
        assert!(written.is_ok());
    }
}
