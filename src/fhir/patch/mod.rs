//! Patches: changes to one resource, told one by one. JSON Patch (RFC 6902) and FHIRPath Patch.
//!
//! A patch is read whole before it is applied, and applied whole or not at all; what comes out is then a resource like
//! one that was PUT. A fault names the operation by its number, and what it did not find. Type, id, version and time of
//! the resource are not for a patch to change. A narrative that was generated from the old content is dropped, one that
//! says more is not left to lie: the patch has to bring it up to date. Bounded: operations, nesting, what is
//! copied. Leaves out XML Patch. <https://hl7.org/fhir/R4/http.html#patch>

mod given;
mod json;
mod path;
mod place;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, NO_PAD};
use serde_json::{Map, Value};

use super::json::Bounds;
use super::resource::Resource;
use crate::error::{Error, Kind};

/// Most operations of one patch.
const MOST_OPERATIONS: usize = 100;

/// Changes to one resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch(Form);

#[derive(Debug, Clone, PartialEq)]
enum Form {
    Json(Vec<json::Operation>),
    Path(Vec<path::Operation>),
}

impl Patch {
    /// Reads a JSON Patch: a list of operations.
    pub fn json(value: Value) -> Result<Self, Error> {
        json::read(value).map(|operations| Patch(Form::Json(operations)))
    }

    /// Reads a FHIRPath Patch: Parameters.
    pub fn parameters(value: &Value) -> Result<Self, Error> {
        path::read(value).map(|operations| Patch(Form::Path(operations)))
    }

    /// Reads what stands in a Bundle's entry: Parameters, or a Binary that holds a JSON Patch.
    pub fn entry(value: &Value, bounds: Bounds) -> Result<Self, Error> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        if text("resourceType") != Some("Binary") {
            return Patch::parameters(value);
        }
        let media = text("contentType").unwrap_or("").split(';').next().unwrap_or("").trim();
        if !media.eq_ignore_ascii_case(JSON_PATCH) {
            let error =
                Error::new(Kind::UnsupportedMediaType, "A Binary with a patch holds application/json-patch+json.");
            return Err(error.at("Binary.contentType"));
        }
        let bytes = text("data").and_then(decoded);
        let bytes =
            bytes.ok_or_else(|| Error::malformed("A Binary with a patch has data in base64.").at("Binary.data"))?;
        Patch::json(super::json::parse(&bytes, bounds)?)
    }

    /// The resource with these changes.
    pub fn apply(&self, resource: &Resource, bounds: Bounds) -> Result<Resource, Error> {
        let before = resource.clone();
        let name = before.kind().name();
        let mut value = resource.clone().into_value();
        match &self.0 {
            Form::Json(operations) => json::apply(operations, &mut value, name, bounds.depth)?,
            Form::Path(operations) => path::apply(operations, &mut value, bounds.depth)?,
        }
        let mut after = Resource::from_value(value)
            .map_err(|_| Error::invalid(name, "What this patch would leave is no resource."))?;
        if after.kind() != before.kind() {
            return Err(Error::invalid(name, "A patch does not make another type of a resource."));
        }
        if after.id() != before.id() {
            return Err(Error::invalid(format!("{name}.id"), "A patch does not change the resource's id."));
        }
        keep_stamp(&before, &mut after);
        check_narrative(&before, &mut after)?;
        Ok(after)
    }
}

/// The media type of a JSON Patch.
pub const JSON_PATCH: &str = "application/json-patch+json";

/// Version and time are the server's.
fn keep_stamp(before: &Resource, after: &mut Resource) {
    let Some(Value::Object(meta)) = before.at("meta") else { return };
    let kept = ["versionId", "lastUpdated"].map(|name| (name, meta.get(name).cloned()));
    let changed = after.elements_mut().entry("meta").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(changed) = changed {
        for (name, value) in kept {
            if let Some(value) = value {
                changed.insert(name.into(), value);
            }
        }
    }
}

/// A narrative that the patch left as it was may no longer be true.
fn check_narrative(before: &Resource, after: &mut Resource) -> Result<(), Error> {
    let (Some(text), name) = (after.at("text"), before.kind().name()) else { return Ok(()) };
    if before.at("text") != Some(text) || after.same_content(before) {
        return Ok(());
    }
    match text.get("status").and_then(Value::as_str) {
        Some("additional") => Err(Error::refused(
            format!("{name}.text"),
            "The narrative says more than the data, so it can't be left as it is: change or remove text in the same patch.",
        )),
        _ => {
            after.set("text", Value::Null);
            Ok(())
        }
    }
}

/// Too deep to be stored or read again.
fn check_depth(value: &Value, deepest: usize) -> Result<(), &'static str> {
    // Level by level: a value that is too deep is not walked to its end.
    let mut level = vec![value];
    for _ in 0..=deepest {
        level = level
            .into_iter()
            .flat_map(|value| match value {
                Value::Array(items) => items.iter().collect::<Vec<_>>(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            })
            .collect();
        if level.is_empty() {
            return Ok(());
        }
    }
    Err("it nests deeper than this server takes.")
}

/// The bytes of base64, with or without padding, white space left out.
fn decoded(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig = NO_PAD.with_decode_allow_trailing_bits(true);
    let bare = text.trim_end().trim_end_matches('=');
    let digits: Vec<u8> = bare.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    GeneralPurpose::new(&alphabet::STANDARD, LENIENT).decode(digits).ok()
}

#[cfg(test)]
mod tests;
