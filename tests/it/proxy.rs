//! Something that stands between a connector and its vendor, and answers in the vendor's place when it is told to.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::Method,
    middleware::{Next, from_fn_with_state},
    response::Response,
};

/// Headers of an answer.
pub type Headers = &'static [(&'static str, &'static str)];

/// What is answered in the vendor's place.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Headers,
    pub body: String,
    /// Whether the vendor did what it was asked all the same.
    pub is_done: bool,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, headers: &[], body: body.into(), is_done: false }
    }
}

/// What is answered to a request: its method, path and body. Nothing where the vendor answers itself.
type Rule = Box<dyn FnMut(&Method, &str, &str) -> Option<Answer> + Send>;

#[derive(Default)]
struct Orders {
    rule: Option<Rule>,
    answered: usize,
}

/// Lets everything pass until it is told otherwise.
#[derive(Clone, Default)]
pub struct Proxy(Arc<Mutex<Orders>>);

impl Proxy {
    /// Puts it between a connector and its vendor.
    pub fn layer(&self) -> impl FnOnce(Router) -> Router + use<> {
        let proxy = self.clone();
        move |router| router.layer(from_fn_with_state(proxy, stand_between))
    }

    pub fn answer(&self, rule: impl FnMut(&Method, &str, &str) -> Option<Answer> + Send + 'static) {
        *self.0.lock().unwrap() = Orders { rule: Some(Box::new(rule)), answered: 0 };
    }

    /// Everything passes from here on.
    pub fn pass(&self) {
        self.0.lock().unwrap().rule = None;
    }

    /// How often it answered since it was last told what.
    pub fn answered(&self) -> usize {
        self.0.lock().unwrap().answered
    }

    fn answer_to(&self, method: &Method, path: &str, body: &str) -> Option<Answer> {
        let mut orders = self.0.lock().unwrap();
        let answer = orders.rule.as_mut().and_then(|rule| rule(method, path, body));
        orders.answered += usize::from(answer.is_some());
        answer
    }
}

async fn stand_between(State(proxy): State<Proxy>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let answer = proxy.answer_to(&parts.method, parts.uri.path(), &String::from_utf8_lossy(&body));
    let request = Request::from_parts(parts, Body::from(body));
    let Some(answer) = answer else { return next.run(request).await };
    if answer.is_done {
        drop(next.run(request).await);
    }
    let mut said = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        said = said.header(*name, *value);
    }
    said.body(Body::from(answer.body)).unwrap()
}
