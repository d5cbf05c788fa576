//! Locations, categories, items and their variations.

use serde_json::{Value as Json, json};

use super::world::{World, iso};

/// A place where the seller sells.
#[derive(Clone, Debug)]
pub struct LocationDef {
    pub id: String,
    pub name: String,
    pub timezone: String,
    pub country: String,
    pub currency: String,
    pub closed: bool,
}

#[derive(Clone, Debug)]
pub struct CategoryDef {
    pub id: String,
    pub name: String,
    pub parent: Option<String>,
    pub deleted: bool,
}

#[derive(Clone, Debug)]
pub struct VariationDef {
    pub id: String,
    pub name: String,
    pub price: i64,
    pub deleted: bool,
}

#[derive(Clone, Debug)]
pub struct ItemDef {
    pub id: String,
    pub name: String,
    pub category: Option<String>,
    pub variations: Vec<VariationDef>,
}

/// What is sold.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub categories: Vec<CategoryDef>,
    pub items: Vec<ItemDef>,
}

impl World {
    /// Two locations in two zones, treatments in categories, and retail.
    pub(super) fn furnish(&mut self) {
        let location = |id: &str, name: &str, timezone: &str| LocationDef {
            id: id.into(),
            name: name.into(),
            timezone: timezone.into(),
            country: "US".into(),
            currency: "USD".into(),
            closed: false,
        };
        self.locations = vec![
            location("LDOWNTOWN00001", "Downtown", "America/Phoenix"),
            location("LUPTOWN0000002", "Uptown", "America/New_York"),
        ];
        let category = |id: &str, name: &str, parent: Option<&str>| CategoryDef {
            id: id.into(),
            name: name.into(),
            parent: parent.map(str::to_owned),
            deleted: false,
        };
        self.catalog.categories = vec![
            category("CTREATMENTS001", "Treatments", None),
            category("CINJECTABLE001", "Injectables", Some("CTREATMENTS001")),
            category("CRETAIL0000001", "Retail", None),
        ];
        let item = |id: &str, name: &str, category: &str, variation: &str, price: i64| ItemDef {
            id: format!("I{id}"),
            name: name.into(),
            category: Some(category.into()),
            variations: vec![VariationDef { id: format!("V{id}"), name: variation.into(), price, deleted: false }],
        };
        self.catalog.items = vec![
            item("NEUROTOXIN0001", "Neurotoxin treatment", "CINJECTABLE001", "50 units", 65_000),
            item("LASER000000001", "Laser course", "CTREATMENTS001", "6 sessions", 120_000),
            item("CONSULT0000001", "Consultation", "CTREATMENTS001", "30 minutes", 10_000),
            item("SERUM000000001", "Serum", "CRETAIL0000001", "30 ml", 4_500),
        ];
    }

    /// Opens another location; answers its id.
    pub fn add_location(&mut self, name: &str, timezone: &str, country: &str, currency: &str) -> String {
        let id = self.next_id("L");
        self.locations.push(LocationDef {
            id: id.clone(),
            name: name.into(),
            timezone: timezone.into(),
            country: country.into(),
            currency: currency.into(),
            closed: false,
        });
        id
    }

    /// Closes a location for good, by its name; what was sold there stays.
    pub fn close_location(&mut self, name: &str) {
        if let Some(location) = self.locations.iter_mut().find(|location| location.name == name) {
            location.closed = true;
        }
    }

    /// The id of a location by its name.
    #[must_use]
    pub fn location_id(&self, name: &str) -> Option<String> {
        self.locations.iter().find(|location| location.name == name).map(|location| location.id.clone())
    }

    /// The variation of an item by the item's name.
    #[must_use]
    pub fn variation_id(&self, item: &str) -> Option<String> {
        let item = self.catalog.items.iter().find(|known| known.name == item)?;
        item.variations.first().map(|variation| variation.id.clone())
    }

    /// Moves an item to another category, by names.
    pub fn move_item(&mut self, item: &str, category: &str) {
        let to = self.catalog.categories.iter().find(|known| known.name == category).map(|known| known.id.clone());
        if let Some(item) = self.catalog.items.iter_mut().find(|known| known.name == item) {
            item.category = to;
        }
        self.tell_of_catalog();
    }

    fn tell_of_catalog(&mut self) {
        let object = json!({ "updated_at": iso(self.now) });
        self.tell("catalog.version.updated", "catalog_version", object, "ITEMS_READ");
    }

    /// Takes an item's variations out of the catalog; old orders still name them.
    pub fn delete_variations(&mut self, item: &str) {
        for variation in
            self.catalog.items.iter_mut().filter(|known| known.name == item).flat_map(|i| &mut i.variations)
        {
            variation.deleted = true;
        }
        self.tell_of_catalog();
    }

    /// Takes a category out of the catalog; items still name it.
    pub fn delete_category(&mut self, name: &str) {
        for category in self.catalog.categories.iter_mut().filter(|known| known.name == name) {
            category.deleted = true;
        }
        self.tell_of_catalog();
    }

    pub(super) fn variation(&self, id: &str) -> Option<(&ItemDef, &VariationDef)> {
        self.catalog
            .items
            .iter()
            .find_map(|item| Some((item, item.variations.iter().find(|variation| variation.id == id)?)))
    }

    pub(super) fn location(&self, id: &str) -> Option<&LocationDef> {
        self.locations.iter().find(|location| location.id == id)
    }

    pub(super) fn show_locations(&self) -> Json {
        let all: Vec<Json> = self
            .locations
            .iter()
            .map(|location| {
                let status = if location.closed { "INACTIVE" } else { "ACTIVE" };
                json!({
                    "id": location.id, "name": location.name, "timezone": location.timezone, "status": status,
                    "currency": location.currency, "country": location.country, "type": "PHYSICAL",
                    "merchant_id": self.settings.merchant_id, "created_at": "2024-01-09T17:00:00Z",
                    "capabilities": ["CREDIT_CARD_PROCESSING"],
                })
            })
            .collect();
        json!({ "locations": all })
    }

    /// Categories and items, as lists show them.
    pub(super) fn show_catalog(&self, types: &[String], deleted: bool) -> Vec<Json> {
        let wants = |name: &str| types.is_empty() || types.iter().any(|wanted| wanted == name);
        let categories = self.catalog.categories.iter().filter(|one| wants("CATEGORY") && (deleted || !one.deleted));
        let items = self.catalog.items.iter().filter(|one| wants("ITEM") && (deleted || !is_gone(one)));
        categories.map(show_category).chain(items.map(|item| show_item(item, deleted))).collect()
    }

    /// An object by its id, and the ids that it names.
    fn catalog_object(&self, id: &str) -> Option<(Json, Vec<String>)> {
        if let Some(category) = self.catalog.categories.iter().find(|known| known.id == id) {
            return Some((show_category(category), category.parent.iter().cloned().collect()));
        }
        if let Some(item) = self.catalog.items.iter().find(|known| known.id == id) {
            return Some((show_item(item, true), item.category.iter().cloned().collect()));
        }
        let (item, variation) = self.variation(id)?;
        Some((show_variation(item, variation), vec![item.id.clone()]))
    }

    /// Objects by id, those that are not there left out.
    pub(super) fn batch_catalog(&self, body: &Json) -> Json {
        let has = |name: &str| body[name] == true;
        let is_there = |shown: &Json, deleted: bool| deleted || shown["is_deleted"] != true;
        let asked = body["object_ids"].as_array().into_iter().flatten().filter_map(Json::as_str);
        let found: Vec<(Json, Vec<String>)> = asked
            .filter_map(|id| self.catalog_object(id))
            .filter(|(shown, _)| is_there(shown, has("include_deleted_objects")))
            .collect();
        let deleted = has("include_deleted_objects") && self.settings.deleted_are_related;
        let related: Vec<Json> = found
            .iter()
            .filter(|_| has("include_related_objects"))
            .flat_map(|(_, named)| named)
            .filter_map(|id| self.catalog_object(id))
            .map(|(shown, _)| shown)
            .filter(|shown| is_there(shown, deleted))
            .collect();
        let mut answer = json!({});
        let objects: Vec<Json> = found.into_iter().map(|(shown, _)| shown).collect();
        for (name, all) in [("objects", objects), ("related_objects", related)] {
            if !all.is_empty() {
                answer[name] = all.into();
            }
        }
        answer
    }
}

/// True for an item of which no variation is left.
fn is_gone(item: &ItemDef) -> bool {
    item.variations.iter().all(|variation| variation.deleted)
}

fn object(kind: &str, id: &str, gone: bool) -> Json {
    json!({
        "type": kind, "id": id, "version": 1_746_180_000_000_i64, "is_deleted": gone,
        "updated_at": "2026-05-02T10:00:00.000Z", "present_at_all_locations": true,
    })
}

fn show_category(category: &CategoryDef) -> Json {
    let mut shown = object("CATEGORY", &category.id, category.deleted);
    shown["category_data"] = json!({ "name": category.name, "is_top_level": category.parent.is_none() });
    if let Some(parent) = &category.parent {
        shown["category_data"]["parent_category"] = json!({ "id": parent });
    }
    shown
}

fn show_variation(item: &ItemDef, variation: &VariationDef) -> Json {
    let mut shown = object("ITEM_VARIATION", &variation.id, variation.deleted);
    shown["item_variation_data"] = json!({
        "item_id": item.id, "name": variation.name, "pricing_type": "FIXED_PRICING",
        "price_money": { "amount": variation.price, "currency": "USD" },
    });
    shown
}

fn show_item(item: &ItemDef, deleted: bool) -> Json {
    let mut shown = object("ITEM", &item.id, is_gone(item));
    let variations = item.variations.iter().filter(|variation| deleted || !variation.deleted);
    let variations: Vec<Json> = variations.map(|variation| show_variation(item, variation)).collect();
    shown["item_data"] = json!({ "name": item.name, "product_type": "REGULAR", "variations": variations });
    if let Some(category) = &item.category {
        shown["item_data"]["categories"] = json!([{ "id": category, "ordinal": 1 }]);
        shown["item_data"]["reporting_category"] = json!({ "id": category, "ordinal": 1 });
    }
    shown
}
