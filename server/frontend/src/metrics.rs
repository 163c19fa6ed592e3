//! The metrics port: `/metrics` in Prometheus's text format. Called by the composition root.

use crate::guard::Guard;
use axum::Router;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use penstock_telemetry::Scrape;
use std::sync::Arc;

/// What the metrics port answers.
pub fn metrics_router(scrape: Arc<Scrape>, guard: Option<Guard>) -> Router {
    let text = move || async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], scrape.render()) };
    let router = Router::new().route("/metrics", get(text));
    match guard {
        None => router,
        Some(guard) => router.layer(axum::middleware::from_fn_with_state(guard, crate::guard::metrics)),
    }
}
