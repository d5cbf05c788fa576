//! An opportunity's appointment at a clinic, and what is free there.

use anyhow::Context;
use chrono::{DateTime, Utc};
use serde_json::{Value as Json, json};
use tandem_contract::{VisitChange, WantedOpenings};

use super::{Exit, Global, connection_of, daemon::Daemon, opportunity_id};
use crate::{
    api::OpeningView,
    booking::{self, Wish},
    installation::Installation,
    model::{Name, RecordId},
    sync::connection::Connection,
};

/// An opportunity's appointment at a clinic.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Appointment {
    /// What is free at a clinic: offers, not holds.
    Openings {
        /// Which clinic.
        #[arg(long)]
        connection: Name,
        /// From when, such as 2026-11-23T09:00:00-07:00; now if left out.
        #[arg(long)]
        from: Option<DateTime<Utc>>,
        /// Until when; a week later if left out, 31 days at most.
        #[arg(long)]
        until: Option<DateTime<Utc>>,
        /// With whom, by the clinic's id of a practitioner.
        #[arg(long)]
        practitioner: Option<String>,
        /// Where, by the clinic's id of a location.
        #[arg(long)]
        site: Option<String>,
    },
    /// Make it; an opportunity has one at a time.
    Book {
        /// Our id of the opportunity.
        opportunity: String,
        /// Which clinic.
        #[arg(long)]
        connection: Name,
        /// `meeting`, `service` or `rental`: a kind of the connection's visit_types.
        #[arg(long)]
        kind: String,
        /// When it begins, such as 2026-11-23T09:00:00-07:00.
        #[arg(long)]
        starts_at: DateTime<Utc>,
        /// When it ends; half an hour later if left out.
        #[arg(long)]
        ends_at: Option<DateTime<Utc>>,
        /// An opening, by the clinic's id.
        #[arg(long)]
        slot: Option<String>,
        /// Where, by the clinic's id of a location.
        #[arg(long)]
        site: Option<String>,
        /// With whom, by the clinic's id of a practitioner.
        #[arg(long)]
        practitioner: Option<String>,
    },
    /// Put it at another time.
    Move {
        /// Our id of the opportunity.
        opportunity: String,
        /// Which clinic.
        #[arg(long)]
        connection: Name,
        /// When it begins.
        #[arg(long)]
        starts_at: DateTime<Utc>,
        /// When it ends; half an hour later if left out.
        #[arg(long)]
        ends_at: Option<DateTime<Utc>>,
    },
    /// Call it off; at the clinic it stays, as cancelled.
    Cancel {
        /// Our id of the opportunity.
        opportunity: String,
        /// Which clinic.
        #[arg(long)]
        connection: Name,
    },
}

/// Does it.
///
/// # Errors
/// Configuration, database, the clinic, or no such opportunity.
pub async fn run(global: &Global, what: Appointment) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    match what {
        Appointment::Openings { connection, from, until, practitioner, site } => {
            let from = from.unwrap_or_else(|| installation.clock.now());
            let until = booking::until(from, until);
            let until = until.context("--until is not after --from, or more than 31 days later")?;
            let wanted = WantedOpenings { from, until, practitioner, site };
            openings(global, connection_of(&installation, &connection)?, &wanted).await
        }
        Appointment::Book { opportunity, connection, kind, starts_at, ends_at, slot, site, practitioner } => {
            let (clinic, id) = (connection_of(&installation, &connection)?, opportunity_id(&opportunity)?);
            let visit = match Daemon::of(&installation).await? {
                Some(daemon) => {
                    let body = json!({
                        "connection": connection, "kind": kind, "starts_at": starts_at, "ends_at": ends_at,
                        "slot": slot, "site": site, "practitioner": practitioner,
                    });
                    named(&daemon.carry_out("POST", clinic, &path(id), &body).await?)
                }
                None => {
                    learn(clinic).await?;
                    let ends_at = booking::end(starts_at, ends_at);
                    let wish = Wish { kind, starts_at, ends_at, slot, site, practitioner };
                    let now = installation.clock.now();
                    booking::book(&*installation.store, clinic, id, wish, now).await?.id()
                }
            };
            Ok(tell(global, &visit, "is booked"))
        }
        Appointment::Move { opportunity, connection, starts_at, ends_at } => {
            let (clinic, id) = (connection_of(&installation, &connection)?, opportunity_id(&opportunity)?);
            let visit = match Daemon::of(&installation).await? {
                Some(daemon) => {
                    let body = json!({ "connection": connection, "starts_at": starts_at, "ends_at": ends_at });
                    named(&daemon.carry_out("PATCH", clinic, &path(id), &body).await?)
                }
                None => {
                    let ends_at = booking::end(starts_at, ends_at);
                    change(&installation, clinic, id, VisitChange::Move { starts_at, ends_at }).await?
                }
            };
            Ok(tell(global, &visit, "is moved"))
        }
        Appointment::Cancel { opportunity, connection } => {
            let (clinic, id) = (connection_of(&installation, &connection)?, opportunity_id(&opportunity)?);
            let visit = match Daemon::of(&installation).await? {
                Some(daemon) => {
                    let path = format!("{}?connection={connection}", path(id));
                    named(&daemon.carry_out("DELETE", clinic, &path, &Json::Null).await?)
                }
                None => change(&installation, clinic, id, VisitChange::Cancel).await?,
            };
            Ok(tell(global, &visit, "is called off"))
        }
    }
}

fn path(id: RecordId) -> String {
    format!("/api/v1/opportunities/{id}/appointment")
}

/// The visit that the daemon answered with.
fn named(answer: &Json) -> String {
    answer["id"].as_str().unwrap_or_default().to_owned()
}

/// What a server can do is learned by asking it; in a daemon the engine does that.
async fn learn(clinic: &Connection) -> anyhow::Result<()> {
    clinic.connector.identify().await?;
    Ok(())
}

async fn change(
    installation: &Installation,
    clinic: &Connection,
    id: RecordId,
    to: VisitChange,
) -> anyhow::Result<String> {
    learn(clinic).await?;
    let visit = booking::change(&*installation.store, clinic, id, to, installation.clock.now()).await?;
    Ok(visit.id())
}

fn tell(global: &Global, visit: &str, what: &str) -> Exit {
    if global.json() {
        println!("{}", json!({ "visit": visit }));
    } else {
        println!("{visit} {what}. What becomes of it comes back as a visit.");
    }
    Exit::Done
}

async fn openings(global: &Global, clinic: &Connection, wanted: &WantedOpenings) -> anyhow::Result<Exit> {
    learn(clinic).await?;
    let found = booking::openings(clinic, wanted).await?;
    if global.json() {
        let shown: Vec<OpeningView> = found.into_iter().map(OpeningView::from).collect();
        println!("{}", json!({ "openings": shown }));
    } else if found.is_empty() {
        println!("Nothing is free then.");
    } else {
        for one in &found {
            let with = one.practitioner.as_ref().map_or_else(String::new, |who| format!(", with {who}"));
            let at = one.site.as_ref().map_or_else(String::new, |site| format!(", at {site}"));
            println!("{}  {} to {}{with}{at}", one.slot, one.starts_at.to_rfc3339(), one.ends_at.to_rfc3339());
        }
    }
    Ok(Exit::Done)
}
