//! The interactions: from what was asked to the app's use case and back.
//!
//! Leaves every decision about resources to the app; what is checked here is what only the request shows (the address
//! against the body, preconditions, preferences). An entry of a Bundle is asked and answered like a request by itself
//! ([`super::bundles`]). <https://hl7.org/fhir/R4/http.html>

use std::sync::Arc;

use axum::http::Method;
use axum::response::Response;
use serde_json::{Value, json};

use super::conditional::{self, Handling, Known};
use super::door::{Area, Place};
use super::extract::Asked;
use super::history;
use super::operations;
use super::respond;
use super::routes::{self, Interaction};
use crate::app::{App, Ask, Context, Found, Made, Stored, Target, When, Whose};
use crate::error::Error;
use crate::fhir::bundle::{self, Hit};
use crate::fhir::query::{self, Criteria};
use crate::fhir::search::{Query, Search};
use crate::fhir::subset::Subset;
use crate::fhir::{ResourceType, compartment};
use crate::id;

/// What a next link's `_page` begins with when it holds the whole search, sealed.
const SEALED: char = '~';

/// Answers a request whose method the table offers at this place.
pub(super) async fn answer(app: &App, context: &Context, place: &Place, mut asked: Asked) -> Result<Response, Error> {
    if let Some(ask) = ask(app, context, place, &mut asked)? {
        let made = app.perform(context, ask).await?;
        return told(app, context, made, &asked).await;
    }
    match place {
        Place::History(key) => versions(app, context, &Whose::One(key.clone()), &asked).await,
        Place::TypeHistory(kind) => versions(app, context, &Whose::Type(*kind), &asked).await,
        Place::SystemHistory => {
            let with_history = routes::ROWS.iter().filter(|row| row.interactions.contains(&Interaction::TypeHistory));
            let kinds = with_history.filter_map(|row| ResourceType::parse(row.kind)).collect();
            versions(app, context, &Whose::All(kinds), &asked).await
        }
        Place::Operation(known, kind, id) => operations::answer(app, context, known, *kind, id.as_deref(), asked).await,
        // Metadata is answered before anyone is asked for a token, a Bundle by its own file; the others are asks.
        Place::Base
        | Place::Metadata
        | Place::Type(_)
        | Place::Compartment(..)
        | Place::Search(_)
        | Place::Instance(_)
        | Place::Version(..) => Err(respond::no_such_path()),
    }
}

/// What is asked for, where it may also stand in a transaction.
pub(super) fn ask(app: &App, context: &Context, place: &Place, asked: &mut Asked) -> Result<Option<Ask>, Error> {
    let precondition = |asked: &Asked| conditional::precondition(&asked.headers);
    Ok(Some(match (place, &asked.method) {
        (Place::Type(kind), &Method::POST) => {
            Ask::Create(asked.resource(*kind)?, conditional::if_none_exist(*kind, &asked.headers)?)
        }
        (Place::Type(kind), &Method::PUT) => {
            let target = Target::Criteria(*kind, Criteria::of(&asked.pairs)?);
            Ask::Update(target, asked.resource(*kind)?, precondition(asked)?)
        }
        (Place::Type(kind), &Method::PATCH) => {
            Ask::Patch(Target::Criteria(*kind, Criteria::of(&asked.pairs)?), asked.patch()?, precondition(asked)?)
        }
        (Place::Type(kind), &Method::DELETE) => {
            Ask::Delete(Target::Criteria(*kind, Criteria::of(&asked.pairs)?), precondition(asked)?)
        }
        (Place::Type(kind), _) => search(app, context, &Area::Type(*kind), asked)?,
        (Place::Compartment(patient, kind), _) => {
            search(app, context, &Area::Compartment(patient.clone(), *kind), asked)?
        }
        (Place::Base, &Method::GET) => search(app, context, &Area::All, asked)?,
        (Place::Search(area), _) => search(app, context, area, asked)?,
        (Place::Instance(key), &Method::PUT) => {
            Ask::Update(Target::Key(key.clone()), asked.resource(key.kind)?, precondition(asked)?)
        }
        (Place::Instance(key), &Method::PATCH) => {
            Ask::Patch(Target::Key(key.clone()), asked.patch()?, precondition(asked)?)
        }
        (Place::Instance(key), &Method::DELETE) => Ask::Delete(Target::Key(key.clone()), precondition(asked)?),
        (Place::Instance(key), _) => Ask::Read(key.clone()),
        (Place::Version(key, version), _) => {
            let number = version.parse::<i64>().ok().filter(|number| *number > 0 && number.to_string() == *version);
            let number = number.ok_or_else(|| Error::not_found(key.kind.name(), &key.id))?;
            Ask::Version(key.clone(), number)
        }
        (
            Place::Base
            | Place::Metadata
            | Place::SystemHistory
            | Place::History(_)
            | Place::TypeHistory(_)
            | Place::Operation(..),
            _,
        ) => {
            return Ok(None);
        }
    }))
}

fn search(app: &App, context: &Context, area: &Area, asked: &mut Asked) -> Result<Ask, Error> {
    if let Some(sealed) = query::once(&asked.pairs, "_page")?.and_then(|page| page.strip_prefix(SEALED)) {
        let kept = query::pairs(Some(&app.unsealed_search(context, sealed)?))?;
        asked.pairs.retain(|(name, _)| name != "_page");
        asked.pairs.extend(kept);
        asked.hidden = true;
    }
    let strict = conditional::preferred_handling(&asked.headers) == Handling::Strict;
    let (own, pairs) = (app.own(), asked.pairs.as_slice());
    let search = match area {
        Area::Type(kind) => Search::of_type(*kind, None, pairs, own, strict),
        Area::Compartment(patient, Some(kind)) => Search::of_type(*kind, Some(&patient.id), pairs, own, strict),
        Area::Compartment(patient, None) => {
            let members: Vec<ResourceType> = routes::stored().filter(|kind| compartment::holds(*kind)).collect();
            Search::of_types(&members, Some(&patient.id), pairs, own, strict)
        }
        Area::All if pairs.is_empty() => {
            let text =
                "A search of everything says at least which types it is over, such as _type=Task,ServiceRequest.";
            return Err(Error::malformed(text).code("required"));
        }
        Area::All => Search::of_types(&routes::stored().collect::<Vec<_>>(), None, pairs, own, strict),
    };
    Ok(Ask::Search(Box::new(search?.asked_at(app.now()))))
}

/// What came of it, in the form the client prefers.
pub(super) async fn told(app: &App, context: &Context, made: Made, asked: &Asked) -> Result<Response, Error> {
    let preferred = conditional::preferred_return(&asked.headers);
    match made {
        Made::Written(answer) => Ok(respond::written(app.own(), &answer, preferred, asked.method == Method::POST)),
        Made::Deleted => Ok(respond::deleted(preferred)),
        Made::Read(stored) => read(app, context, stored, asked).await,
        Made::Found(found, search) => searchset(app, context, found, &search, asked),
    }
}

/// A version, unless the client has it.
async fn read(app: &App, context: &Context, mut stored: Arc<Stored>, asked: &Asked) -> Result<Response, Error> {
    let known = Known::of(&asked.headers);
    if known.has_tag(&stored.version.to_string()) {
        return Ok(respond::not_modified(app.own(), &stored));
    }
    if known.covers(stored.updated) {
        // Two versions of one second have one Last-Modified: then the client may hold the older, and a status it never
        // reads is a loop that never closes.
        let (one, from) = (Whose::One(stored.key.clone()), history::position(&stored));
        let earlier = app.history(context, &one, Some((stored.key.kind, &from)), &When::EVER, 1).await?;
        let alone = earlier
            .list
            .first()
            .is_none_or(|one| conditional::second(one.updated) != conditional::second(stored.updated));
        if alone {
            return Ok(respond::not_modified(app.own(), &stored));
        }
    }
    if let Some(subset) = Subset::asked(&asked.pairs) {
        let content = subset.of(&stored.content)?;
        Arc::make_mut(&mut stored).content = content.into();
    }
    Ok(respond::resource(app.own(), &stored))
}

/// history-instance, history-type, history-system
async fn versions(app: &App, context: &Context, whose: &Whose, asked: &Asked) -> Result<Response, Error> {
    let page = history::Page::of(whose, &asked.pairs)?;
    let before = page.before.as_ref().map(|(kind, position)| (*kind, position));
    let mut versions = app.history(context, whose, before, &page.when, page.count).await?;
    if let Some(subset) = Subset::asked(&asked.pairs) {
        for version in versions.list.iter_mut().filter(|version| !version.deleted) {
            let content = subset.of(&version.content)?;
            Arc::make_mut(version).content = content.into();
        }
    }
    Ok(respond::fhir(200, history::bundle(app.own(), whose, &asked.pairs, &versions)))
}

/// search-type, search-system and a compartment's
fn searchset(
    app: &App,
    context: &Context,
    mut found: Found,
    search: &Search,
    asked: &Asked,
) -> Result<Response, Error> {
    let query = search.first().ok_or_else(|| Error::internal("a search over no type"))?;
    let subset = Subset::asked(&asked.pairs);
    if subset == Some(Subset::Text) && !query.includes.is_empty() {
        let text = "_summary=text shows narratives alone; it goes with no _include.";
        return Err(Error::malformed(text).code("not-supported"));
    }
    if let Some(subset) = subset {
        for hit in &mut found.hits {
            hit.content = subset.of(&hit.content)?.into();
        }
    }
    if conditional::preferred_handling(&asked.headers) == Handling::Lenient {
        found.hits.extend(ignored(query, &asked.pairs));
    }
    let next = found.next.map(|cursor| cursor.to_text());
    let mut links = links(app.own(), &search.address, query, next.as_deref());
    for (_, url) in links.iter_mut().filter(|(relation, _)| asked.hidden && *relation == "next") {
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let sealed = format!("{SEALED}{}", app.sealed_search(context, query)?);
        *url = query::link(address, [("_page", sealed.as_str())]);
    }
    Ok(respond::fhir(200, bundle::searchset(&found.hits, found.total, &links, found.horizon)))
}

/// The self link holds what was used and no more; the next link is the same search from where this page ends.
fn links(own: &str, address: &str, query: &Query, next: Option<&str>) -> Vec<(&'static str, String)> {
    let address = if address.is_empty() { own.to_string() } else { format!("{own}/{address}") };
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
    let id = id::uuid();
    let text =
        format!("{count} search parameter(s) are not known here and were ignored; the self link holds those used.");
    let issue = json!([{"severity": "warning", "code": "not-supported", "diagnostics": text}]);
    let outcome: Value = json!({"resourceType": "OperationOutcome", "id": id, "issue": issue});
    Some(Hit { full_url: format!("urn:uuid:{id}"), content: outcome.to_string().into(), mode: "outcome" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::search;

    fn parsed(text: &str) -> (Query, Vec<(String, String)>) {
        let pairs = query::pairs(Some(text)).unwrap();
        (search::parse(ResourceType::TASK, &pairs, "https://hub/fhir", false).unwrap(), pairs)
    }

    #[test]
    fn links_are_absolute_and_hold_what_was_used() {
        let (query, _) = parsed("colour=red&status=requested,accepted&_count=2&_page=5.abc&identifier=s%7Ca");
        let links = links("https://hub/fhir", "Task", &query, Some("6.def"));
        assert_eq!(links[0].1, "https://hub/fhir/Task?status=requested,accepted&_count=2&_page=5.abc&identifier=s%7Ca");
        assert_eq!(links[1].1, "https://hub/fhir/Task?status=requested,accepted&_count=2&identifier=s%7Ca&_page=6.def");
    }

    #[test]
    fn a_count_has_no_next_page() {
        assert_eq!(links("https://hub/fhir", "Task", &parsed("_summary=count").0, Some("1.a")).len(), 1);
        assert_eq!(
            links("https://hub/fhir", "Task", &parsed("").0, None),
            [("self", "https://hub/fhir/Task".to_string())]
        );
        assert_eq!(links("https://hub/fhir", "", &parsed("").0, None), [("self", "https://hub/fhir".to_string())]);
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
