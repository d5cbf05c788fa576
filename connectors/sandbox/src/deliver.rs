//! The task that delivers webhooks.

use std::{sync::Arc, time::Duration};

use tandem_contract::{HttpRequest, Transport};

use crate::{Sandbox, Simulated};

/// A webhook on its way.
pub struct Delivery<S> {
    /// What is sent; `None` where the address leads nowhere.
    pub request: Option<HttpRequest>,
    /// How long to wait for a 2xx.
    pub timeout: Duration,
    /// What it is remembered by.
    pub sent: S,
}

pub async fn deliver<W: Simulated>(sandbox: Sandbox<W>, transport: Arc<dyn Transport>) {
    loop {
        let news = sandbox.0.news.notified();
        match sandbox.with_quietly(W::next_delivery) {
            Err(None) => news.await,
            Err(Some(wait)) => {
                tokio::select! {
                    () = news => {}
                    () = sandbox.sleep(wait) => {}
                }
            }
            Ok(Delivery { request, timeout, sent }) => {
                let success = match request {
                    Some(request) => {
                        transport.send(request, timeout).await.is_ok_and(|answer| answer.status.is_success())
                    }
                    None => false,
                };
                sandbox.with_quietly(|world| world.delivered(sent, success));
            }
        }
    }
}
