//! What is served: `/healthz` and `/metrics`, beside whatever else the service is for.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::interval;

use crate::Outcome;

/// The upper bounds of the histograms' buckets, in seconds. The alarms need one at a third of the
/// time to live.
const BUCKETS: [f64; 12] = [
    0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0,
];
/// How often the exporter tidies up.
const UPKEEP: Duration = Duration::from_secs(5);

/// Makes the `metrics` crate record for Prometheus.
///
/// # Errors
///
/// If the program has a recorder already.
pub(crate) fn record_metrics() -> Outcome<PrometheusHandle> {
    let builder = PrometheusBuilder::new();
    // Without buckets, histograms become quantiles, which cannot be added up over instances.
    let builder =
        builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)?;
    Ok(builder.install_recorder()?)
}

/// Serves until the service stops.
///
/// # Errors
///
/// If the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: PrometheusHandle,
    mut stopped: watch::Receiver<bool>,
) -> Outcome {
    let upkeep = metrics.clone();
    let upkeep = tokio::spawn(async move {
        let mut due = interval(UPKEEP);
        loop {
            due.tick().await;
            upkeep.run_upkeep();
        }
    });
    let pages = Router::new()
        // An instance that waits for the lock is as healthy as the leader, and so is one that
        // cannot reach Redis: a restart would mend nothing.
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(async move || metrics.render()));
    axum::serve(listener, pages)
        .with_graceful_shutdown(async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        })
        .await?;
    upkeep.abort();
    Ok(())
}
