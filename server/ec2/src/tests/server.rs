//! An HTTP server of a test's own: asks a function for each answer, and keeps what it was asked.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The first line and the headers.
    pub(crate) head: String,
    pub(crate) body: String,
    /// The body's form.
    pub(crate) params: BTreeMap<String, String>,
}

impl Asked {
    /// A parameter; empty if there is none.
    pub(crate) fn param(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }
}

/// What is sent, and then the connection is closed.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Send(u16, String),
    /// Nothing is sent: the connection ends.
    Nothing,
}

pub(crate) struct Server {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Ends with the test's process.
    pub(crate) fn start(mut answer: impl FnMut(&Asked) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let kept = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let (mut request, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
                while !whole(&request) {
                    match stream.read(&mut chunk) {
                        Ok(read) if read > 0 => request.extend_from_slice(&chunk[..read]),
                        _ => break,
                    }
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let asked = Asked { head: head.into(), body: body.into(), params: form(body) };
                let answer = answer(&asked);
                kept.lock().push(asked);
                if let Answer::Send(status, body) = answer {
                    let bytes = body.len();
                    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {bytes}\r\nconnection: close\r\n\r\n");
                    let _ = stream.write_all((head + &body).as_bytes());
                }
            }
        });
        Self { url, asked }
    }

    /// The requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }
}

fn whole(request: &[u8]) -> bool {
    let Some(head) = request.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    request.len() - head - 4 >= length.map_or(0, |length| length.trim().parse().unwrap())
}

fn form(body: &str) -> BTreeMap<String, String> {
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}
