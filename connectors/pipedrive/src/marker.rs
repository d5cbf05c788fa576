//! Our own text field, without which nothing is created: it tells which of our records a deal or person was made for.
//!
//! Pipedrive compares no values and keeps no names unique, so two workers may each make a field. All fields of our name are
//! read, and the one with the lowest key is written: every worker comes to the same one.

use http::Method;
use tandem_contract::{Call, ConnectorError, Kind};

use crate::{
    Pipedrive,
    client::{Api, Ask},
    fields::{Book, Field, plain},
    item::Item,
    plural, singular,
};

/// The fields that are ours, the one to write first.
pub fn fields<'a>(pipedrive: &Pipedrive, book: &'a Book) -> Vec<&'a Field> {
    let named = book.named(&pipedrive.options.marker_field);
    named.into_iter().filter(|field| matches!(field.kind.as_str(), "varchar" | "text")).collect()
}

/// The marker that a record carries.
pub fn of(pipedrive: &Pipedrive, book: &Book, custom: &Item) -> Option<String> {
    fields(pipedrive, book).iter().find_map(|field| custom.text(&field.code).filter(|text| !text.is_empty()))
}

/// The key of our field; makes the field if there is none.
pub async fn ensure(pipedrive: &Pipedrive, call: Call, kind: Kind) -> Result<String, ConnectorError> {
    let code = |book: &Book| fields(pipedrive, book).first().map(|field| field.code.clone());
    if let Some(code) = code(&*pipedrive.book(call, kind).await?) {
        return Ok(code);
    }
    // It may have been made since.
    if let Some(code) = code(&*pipedrive.new_book(call, kind).await?) {
        return Ok(code);
    }
    let name = &pipedrive.options.marker_field;
    let body = format!(
        r#"{{"field_name":{},"field_type":"varchar"}}"#,
        plain(&tandem_contract::Value::text(name)).map(|raw| raw.get().to_owned()).unwrap_or_default()
    );
    let body = serde_json::value::RawValue::from_string(body).unwrap_or_default();
    let path = format!("{}Fields", singular(kind));
    let made = pipedrive.client.data::<Item>(Ask::change(Method::POST, Api::V2, path, 5, call).body(body)).await;
    match made {
        // An answer that was lost leaves the field there all the same: the next look decides.
        Ok(_) | Err(ConnectorError::OutcomeUnknown(_)) => {}
        Err(ConnectorError::Forbidden(why)) => {
            return Err(ConnectorError::Forbidden(format!(
                "the field `{name}` of {} is missing and may not be made ({why}); reading works, creating does not: let an \
                 administrator make a text field of that name",
                plural(kind)
            )));
        }
        Err(error) => return Err(error),
    }
    code(&*pipedrive.new_book(call, kind).await?)
        .ok_or_else(|| ConnectorError::NotSent(format!("the field `{name}` was made but cannot be seen yet")))
}
