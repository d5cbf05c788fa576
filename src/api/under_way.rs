//! What a clinic or a till is asked for goes on to its end, also where the caller hangs up or waits no longer: dropped in
//! the middle, nobody would know what came of it.

use std::time::Duration;

use axum::http::StatusCode;
use tracing::Instrument;

use super::problem::Problem;
use crate::sync::connection::Connection;

/// How much longer than the vendor may take its caller is kept waiting: our own store has its part in it.
const BESIDES: Duration = Duration::from_secs(10);

/// Does it, and waits for it as long as the vendor may take.
pub async fn to_the_end<T, E>(
    at: &Connection,
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, Problem>
where
    T: Send + 'static,
    E: Send + 'static,
    Problem: From<E>,
{
    let patience = at.connector.push_deadline() + BESIDES;
    let unfinished = || {
        let detail = format!("{} takes its time, and it goes on: ask again later, nothing is made twice", at.name);
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "under_way", detail)
    };
    match tokio::time::timeout(patience, tokio::spawn(work.in_current_span())).await {
        Ok(Ok(done)) => done.map_err(Problem::from),
        Ok(Err(ended)) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(unfinished()),
        },
        Err(_) => Err(unfinished()),
    }
}
