//! Bodies are judged before they are read, and never held beyond the limit or the budget.

use super::super::inflate::deflate;
use super::*;
use axum::body::Body;
use futures_util::stream;
use http::HeaderValue;
use std::convert::Infallible;

const LIMITS: BodyLimits =
    BodyLimits { bytes_max: 1000, stall_max: Duration::from_secs(30), bytes_per_second_min: 100 };

fn chunked(pieces: Vec<Bytes>) -> Body {
    Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, Infallible>)))
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
}

async fn read(pairs: &[(&'static str, &str)], body: Body, budget: &ByteBudget) -> Result<Bytes, (u16, String)> {
    let headers = headers(pairs);
    let read = Upload::new(&headers, body).read(&headers, LIMITS, &mut Share::new(budget)).await;
    read.map_err(|failure| {
        let status = failure.render(super::super::Api::OpenInference, Default::default()).status();
        (status.as_u16(), failure.refusal.message)
    })
}

#[tokio::test]
async fn the_length_is_judged_before_a_byte_is_read() {
    let budget = ByteBudget::new(500);
    let unread = || Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
    let (status, words) = read(&[("content-length", "1001")], unread(), &budget).await.unwrap_err();
    assert_eq!((status, words.as_str()), (413, "request body has 1001 bytes, the limit is 1000"));
    let (status, words) = read(&[("content-length", "501")], unread(), &budget).await.unwrap_err();
    assert_eq!(status, 429);
    assert!(words.contains("no memory for 501 more bytes"), "{words}");
    let (status, words) = read(&[("content-encoding", "br")], unread(), &budget).await.unwrap_err();
    assert_eq!(status, 415);
    assert!(words.contains("`br`"), "{words}");
    assert_eq!(budget.taken(), 0);
}

#[tokio::test]
async fn chunked_bodies_are_counted_as_they_come() {
    let budget = ByteBudget::new(2000);
    let pieces = |count| chunked(vec![Bytes::from_static(&[7; 300]); count]);
    assert_eq!(read(&[], pieces(3), &budget).await.unwrap(), [7; 900][..]);
    assert_eq!(read(&[], pieces(4), &budget).await.unwrap_err().0, 413);
    let small = ByteBudget::new(700);
    assert_eq!(read(&[], pieces(3), &small).await.unwrap_err().0, 429);
    assert_eq!((budget.taken(), small.taken()), (0, 0));
}

#[tokio::test]
async fn a_share_lasts_until_it_is_dropped() {
    let budget = ByteBudget::new(1000);
    let mut share = Share::new(&budget);
    let head = headers(&[("content-length", "3")]);
    let body = Upload::new(&head, Body::from("abc")).read(&head, LIMITS, &mut share).await.unwrap();
    assert_eq!((&body[..], budget.taken()), (&b"abc"[..], 3));
    let answer = super::super::HeldBody::new([body], share);
    assert_eq!((budget.taken(), http_body::Body::size_hint(&answer).exact()), (3, Some(3)));
    drop(answer);
    assert_eq!(budget.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn slow_writers_are_told() {
    let budget = ByteBudget::new(1000);
    let stalls = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
    let (status, words) = read(&[], stalls, &budget).await.unwrap_err();
    assert_eq!(status, 408);
    assert!(words.contains("came too slowly: 0 bytes in 30.0 s"), "{words}");
    // A byte a second never stalls, but is far below 100 bytes a second.
    let trickle = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok::<_, Infallible>(Bytes::from_static(b"x")), ()))
    });
    let (status, words) = read(&[], Body::from_stream(trickle), &budget).await.unwrap_err();
    assert_eq!(status, 408);
    assert!(words.contains("30 bytes in 30."), "{words}");
    // 300 bytes a second may take longer than the stall limit in all.
    let steady = stream::unfold(0, |sent| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        (sent < 40).then_some((Ok::<_, Infallible>(Bytes::from_static(&[1; 20])), sent + 1))
    });
    let slower = BodyLimits { bytes_per_second_min: 10, ..LIMITS };
    let head = HeaderMap::new();
    let body = Upload::new(&head, Body::from_stream(steady)).read(&head, slower, &mut Share::new(&budget)).await;
    assert_eq!(body.unwrap().len(), 800);
}

#[tokio::test]
async fn compressed_bodies() {
    let budget = ByteBudget::new(10_000);
    let plain = Bytes::from(vec![b'a'; 900]);
    for (coding, name) in [(Coding::Gzip, "gzip"), (Coding::Gzip, "X-GZIP"), (Coding::Deflate, "deflate")] {
        let body = read(&[("content-encoding", name)], Body::from(deflate(&plain, coding)), &budget).await;
        assert_eq!(body.unwrap(), plain, "{name}");
    }
    let mut raw = Vec::new();
    std::io::Read::read_to_end(
        &mut flate2::bufread::DeflateEncoder::new(&plain[..], flate2::Compression::fast()),
        &mut raw,
    )
    .unwrap();
    assert_eq!(read(&[("content-encoding", "deflate")], Body::from(raw), &budget).await.unwrap(), plain);
    let gzip = deflate(&plain, Coding::Gzip);
    for broken in [Bytes::from_static(b"not gzip"), gzip.slice(..gzip.len() - 9), gzip.slice(..5)] {
        let (status, words) = read(&[("content-encoding", "gzip")], Body::from(broken), &budget).await.unwrap_err();
        assert_eq!(status, 400);
        assert!(words.starts_with("request body is not valid gzip"), "{words}");
    }
}

#[tokio::test]
async fn a_bomb_is_never_inflated_past_the_limit_nor_the_budget() {
    let bomb = deflate(&vec![0; 64 << 20], Coding::Gzip);
    assert!(bomb.len() < 1 << 20);
    let limits = BodyLimits { bytes_max: 1 << 20, ..LIMITS };
    let inflate = |budget: ByteBudget| {
        let bomb = bomb.clone();
        async move {
            let mut share = Share::new(&budget);
            let refusal = super::inflate(bomb, Coding::Gzip, limits.bytes_max, &mut share).await.unwrap_err();
            assert!(budget.taken() <= 1 << 20, "{}", budget.taken());
            refusal
        }
    };
    let refusal = inflate(ByteBudget::new(1 << 30)).await;
    assert_eq!(refusal.code, ErrorCode::TooLarge);
    assert!(refusal.message.ends_with("more than the limit of 1048576"), "{}", refusal.message);
    assert_eq!(inflate(ByteBudget::new(300_000)).await.shed, Some(ShedReason::MemoryBudget));
}

#[test]
fn what_a_client_accepts() {
    let accepted = |value| Coding::of_answer(&headers(&[("accept-encoding", value)]));
    assert_eq!(accepted("gzip, deflate"), Some(Coding::Gzip));
    assert_eq!(accepted("deflate, gzip;q=0.5"), Some(Coding::Deflate));
    assert_eq!(accepted("br, identity"), None);
    assert_eq!(accepted("gzip;q=0"), None);
    assert_eq!(Coding::of_answer(&HeaderMap::new()), None);
}
