//! Is it alive, is it ready, how is it doing?

use axum::{extract::State, http::StatusCode};

use super::Door;

/// The process runs.
pub async fn alive() -> &'static str {
    "alive\n"
}

/// The database answers.
pub async fn ready(State(door): State<Door>) -> (StatusCode, &'static str) {
    if door.0.installation.store.is_ready().await {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n")
    }
}

/// Prometheus text.
pub async fn metrics(State(door): State<Door>) -> String {
    let installation = &door.0.installation;
    for connection in installation.connections.values() {
        let labels = [("connection", connection.name.to_string())];
        metrics::counter!("tandem_vendor_calls_total", &labels).absolute(connection.connector.calls());
        if let Ok(backlog) = installation.store.backlog(&connection.account.name, &connection.name).await {
            metrics::gauge!("tandem_backlog", &labels).set(backlog as f64);
        }
    }
    door.0.metrics.as_ref().map(metrics_exporter_prometheus::PrometheusHandle::render).unwrap_or_default()
}
