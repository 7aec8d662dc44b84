//! batch and transaction: each entry is asked and answered like a request by itself.
//!
//! A batch's entries stand alone, so each gets what it would have got alone, a refusal included (R-078). A transaction is
//! done by the app as one ([`crate::app::App::transaction`]); its answers are written here like any others.
//! <https://hl7.org/fhir/R4/http.html#transaction>

use axum::http::header::{ETAG, LOCATION};
use axum::response::Response;
use serde_json::{Value, json};

use super::capability::Published;
use super::door::{self, Place};
use super::extract::Asked;
use super::interactions;
use super::respond::{self, Versioned};
use crate::app::{App, Context, Step};
use crate::error::{Error, Kind};
use crate::fhir::bundle::{self, Entry, inside};
use crate::fhir::{outcome, reference};
use crate::id;

/// How an OperationOutcome of ours begins; no such thing is stored.
const OUTCOME: &str = r#"{"resourceType":"OperationOutcome""#;

pub(super) async fn answer(
    app: &App,
    context: &Context,
    statement: &Published,
    mut asked: Asked,
) -> Result<Response, Error> {
    let bundle = bundle::parse(asked.json()?, app.own(), app.config().limits.bundle_entries)?;
    let (kind, entries) = if bundle.transaction {
        ("transaction-response", transaction(app, context, &asked, bundle.entries).await?)
    } else {
        ("batch-response", batch(app, context, statement, &asked, bundle.entries).await?)
    };
    let mut out = format!(r#"{{"resourceType":"Bundle","id":"{}","type":"{kind}""#, id::new());
    if !entries.is_empty() {
        out.push_str(&format!(r#","entry":[{}]"#, entries.join(",")));
    }
    out.push('}');
    Ok(respond::fhir(200, out))
}

async fn batch(
    app: &App,
    context: &Context,
    statement: &Published,
    asked: &Asked,
    entries: Vec<Entry>,
) -> Result<Vec<String>, Error> {
    let created: Vec<(usize, String)> = entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| entry.method == "POST")
        .filter_map(|(index, entry)| Some((index, entry.full_url.clone()?)))
        .collect();
    let mut answers = Vec::with_capacity(entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        let head = entry.method == "HEAD";
        let others = created.iter().filter(|(other, _)| *other != index).map(|(_, url)| url.as_str());
        let answer = match check_alone(&entry, others) {
            Ok(()) => single(app, context, statement, asked, entry).await,
            Err(refusal) => Err(refusal),
        };
        answers.push(match answer {
            Ok(response) => entry_of(response, head).await?,
            Err(error) => {
                if let Some(cause) = &error.cause {
                    tracing::error!(request = context.request, cause, "answering an entry failed");
                }
                json!({"response": {"status": error.kind.status().to_string(), "outcome": outcome::of(&error)}})
                    .to_string()
            }
        });
    }
    Ok(answers)
}

/// Entries of a batch know nothing of each other (R-078).
fn check_alone<'a>(entry: &Entry, others: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let Some(resource) = &entry.resource else { return Ok(()) };
    let texts = reference::texts(resource);
    for other in others {
        if texts.iter().any(|text| text == other) {
            let text = "Entries of a batch can't refer to each other; send a transaction.";
            return Err(Error::malformed(text).code("not-supported"));
        }
    }
    Ok(())
}

async fn single(
    app: &App,
    context: &Context,
    statement: &Published,
    asked: &Asked,
    entry: Entry,
) -> Result<Response, Error> {
    let place = place(&entry)?;
    let asked = asked.entry(entry)?;
    if place == Place::Metadata {
        return Ok(statement.answer(&asked.headers));
    }
    interactions::answer(app, context, &place, asked).await
}

/// Where an entry's address leads; 404 or 405 as for a request by itself.
fn place(entry: &Entry) -> Result<Place, Error> {
    let path = entry.url.split('?').next().unwrap_or("");
    let place = door::below_base(path).ok_or_else(respond::no_such_path)?;
    // HAPI writes the version it read behind the address it writes to; what it demands stands in ifMatch.
    let place = match place {
        Place::Version(key, _) if entry.method != "GET" && entry.method != "HEAD" => Place::Instance(key),
        place => place,
    };
    if place == Place::Base && entry.method == "POST" {
        return Err(Error::new(Kind::NotSupported, "An entry is no batch or transaction itself."));
    }
    if place.allowed().contains(&entry.method.as_str()) {
        return Ok(place);
    }
    let text = format!("{} is not offered at this address; /metadata lists what is.", entry.method);
    Err(Error::new(Kind::MethodNotAllowed, text))
}

async fn transaction(app: &App, context: &Context, asked: &Asked, entries: Vec<Entry>) -> Result<Vec<String>, Error> {
    let mut steps = Vec::with_capacity(entries.len());
    let mut requests = Vec::with_capacity(entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        let (step, head, request) = step(app, context, asked, entry).map_err(|error| inside(error, index))?;
        steps.push(step);
        requests.push((head, request));
    }
    let made = app.transaction(context, steps).await?;
    let mut answers = Vec::with_capacity(made.len());
    for (made, (head, request)) in made.into_iter().zip(requests) {
        answers.push(entry_of(interactions::told(app, context, made, &request).await?, head).await?);
    }
    Ok(answers)
}

fn step(app: &App, context: &Context, asked: &Asked, entry: Entry) -> Result<(Step, bool, Asked), Error> {
    let (place, head, full_url) = (place(&entry)?, entry.method == "HEAD", entry.full_url.clone());
    let mut request = asked.entry(entry)?;
    let ask = interactions::ask(app, context, &place, &mut request)?.ok_or_else(|| {
        Error::new(
            Kind::NotSupported,
            "A transaction holds no operations, histories and metadata; ask for them by themselves.",
        )
    })?;
    Ok((Step { full_url, ask }, head, request))
}

/// A response as an entry (R-077).
async fn entry_of(response: Response, head: bool) -> Result<String, Error> {
    let (parts, body) = response.into_parts();
    let mut told = json!({"status": parts.status.as_u16().to_string()});
    for (element, header) in [("location", LOCATION), ("etag", ETAG)] {
        if let Some(value) = parts.headers.get(&header).and_then(|value| value.to_str().ok()) {
            told[element] = Value::from(value);
        }
    }
    let versioned = parts.extensions.get::<Versioned>();
    if let Some(versioned) = versioned {
        told["lastModified"] = Value::from(versioned.updated.to_string());
    }
    let mut body = respond::body_text(body).await?;
    if body.starts_with(OUTCOME) {
        told["outcome"] = serde_json::from_str(&std::mem::take(&mut body)).map_err(Error::internal)?;
    }
    let mut out = String::with_capacity(body.len() + 256);
    out.push('{');
    if let Some(versioned) = versioned {
        out.push_str(&format!(r#""fullUrl":{},"#, Value::from(versioned.full_url.as_str())));
    }
    if !body.is_empty() && !head {
        out.push_str(&format!(r#""resource":{body},"#));
    }
    out.push_str(&format!(r#""response":{told}}}"#));
    Ok(out)
}
