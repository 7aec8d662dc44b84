//! Bundles: reading a batch or transaction, writing search sets, histories and responses.
//!
//! What is written is assembled from stored text; a stored resource is never parsed to be sent.
//! <https://hl7.org/fhir/R4/bundle.html>, <https://hl7.org/fhir/R4/http.html#transaction>

use std::sync::Arc;

use serde_json::Value;

use super::json::quoted;
use crate::error::{Error, Kind};
use crate::time::Timestamp;

/// What an entry may ask for: <https://hl7.org/fhir/R4/valueset-http-verb.html>.
const VERBS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"];

/// One entry of a batch or transaction: a request as it would be sent by itself.
#[derive(Debug, Clone)]
pub struct Entry {
    /// `entry.fullUrl`
    pub full_url: Option<String>,
    /// `entry.resource`
    pub resource: Option<Value>,
    /// `entry.request.method`
    pub method: String,
    /// `entry.request.url`, below the base
    pub url: String,
    /// Its other headers by their HTTP names: `ifMatch` and its like.
    pub headers: Vec<(&'static str, String)>,
}

/// A batch or transaction.
#[derive(Debug, Clone)]
pub struct Asked {
    /// All or nothing.
    pub transaction: bool,
    /// In the order sent.
    pub entries: Vec<Entry>,
}

/// Reads the Bundle that was posted to the base. `own` is that base, so that absolute entry URLs lose it.
pub fn parse(value: Value, own: &str, most: usize) -> Result<Asked, Error> {
    if value.get("resourceType").and_then(Value::as_str) != Some("Bundle") {
        return Err(Error::malformed("Only a Bundle can be posted to the base.").at("resourceType"));
    }
    let transaction = match value.get("type").and_then(Value::as_str) {
        Some("transaction") => true,
        Some("batch") => false,
        _ => return Err(Error::invalid("Bundle.type", "A Bundle posted to the base is a batch or a transaction.")),
    };
    let Value::Object(mut body) = value else { return Err(Error::malformed("A Bundle is a JSON object.")) };
    let entries = match body.shift_remove("entry") {
        None => Vec::new(),
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(Error::malformed("Bundle.entry is a list.").at("Bundle.entry")),
    };
    if entries.len() > most {
        let error = Error::new(Kind::TooLarge, format!("A Bundle has at most {most} entries here."));
        return Err(error.code("too-costly").at("Bundle.entry"));
    }
    let read = |(index, value)| entry(value, own).map_err(|error| inside(error, index));
    let entries = entries.into_iter().enumerate().map(read).collect::<Result<Vec<_>, Error>>()?;
    Ok(Asked { transaction, entries })
}

/// Puts `Bundle.entry[i].resource` before the expressions of an entry's error.
pub fn inside(mut error: Error, index: usize) -> Error {
    for issue in &mut error.issues {
        issue.expression = Some(match issue.expression.take() {
            Some(expression) if expression.starts_with("Bundle.") => expression,
            Some(expression) => match expression.split_once('.') {
                Some((_, rest)) => format!("Bundle.entry[{index}].resource.{rest}"),
                None => format!("Bundle.entry[{index}].resource"),
            },
            None => format!("Bundle.entry[{index}]"),
        });
    }
    error
}

fn entry(value: Value, own: &str) -> Result<Entry, Error> {
    let Value::Object(mut body) = value else { return Err(Error::malformed("An entry is an object.")) };
    let resource = body.shift_remove("resource");
    let request =
        body.get("request").ok_or_else(|| Error::malformed("An entry of a batch or transaction has a request."))?;
    let text = |name: &str| request.get(name).and_then(Value::as_str).map(str::to_string);
    let method = text("method").filter(|name| VERBS.contains(&name.as_str()));
    let method = method.ok_or_else(|| {
        Error::malformed("An entry's request.method is GET, HEAD, POST, PUT, DELETE or PATCH.").code("value")
    })?;
    if matches!(method.as_str(), "POST" | "PUT" | "PATCH") && resource.is_none() {
        return Err(Error::malformed("A POST, PUT or PATCH entry has a resource.").code("required"));
    }
    let url = text("url").ok_or_else(|| Error::malformed("An entry's request has a url.").code("required"))?;
    let names = [
        ("if-match", "ifMatch"),
        ("if-none-match", "ifNoneMatch"),
        ("if-modified-since", "ifModifiedSince"),
        ("if-none-exist", "ifNoneExist"),
    ];
    let headers = names.into_iter().filter_map(|(header, name)| Some((header, text(name)?))).collect();
    let full_url = body.get("fullUrl").and_then(Value::as_str).map(str::to_string);
    Ok(Entry { full_url, resource, method, url: below(&url, own).to_string(), headers })
}

/// An entry's address without our base, however that is written (R-009).
fn below<'a>(url: &'a str, own: &str) -> &'a str {
    fn bare(text: &str) -> &str {
        text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text)
    }
    let absolute = url.starts_with("http://") || url.starts_with("https://");
    let rest = bare(url).strip_prefix(bare(own)).filter(|rest| absolute && rest.starts_with(['/', '?']));
    rest.unwrap_or(url).trim_start_matches('/')
}

/// One entry of a search set.
#[derive(Debug, Clone)]
pub struct Hit {
    /// Absolute.
    pub full_url: String,
    /// The stored JSON text.
    pub content: Arc<str>,
    /// `match`, `include` or `outcome`.
    pub mode: &'static str,
}

/// Writes a search set. `updated` is the time up to which the answer is complete.
pub fn searchset(hits: &[Hit], total: Option<u64>, links: &[(&str, String)], updated: Timestamp) -> String {
    let size: usize = hits.iter().map(|hit| hit.content.len() + hit.full_url.len() + 64).sum();
    let mut out = String::with_capacity(size + 512);
    out.push_str(&format!(
        r#"{{"resourceType":"Bundle","id":"{}","meta":{{"lastUpdated":"{updated}"}},"type":"searchset""#,
        crate::id::new()
    ));
    if let Some(total) = total {
        out.push_str(&format!(r#","total":{total}"#));
    }
    for (index, (relation, url)) in links.iter().enumerate() {
        out.push_str(if index == 0 { r#","link":["# } else { "," });
        out.push_str(&format!(r#"{{"relation":"{relation}","url":{}}}"#, quoted(url)));
    }
    if !links.is_empty() {
        out.push(']');
    }
    for (index, hit) in hits.iter().enumerate() {
        out.push_str(if index == 0 { r#","entry":["# } else { "," });
        let (full_url, mode) = (quoted(&hit.full_url), quoted(hit.mode));
        for part in [r#"{"fullUrl":"#, &full_url, r#","resource":"#, &hit.content, r#","search":{"mode":"#, &mode, "}}"]
        {
            out.push_str(part);
        }
    }
    if !hits.is_empty() {
        out.push(']');
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_bundle_is_read_and_absolute_urls_lose_our_base() {
        let asked = parse(
            json!({"resourceType":"Bundle","type":"batch","entry":[
            {"request":{"method":"GET","url":"https://hub/fhir/Task?status=requested","ifNoneMatch":"W/\"1\""}},
            {"request":{"method":"GET","url":"http://hub/fhir/Task/1/_history/3"}},
            {"request":{"method":"GET","url":"https://hub/fhirs/Task/1"}}]}),
            "https://hub/fhir",
            10,
        )
        .unwrap();
        let urls: Vec<&str> = asked.entries.iter().map(|entry| entry.url.as_str()).collect();
        assert_eq!(urls, ["Task?status=requested", "Task/1/_history/3", "https://hub/fhirs/Task/1"]);
        assert!(!asked.transaction);
        assert_eq!(asked.entries[0].headers, [("if-none-match", "W/\"1\"".to_string())]);
    }

    // R-070
    #[test]
    fn faults_name_the_entry() {
        for (entry, expression) in [
            (json!({}), "Bundle.entry[0]"),
            (json!({"request":{"method":"POST","url":"Task"}}), "Bundle.entry[0]"),
            (json!({"request":{"method":"BREW","url":"Task"}}), "Bundle.entry[0]"),
            (json!({"request":{"method":"GET"}}), "Bundle.entry[0]"),
        ] {
            let bundle = json!({"resourceType":"Bundle","type":"transaction","entry":[entry]});
            let error = parse(bundle, "https://hub/fhir", 10).unwrap_err();
            assert_eq!((error.kind.status(), error.issues[0].expression.as_deref()), (400, Some(expression)));
        }
        let many = json!({"resourceType":"Bundle","type":"batch","entry":[1,2,3]});
        assert_eq!(parse(many, "", 2).unwrap_err().kind, Kind::TooLarge);
    }

    #[test]
    fn a_search_set_is_json_and_holds_the_stored_text() {
        let hits = [Hit {
            full_url: "https://hub/fhir/Task/1".into(),
            content: r#"{"resourceType":"Task","x":1.00}"#.into(),
            mode: "match",
        }];
        let text = searchset(&hits, Some(1), &[("self", "https://hub/fhir/Task?a=\"".into())], Timestamp(0));
        assert!(text.contains("1.00"));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["entry"][0]["search"]["mode"], "match");
    }
}
