//! The HTTP door: REST, webhooks in, health, metrics, the OpenAPI description and a plain page.

mod appointments;
mod auth;
mod checkouts;
mod connections;
mod contacts;
mod extract;
mod health;
mod inbox;
mod linked;
mod opportunities;
mod problem;
mod sales;
mod under_way;
mod values;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, http::StatusCode, response::Html, routing::get};
use tandem_contract::Secret;
use tokio::sync::Notify;
use tower_http::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub use appointments::OpeningView;
pub use inbox::Inbox;
pub use opportunities::{OpportunityView, views as opportunity_views};

use crate::{installation::Installation, model::Name};

/// The largest request that is read.
const LARGEST: usize = 2 * 1024 * 1024;

/// How long an answer may take, but for what a vendor carries out.
const QUICK: Duration = Duration::from_secs(30);

/// What every handler may use.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    installation: Arc<Installation>,
    bootstrap: Option<Secret>,
    public_url: Option<String>,
    inbox: Inbox,
    bells: BTreeMap<Name, Arc<Notify>>,
    metrics: Option<metrics_exporter_prometheus::PrometheusHandle>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tandem",
        description = "Keeps sales opportunities in step between this store and the systems a business already uses.",
        license(name = "MIT OR Apache-2.0")
    ),
    modifiers(&Bearer)
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_with(Default::default);
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

fn described() -> OpenApiRouter<Door> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(opportunities::list, opportunities::create))
        .routes(routes!(opportunities::show, opportunities::change, opportunities::delete))
        .routes(routes!(opportunities::history))
        .routes(routes!(contacts::list, contacts::create))
        .routes(routes!(contacts::show, contacts::change, contacts::delete))
        .routes(routes!(connections::accounts))
        .routes(routes!(connections::pipelines))
        .routes(routes!(connections::list))
        .routes(routes!(connections::show))
        .routes(routes!(connections::pause))
        .routes(routes!(connections::resume))
        .routes(routes!(connections::guard, connections::decide_guard))
        .routes(routes!(connections::conflicts))
        .routes(routes!(connections::conflict))
        .routes(routes!(connections::resolve))
        .routes(routes!(connections::failures))
        .routes(routes!(connections::retry))
        .routes(routes!(appointments::visits))
        .routes(routes!(appointments::openings))
        .routes(routes!(sales::list))
        .routes(routes!(sales::link))
        .routes(routes!(inbox::receive))
        .routes(routes!(inbox::receive_at_segment))
        .routes(routes!(inbox::receive_below))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, QUICK))
        // What a vendor carries out takes as long as the vendor may.
        .routes(routes!(appointments::book, appointments::shift, appointments::cancel))
        .routes(routes!(checkouts::checkout))
}

/// The OpenAPI 3.1 description, made from the code.
#[must_use]
pub fn description() -> utoipa::openapi::OpenApi {
    described().split_for_parts().1
}

impl Door {
    /// A door to an installation; `bells` wake the engines.
    #[must_use]
    pub fn new(
        installation: Arc<Installation>,
        bootstrap: Option<Secret>,
        public_url: Option<String>,
        bells: BTreeMap<Name, Arc<Notify>>,
        metrics: Option<metrics_exporter_prometheus::PrometheusHandle>,
    ) -> Self {
        let inbox = Inbox::start(installation.store.clone());
        Self(Arc::new(Inner { installation, bootstrap, public_url, inbox, bells, metrics }))
    }

    /// Everything that is served.
    pub fn router(self) -> Router {
        let (router, openapi) = described().split_for_parts();
        let text = openapi.to_json().unwrap_or_default();
        let api = router.layer(DefaultBodyLimit::max(LARGEST));
        api.route("/api/v1/openapi.json", get(move || async move { ([("content-type", "application/json")], text) }))
            .route("/healthz", get(health::alive))
            .route("/readyz", get(health::ready))
            .route("/metrics", get(health::metrics))
            .route("/", get(page))
            .fallback(problem::no_such_page)
            .layer(CatchPanicLayer::new())
            .with_state(self)
    }

    /// Wakes the engines of an account's connections.
    fn ring(&self, connections: &[Name]) {
        for bell in connections.iter().filter_map(|name| self.0.bells.get(name)) {
            bell.notify_one();
        }
    }
}

async fn page() -> Html<&'static str> {
    Html(include_str!("page.html"))
}
