//! The interactions: one function each, from what was asked to the app's use case and back.
//!
//! Leaves every decision about resources to the app; what is checked here is what only the request shows (the address
//! against the body, preconditions, preferences). <https://hl7.org/fhir/R4/http.html>

use axum::http::Method;
use axum::response::Response;
use serde_json::{Value, json};

use super::conditional::{self, Handling, Known};
use super::door::Place;
use super::extract::Asked;
use super::history;
use super::operations;
use super::respond;
use crate::app::{App, Context};
use crate::error::{Error, Kind};
use crate::fhir::bundle::{self, Hit};
use crate::fhir::query;
use crate::fhir::search::{self, Query};
use crate::fhir::{Key, ResourceType};
use crate::id;

/// Answers a request whose method the table offers at this place.
pub(super) async fn answer(app: &App, context: &Context, place: &Place, asked: Asked) -> Result<Response, Error> {
    match place {
        Place::Base => batch(app, context, &asked).await,
        Place::Type(kind) if asked.method == Method::POST => create(app, context, *kind, &asked).await,
        Place::Type(kind) | Place::Search(kind) => find(app, context, *kind, &asked).await,
        Place::Instance(key) if asked.method == Method::PUT => update(app, context, key, &asked).await,
        Place::Instance(key) if asked.method == Method::DELETE => delete(app, context, key, &asked).await,
        Place::Instance(key) => read(app, context, key, &asked).await,
        Place::History(key) => versions(app, context, key, &asked).await,
        Place::Version(key, version) => vread(app, context, key, version, &asked).await,
        Place::Operation(known, id) => operations::answer(app, context, known, id.as_deref(), &asked).await,
        // Answered before anyone is asked for a token.
        Place::Metadata => Err(respond::no_such_path()),
    }
}

/// batch, transaction
async fn batch(app: &App, context: &Context, asked: &Asked) -> Result<Response, Error> {
    let bundle = bundle::parse(asked.json()?, app.own(), app.config().limits.bundle_entries)?;
    Ok(respond::fhir(200, app.bundle(context, bundle, super::routes::offered).await?))
}

async fn create(app: &App, context: &Context, kind: ResourceType, asked: &Asked) -> Result<Response, Error> {
    let resource = asked.resource(kind)?;
    let if_none_exist = conditional::if_none_exist(&asked.headers)?;
    let answer = app.create(context, resource, if_none_exist.as_deref()).await?;
    Ok(respond::written(app.own(), &answer, conditional::preferred_return(&asked.headers), true))
}

async fn update(app: &App, context: &Context, key: &Key, asked: &Asked) -> Result<Response, Error> {
    let resource = asked.resource(key.kind)?;
    if resource.id() != Some(key.id.as_str()) {
        return Err(Error::malformed("The id in the body is that of the address.").at(format!("{}.id", key.kind)));
    }
    let precondition = conditional::precondition(&asked.headers)?;
    let answer = app.update(context, key, resource, &precondition).await?;
    Ok(respond::written(app.own(), &answer, conditional::preferred_return(&asked.headers), false))
}

async fn delete(app: &App, context: &Context, key: &Key, asked: &Asked) -> Result<Response, Error> {
    app.delete(context, key, &conditional::precondition(&asked.headers)?).await?;
    Ok(respond::empty(204))
}

async fn read(app: &App, context: &Context, key: &Key, asked: &Asked) -> Result<Response, Error> {
    let stored = app.read(context, key).await?;
    if stored.deleted {
        return Err(gone());
    }
    let known = Known::of(&asked.headers);
    if known.has_tag(&stored.version.to_string()) {
        return Ok(respond::not_modified(&stored));
    }
    if known.covers(stored.updated) {
        // Two versions of one second have one Last-Modified: then the client may hold the older, and a status it never
        // reads is a loop that never closes.
        let earlier = app.history(context, key, Some(stored.version), 1).await?;
        let alone =
            earlier.first().is_none_or(|one| conditional::second(one.updated) != conditional::second(stored.updated));
        if alone {
            return Ok(respond::not_modified(&stored));
        }
    }
    Ok(respond::resource(&stored))
}

async fn vread(app: &App, context: &Context, key: &Key, version: &str, asked: &Asked) -> Result<Response, Error> {
    let number = version.parse::<i64>().ok().filter(|number| *number > 0 && number.to_string() == version);
    let Some(number) = number else { return Err(Error::not_found(key.kind.name(), &key.id)) };
    let stored = app.vread(context, key, number).await?;
    if stored.deleted {
        return Err(gone());
    }
    if Known::of(&asked.headers).has_tag(version) {
        return Ok(respond::not_modified(&stored));
    }
    Ok(respond::resource(&stored))
}

fn gone() -> Error {
    Error::new(Kind::Gone, "This resource has been deleted.")
}

async fn versions(app: &App, context: &Context, key: &Key, asked: &Asked) -> Result<Response, Error> {
    let page = history::Page::of(&asked.pairs)?;
    // One more than asked for tells whether there is a next page.
    let versions = app.history(context, key, page.before, page.count + 1).await?;
    Ok(respond::fhir(200, history::bundle(app.own(), key, page, &asked.pairs, versions, app.now())))
}

/// search-type
async fn find(app: &App, context: &Context, kind: ResourceType, asked: &Asked) -> Result<Response, Error> {
    let handling = conditional::preferred_handling(&asked.headers);
    let query = search::parse(kind, &asked.pairs, app.own(), handling == Handling::Strict)?;
    let mut found = app.search(context, &query).await?;
    if handling == Handling::Lenient {
        found.hits.extend(ignored(&query, &asked.pairs));
    }
    let next = found.next.map(|cursor| cursor.to_text());
    let links = links(app.own(), &query, next.as_deref());
    Ok(respond::fhir(200, bundle::searchset(&found.hits, found.total, &links, found.horizon)))
}

/// The self link holds what was used and no more; the next link is the same search from where this page ends.
fn links(own: &str, query: &Query, next: Option<&str>) -> Vec<(&'static str, String)> {
    let address = format!("{own}/{}", query.kind);
    let used = || query.used.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut links = vec![("self", query::link(&address, used()))];
    if let Some(cursor) = next.filter(|_| query.count > 0) {
        let kept = used().filter(|(name, _)| *name != "_page");
        links.push(("next", query::link(&address, kept.chain([("_page", cursor)]))));
    }
    links
}

/// For `Prefer: handling=lenient`: an OperationOutcome entry that says how many parameters were not used.
fn ignored(query: &Query, pairs: &[(String, String)]) -> Option<Hit> {
    let count = pairs.iter().filter(|pair| !pair.1.is_empty() && !query.used.contains(pair)).count();
    if count == 0 {
        return None;
    }
    let id = id::new();
    let text =
        format!("{count} search parameter(s) are not known here and were ignored; the self link holds those used.");
    let issue = json!([{"severity": "warning", "code": "not-supported", "diagnostics": text}]);
    let outcome: Value = json!({"resourceType": "OperationOutcome", "id": id, "issue": issue});
    Some(Hit { full_url: format!("urn:uuid:{id}"), content: outcome.to_string(), mode: "outcome" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Query, Vec<(String, String)>) {
        let pairs = query::pairs(Some(text)).unwrap();
        (search::parse(ResourceType::TASK, &pairs, "https://hub/fhir", false).unwrap(), pairs)
    }

    #[test]
    fn links_are_absolute_and_hold_what_was_used() {
        let (query, _) = parsed("colour=red&status=requested,accepted&_count=2&_page=5.abc&identifier=s%7Ca");
        let links = links("https://hub/fhir", &query, Some("6.def"));
        assert_eq!(links[0].1, "https://hub/fhir/Task?status=requested,accepted&_count=2&_page=5.abc&identifier=s%7Ca");
        assert_eq!(links[1].1, "https://hub/fhir/Task?status=requested,accepted&_count=2&identifier=s%7Ca&_page=6.def");
    }

    #[test]
    fn a_count_has_no_next_page() {
        assert_eq!(links("https://hub/fhir", &parsed("_summary=count").0, Some("1.a")).len(), 1);
        assert_eq!(links("https://hub/fhir", &parsed("").0, None), [("self", "https://hub/fhir/Task".to_string())]);
    }

    #[test]
    fn a_lenient_search_tells_what_it_ignored_and_no_value() {
        let (query, pairs) = parsed("colour=blue&status=requested&empty=");
        let hit = ignored(&query, &pairs).unwrap();
        assert!(hit.mode == "outcome" && hit.content.contains("1 search") && !hit.content.contains("blue"));
        let (query, pairs) = parsed("status=requested");
        assert!(ignored(&query, &pairs).is_none());
    }
}
