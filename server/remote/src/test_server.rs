//! A server of a test's own: gives fixed answers, one for each request, and keeps what it was asked.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// What is sent, and then the connection is closed.
#[derive(Clone)]
pub(crate) struct Answer(String);

impl Answer {
    /// `head` are lines that end in CR LF.
    pub(crate) fn new(status: u16, head: &str, body: &str) -> Self {
        let Self(head) = Self::head(status, head, body.len());
        Self(head + body)
    }

    /// The same, to a request that asks for the head alone.
    pub(crate) fn head(status: u16, head: &str, bytes: usize) -> Self {
        Self(format!("HTTP/1.1 {status} X\r\ncontent-length: {bytes}\r\nconnection: close\r\n{head}\r\n"))
    }
}

pub(crate) struct TestServer {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl TestServer {
    /// Heads and bodies of the requests so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Ends when its answers do.
pub(crate) fn serve(answers: Vec<Answer>) -> TestServer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = asked.clone();
    std::thread::spawn(move || {
        for answer in answers {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let (mut request, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
            while !whole(&request) {
                match stream.read(&mut chunk) {
                    Ok(read) if read > 0 => request.extend_from_slice(&chunk[..read]),
                    _ => break,
                }
            }
            kept.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
            let _ = stream.write_all(answer.0.as_bytes());
        }
    });
    TestServer { url, asked }
}

fn whole(request: &[u8]) -> bool {
    let Some(head) = request.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    request.len() - head - 4 >= length.map_or(0, |length| length.trim().parse().unwrap())
}
