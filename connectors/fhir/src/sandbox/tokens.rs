//! Access tokens: SMART Backend Services, and a client's secret.
//!
//! Source: <https://hl7.org/fhir/smart-app-launch/client-confidential-asymmetric.html>.

use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, jwk::JwkSet};
use rand::Rng;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tandem_sandbox::Query;

use super::world::{Refusal, World};

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    exp: i64,
    jti: String,
}

fn refused(error: &str) -> Refusal {
    Refusal { status: if error == "invalid_client" { 401 } else { 400 }, body: json!({ "error": error }).to_string() }
}

impl World {
    /// Where tokens are asked for.
    fn token_url(&self) -> String {
        format!("{}/auth/token", self.base.trim_end_matches("/fhir"))
    }

    pub(super) fn smart_configuration(&self) -> Json {
        json!({
            "token_endpoint": self.token_url(), "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_basic"],
            "token_endpoint_auth_signing_alg_values_supported": ["RS384", "ES384"],
            "scopes_supported": ["system/*.rs"], "code_challenge_methods_supported": ["S256"],
            "capabilities": ["client-confidential-asymmetric", "permission-v1", "permission-v2"],
        })
    }

    /// Whether an assertion is good: signed by a registered key, for us, not used before, and about to end.
    fn is_asserted(&mut self, assertion: &str) -> bool {
        let Ok(header) = jsonwebtoken::decode_header(assertion) else { return false };
        let keys: JwkSet = serde_json::from_value(self.settings.jwks.clone()).unwrap_or(JwkSet { keys: Vec::new() });
        let key = header.kid.as_deref().and_then(|kid| keys.find(kid));
        let Some(key) = key.and_then(|key| DecodingKey::from_jwk(key).ok()) else { return false };
        if !matches!(header.alg, Algorithm::RS384 | Algorithm::ES384) {
            return false;
        }
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&[self.token_url()]);
        // Against this server's own clock, below.
        validation.validate_exp = false;
        let Ok(data) = jsonwebtoken::decode::<Claims>(assertion, &key, &validation) else { return false };
        let Claims { iss, sub, exp, jti } = data.claims;
        let (now, skew) = (self.now.timestamp(), self.settings.skew_seconds);
        let in_time = exp > now - skew && exp <= now + 300 + skew;
        iss == sub && iss == self.settings.client_id && in_time && self.used.insert(jti)
    }

    /// Hands out a token.
    pub(super) fn token(&mut self, form: &Query, basic: Option<&str>) -> Result<Json, Refusal> {
        if form.text("grant_type").as_deref() != Some("client_credentials") {
            return Err(refused("unsupported_grant_type"));
        }
        let assertion = form.text("client_assertion");
        let pair = format!("{}:{}", self.settings.client_id, self.settings.client_secret);
        let is_client = match (assertion, basic) {
            (Some(assertion), _) => {
                let kind = form.text("client_assertion_type");
                kind.as_deref() == Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
                    && self.is_asserted(&assertion)
            }
            (None, Some(basic)) => !self.settings.client_secret.is_empty() && basic == STANDARD.encode(pair),
            (None, None) => false,
        };
        if !is_client {
            return Err(refused("invalid_client"));
        }
        let asked = form.text("scope").unwrap_or_default();
        let granted: Vec<&str> = asked
            .split_whitespace()
            .filter(|scope| self.settings.scopes.is_empty() || self.settings.scopes.iter().any(|known| known == scope))
            .collect();
        if granted.is_empty() {
            return Err(refused("invalid_scope"));
        }
        let (scope, seconds) = (granted.join(" "), self.settings.token_seconds);
        let token = format!("sim-at-{:016x}", self.rng.random::<u64>());
        let ends = self.now + chrono::TimeDelta::seconds(i64::try_from(seconds).unwrap_or(300));
        self.tokens.insert(token.clone(), ends);
        self.stats.tokens += 1;
        Ok(json!({ "access_token": token, "token_type": "bearer", "expires_in": seconds, "scope": scope }))
    }

    /// Ends every token that was handed out, and takes those that never end away.
    pub fn revoke_access(&mut self) {
        self.tokens.clear();
        self.settings.access_tokens.clear();
        self.settings.client_secret.clear();
        self.settings.jwks = json!({ "keys": [] });
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::sandbox::Settings;

    fn world(keys: Json) -> World {
        let settings = Settings { client_id: "app".into(), jwks: keys, ..Settings::default() };
        World::empty(settings, StdRng::seed_from_u64(1), DateTime::from_timestamp(1_795_000_000, 0).unwrap_or_default())
    }

    fn form(assertion: &str) -> Query {
        Query::parse(&format!(
            "grant_type=client_credentials&scope=system/Patient.rs&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer&client_assertion={assertion}"
        ))
    }

    #[test]
    fn what_is_no_assertion_is_refused_in_a_word() {
        let mut world = world(json!({ "keys": [] }));
        for assertion in ["", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
            let refusal = world.token(&form(assertion), None).expect_err("refused");
            assert!(refusal.body.contains("invalid_client"), "{assertion}");
        }
    }
}
