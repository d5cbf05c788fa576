//! A deal's contacts. HubSpot keeps them apart from properties, does not move the deal's modification time when they
//! change, and answers a deal without contacts as an error entry.
//!
//! Source: HubSpot developer documentation, "Associate records".

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use tandem_contract::{Call, ConnectorError};

use crate::{
    HubSpot,
    client::{ASSOCIATIONS, Ask},
    wire::{Associated, List},
};

/// Inputs of one batch read. Source: changelog of 2025-02-10.
const READ_BATCH: usize = 1_000;
/// Pairs of one batch associate.
const WRITE_BATCH: usize = 2_000;
/// `from` ids of one batch archive.
const ARCHIVE_BATCH: usize = 100;

/// Ids with the primary ones first, then by number: the same contacts always give the same list.
pub fn in_order(ids: impl Iterator<Item = (String, bool)>) -> Vec<String> {
    let mut primary_of: BTreeMap<String, bool> = BTreeMap::new();
    for (id, primary) in ids {
        *primary_of.entry(id).or_default() |= primary;
    }
    let mut list: Vec<(String, bool)> = primary_of.into_iter().collect();
    list.sort_by(|(a, a_primary), (b, b_primary)| (!a_primary, a.len(), a).cmp(&(!b_primary, b.len(), b)));
    list.into_iter().map(|(id, _)| id).collect()
}

/// Says of a deal that it has no contact; every other failure says nothing of the deal's contacts.
const NONE_FOUND: &str = "NO_ASSOCIATIONS_FOUND";

/// The contacts of each deal. A deal that HubSpot failed to read is not in the map: that is not the same as none.
pub async fn read(
    hubspot: &HubSpot,
    call: Call,
    deals: &[String],
) -> Result<BTreeMap<String, Vec<String>>, ConnectorError> {
    let path = hubspot.options.api_version.associations("read");
    let mut contacts: BTreeMap<String, Vec<(String, bool)>> = BTreeMap::new();
    for chunk in deals.chunks(READ_BATCH) {
        contacts.extend(chunk.iter().map(|id| (id.clone(), Vec::new())));
        let mut inputs: Vec<Json> = chunk.iter().map(|id| json!({ "id": id })).collect();
        while !inputs.is_empty() {
            let ask = Ask::post(&path, json!({ "inputs": inputs }), call.lane).bucket(ASSOCIATIONS);
            let page: List<Associated> = match hubspot.client.ask(ask).await {
                Ok(answer) => answer.json()?,
                // Not one of these deals is there any more.
                Err(ConnectorError::Gone) => {
                    contacts.retain(|id, _| !chunk.contains(id));
                    break;
                }
                Err(error) => return Err(error),
            };
            inputs.clear();
            for error in page
                .errors
                .iter()
                .filter(|error| !error.sub_category.as_deref().is_some_and(|sub| sub.ends_with(NONE_FOUND)))
            {
                let named: Vec<&str> = error.context("fromObjectId").chain(error.context("ids")).collect();
                // A failure that names nobody may be about anybody.
                let is_meant = |id: &String| named.contains(&id.as_str()) || (named.is_empty() && chunk.contains(id));
                contacts.retain(|id, _| !is_meant(id));
            }
            for deal in page.results {
                let Some(from) = deal.from.id.filter(|id| contacts.contains_key(id)) else { continue };
                if let Some(after) = deal.paging.and_then(|paging| paging.next).and_then(|next| next.after) {
                    inputs.push(json!({ "id": from, "after": after }));
                }
                let list = contacts.entry(from).or_default();
                list.extend(deal.to.into_iter().filter_map(|to| {
                    let primary = to
                        .association_types
                        .iter()
                        .any(|kind| kind.label.as_deref().is_some_and(|label| label.eq_ignore_ascii_case("primary")));
                    Some((to.to_object_id?, primary))
                }));
            }
        }
    }
    Ok(contacts.into_iter().map(|(deal, list)| (deal, in_order(list.into_iter()))).collect())
}

/// Links deals to contacts. Repeating it changes nothing.
///
/// Answers false if HubSpot refused some of them (207): then what is there must be read.
pub async fn link(hubspot: &HubSpot, call: Call, pairs: &[(String, String)]) -> Result<bool, ConnectorError> {
    let mut all = true;
    let path = hubspot.options.api_version.associations("associate/default");
    for chunk in pairs.chunks(WRITE_BATCH) {
        let inputs: Vec<Json> =
            chunk.iter().map(|(deal, contact)| json!({ "from": { "id": deal }, "to": { "id": contact } })).collect();
        let ask = Ask::post(&path, json!({ "inputs": inputs }), call.lane).bucket(ASSOCIATIONS).writes(call);
        all &= hubspot.client.ask(ask).await?.status != http::StatusCode::MULTI_STATUS;
    }
    Ok(all)
}

/// Removes links between deals and contacts. Repeating it changes nothing.
///
/// Answers false if HubSpot refused some of them (207): then what is there must be read.
pub async fn unlink(hubspot: &HubSpot, call: Call, pairs: &[(String, String)]) -> Result<bool, ConnectorError> {
    let mut all = true;
    let path = hubspot.options.api_version.associations("archive");
    let mut by_deal: BTreeMap<&str, Vec<Json>> = BTreeMap::new();
    for (deal, contact) in pairs {
        by_deal.entry(deal).or_default().push(json!({ "id": contact }));
    }
    let inputs: Vec<Json> = by_deal.into_iter().map(|(deal, to)| json!({ "from": { "id": deal }, "to": to })).collect();
    for chunk in inputs.chunks(ARCHIVE_BATCH) {
        let ask = Ask::post(&path, json!({ "inputs": chunk }), call.lane).bucket(ASSOCIATIONS).writes(call);
        all &= hubspot.client.ask(ask).await?.status != http::StatusCode::MULTI_STATUS;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primary_contact_comes_first_then_the_lowest_id() {
        let ids = [("900", false), ("70021", false), ("70", true), ("900", false)];
        assert_eq!(in_order(ids.iter().map(|(id, p)| ((*id).to_owned(), *p))), ["70", "900", "70021"]);
    }
}
