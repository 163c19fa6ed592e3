//! Room 1, Lambda door: packages that come file by file, as `penstock deploy` sends them. Not Lambda's own.
//!
//! `POST /2026-11-26/packages` says what a package consists of and is told what is missing; `PUT
//! /2026-11-26/packages/{manifest}/contents/{sha256}` sends one content, as it is; then `Code: {"Manifest": …}` names the
//! package. Never holds a content in memory: it goes to disk as it comes.

use super::failure::LambdaError;
use super::operations::{control, empty, param};
use crate::http::{BodyLimits, Door, Share, Upload, json_response};
use axum::extract::{RawPathParams, Request, State};
use axum::response::Response;
use bytes::{Buf, Bytes};
use http::{StatusCode, header};
use penstock_control::{ControlError, ErrorKind};
use serde_json::json;
use std::io::{self, Read};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Largest list of a package's files, in bytes.
const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Pieces of a content that wait for the disk.
const PIECES: usize = 8;

pub(super) async fn announce(State(door): State<Arc<Door>>, request: Request) -> Result<Response, LambdaError> {
    let (head, body) = request.into_parts();
    let limits = BodyLimits { bytes_max: MANIFEST_BYTES_MAX, ..door.options.body_limits() };
    let mut share = Share::new(&door.options.budget);
    let body = Upload::new(&head.headers, body).read(&head.headers, limits, &mut share).await?;
    let wanted = control(&door)?.announce(body.into()).await?;
    let missing: Vec<String> = wanted.missing.iter().map(ToString::to_string).collect();
    let answer = json!({
        "Manifest": wanted.manifest.to_string(),
        "Missing": missing,
        "ExpiresInSeconds": wanted.kept.as_secs(),
    });
    Ok(json_response(StatusCode::OK, &answer))
}

pub(super) async fn content(
    State(door): State<Arc<Door>>,
    params: RawPathParams,
    request: Request,
) -> Result<Response, LambdaError> {
    let (head, body) = request.into_parts();
    let upload = Upload::new(&head.headers, body);
    if head.headers.contains_key(header::CONTENT_ENCODING) {
        let text = "send a content as it is: its name is the hash of that";
        return Err(ControlError::new(ErrorKind::UnsupportedMediaType, text).into());
    }
    let coming = control(&door)?.coming(param(&params, "manifest"), param(&params, "sha256"))?;
    let (to, from) = mpsc::channel(PIECES);
    let limits = door.options.body_limits();
    let passing = async move { upload.pass_on(limits, &to).await };
    let (passed, taken) = tokio::join!(passing, coming.take(Pieces { from, piece: Bytes::new() }));
    // That it broke off says more than that its length is wrong.
    passed?;
    taken?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// What comes, to be read on a thread that may block.
struct Pieces {
    from: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            match self.from.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.piece = piece?,
            }
        }
        let some = self.piece.len().min(to.len());
        self.piece.copy_to_slice(&mut to[..some]);
        Ok(some)
    }
}
