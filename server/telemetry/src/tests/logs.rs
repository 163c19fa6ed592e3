//! Tests of the log's lines.

use crate::logs::{read_filter, subscriber};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log(json: bool, filter: &str) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = subscriber(json, false, read_filter(filter).0, move || writer.clone());
    tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!("request", request_id = "r-1");
        let _inside = span.enter();
        tracing::debug!("not asked for");
        tracing::warn!(function = "minilm", "slow\nmodel");
    });
    String::from_utf8(lines.0.lock().clone()).expect("logs are text")
}

#[test]
fn json_is_one_object_a_line_with_its_request() {
    let text = log(true, "info");
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in
        ["\"level\":\"WARN\"", "\"message\":\"slow\\nmodel\"", "\"function\":\"minilm\"", "\"request_id\":\"r-1\""]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn human_lines_hold_no_escapes_off_a_terminal() {
    let text = log(false, "info");
    assert!(text.contains("WARN request{request_id=\"r-1\"}"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn a_filter_that_cannot_be_read_is_told() {
    assert!(read_filter("penstock_dispatch=debug,info").1.is_none());
    assert!(read_filter(" ").1.is_none());
    assert!(read_filter("a=b=c").1.is_some());
    assert!(log(true, "a=b=c").contains("WARN"));
    assert!(log(true, "off").is_empty());
}
