//! From a request to its answer, through whatever goes wrong on the way.

use std::time::Duration;

use axum::{
    Json as JsonBody, Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chrono::{DateTime, SecondsFormat, Utc};
use http::StatusCode;
use serde_json::{Value as Json, json};

use crate::{Sandbox, Simulated};

/// Longer than anyone waits: an answer that never comes.
const NEVER: Duration = Duration::from_secs(3_600);
/// The largest body that is read.
const LARGEST: usize = 16 * 1024 * 1024;

/// What happens to a request, drawn once.
pub enum Fate<R> {
    /// It is carried out and answered.
    Answered,
    /// Nothing happens, no answer comes.
    Swallowed,
    /// It is carried out, no answer comes.
    SwallowedAfterwards,
    /// It is carried out within this time after the caller gave up; no answer comes.
    Late(Duration),
    /// It is refused, nothing happens.
    Refused(R),
    /// It is carried out, and refused all the same.
    BrokenAfterwards(R),
    /// It is carried out, and the answer breaks off in the middle.
    Truncated,
}

/// A moment as `Date` headers say it.
#[must_use]
pub fn http_date(at: DateTime<Utc>) -> String {
    at.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

pub fn router<W: Simulated>(sandbox: Sandbox<W>) -> Router {
    Router::new()
        .route("/__faults", get(show_faults::<W>).post(set_faults::<W>))
        .route("/__settings", post(set_settings::<W>))
        .route("/__clock", get(show_clock::<W>))
        .route("/__stats", get(show_stats::<W>).delete(clear_stats::<W>))
        .fallback(answer::<W>)
        .with_state(sandbox)
}

async fn show_faults<W: Simulated>(State(sandbox): State<Sandbox<W>>) -> JsonBody<W::Faults> {
    JsonBody(sandbox.with(|world| world.core().faults.clone()))
}

async fn set_faults<W: Simulated>(
    State(sandbox): State<Sandbox<W>>,
    JsonBody(faults): JsonBody<W::Faults>,
) -> JsonBody<W::Faults> {
    sandbox.with(|world| *world.core().faults = faults.clone());
    JsonBody(faults)
}

/// Merges the given fields into the settings, so one number can be changed alone.
async fn set_settings<W: Simulated>(State(sandbox): State<Sandbox<W>>, JsonBody(change): JsonBody<Json>) -> Response {
    let merged = sandbox.with(|world| {
        let mut all = serde_json::to_value(&*world.core().settings).unwrap_or_default();
        for (name, value) in change.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        let settings = serde_json::from_value::<W::Settings>(all)?;
        *world.core().settings = settings.clone();
        Ok::<_, serde_json::Error>(settings)
    });
    match merged {
        Ok(settings) => JsonBody(settings).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

async fn show_clock<W: Simulated>(State(sandbox): State<Sandbox<W>>) -> JsonBody<Json> {
    let now = sandbox.with(|world| *world.core().now);
    JsonBody(json!({ "now": now.to_rfc3339_opts(SecondsFormat::Millis, true) }))
}

async fn show_stats<W: Simulated>(State(sandbox): State<Sandbox<W>>) -> JsonBody<Json> {
    JsonBody(sandbox.with(|world| serde_json::to_value(&*world.core().stats).unwrap_or_default()))
}

async fn clear_stats<W: Simulated>(State(sandbox): State<Sandbox<W>>) -> StatusCode {
    sandbox.with(|world| *world.core().stats = W::Stats::default());
    StatusCode::NO_CONTENT
}

#[expect(clippy::result_large_err, reason = "an answer, made once a request")]
async fn answer<W: Simulated>(State(sandbox): State<Sandbox<W>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, LARGEST).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let asked = match sandbox.with_quietly(|world| world.take_apart(parts, body)) {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    let (fate, slow) = sandbox.with(|world| world.draw(&asked));
    if let Some(most) = slow {
        let wait = sandbox.up_to(most);
        sandbox.sleep(wait).await;
    }
    let never = || async {
        sandbox.sleep(NEVER).await;
        StatusCode::GATEWAY_TIMEOUT.into_response()
    };
    match fate {
        Fate::Answered => sandbox.with(|world| world.handle(&asked)),
        Fate::Refused(refusal) => sandbox.with(|world| world.refuse(refusal)),
        Fate::Swallowed => never().await,
        Fate::SwallowedAfterwards => {
            sandbox.with(|world| drop(world.handle(&asked)));
            never().await
        }
        Fate::Late(most) => {
            let (wait, later) = (sandbox.up_to(most), sandbox.clone());
            // Lives on when the caller hangs up: that is the fault.
            tokio::spawn(async move {
                later.sleep(wait).await;
                later.with(|world| drop(world.handle(&asked)));
            });
            never().await
        }
        Fate::BrokenAfterwards(refusal) => sandbox.with(|world| {
            drop(world.handle(&asked));
            world.refuse(refusal)
        }),
        Fate::Truncated => {
            let whole = sandbox.with(|world| world.handle(&asked));
            let (parts, body) = whole.into_parts();
            let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
            Response::from_parts(parts, axum::body::Body::from(bytes.slice(..bytes.len() / 2)))
        }
    }
}
