//! What is sold and where: items, categories and locations, read now and then and kept.
//!
//! An order names variations, and goes on naming them when they are in the catalog no more: those are asked for by id.
//! Source: `BatchRetrieveCatalogObjects`, <https://developer.squareup.com/reference/square/catalog-api/batch-retrieve-catalog-objects>.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Deserialize;
use serde_json::json;
use tandem_contract::{Call, ConnectorError, Location};

use crate::{
    Square,
    client::{Ask, or_none},
};

/// How long what was read of the catalog is taken to be so.
const CATALOG_AGE: Duration = Duration::from_secs(300);
/// The same once Square told that it changed: a word of every single edit does not have everything read every time.
const CHANGED_AGE: Duration = Duration::from_secs(60);
/// The same for locations.
const LOCATIONS_AGE: Duration = Duration::from_secs(3_600);
/// Pages of the catalog that are read at most.
const MOST_PAGES: usize = 200;
/// Categories above one another that are followed at most.
const MOST_LEVELS: usize = 16;
/// Ids of one question. Source: `BatchRetrieveCatalogObjects`.
const OBJECTS: usize = 1_000;
/// How often ids are asked for, one naming the next: the variation, its item, a category and the one above it.
const MOST_ROUNDS: usize = 4;

/// What was read, and when.
#[derive(Default)]
pub struct Books {
    catalog: Mutex<Option<Kept>>,
    /// How often Square told that the catalog changed.
    told: AtomicU64,
    locations: Mutex<Option<(Duration, Arc<Vec<Location>>)>>,
}

/// A catalog that was read.
#[derive(Clone)]
struct Kept {
    at: Duration,
    /// How often Square had told of changes when the read began: what it told since may not be in it.
    told: u64,
    catalog: Arc<Catalog>,
}

impl Books {
    /// Square told that the catalog changed.
    pub(crate) fn note_change(&self) {
        self.told.fetch_add(1, Ordering::Relaxed);
    }
}

/// Items by variation, and the categories above them.
#[derive(Clone, Default)]
pub struct Catalog {
    /// Item and name, by variation.
    variations: BTreeMap<String, (String, String)>,
    /// Name and categories, by item.
    items: BTreeMap<String, (String, Vec<String>)>,
    /// Name and the one above, by category.
    categories: BTreeMap<String, (String, Option<String>)>,
    /// What was asked for by id, and Square does not know either.
    absent: BTreeSet<String>,
}

impl Catalog {
    /// The names an item of this variation goes by, and its categories with all above them: each by name and id.
    #[must_use]
    pub fn of(&self, variation: &str) -> Option<(Vec<String>, Vec<String>)> {
        let (item, named) = self.variations.get(variation)?;
        let (name, categories) = self.items.get(item).cloned().unwrap_or_default();
        let mut names = vec![name, named.clone(), variation.to_owned(), item.clone()];
        names.retain(|name| !name.is_empty());
        let mut all = Vec::new();
        for category in categories {
            let mut next = Some(category);
            for _ in 0..MOST_LEVELS {
                let Some(id) = next.take().filter(|id| !all.contains(id)) else { break };
                if let Some((name, parent)) = self.categories.get(&id) {
                    all.push(name.clone());
                    next.clone_from(parent);
                }
                all.push(id);
            }
        }
        Some((names, all))
    }

    /// Whether all is known of a variation: what it is of, and the categories that is in.
    #[must_use]
    pub fn tells_of(&self, variation: &str) -> bool {
        self.missing(variation).iter().all(String::is_empty)
    }

    /// The ids that are to be asked for next, before all is known of a variation.
    fn missing(&self, variation: &str) -> Vec<String> {
        let Some((item, _)) = self.variations.get(variation) else { return vec![variation.to_owned()] };
        let Some((_, categories)) = self.items.get(item) else { return vec![item.clone()] };
        let mut missing = Vec::new();
        for category in categories {
            let mut next = Some(category);
            for _ in 0..MOST_LEVELS {
                let Some(id) = next.take() else { break };
                match self.categories.get(id) {
                    Some((_, above)) => next = above.as_ref(),
                    None => missing.push(id.clone()),
                }
            }
        }
        missing
    }

    fn knows(&self, id: &str) -> bool {
        self.variations.contains_key(id) || self.items.contains_key(id) || self.categories.contains_key(id)
    }

    fn take_in(&mut self, object: Object) {
        if let Some(category) = object.category_data {
            let parent = category.parent_category.map(|parent| parent.id).filter(|id| !id.is_empty());
            self.categories.insert(object.id.clone(), (category.name, parent));
        }
        if let Some(item) = object.item_data {
            let main = item.reporting_category.map(|category| category.id).or(item.category_id);
            let mut categories: Vec<String> = item.categories.into_iter().map(|category| category.id).collect();
            categories.extend(main.filter(|id| !categories.contains(id)));
            for variation in item.variations {
                let named = variation.item_variation_data.unwrap_or_default().name;
                self.variations.insert(variation.id, (object.id.clone(), named));
            }
            self.items.insert(object.id.clone(), (item.name, categories));
        }
        if let Some(variation) = object.item_variation_data {
            self.variations.insert(object.id, (variation.item_id, variation.name));
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Objects {
    #[serde(deserialize_with = "or_none")]
    objects: Vec<Object>,
    #[serde(deserialize_with = "or_none")]
    related_objects: Vec<Object>,
    cursor: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    id: String,
    item_data: Option<ItemData>,
    category_data: Option<CategoryData>,
    item_variation_data: Option<VariationData>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ItemData {
    #[serde(deserialize_with = "or_none")]
    name: String,
    #[serde(deserialize_with = "or_none")]
    categories: Vec<Id>,
    reporting_category: Option<Id>,
    category_id: Option<String>,
    #[serde(deserialize_with = "or_none")]
    variations: Vec<Object>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CategoryData {
    #[serde(deserialize_with = "or_none")]
    name: String,
    parent_category: Option<Id>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VariationData {
    #[serde(deserialize_with = "or_none")]
    item_id: String,
    #[serde(deserialize_with = "or_none")]
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Id {
    id: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Locations {
    #[serde(deserialize_with = "or_none")]
    locations: Vec<Place>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Place {
    id: String,
    #[serde(deserialize_with = "or_none")]
    name: String,
    timezone: Option<String>,
    country: Option<String>,
    currency: Option<String>,
    status: Option<String>,
}

impl Square {
    /// The catalog as it was read a short while ago.
    ///
    /// # Errors
    /// [`ConnectorError`]; without the right to read it, it is empty, and triggers that name what is sold meet nothing but
    /// what the order itself says. What else it may meet waits, in case the right is granted.
    pub(crate) async fn catalog(&self, call: Call) -> Result<Arc<Catalog>, ConnectorError> {
        let now = self.client.clock.elapsed();
        // A word that comes while it is read counts for the next read, and one that came before a read that fails still
        // does.
        let told = self.books.told.load(Ordering::Relaxed);
        let known = self.books.catalog.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known {
            let age = if known.told == told { CATALOG_AGE } else { CHANGED_AGE };
            if now.saturating_sub(known.at) < age {
                return Ok(known.catalog);
            }
        }
        let read = match read_catalog(self, call).await {
            Err(ConnectorError::Forbidden(_)) => Catalog::default(),
            read => read?,
        };
        let catalog = Arc::new(read);
        let kept = Kept { at: now, told, catalog: catalog.clone() };
        *self.books.catalog.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        Ok(catalog)
    }

    /// The catalog with all that is to be known of these variations: what was taken out of it, or came after it was read, is
    /// asked for by id, once.
    ///
    /// # Errors
    /// As [`Square::catalog`]; what cannot be had of a variation is left to what the order says of it.
    pub(crate) async fn catalog_of(
        &self,
        call: Call,
        variations: &BTreeSet<&str>,
    ) -> Result<Arc<Catalog>, ConnectorError> {
        let mut catalog = self.catalog(call).await?;
        for _ in 0..MOST_ROUNDS {
            let missing: BTreeSet<String> = variations.iter().flat_map(|id| catalog.missing(id)).collect();
            let asked: Vec<String> =
                missing.into_iter().filter(|id| !id.is_empty() && !catalog.absent.contains(id)).collect();
            if asked.is_empty() {
                break;
            }
            let mut next = Catalog::clone(&catalog);
            for ids in asked.chunks(OBJECTS) {
                let body = json!({
                    "object_ids": ids, "include_deleted_objects": true, "include_related_objects": true,
                });
                let ask = Ask::search("catalog/batch-retrieve", call.lane, body);
                let found: Objects = match self.client.ask(&ask).await {
                    Err(ConnectorError::Forbidden(_) | ConnectorError::Rejected { .. } | ConnectorError::Gone) => {
                        Objects::default()
                    }
                    found => found?,
                };
                found.objects.into_iter().chain(found.related_objects).for_each(|object| next.take_in(object));
            }
            let unknown: Vec<String> = asked.into_iter().filter(|id| !next.knows(id)).collect();
            next.absent.extend(unknown);
            let next = Arc::new(next);
            if let Some(kept) = &mut *self.books.catalog.lock().unwrap_or_else(PoisonError::into_inner)
                && Arc::ptr_eq(&kept.catalog, &catalog)
            {
                kept.catalog = next.clone();
            }
            catalog = next;
        }
        Ok(catalog)
    }

    /// Where the seller sells.
    ///
    /// # Errors
    /// [`ConnectorError`].
    pub(crate) async fn locations(&self, call: Call) -> Result<Arc<Vec<Location>>, ConnectorError> {
        let now = self.client.clock.elapsed();
        let known = self.books.locations.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, locations)) = known
            && now.saturating_sub(at) < LOCATIONS_AGE
        {
            return Ok(locations);
        }
        let read: Locations = self.client.ask(&Ask::get("locations", call.lane)).await?;
        let all = read.locations.into_iter().map(|place| Location {
            id: place.id,
            name: place.name,
            timezone: place.timezone,
            country: place.country,
            currency: place.currency,
            is_closed: place.status.as_deref() == Some("INACTIVE"),
        });
        let locations = Arc::new(all.collect::<Vec<_>>());
        *self.books.locations.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, locations.clone()));
        Ok(locations)
    }
}

async fn read_catalog(square: &Square, call: Call) -> Result<Catalog, ConnectorError> {
    let mut catalog = Catalog::default();
    let mut after: Option<String> = None;
    for _ in 0..MOST_PAGES {
        let ask = Ask::get("catalog/list", call.lane).query("types", "ITEM,CATEGORY").after(after.as_deref());
        let page: Objects = square.client.ask(&ask).await?;
        page.objects.into_iter().for_each(|object| catalog.take_in(object));
        let next = page.cursor.filter(|next| !next.is_empty() && Some(next) != after.as_ref());
        if next.is_none() {
            break;
        }
        after = next;
    }
    Ok(catalog)
}
