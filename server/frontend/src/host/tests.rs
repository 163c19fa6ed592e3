//! Ports on the loopback: both versions of HTTP answered, connections bounded, shutdown in order.

use super::*;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

struct Port {
    address: SocketAddr,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
    release: Arc<tokio::sync::Notify>,
    asked: Arc<AtomicBool>,
}

/// A port whose `/wait` answers when released and whose other paths answer at once.
async fn port(limits: HostLimits) -> Port {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, release) = (CancellationToken::new(), Arc::new(tokio::sync::Notify::new()));
    let asked = Arc::new(AtomicBool::new(false));
    let (wait, was_asked) = (release.clone(), asked.clone());
    let router = tower::service_fn(move |request: Request<Incoming>| {
        let (wait, was_asked) = (wait.clone(), was_asked.clone());
        async move {
            if request.uri().path() == "/wait" {
                was_asked.store(true, Ordering::SeqCst);
                wait.notified().await;
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
        }
    });
    let served = tokio::spawn(serve(listener, router, limits, shutdown.clone()));
    Port { address, shutdown, served, release, asked }
}

async fn get_http2(port: &Port, path: &'static str) -> Result<Bytes, hyper::Error> {
    let stream = TcpStream::connect(port.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(format!("http://penstock{path}")).body(Empty::<Bytes>::new()).unwrap();
    Ok(sender.send_request(request).await?.into_body().collect().await?.to_bytes())
}

#[tokio::test]
async fn both_versions_of_http_are_answered() {
    let port = port(HostLimits::default()).await;
    assert_eq!(get_http2(&port, "/").await.unwrap(), "hello");
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: penstock\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("hello"), "{text}");
    port.shutdown.cancel();
    port.served.await.unwrap();
}

#[tokio::test]
async fn shutdown_answers_what_is_in_flight_and_takes_no_more() {
    let port = port(HostLimits::default()).await;
    let shutdown_then_release = async {
        while !port.asked.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        port.shutdown.cancel();
        while TcpStream::connect(port.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        port.release.notify_one();
    };
    let (answered, ()) = tokio::join!(get_http2(&port, "/wait"), shutdown_then_release);
    assert_eq!(answered.unwrap(), "hello");
    port.served.await.unwrap();
}

#[tokio::test]
async fn shutdown_does_not_wait_longer_than_its_grace() {
    let port = port(HostLimits { shutdown_grace: Duration::from_millis(10), ..HostLimits::default() }).await;
    let shutdown = async {
        while !port.asked.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        port.shutdown.cancel();
    };
    let (answered, ()) = tokio::join!(get_http2(&port, "/wait"), shutdown);
    assert!(answered.is_err());
    port.served.await.unwrap();
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    let port = port(HostLimits { connections_max: 1, ..HostLimits::default() }).await;
    let mut first = TcpStream::connect(port.address).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: penstock\r\n\r\n").await.unwrap();
    assert!(first.read_u8().await.is_ok());
    let mut second = TcpStream::connect(port.address).await.unwrap();
    let mut buffer = Vec::new();
    assert!(matches!(second.read_to_end(&mut buffer).await, Ok(0) | Err(_)));
    port.shutdown.cancel();
    drop(first);
    port.served.await.unwrap();
}

#[tokio::test]
async fn an_old_connection_is_asked_to_go() {
    let age = Some(Duration::from_millis(20));
    let port = port(HostLimits { connection_age_max: age, ..HostLimits::default() }).await;
    let stream = TcpStream::connect(port.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    assert!(connection.await.is_ok(), "GOAWAY without an error ends an idle connection");
    drop(sender);
    port.shutdown.cancel();
    port.served.await.unwrap();
}
