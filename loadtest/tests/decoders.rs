//! Whatever a server sends, the generator's decoders take it or refuse it: they never panic and never answer twice.
#![allow(clippy::unwrap_used, reason = "a test")]

use bytes::Bytes;
use penstock_loadtest::target::Target;
use penstock_loadtest::timing;
use penstock_loadtest::wire::Ticket;
use proptest::prelude::*;

/// A frame of HTTP/2 with an honest length, so that what is inside is reached.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    (0u8..11, any::<u8>(), 0u32..8, prop::collection::vec(any::<u8>(), 0..40)).prop_map(
        |(kind, flags, stream, body)| {
            let mut frame = vec![0, 0, body.len() as u8, kind, flags];
            frame.extend_from_slice(&stream.to_be_bytes());
            frame.extend(body);
            frame
        },
    )
}

proptest! {
    #[test]
    fn clients_survive_any_bytes(
        scheme in prop::sample::select(vec!["grpc", "grpc-stream", "http"]),
        frames in prop::collection::vec(frame(), 0..12),
        tail in prop::collection::vec(any::<u8>(), 0..60),
        cut in 1usize..30,
    ) {
        let mut client = Target::parse(&format!("{scheme}://127.0.0.1:1")).unwrap().client(None);
        let mut answers = Vec::new();
        for at in 0..3 {
            if at == 0 || scheme != "http" {
                client.send(Ticket::default(), &Bytes::from_static(&[0; 64]));
            }
        }
        let bytes: Vec<u8> = if scheme == "http" {
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), tail].concat()
        } else {
            frames.into_iter().flatten().chain(tail).collect()
        };
        for part in bytes.chunks(cut) {
            if client.receive(part, &mut answers).is_err() {
                break;
            }
        }
        let ended = answers.len();
        let sent = if scheme == "http" { 1 } else { 3 };
        prop_assert_eq!(ended + client.in_flight(), sent);
        client.abandon(&mut answers);
        prop_assert_eq!(client.in_flight(), 0);
    }

    #[test]
    fn stage_times_survive_any_text(text in "[a-z=;,\" .0-9]{0,60}") {
        timing::metrics(&text, |_, ms, _| assert!(ms.is_none_or(|ms| ms >= 0.0)));
    }
}
