//! OAuth: the seller's consent, and the tokens that its code and a grant are exchanged for.

use chrono::{DateTime, TimeDelta, Utc};
use rand::Rng;
use serde_json::{Value as Json, json};
use tandem_sandbox::Query;
use url::Url;

use super::{
    settings::SCOPES,
    world::{Refusal, World, iso},
};

/// What the seller permitted, and until when its code is good.
pub struct Consent {
    ends: DateTime<Utc>,
    scopes: Vec<String>,
}

impl World {
    /// The seller lets the application in: the code that their browser brings back.
    ///
    /// # Errors
    /// The application, its address or a permission is not known.
    pub fn consent(&mut self, client_id: &str, redirect_uri: &str, scopes: &[&str]) -> Result<String, Refusal> {
        let is_known = [
            ("client_id", client_id == self.settings.client_id),
            ("redirect_uri", redirect_uri == self.settings.redirect_uri),
            ("scope", !scopes.is_empty() && scopes.iter().all(|scope| SCOPES.contains(scope))),
        ];
        if let Some((name, _)) = is_known.into_iter().find(|(_, known)| !known) {
            return Err(Refusal::invalid("INVALID_VALUE", name, format!("Invalid value for parameter `{name}`")));
        }
        let code = format!("sq0cgp-{:032x}", self.rng.random::<u128>());
        let ends = self.now + TimeDelta::seconds(self.settings.code_seconds);
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.codes.insert(code.clone(), Consent { ends, scopes });
        Ok(code)
    }

    /// Whoever opens the page lets the application in at once; where their browser goes then.
    pub(super) fn ask_seller(&mut self, query: &Query) -> Result<Url, Refusal> {
        let text = |name: &str| query.text(name).unwrap_or_default();
        let (redirect_uri, scope, state) = (text("redirect_uri"), text("scope"), text("state"));
        let scopes: Vec<&str> = scope.split_whitespace().collect();
        let code = self.consent(&text("client_id"), &redirect_uri, &scopes)?;
        let mut address: Url = redirect_uri
            .parse()
            .map_err(|_| Refusal::invalid("INVALID_VALUE", "redirect_uri", "The redirect_uri is not an address"))?;
        let pairs = [("code", code.as_str()), ("response_type", "code"), ("state", state.as_str())];
        address.query_pairs_mut().extend_pairs(pairs);
        Ok(address)
    }

    /// Exchanges a grant, or the code of a consent.
    pub(super) fn obtain_token(&mut self, body: &Json) -> Result<Json, Refusal> {
        let is = |name: &str, wanted: &str| !wanted.is_empty() && body[name].as_str() == Some(wanted);
        if !is("client_id", &self.settings.client_id) || !is("client_secret", &self.settings.client_secret) {
            return Err(match self.settings.stranger_has_errors {
                true => Refusal::unauthorized("UNAUTHORIZED"),
                false => {
                    let body = json!({ "message": "Not Authorized", "type": "service.not_authorized" });
                    Refusal { status: 401, body }
                }
            });
        }
        match body["grant_type"].as_str() {
            Some("refresh_token") if is("refresh_token", &self.settings.refresh_token) => {}
            Some("authorization_code") => {
                // Good for once, whatever comes of it.
                let consent = self.codes.remove(body["code"].as_str().unwrap_or_default());
                let is_its_address = is("redirect_uri", &self.settings.redirect_uri);
                let Some(consent) = consent.filter(|consent| is_its_address && self.now < consent.ends) else {
                    return Err(Refusal::unauthorized("UNAUTHORIZED"));
                };
                self.settings.scopes = consent.scopes;
                self.settings.refresh_token = format!("EQAA{:032x}", self.rng.random::<u128>());
            }
            _ => return Err(Refusal::unauthorized("UNAUTHORIZED")),
        }
        let token = format!("EAAA{:032x}", self.rng.random::<u128>());
        let ends = self.now + TimeDelta::seconds(i64::try_from(self.settings.token_seconds).unwrap_or(2_592_000));
        self.tokens.insert(token.clone(), ends);
        Ok(json!({
            "access_token": token, "token_type": "bearer", "expires_at": iso(ends),
            "merchant_id": self.settings.merchant_id, "refresh_token": self.settings.refresh_token,
            "short_lived": false,
        }))
    }

    /// Whose a token is, and what it may do.
    pub(super) fn token_status(&self, token: &str) -> Json {
        let mut shown = json!({
            "scopes": self.settings.scopes, "client_id": self.settings.client_id,
            "merchant_id": self.settings.merchant_id,
        });
        if let Some(ends) = self.tokens.get(token) {
            shown["expires_at"] = iso(*ends).into();
        }
        shown
    }
}
