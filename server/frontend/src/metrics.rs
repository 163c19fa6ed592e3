//! The metrics port: `/metrics` in Prometheus's text format. Called by the composition root.

use axum::Router;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use penstock_telemetry::Scrape;
use std::sync::Arc;

/// What the metrics port answers.
pub fn metrics_router(scrape: Arc<Scrape>) -> Router {
    let text = move || async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], scrape.render()) };
    Router::new().route("/metrics", get(text))
}
