//! `tandem serve`: the daemon.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use axum::serve::{Listener, ListenerExt};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

use super::{Exit, Global};
use crate::{api::Door, installation::Installation, sync::engine::Engine};

/// How long running work is given when the daemon is told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Serves until told to stop.
///
/// # Errors
/// Configuration, database, or the port.
pub async fn serve(global: &Global) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let engines = installation.engines();
    run(installation, engines, stop_signal()).await
}

/// The daemon around an installation: API, webhooks, engines.
///
/// # Errors
/// The database is another engine's, or the port is taken.
pub async fn run(
    installation: Arc<Installation>,
    mut engines: Vec<Engine>,
    stop: CancellationToken,
) -> anyhow::Result<Exit> {
    let _lock = installation.lock()?;
    installation.note_absent().await?;
    let config = &installation.config;
    let listen = config.http.listen.resolve("http.listen", &config.folder)?;
    let public =
        config.http.public_url.as_ref().map(|url| url.resolve("http.public_url", &config.folder)).transpose()?;
    let bootstrap = config
        .auth
        .bootstrap_token
        .as_ref()
        .map(|token| token.secret("auth.bootstrap_token", &config.folder))
        .transpose()?;
    let listener =
        TcpListener::bind(&listen).await.with_context(|| format!("http.listen: {listen} cannot be listened on"))?;
    let bells: BTreeMap<_, _> =
        engines.iter().map(|engine| (engine.connection().name.clone(), engine.wake.clone())).collect();
    engines.iter_mut().for_each(|engine| engine.meet(&bells));
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().ok();
    let router = Door::new(installation.clone(), bootstrap, public, bells, metrics).router();
    info!(%listen, connections = engines.len(), "serving");
    let (tasks, hard) = (TaskTracker::new(), CancellationToken::new());
    for engine in engines {
        let (stop, hard, engine) = (stop.clone(), hard.clone(), Arc::new(engine));
        tasks.spawn(async move {
            // An engine that is dropped in the middle leaves its intents behind; they say what was under way.
            tokio::select! {
                () = keep_running(engine) => {}
                () = stop.cancelled() => {}
                () = hard.cancelled() => {}
            }
        });
    }
    let served = axum::serve(at_once(listener), router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let drained = tokio::select! {
        served = served.into_future() => served.is_ok(),
        () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => false,
    };
    hard.cancel();
    tasks.close();
    tasks.wait().await;
    installation.store.close().await;
    info!(drained, "stopped");
    Ok(Exit::Done)
}

/// An engine does not end by itself. Should one panic, that is logged and it starts again from what is stored.
async fn keep_running(engine: Arc<Engine>) {
    loop {
        let running = engine.clone();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { running.run().await });
        let ended = tasks.join_next().await;
        let panicked = ended.is_some_and(|ended| ended.is_err());
        error!(connection = %engine.connection().name, panicked, "an engine ended; it is started again: please report this");
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// A listener whose answers go out at once: else the kernel may hold back the end of one for 40 ms.
pub fn at_once(listener: TcpListener) -> impl Listener<Addr = std::net::SocketAddr, Io: Send> {
    listener.tap_io(|stream| {
        // Where that cannot be set, answers are late and otherwise the same.
        let _ = stream.set_nodelay(true);
    })
}

/// Ends with Ctrl-C or SIGTERM.
#[must_use]
pub fn stop_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        let terminated = async {
            match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
                Ok(mut signal) => {
                    signal.recv().await;
                }
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            () = terminated => {}
        }
        told.cancel();
    });
    stop
}
