//! Links between deals and contacts.

use serde_json::{Value as Json, json};
use tandem_contract::Kind;
use tandem_sandbox::Query;

use super::{
    objects::text_of,
    world::{Change, Refusal, World, iso},
};

type Answer = Result<(u16, Json), Refusal>;

/// Type ids of the two directions. Source: associations guide.
const DEAL_TO_CONTACT: u32 = 3;
const CONTACT_TO_DEAL: u32 = 4;

impl World {
    /// Links a deal to a contact.
    pub fn associate(&mut self, deal: u64, contact: u64, by: Change) {
        let added = self.contacts_of.entry(deal).or_default().insert(contact);
        self.deals_of.entry(contact).or_default().insert(deal);
        if added {
            self.association_changed(deal, contact, false, by);
        }
    }

    /// Removes the link between a deal and a contact.
    pub fn dissociate(&mut self, deal: u64, contact: u64, by: Change) {
        let removed = self.contacts_of.get_mut(&deal).is_some_and(|contacts| contacts.remove(&contact));
        if let Some(deals) = self.deals_of.get_mut(&contact) {
            deals.remove(&deal);
        }
        if removed {
            self.association_changed(deal, contact, true, by);
        }
    }

    fn association_changed(&mut self, deal: u64, contact: u64, removed: bool, by: Change) {
        if self.settings.association_moves_time {
            let now = self.now;
            if let Some(object) = self.objects.get_mut(&Kind::Deal).and_then(|all| all.get_mut(&deal)) {
                object.updated = now;
                std::sync::Arc::make_mut(&mut object.properties).insert("hs_lastmodifieddate".into(), iso(now));
            }
            self.reindex(Kind::Deal, deal);
        }
        self.outbox_event(Kind::Deal, deal, "associationChange", by, |event| {
            event["associationType"] = "DEAL_TO_CONTACT".into();
            event["associationTypeId"] = DEAL_TO_CONTACT.into();
            event["fromObjectId"] = deal.into();
            event["toObjectId"] = contact.into();
            event["associationRemoved"] = removed.into();
            event["isPrimaryAssociation"] = false.into();
        });
    }

    /// After a merge the links of the old records are the survivor's.
    pub(super) fn move_links(&mut self, kind: Kind, from: &[u64], to: u64) {
        for id in from.iter().filter(|id| **id != to) {
            if kind == Kind::Deal {
                for contact in self.contacts_of.remove(id).unwrap_or_default() {
                    self.deals_of.entry(contact).or_default().remove(id);
                    self.deals_of.entry(contact).or_default().insert(to);
                    self.contacts_of.entry(to).or_default().insert(contact);
                }
            } else {
                for deal in self.deals_of.remove(id).unwrap_or_default() {
                    self.contacts_of.entry(deal).or_default().remove(id);
                    self.contacts_of.entry(deal).or_default().insert(to);
                    self.deals_of.entry(to).or_default().insert(deal);
                }
            }
        }
    }

    fn linked(&self, from: Kind, to: Kind, id: u64) -> Vec<u64> {
        let links = match (from, to) {
            (Kind::Deal, Kind::Contact) => self.contacts_of.get(&id),
            (Kind::Contact, Kind::Deal) => self.deals_of.get(&id),
            _ => None,
        };
        links.into_iter().flatten().copied().filter(|other| self.is_live(to, *other)).collect()
    }

    pub(super) fn add_associations(&self, kind: Kind, id: u64, asked: &[String], record: &mut Json) {
        for name in asked {
            let Some(to) = super::routes::kind_of(name) else { continue };
            let label = format!("{}_to_{}", kind.as_str(), to.as_str());
            let results: Vec<Json> = self
                .linked(kind, to, id)
                .into_iter()
                .map(|other| json!({ "id": other.to_string(), "type": label }))
                .collect();
            if !results.is_empty() {
                record["associations"][crate::paths::plural(to)] = json!({ "results": results });
            }
        }
    }

    pub(super) fn associations_of(&self, from: Kind, id: u64, to: Kind, query: &Query) -> Answer {
        let (limit, after) = (query.number("limit").unwrap_or(500), query.number("after").unwrap_or(0));
        let all = self.linked(from, to, id);
        let results: Vec<Json> = all.iter().skip(after).take(limit).map(|other| to_json(from, *other)).collect();
        let mut answer = json!({ "results": results });
        if after + limit < all.len() {
            answer["paging"] = json!({ "next": { "after": (after + limit).to_string() } });
        }
        Ok((200, answer))
    }

    pub(super) fn association_batch(&mut self, from: Kind, to: Kind, verb: &[&str], body: &Json) -> Answer {
        let most = match verb {
            ["read"] => 1_000,
            ["archive"] | ["labels", "archive"] => 100,
            _ => 2_000,
        };
        let list = body.get("inputs").and_then(Json::as_array).cloned().unwrap_or_default();
        if list.len() > most {
            return Err(Refusal::new(400, "VALIDATION_ERROR", format!("at most {most} inputs")));
        }
        match verb {
            ["read"] => Ok(self.read_links(from, to, &list)),
            ["create"] | ["associate", "default"] => self.write_links(from, to, verb[0] == "associate", &list),
            ["archive"] | ["labels", "archive"] => {
                for input in &list {
                    let id: u64 = text_of(input.pointer("/from/id")).parse().unwrap_or(0);
                    let targets = match input.get("to") {
                        Some(Json::Array(many)) => many.clone(),
                        Some(one) => vec![one.clone()],
                        None => Vec::new(),
                    };
                    for target in targets {
                        let other: u64 = text_of(target.get("id")).parse().unwrap_or(0);
                        match from {
                            Kind::Deal => self.dissociate(id, other, Change::Api),
                            _ => self.dissociate(other, id, Change::Api),
                        }
                    }
                }
                Ok((204, Json::Null))
            }
            _ => Err(Refusal::not_found()),
        }
    }

    fn read_links(&mut self, from: Kind, to: Kind, list: &[Json]) -> (u16, Json) {
        let (mut results, mut errors) = (Vec::new(), Vec::new());
        let fails = self.faults.row_fails;
        for input in list {
            let id = text_of(input.get("id"));
            if tandem_sandbox::chance(&mut self.rng, fails) {
                errors.push(json!({
                    "status": "error", "category": "INTERNAL_ERROR", "message": "This row could not be read.",
                    "links": {}, "errors": [], "context": { "fromObjectId": [id] },
                }));
                continue;
            }
            let linked = self.linked(from, to, id.parse().unwrap_or(0));
            if linked.is_empty() {
                errors.push(json!({
                    "status": "error", "category": "OBJECT_NOT_FOUND", "subCategory": "crm.associations.NO_ASSOCIATIONS_FOUND",
                    "message": format!("No {to} is associated with {from} {id}."), "links": {}, "errors": [],
                    "context": { "fromObjectId": [id], "fromObjectType": [from.as_str()], "toObjectType": [to.as_str()] },
                }));
                continue;
            }
            let after: usize = text_of(input.get("after")).parse().unwrap_or(0);
            let end = (after + self.settings.association_page).min(linked.len());
            let page: Vec<Json> =
                linked.get(after..end).unwrap_or_default().iter().map(|other| to_json(from, *other)).collect();
            let mut result = json!({ "from": { "id": id }, "to": page });
            if end < linked.len() {
                result["paging"] = json!({ "next": { "after": end.to_string() } });
            }
            results.push(result);
        }
        self.complete(200, results, errors)
    }

    fn write_links(&mut self, from: Kind, to: Kind, default: bool, list: &[Json]) -> Answer {
        let (mut results, mut errors) = (Vec::new(), Vec::new());
        for input in list {
            let end = |end: &str| {
                text_of(input.pointer(&format!("/{end}/id")).or_else(|| input.pointer(&format!("/_{end}/id"))))
                    .parse::<u64>()
            };
            let (Ok(a), Ok(b)) = (end("from"), end("to")) else {
                return Err(Refusal::new(400, "VALIDATION_ERROR", "from and to need an id"));
            };
            if !self.is_live(from, a) || !self.is_live(to, b) {
                errors.push(json!({
                    "status": "error", "category": "OBJECT_NOT_FOUND", "message": "One of the objects does not exist.",
                    "links": {}, "errors": [],
                    "context": { "fromObjectId": [a.to_string()], "toObjectId": [b.to_string()] },
                }));
                continue;
            }
            match from {
                Kind::Deal => self.associate(a, b, Change::Api),
                _ => self.associate(b, a, Change::Api),
            }
            if default {
                for (x, y, kind) in [(a, b, type_id(from)), (b, a, type_id(to))] {
                    results.push(json!({
                        "from": { "id": x.to_string() }, "to": { "id": y.to_string() },
                        "associationSpec": { "associationCategory": "HUBSPOT_DEFINED", "associationTypeId": kind },
                    }));
                }
            } else {
                results.push(json!({
                    "fromObjectTypeId": object_type(from), "fromObjectId": a.to_string(),
                    "toObjectTypeId": object_type(to), "toObjectId": b.to_string(), "labels": [],
                }));
            }
        }
        Ok(self.complete(if default { 200 } else { 201 }, results, errors))
    }

    pub(super) fn associate_pair(&mut self, from: Kind, a: u64, to: Kind, b: u64, default: bool) -> Answer {
        let input = json!({ "from": { "id": a.to_string() }, "to": { "id": b.to_string() } });
        let (status, answer) = self.write_links(from, to, default, &[input])?;
        if status == 207 {
            return Err(Refusal::not_found());
        }
        if default { Ok((200, answer)) } else { Ok((201, answer["results"][0].clone())) }
    }

    pub(super) fn association_labels(&self, from: Kind) -> Answer {
        Ok((200, json!({ "results": [{ "category": "HUBSPOT_DEFINED", "typeId": type_id(from), "label": null }] })))
    }
}

fn type_id(from: Kind) -> u32 {
    if from == Kind::Deal { DEAL_TO_CONTACT } else { CONTACT_TO_DEAL }
}

fn object_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Contact => "0-1",
        Kind::Company => "0-2",
        _ => "0-3",
    }
}

fn to_json(from: Kind, other: u64) -> Json {
    json!({
        "toObjectId": other,
        "associationTypes": [{ "category": "HUBSPOT_DEFINED", "typeId": type_id(from), "label": null }],
    })
}
