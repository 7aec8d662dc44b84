//! A simulated partner's FHIR server: an EHR, a food bank. For the demo, the integration tests and the simulation.
//!
//! Promises: a pure, synchronous core, one request in, one answer out; no sockets, no clock and no randomness, so the
//! same calls give the same bytes. Its owner sets the time, moves the requests, and acts as the partner's staff
//! (`put`, `update`). It behaves as public servers do: versions and ETags, conditional create, search with pages,
//! batch and transaction; and it misbehaves on request (`fail_next`). It offers what its CapabilityStatement says.
//! Leaves out: validation, DELETE and PATCH, subscriptions, XML, includes, search parameters but those in `PARAMETERS`.
//! Logged targets may hold search values: they are for tests, never for the gateway's log.
//!
//! Specification: <https://hl7.org/fhir/R4/http.html>, <https://hl7.org/fhir/R4/search.html>

mod bundle;
mod search;
mod store;

use std::collections::VecDeque;

use serde_json::{Value, json};

use search::{PARAMETERS, is_parameter, last_updated, parameters};
pub use store::Backup;
use store::{Store, text, version};

/// The types it takes over HTTP; Subscription only where it is offered.
const TYPES: &str = "CarePlan CareTeam Communication Condition Consent Coverage Device DocumentReference Encounter \
    Goal Group HealthcareService Location Observation Organization Patient Practitioner PractitionerRole Procedure \
    Provenance Questionnaire QuestionnaireResponse RelatedPerson ServiceRequest Task";

const PAGE_SIZE: usize = 100;

/// One HTTP request.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The method, in capitals.
    pub method: String,
    /// Path and query at or below the base's path, or an absolute URL.
    pub target: String,
    /// Name and value; names in any case.
    pub headers: Vec<(String, String)>,
    /// The body, empty where there is none.
    pub body: String,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// Name and value.
    pub headers: Vec<(String, String)>,
    /// A resource as JSON, or nothing.
    pub body: String,
}

/// The server: what it stores, what it offers, and what it was asked.
#[derive(Debug)]
pub struct FhirServer {
    base: String,
    now: String,
    token: Option<String>,
    store: Store,
    searches: VecDeque<(usize, Vec<usize>)>,
    searched: usize,
    log: Vec<String>,
    failing: VecDeque<u16>,
    if_none_exist: bool,
    batch: bool,
    subscriptions: bool,
    ignored: Vec<String>,
    page_size: usize,
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Option<Value>,
}

type Headers = [(String, String)];

impl FhirServer {
    /// An empty server at this base (no trailing slash), at the start of 1970.
    pub fn new(base: &str) -> Self {
        Self {
            base: base.trim_end_matches('/').to_owned(),
            now: "1970-01-01T00:00:00Z".to_owned(),
            token: None,
            store: Store::default(),
            searches: VecDeque::new(),
            searched: 0,
            log: Vec::new(),
            failing: VecDeque::new(),
            if_none_exist: true,
            batch: true,
            subscriptions: false,
            ignored: Vec::new(),
            page_size: PAGE_SIZE,
        }
    }

    /// From now on requests need `Authorization: Bearer token`; without it 401, but for `metadata`.
    pub fn require_bearer(&mut self, token: &str) {
        self.token = Some(token.to_owned());
    }

    /// The time (RFC 3339) that versions and searchsets are stamped with until it is set again.
    pub fn set_now(&mut self, rfc3339: &str) {
        rfc3339.clone_into(&mut self.now);
    }

    /// Whether conditional create is offered. Where not, `If-None-Exist` is ignored, as many servers do.
    pub fn set_if_none_exist(&mut self, offered: bool) {
        self.if_none_exist = offered;
    }

    /// Whether batch is offered. Transaction always is.
    pub fn set_batch(&mut self, offered: bool) {
        self.batch = offered;
    }

    /// Whether Subscriptions are taken. Whoever acts as the server sends the notifications.
    pub fn set_subscriptions(&mut self, offered: bool) {
        self.subscriptions = offered;
    }

    /// It claims these search parameters, and ignores them.
    pub fn ignore(&mut self, parameters: &[&str]) {
        self.ignored = parameters.iter().map(|name| (*name).to_owned()).collect();
    }

    fn types(&self) -> impl Iterator<Item = &'static str> {
        TYPES.split(' ').chain(self.subscriptions.then_some("Subscription"))
    }

    /// The most entries a page holds, whatever `_count` asks for.
    pub fn set_page_size(&mut self, entries: usize) {
        self.page_size = entries.max(1);
    }

    /// The next requests are answered with these statuses, one each, without effect.
    pub fn fail_next(&mut self, statuses: Vec<u16>) {
        self.failing.extend(statuses);
    }

    /// A local act: stores a new version under the resource's id (one is given where it has none) and returns the id.
    pub fn put(&mut self, resource: Value) -> String {
        let type_ = text(&resource, "resourceType").to_owned();
        let id = match text(&resource, "id") {
            "" => self.store.next_id(&type_),
            id => id.to_owned(),
        };
        self.store.add(&type_, &id, resource, &self.now);
        id
    }

    /// A resource's newest version.
    pub fn get(&self, type_: &str, id: &str) -> Option<&Value> {
        self.store.find(type_, id)?.versions.last()
    }

    /// The newest versions of all resources of a type, in order of creation.
    pub fn all(&self, type_: &str) -> Vec<&Value> {
        self.store.resources.iter().filter(|r| r.type_ == type_).filter_map(|r| r.versions.last()).collect()
    }

    /// A local act: a new version, made from the newest. Nothing happens where there is none, and the answer is false.
    pub fn update(&mut self, type_: &str, id: &str, change: impl FnOnce(&mut Value)) -> bool {
        let Some(mut resource) = self.get(type_, id).cloned() else { return false };
        change(&mut resource);
        self.store.add(type_, id, resource, &self.now);
        true
    }

    /// A copy of all that is stored.
    pub fn backup(&self) -> Backup {
        Backup(self.store.clone())
    }

    /// Everything is as it was then; what came later was never there, and ids begin again.
    pub fn restore(&mut self, backup: &Backup) {
        self.store = backup.0.clone();
    }

    /// A local act: a resource is deleted, and reading it answers 410.
    pub fn erase(&mut self, type_: &str, id: &str) {
        self.store.erase(type_, id);
    }

    /// A resource's versions, oldest first.
    pub fn history(&self, type_: &str, id: &str) -> Vec<&Value> {
        self.store.find(type_, id).map_or_else(Vec::new, |stored| stored.versions.iter().collect())
    }

    /// What was asked, oldest first, as `METHOD /path?query -> status`, with the path below the base.
    pub fn log(&self) -> &[String] {
        &self.log
    }

    /// Answers one HTTP request.
    pub fn answer(&mut self, request: &Request) -> Response {
        let local = self.below_base(&request.target).map(str::to_owned);
        let answer = match (self.failing.pop_front(), &local) {
            (Some(status), _) if status < 400 => Answer { status, headers: Vec::new(), body: None },
            (Some(status), _) => refusal(status, "transient", "told to fail"),
            (None, None) => refusal(404, "not-found", "not below this server's base"),
            (None, Some(local)) => self.admitted(request, local).unwrap_or_else(|refused| refused),
        };
        let shown = local.as_ref().map_or(request.target.as_str(), |local| local.trim_start_matches('/'));
        let slash = if local.is_some() { "/" } else { "" };
        self.log.push(format!("{} {slash}{shown} -> {}", request.method, answer.status));
        let mut headers = answer.headers;
        let body = answer.body.map_or_else(String::new, |body| {
            headers.push(("Content-Type".to_owned(), "application/fhir+json; charset=utf-8".to_owned()));
            body.to_string()
        });
        Response { status: answer.status, headers, body }
    }

    fn admitted(&mut self, request: &Request, local: &str) -> Result<Answer, Answer> {
        if let Some(token) = &self.token {
            let given = header(&request.headers, "Authorization").and_then(|value| value.split_once(' '));
            let known = given.is_some_and(|(kind, value)| kind.eq_ignore_ascii_case("bearer") && value.trim() == token);
            if !known && local.trim_matches('/') != "metadata" {
                let mut refused = refusal(401, "login", "a bearer token is required");
                refused.headers.push(("WWW-Authenticate".to_owned(), "Bearer".to_owned()));
                return Err(refused);
            }
        }
        let body = match request.method.as_str() {
            "POST" | "PUT" => Some(
                serde_json::from_str::<Value>(&request.body)
                    .map_err(|_| refusal(400, "structure", "the body is not JSON"))?,
            ),
            _ => None,
        };
        match body {
            Some(bundle) if request.method == "POST" && local.trim_matches('/').is_empty() => self.bundle(&bundle),
            body => self.interaction(&request.method, local, &request.headers, body),
        }
    }

    fn interaction(
        &mut self,
        method: &str,
        local: &str,
        headers: &Headers,
        body: Option<Value>,
    ) -> Result<Answer, Answer> {
        let (path, query) = local.split_once('?').unwrap_or((local, ""));
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        if let Some(type_) = segments.first()
            && *type_ != "metadata"
            && !self.types().any(|known| known == *type_)
        {
            return Err(refusal(404, "not-supported", "this server does not have that type"));
        }
        match (method, segments.as_slice(), body) {
            ("GET", ["metadata"], _) => Ok(ok(self.capability_statement())),
            ("GET", [type_], _) => self.search(type_, query),
            ("GET", [type_, id], _) => self.read(type_, id, None),
            ("GET", [type_, id, "_history", version], _) => self.read(type_, id, Some(version)),
            ("POST", [type_], Some(resource)) => self.create(type_, resource, headers),
            ("PUT", [type_, id], Some(resource)) => self.put_over_http(type_, id, resource, headers),
            (_, [] | [_] | [_, _] | [_, _, "_history", ..], _) => {
                Err(refusal(405, "not-supported", "this server does not offer that interaction"))
            }
            _ => Err(refusal(404, "not-found", "no such address")),
        }
    }

    fn read(&self, type_: &str, id: &str, wanted: Option<&str>) -> Result<Answer, Answer> {
        let versions = self.store.find(type_, id).map_or(&[][..], |stored| &stored.versions);
        if versions.is_empty() && self.store.find(type_, id).is_some() {
            return Err(refusal(410, "deleted", "it was deleted"));
        }
        let found = match wanted {
            None => versions.last(),
            Some(wanted) => versions.iter().find(|resource| version(resource) == wanted),
        };
        found.map(|resource| self.versioned(200, resource)).ok_or_else(|| refusal(404, "not-found", "no such resource"))
    }

    fn create(&mut self, type_: &str, resource: Value, headers: &Headers) -> Result<Answer, Answer> {
        right_type(&resource, type_)?;
        if let Some(existing) = self.existing(type_, header(headers, "If-None-Exist"))? {
            let mut answer = self.read(type_, &existing, None)?;
            answer.headers.push(self.location(type_, &existing));
            return Ok(answer);
        }
        let id = self.store.next_id(type_);
        self.stored(201, type_, &id, resource)
    }

    /// The one resource an `If-None-Exist` describes: none, or 412 for several.
    fn existing(&self, type_: &str, condition: Option<&str>) -> Result<Option<String>, Answer> {
        let Some(condition) = condition.filter(|_| self.if_none_exist) else { return Ok(None) };
        let asked = parameters(condition.trim_start_matches('?'));
        if !asked.iter().any(|(name, _)| is_parameter(name)) {
            return Err(refusal(400, "not-supported", "If-None-Exist holds no parameter known here"));
        }
        match self.matching(type_, &asked)?.as_slice() {
            [] => Ok(None),
            [position] => Ok(self.store.resources.get(*position).map(|stored| stored.id.clone())),
            _ => Err(refusal(412, "multiple-matches", "If-None-Exist matches several")),
        }
    }

    fn put_over_http(&mut self, type_: &str, id: &str, body: Value, headers: &Headers) -> Result<Answer, Answer> {
        right_type(&body, type_)?;
        if text(&body, "id") != id {
            return Err(refusal(400, "invariant", "the resource's id is not that of the address"));
        }
        let current = self.get(type_, id).map(|resource| version(resource).to_owned());
        if let Some(expected) = header(headers, "If-Match") {
            let expected = expected.trim().trim_start_matches("W/").trim_matches('"');
            if current.as_deref() != Some(expected) {
                return Err(refusal(412, "conflict", "If-Match names another version"));
            }
        }
        self.stored(if current.is_some() { 200 } else { 201 }, type_, id, body)
    }

    fn stored(&mut self, status: u16, type_: &str, id: &str, resource: Value) -> Result<Answer, Answer> {
        self.store.add(type_, id, resource, &self.now);
        let mut answer = self.read(type_, id, None)?;
        answer.status = status;
        answer.headers.push(self.location(type_, id));
        Ok(answer)
    }

    /// What follows the base in an absolute URL, a path that begins with the base's path, or a relative address.
    fn below_base<'a>(&self, target: &'a str) -> Option<&'a str> {
        let path = self.base.splitn(4, '/').nth(3).unwrap_or_default();
        let below = |rest: &&str| rest.is_empty() || rest.starts_with(['/', '?']);
        match target.strip_prefix('/') {
            Some(rooted) if path.is_empty() => Some(rooted),
            Some(rooted) => rooted.strip_prefix(path).filter(below),
            None if target.split('?').next().is_some_and(|path| path.contains("://")) => {
                target.strip_prefix(self.base.as_str()).filter(below)
            }
            None => Some(target),
        }
    }

    fn location(&self, type_: &str, id: &str) -> (String, String) {
        let version = self.store.find(type_, id).map_or(0, |stored| stored.versions.len());
        ("Location".to_owned(), format!("{}/{type_}/{id}/_history/{version}", self.base))
    }

    fn versioned(&self, status: u16, resource: &Value) -> Answer {
        let mut headers = vec![("ETag".to_owned(), format!("W/\"{}\"", version(resource)))];
        headers.extend(last_updated(resource).map(|at| ("Last-Modified".to_owned(), at.http_date())));
        Answer { status, headers, body: Some(resource.clone()) }
    }

    fn capability_statement(&self) -> Value {
        let codes = |codes: &[&str]| codes.iter().map(|code| json!({ "code": code })).collect::<Vec<_>>();
        let search: Vec<Value> =
            PARAMETERS.iter().map(|(name, kind, _)| json!({ "name": name, "type": kind })).collect();
        let resource = |type_: &str| {
            json!({
                "type": type_,
                "interaction": codes(&["read", "vread", "create", "update", "search-type"]),
                "versioning": "versioned",
                "updateCreate": true,
                "conditionalCreate": self.if_none_exist,
                "searchParam": search,
            })
        };
        let system: &[&str] = if self.batch { &["transaction", "batch"] } else { &["transaction"] };
        json!({
            "resourceType": "CapabilityStatement",
            "status": "active",
            "date": self.now,
            "kind": "instance",
            "software": { "name": "Simulated partner" },
            "implementation": { "description": "A simulated partner's FHIR server", "url": self.base },
            "fhirVersion": "4.0.1",
            "format": ["application/fhir+json", "json"],
            "rest": [{
                "mode": "server",
                "resource": self.types().map(resource).collect::<Vec<_>>(),
                "interaction": codes(system),
            }],
        })
    }
}

fn ok(body: Value) -> Answer {
    Answer { status: 200, headers: Vec::new(), body: Some(body) }
}

fn refusal(status: u16, code: &str, diagnostics: &str) -> Answer {
    let issue = json!([{ "severity": "error", "code": code, "diagnostics": diagnostics }]);
    Answer { status, headers: Vec::new(), body: Some(json!({ "resourceType": "OperationOutcome", "issue": issue })) }
}

fn right_type(resource: &Value, type_: &str) -> Result<(), Answer> {
    let right = text(resource, "resourceType") == type_;
    if right { Ok(()) } else { Err(refusal(400, "structure", "the body is not the resource this address takes")) }
}

fn header<'a>(headers: &'a Headers, wanted: &str) -> Option<&'a str> {
    headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests;
