//! Signed webhooks, each durable before its 2xx, beside a raw loop that stores the same rows in groups as large.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::ensure;
use serde_json::json;
use tandem_contract::{Clock, Secret, SystemClock};
use tandem_hubspot::{
    sandbox::{Clinic, Settings},
    sign_v3,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    raw,
    site::Site,
    spread,
    table::{Figure, Row, Rows},
    vendor::Vendor,
};

/// Connections; each waits for its answer before it sends the next, so no group is larger.
const CONNECTIONS: usize = 64;
/// How long they send.
const LONG: Duration = Duration::from_secs(5);

/// Sends deliveries of one event to the daemon's door. No engine runs: it would share the processor.
pub async fn rows() -> Rows {
    let vendor = Vendor::start(Clinic { contacts: 0, deals: 0 }).await?;
    let site = Site::open(&vendor).await?;
    site.sync(&vendor).await?;
    let mut tasks = JoinSet::new();
    let address = site.serve(&mut tasks).await?;
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for sender in 0..CONNECTIONS {
        senders.spawn(send(address, vendor.secret.clone(), sender));
    }
    let mut answered = Vec::new();
    while let Some(times) = senders.join_next().await {
        answered.extend(times??);
    }
    let took = began.elapsed();
    let (account, name) = site.names();
    let stored = site.installation.store.backlog(account, name).await?;
    ensure!(stored == answered.len() as u64, "{} deliveries were answered and {stored} are stored", answered.len());
    let commits = raw::same_rows(&site.database(), &site.file("commits.db"), CONNECTIONS).await?;
    let what = format!("signed webhooks, durable before the 2xx, {CONNECTIONS} connections");
    let yardstick = format!("a raw loop that stores the same rows, {CONNECTIONS} a commit");
    let mut rows = vec![Row::new(
        &what,
        Figure::rate(answered.len(), took, "deliveries/s"),
        &yardstick,
        Figure::rate(answered.len(), commits.iter().sum(), "rows/s"),
    )];
    rows.extend(spread::rows(&what, answered, &yardstick, commits));
    Ok(rows)
}

/// One connection's deliveries, each about another record.
///
/// The client is this small so that it leaves the processor to what is measured.
async fn send(address: SocketAddr, secret: Secret, sender: usize) -> anyhow::Result<Vec<Duration>> {
    let (clock, portal) = (SystemClock::new(), Settings::default().portal_id);
    let uri = format!("http://{address}/webhooks/hubspot");
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < LONG {
        let id = (sender + 1) * 10_000_000 + times.len();
        let stamp = clock.now().timestamp_millis();
        let body = json!([{
            "eventId": id, "subscriptionId": 77, "portalId": portal, "appId": 1_357, "occurredAt": stamp,
            "subscriptionType": "deal.propertyChange", "attemptNumber": 0, "objectId": id,
            "propertyName": "amount", "propertyValue": "900.00", "changeSource": "CRM_UI",
        }])
        .to_string();
        let signature = sign_v3(&secret, "POST", &uri, body.as_bytes(), stamp);
        let request = format!(
            "POST /webhooks/hubspot HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nx-hubspot-request-timestamp: {stamp}\r\n\
             x-hubspot-signature-v3: {signature}\r\n\r\n{body}",
            body.len()
        );
        let began = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        accepted(&mut stream).await?;
        times.push(began.elapsed());
    }
    Ok(times)
}

/// Reads one answer, which must be 200 and have no body: then its head is all of it.
async fn accepted(stream: &mut TcpStream) -> anyhow::Result<()> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut head).await? > 0, "the daemon hung up");
    }
    let text = String::from_utf8_lossy(&head);
    let empty = head.ends_with(b"\r\n\r\n") && text.contains("content-length: 0");
    ensure!(text.starts_with("HTTP/1.1 200") && empty, "a delivery is answered {:?}", text.lines().next());
    Ok(())
}
