//! What is sold and where: items, categories and locations, read now and then and kept.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use tandem_contract::{Call, ConnectorError, Location};

use crate::{
    Square,
    client::{Ask, or_none},
};

/// How long what was read of the catalog is taken to be so.
const CATALOG_AGE: Duration = Duration::from_secs(300);
/// The same for locations.
const LOCATIONS_AGE: Duration = Duration::from_secs(3_600);
/// Pages of the catalog that are read at most.
const MOST_PAGES: usize = 200;
/// Categories above one another that are followed at most.
const MOST_LEVELS: usize = 16;

/// What was read, and when.
#[derive(Default)]
pub struct Books {
    catalog: Mutex<Option<(Duration, Arc<Catalog>)>>,
    locations: Mutex<Option<(Duration, Arc<Vec<Location>>)>>,
}

/// Items by variation, and the categories above them.
#[derive(Default)]
pub struct Catalog {
    variations: BTreeMap<String, (Vec<String>, Vec<String>)>,
    categories: BTreeMap<String, (String, Option<String>)>,
}

impl Catalog {
    /// The names an item of this variation goes by, and its categories with all above them: each by name and id.
    #[must_use]
    pub fn of(&self, variation: &str) -> Option<(Vec<String>, Vec<String>)> {
        let (names, categories) = self.variations.get(variation)?;
        let mut all = Vec::new();
        for category in categories {
            let mut next = Some(category.clone());
            for _ in 0..MOST_LEVELS {
                let Some(id) = next.take().filter(|id| !all.contains(id)) else { break };
                if let Some((name, parent)) = self.categories.get(&id) {
                    all.push(name.clone());
                    next.clone_from(parent);
                }
                all.push(id);
            }
        }
        Some((names.clone(), all))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Objects {
    #[serde(deserialize_with = "or_none")]
    objects: Vec<Object>,
    cursor: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    id: String,
    item_data: Option<ItemData>,
    category_data: Option<CategoryData>,
    item_variation_data: Option<Named>,
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
struct Named {
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
}

impl Square {
    /// The catalog as it was read a short while ago.
    ///
    /// # Errors
    /// [`ConnectorError`]; without the right to read it, it is empty, and triggers that name what is sold meet nothing but
    /// what the order itself says.
    pub(crate) async fn catalog(&self, call: Call) -> Result<Arc<Catalog>, ConnectorError> {
        let now = self.client.clock.elapsed();
        let known = self.books.catalog.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, catalog)) = known
            && now.saturating_sub(at) < CATALOG_AGE
        {
            return Ok(catalog);
        }
        let read = match read_catalog(self, call).await {
            Err(ConnectorError::Forbidden(_)) => Catalog::default(),
            read => read?,
        };
        let catalog = Arc::new(read);
        *self.books.catalog.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, catalog.clone()));
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
        for object in page.objects {
            if let Some(category) = object.category_data {
                let parent = category.parent_category.map(|parent| parent.id).filter(|id| !id.is_empty());
                catalog.categories.insert(object.id.clone(), (category.name, parent));
            }
            if let Some(item) = object.item_data {
                let main = item.reporting_category.map(|category| category.id).or(item.category_id);
                let mut categories: Vec<String> = item.categories.into_iter().map(|category| category.id).collect();
                categories.extend(main.filter(|id| !categories.contains(id)));
                for variation in item.variations {
                    let named = variation.item_variation_data.unwrap_or_default().name;
                    let names = vec![item.name.clone(), named, variation.id.clone(), object.id.clone()];
                    catalog.variations.insert(variation.id, (names, categories.clone()));
                }
            }
        }
        let next = page.cursor.filter(|next| !next.is_empty() && Some(next) != after.as_ref());
        if next.is_none() {
            break;
        }
        after = next;
    }
    Ok(catalog)
}
