//! Query and form parameters.

/// Query or form parameters; a name may repeat.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Of a query string or a form.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value of a name.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    /// True if it says `true`.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.text(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// A number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<usize> {
        self.text(name)?.parse().ok()
    }

    /// Values with commas between them, of every time the name is there.
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(key, _)| key == name)
            .flat_map(|(_, value)| value.split(','))
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
            .collect()
    }

    /// Every parameter, in order.
    #[must_use]
    pub fn pairs(&self) -> Vec<(String, String)> {
        self.0.clone()
    }

    /// Everything but one parameter, as text: what a cursor is bound to.
    #[must_use]
    pub fn without(&self, name: &str) -> String {
        let kept = self.0.iter().filter(|(key, _)| key != name);
        kept.map(|(key, value)| format!("&{key}={value}")).collect()
    }
}
