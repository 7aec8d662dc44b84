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

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value, json};

use crate::fhir::query;
use crate::time::{Timestamp, span_of};

/// The types it takes over HTTP; Subscription only where it is offered.
const TYPES: &str = "CarePlan CareTeam Communication Condition Consent Coverage Device DocumentReference Encounter \
    Goal Group HealthcareService Location Observation Organization Patient Practitioner PractitionerRole Procedure \
    Provenance Questionnaire QuestionnaireResponse RelatedPerson ServiceRequest Task";

/// Search parameter, its type, and the elements it looks at. Others are ignored.
const PARAMETERS: [(&str, &str, &[&str]); 13] = [
    ("_id", "token", &[]),
    ("_lastUpdated", "date", &[]),
    ("based-on", "reference", &["basedOn"]),
    ("code", "token", &["code"]),
    ("focus", "reference", &["focus"]),
    ("identifier", "token", &["identifier"]),
    ("owner", "reference", &["owner"]),
    ("part-of", "reference", &["partOf"]),
    ("patient", "reference", &["subject", "patient", "for"]),
    ("requester", "reference", &["requester"]),
    ("status", "token", &["status"]),
    ("subject", "reference", &["subject", "patient", "for"]),
    ("organization", "reference", &["organization", "providedBy"]),
];

const PAGE_SIZE: usize = 100;
const REMEMBERED_SEARCHES: usize = 100;

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

/// Resources in order of creation, each with its versions, oldest first. A transaction that fails gets its clone back.
#[derive(Debug, Clone, Default)]
struct Store {
    resources: Vec<Stored>,
    positions: BTreeMap<(String, String), usize>,
    last_id: usize,
}

/// A copy of what a server stored at some time.
#[derive(Debug, Clone)]
pub struct Backup(Store);

#[derive(Debug, Clone)]
struct Stored {
    type_: String,
    id: String,
    versions: Vec<Value>,
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
        if let Some(position) = self.store.positions.get(&(type_.to_owned(), id.to_owned()))
            && let Some(stored) = self.store.resources.get_mut(*position)
        {
            stored.versions.clear();
        }
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

    fn search(&mut self, type_: &str, query: &str) -> Result<Answer, Answer> {
        let asked = parameters(query);
        let value = |wanted: &str| asked.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let number = |wanted: &str| value(wanted).and_then(|value| value.parse::<usize>().ok());
        let count = number("_count").unwrap_or(self.page_size).min(self.page_size);
        let start = number("_offset").unwrap_or(0);
        let (search, hits) = match number("_getpages") {
            None => (None, self.sorted(self.matching(type_, &asked)?, value("_sort"))),
            Some(search) => match self.searches.iter().find(|(known, _)| *known == search) {
                Some((_, hits)) => (Some(search), hits.clone()),
                None => return Err(refusal(410, "expired", "that page is no longer kept")),
            },
        };
        let used = query.split('&').filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            is_parameter(name) || ["_count", "_sort", "_getpages", "_offset"].contains(&name)
        });
        let mut link = vec![json!({
            "relation": "self",
            "url": format!("{}/{type_}?{}", self.base, used.collect::<Vec<_>>().join("&")),
        })];
        let entry: Vec<Value> = hits.iter().skip(start).take(count).filter_map(|hit| self.entry(*hit)).collect();
        if count > 0 && start + count < hits.len() {
            let search = search.unwrap_or_else(|| self.remember(hits.clone()));
            let offset = start + count;
            let url = format!("{}/{type_}?_getpages={search}&_offset={offset}&_count={count}", self.base);
            link.push(json!({ "relation": "next", "url": url }));
        }
        let mut bundle = json!({
            "resourceType": "Bundle",
            "meta": { "lastUpdated": self.now },
            "type": "searchset",
            "total": hits.len(),
            "link": link,
        });
        if !entry.is_empty() {
            bundle["entry"] = json!(entry);
        }
        Ok(ok(bundle))
    }

    fn entry(&self, position: usize) -> Option<Value> {
        let Stored { type_, id, versions } = self.store.resources.get(position)?;
        let full_url = format!("{}/{type_}/{id}", self.base);
        Some(json!({ "fullUrl": full_url, "resource": versions.last()?, "search": { "mode": "match" } }))
    }

    /// Keeps what a search found, so that its pages don't shift while resources change.
    fn remember(&mut self, hits: Vec<usize>) -> usize {
        self.searched += 1;
        self.searches.push_back((self.searched, hits));
        if self.searches.len() > REMEMBERED_SEARCHES {
            self.searches.pop_front();
        }
        self.searched
    }

    fn matching(&self, type_: &str, asked: &[(String, String)]) -> Result<Vec<usize>, Answer> {
        if asked.iter().any(|(name, value)| name == "_lastUpdated" && span(value).is_none()) {
            return Err(refusal(400, "value", "_lastUpdated is no instant"));
        }
        let fits = |resource: &Value| {
            let mut heeded = asked.iter().filter(|(name, _)| !self.ignored.contains(name));
            heeded.all(|(name, values)| values.split(',').any(|value| self.meets(resource, name, value)))
        };
        let found = self.store.resources.iter().enumerate().filter(|(_, stored)| stored.type_ == type_);
        Ok(found.filter(|(_, stored)| stored.versions.last().is_some_and(fits)).map(|(position, _)| position).collect())
    }

    fn meets(&self, resource: &Value, name: &str, value: &str) -> bool {
        let Some((_, kind, elements)) = PARAMETERS.iter().find(|(known, ..)| *known == name) else { return true };
        match (name, *kind) {
            ("_id", _) => text(resource, "id") == value,
            (_, "date") => updated(resource, value),
            (_, "token") => items(resource, elements).any(|item| has_token(item, value)),
            _ => items(resource, elements).any(|item| self.refers(text(item, "reference"), value)),
        }
    }

    /// Exactly as stored, or the same under our base, or, for a relative query, the same last `Type/id` (or id).
    fn refers(&self, stored: &str, asked: &str) -> bool {
        let unversioned = stored.split("/_history/").next().unwrap_or(stored);
        let relative = |url: &str| self.below_base(url).unwrap_or(url).trim_start_matches('/').to_owned();
        let ends_with_asked = unversioned.strip_suffix(asked).is_some_and(|rest| rest.ends_with('/'));
        stored == asked || relative(unversioned) == relative(asked) || (!asked.contains("://") && ends_with_asked)
    }

    fn sorted(&self, mut hits: Vec<usize>, sort: Option<&str>) -> Vec<usize> {
        let instant = |hit: &usize| {
            let newest = self.store.resources.get(*hit).and_then(|stored| stored.versions.last());
            newest.and_then(last_updated)
        };
        match sort {
            Some("_lastUpdated") => hits.sort_by_key(instant),
            Some("-_lastUpdated") => hits.sort_by_key(|hit| Reverse((instant(hit), *hit))),
            _ => {}
        }
        hits
    }

    fn bundle(&mut self, bundle: &Value) -> Result<Answer, Answer> {
        right_type(bundle, "Bundle")?;
        let entries = bundle["entry"].as_array().map_or(&[][..], Vec::as_slice);
        match text(bundle, "type") {
            "batch" if self.batch => {
                let answers = entries.iter().map(|entry| {
                    let (headers, method, local) = self.call(entry);
                    let body = entry.get("resource").cloned();
                    self.interaction(method, &local, &headers, body).unwrap_or_else(|refused| refused)
                });
                Ok(ok(response_bundle("batch-response", answers.collect())))
            }
            "transaction" => {
                let before = self.store.clone();
                self.transaction(entries).inspect_err(|_| self.store = before)
            }
            _ => Err(refusal(405, "not-supported", "this server does not offer that kind of Bundle")),
        }
    }

    /// POST before PUT before GET. POST entries get their ids first, so that references to them can be rewritten.
    fn transaction(&mut self, entries: &[Value]) -> Result<Answer, Answer> {
        let mut addresses = BTreeMap::new();
        let mut calls = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let (headers, method, local) = self.call(entry);
            let local = local.split("/_history/").next().unwrap_or(&local).trim_matches('/').to_owned();
            let mut resource = entry.get("resource").cloned().unwrap_or_default();
            let (order, method, local) = match method {
                "POST" => {
                    right_type(&resource, &local)?;
                    let existing = self.existing(&local, header(&headers, "If-None-Exist"))?;
                    let method = if existing.is_some() { "GET" } else { "PUT" };
                    let id = existing.unwrap_or_else(|| self.store.next_id(&local));
                    resource["id"] = json!(id);
                    (0, method, format!("{local}/{id}"))
                }
                "PUT" => (1, method, local),
                _ => (2, method, local),
            };
            if order < 2 && text(entry, "fullUrl").starts_with("urn:uuid:") {
                addresses.insert(text(entry, "fullUrl").to_owned(), local.clone());
            }
            calls.push((order, index, method, local, headers, resource));
        }
        calls.sort_by_key(|call| (call.0, call.1));
        let mut answers = Vec::new();
        for (_, index, method, local, headers, mut resource) in calls {
            rewrite(&mut resource, &addresses);
            answers.push((index, self.interaction(method, &local, &headers, Some(resource))?));
        }
        answers.sort_by_key(|(index, _)| *index);
        Ok(ok(response_bundle("transaction-response", answers.into_iter().map(|(_, answer)| answer).collect())))
    }

    /// An entry's request: its headers, its method, and its address below the base.
    fn call<'a>(&self, entry: &'a Value) -> (Vec<(String, String)>, &'a str, String) {
        let request = &entry["request"];
        let conditions = [("ifMatch", "If-Match"), ("ifNoneExist", "If-None-Exist")].into_iter();
        let given =
            conditions.filter_map(|(element, name)| Some((name.to_owned(), request[element].as_str()?.to_owned())));
        let url = text(request, "url");
        (given.collect(), text(request, "method"), self.below_base(url).unwrap_or(url).to_owned())
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

impl Store {
    fn find(&self, type_: &str, id: &str) -> Option<&Stored> {
        self.resources.get(*self.positions.get(&(type_.to_owned(), id.to_owned()))?)
    }

    fn next_id(&mut self, type_: &str) -> String {
        loop {
            self.last_id += 1;
            let id = self.last_id.to_string();
            if self.find(type_, &id).is_none() {
                return id;
            }
        }
    }

    fn add(&mut self, type_: &str, id: &str, resource: Value, now: &str) {
        let position = *self.positions.entry((type_.to_owned(), id.to_owned())).or_insert_with(|| {
            self.resources.push(Stored { type_: type_.to_owned(), id: id.to_owned(), versions: Vec::new() });
            self.resources.len() - 1
        });
        let Some(stored) = self.resources.get_mut(position) else { return };
        let mut given = match resource {
            Value::Object(elements) => elements,
            _ => Map::new(),
        };
        let mut meta = match given.shift_remove("meta") {
            Some(Value::Object(meta)) => meta,
            _ => Map::new(),
        };
        meta.insert("versionId".to_owned(), json!((stored.versions.len() + 1).to_string()));
        meta.insert("lastUpdated".to_owned(), json!(now));
        let mut version = Map::new();
        version.insert("resourceType".to_owned(), json!(type_));
        version.insert("id".to_owned(), json!(id));
        version.insert("meta".to_owned(), Value::Object(meta));
        version.extend(given.into_iter().filter(|(name, _)| name != "resourceType" && name != "id"));
        stored.versions.push(Value::Object(version));
    }
}

fn ok(body: Value) -> Answer {
    Answer { status: 200, headers: Vec::new(), body: Some(body) }
}

fn refusal(status: u16, code: &str, diagnostics: &str) -> Answer {
    let issue = json!([{ "severity": "error", "code": code, "diagnostics": diagnostics }]);
    Answer { status, headers: Vec::new(), body: Some(json!({ "resourceType": "OperationOutcome", "issue": issue })) }
}

fn response_bundle(type_: &str, answers: Vec<Answer>) -> Value {
    let entry = answers.into_iter().map(|Answer { status, headers, body }| {
        let mut response = json!({ "status": status.to_string() });
        for (name, element) in [("Location", "location"), ("ETag", "etag")] {
            if let Some(value) = header(&headers, name) {
                response[element] = json!(value);
            }
        }
        if status < 400 {
            return json!({ "resource": body, "response": response });
        }
        response["outcome"] = json!(body);
        json!({ "response": response })
    });
    json!({ "resourceType": "Bundle", "type": type_, "entry": entry.collect::<Vec<_>>() })
}

fn right_type(resource: &Value, type_: &str) -> Result<(), Answer> {
    let right = text(resource, "resourceType") == type_;
    if right { Ok(()) } else { Err(refusal(400, "structure", "the body is not the resource this address takes")) }
}

fn rewrite(value: &mut Value, addresses: &BTreeMap<String, String>) {
    match value {
        Value::String(text) => {
            if let Some(address) = addresses.get(text) {
                address.clone_into(text);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rewrite(item, addresses)),
        Value::Object(elements) => elements.values_mut().for_each(|element| rewrite(element, addresses)),
        _ => {}
    }
}

fn text<'a>(value: &'a Value, element: &str) -> &'a str {
    value.get(element).and_then(Value::as_str).unwrap_or_default()
}

fn version(resource: &Value) -> &str {
    text(&resource["meta"], "versionId")
}

fn header<'a>(headers: &'a Headers, wanted: &str) -> Option<&'a str> {
    headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.as_str())
}

/// The values of these elements, repeated ones one by one.
fn items<'a>(resource: &'a Value, elements: &'a [&str]) -> impl Iterator<Item = &'a Value> {
    let found = elements.iter().filter_map(|element| resource.get(element));
    found.flat_map(|value| value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice))
}

/// A code, an Identifier, a Coding or a CodeableConcept against `value`, `system|value`, `|value` or `system|`.
fn has_token(item: &Value, asked: &str) -> bool {
    if let Some(codings) = item.get("coding").and_then(Value::as_array) {
        return codings.iter().any(|coding| has_token(coding, asked));
    }
    let (system, value) = asked.split_once('|').map_or((None, asked), |(system, value)| (Some(system), value));
    if let Some(code) = item.as_str() {
        return code == value;
    }
    let own = item.get("value").or_else(|| item.get("code")).and_then(Value::as_str);
    system.is_none_or(|system| text(item, "system") == system) && (value.is_empty() || own == Some(value))
}

/// The prefix, and the first and last microsecond that an instant (exactly) or a partial date means.
fn span(asked: &str) -> Option<(&str, Timestamp, Timestamp)> {
    let (prefix, asked) = match asked.get(..2) {
        Some(prefix @ ("gt" | "ge" | "lt" | "le" | "eq")) => (prefix, asked.get(2..)?),
        _ => ("eq", asked),
    };
    let instant = Timestamp::parse(asked).map(|instant| (prefix, instant, instant));
    instant.or_else(|| span_of(asked).map(|(start, end)| (prefix, start, Timestamp(end.0 - 1))))
}

fn updated(resource: &Value, asked: &str) -> bool {
    let Some(((prefix, first, last), own)) = span(asked).zip(last_updated(resource)) else { return false };
    match prefix {
        "gt" => own > last,
        "ge" => own >= first,
        "lt" => own < first,
        "le" => own <= last,
        _ => (first..=last).contains(&own),
    }
}

fn last_updated(resource: &Value) -> Option<Timestamp> {
    Timestamp::parse(text(&resource["meta"], "lastUpdated"))
}

fn is_parameter(name: &str) -> bool {
    PARAMETERS.iter().any(|(known, ..)| *known == name)
}

fn parameters(asked: &str) -> Vec<(String, String)> {
    query::pairs(Some(asked)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "http://127.0.0.1:4711/fhir";
    const NOON: &str = "2026-08-03T12:00:00Z";

    fn server() -> FhirServer {
        let mut server = FhirServer::new(BASE);
        server.set_now(NOON);
        server
    }

    fn ask(server: &mut FhirServer, method: &str, target: &str, headers: &[(&str, &str)], body: &Value) -> Response {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        server.answer(&Request { method: method.to_owned(), target: format!("/fhir{target}"), headers, body })
    }

    fn get(server: &mut FhirServer, target: &str) -> (u16, Value) {
        let response = ask(server, "GET", target, &[], &Value::Null);
        (response.status, serde_json::from_str(&response.body).unwrap_or_default())
    }

    fn ids(server: &mut FhirServer, target: &str) -> String {
        let (status, bundle) = get(server, target);
        assert_eq!((status, text(&bundle, "type")), (200, "searchset"), "{target}");
        let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| text(&entry["resource"], "id")).collect::<Vec<_>>().join(" ")
    }

    fn shown<'a>(response: &'a Response, name: &str) -> &'a str {
        header(&response.headers, name).unwrap_or_default()
    }

    #[test]
    fn a_created_resource_is_read_and_updated_by_version() {
        let mut server = server();
        let task = json!({ "resourceType": "Task", "id": "mine", "meta": { "profile": ["p"], "versionId": "9" } });
        let created = ask(&mut server, "POST", "/Task", &[], &task);
        assert_eq!(created.status, 201);
        assert_eq!(shown(&created, "location"), format!("{BASE}/Task/1/_history/1"));
        assert_eq!(shown(&created, "etag"), "W/\"1\"");
        assert_eq!(shown(&created, "last-modified"), "Mon, 03 Aug 2026 12:00:00 GMT");
        let stored: Value = serde_json::from_str(&created.body).unwrap();
        assert_eq!(stored["meta"], json!({ "profile": ["p"], "versionId": "1", "lastUpdated": NOON }));

        for (tag, status) in [("W/\"2\"", 412), ("\"1\"", 200), ("W/\"2\"", 200), ("\"2\"", 412)] {
            assert_eq!(ask(&mut server, "PUT", "/Task/1", &[("if-match", tag)], &stored).status, status, "{tag}");
        }
        assert_eq!(server.history("Task", "1").len(), 3);
        assert_eq!(get(&mut server, "/Task/1/_history/2").1["meta"]["versionId"], "2");
        let (status, outcome) = get(&mut server, "/Task/2");
        assert_eq!((status, text(&outcome, "resourceType")), (404, "OperationOutcome"));
        let other = json!({ "resourceType": "Task", "id": "t" });
        assert_eq!(ask(&mut server, "PUT", "/Task/t", &[("If-Match", "\"1\"")], &other).status, 412);
        assert_eq!(ask(&mut server, "PUT", "/Task/t", &[], &other).status, 201);
        assert_eq!(ask(&mut server, "PUT", "/Task/u", &[], &other).status, 400);
    }

    #[test]
    fn local_acts_make_versions() {
        let mut server = server();
        assert_eq!(server.put(json!({ "resourceType": "Patient", "id": "1" })), "1");
        assert_eq!(server.put(json!({ "resourceType": "Patient" })), "2");
        assert!(server.update("Patient", "1", |patient| patient["active"] = json!(true)));
        assert!(!server.update("Patient", "x", |_| ()));
        assert_eq!(server.get("Patient", "1").unwrap()["meta"]["versionId"], "2");
        assert_eq!((server.all("Patient").len(), server.history("Patient", "1").len()), (2, 2));
    }

    #[test]
    fn a_conditional_create_happens_once_where_it_is_offered() {
        let mut server = server();
        let task = json!({ "resourceType": "Task", "identifier": [{ "system": "urn:s", "value": "a b" }] });
        let condition = [("If-None-Exist", "identifier=urn:s%7Ca%20b")];
        let mut post = |condition| ask(&mut server, "POST", "/Task", condition, &task);
        assert_eq!(post(&condition).status, 201);
        let again = post(&condition);
        assert_eq!((again.status, shown(&again, "Location")), (200, &*format!("{BASE}/Task/1/_history/1")));
        assert_eq!(post(&[("If-None-Exist", "colour=red")]).status, 400);
        assert_eq!(post(&[]).status, 201);
        assert_eq!(post(&condition).status, 412);
        server.set_if_none_exist(false);
        assert_eq!(ask(&mut server, "POST", "/Task", &condition, &task).status, 201);
    }

    #[test]
    fn searches_find_by_reference_token_and_time() {
        let mut server = server();
        for (id, now) in [("a", "2026-08-03T10:00:00.250Z"), ("b", "2026-08-03T11:00:00Z"), ("c", NOON)] {
            server.set_now(now);
            server.put(json!({
                "resourceType": "Task", "id": id, "status": if id == "a" { "requested" } else { "accepted" },
                "owner": { "reference": match id { "a" => "Organization/hub", "b" => "http://hub/fhir/Organization/hub",
                    _ => "http://127.0.0.1:4711/fhir/Organization/hub" } },
                "for": { "reference": "Patient/p" },
                "partOf": [{ "reference": "http://hub/fhir/Task/0" }],
                "identifier": [{ "system": "urn:s", "value": id }],
                "code": { "coding": [{ "system": "urn:c", "code": "fulfill" }] },
            }));
        }
        for (query, expected) in [
            ("", "a b c"),
            ("?owner=Organization/hub", "a b c"),
            ("?owner=http%3A%2F%2Fhub/fhir/Organization/hub", "b"),
            ("?owner=http://127.0.0.1:4711/fhir/Organization/hub", "a c"),
            ("?owner=Organization/ub", ""),
            ("?patient=p&colour=red", "a b c"),
            ("?subject=Patient/p&status=accepted", "b c"),
            ("?status=requested,accepted&_id=a,c", "a c"),
            ("?part-of=http://hub/fhir/Task/0&identifier=urn:s|b,c", "b c"),
            ("?identifier=other|a", ""),
            ("?code=urn:c|fulfill&_id=b", "b"),
            ("?_lastUpdated=gt2026-08-03T11:00:00Z", "c"),
            ("?_lastUpdated=ge2026-08-03T13:00:00%2B02:00", "b c"),
            ("?_lastUpdated=ge2026-08-03T13:00:00+02:00&_lastUpdated=lt2026-08-03T12:00:00Z", "b"),
            ("?_lastUpdated=le2026-08-03T10:00:00.250000Z", "a"),
            ("?_lastUpdated=2026-08-03T11:00:00Z", "b"),
            ("?_lastUpdated=eq2026-08-03", "a b c"),
            ("?_sort=-_lastUpdated", "c b a"),
            ("?_sort=_lastUpdated", "a b c"),
            ("?_count=0", ""),
        ] {
            assert_eq!(ids(&mut server, &format!("/Task{query}")), expected, "{query}");
        }
        assert_eq!(get(&mut server, "/Task?_lastUpdated=gtsoon").0, 400);
        let (_, bundle) = get(&mut server, "/Task?_id=a&colour=red");
        assert_eq!(bundle["meta"]["lastUpdated"], NOON);
        assert_eq!(bundle["entry"][0]["fullUrl"], format!("{BASE}/Task/a"));
        assert_eq!(bundle["entry"][0]["search"]["mode"], "match");
        assert_eq!(bundle["link"][0]["url"], format!("{BASE}/Task?_id=a"));
    }

    #[test]
    fn pages_stand_still_while_resources_change() {
        let mut server = server();
        server.set_page_size(2);
        (0..5).for_each(|_| drop(server.put(json!({ "resourceType": "Task" }))));
        let mut next = format!("{BASE}/Task?_sort=-_lastUpdated&_count=50");
        let mut seen = Vec::new();
        while !next.is_empty() {
            let request = Request { method: "GET".to_owned(), target: next.clone(), ..Request::default() };
            let bundle: Value = serde_json::from_str(&server.answer(&request).body).unwrap();
            assert_eq!(bundle["total"], 5);
            seen.extend(bundle["entry"].as_array().unwrap().iter().map(|e| text(&e["resource"], "id").to_owned()));
            next = text(&bundle["link"][1], "url").to_owned();
            server.set_now("2026-08-03T13:00:00Z");
            server.update("Task", "1", |_| ());
        }
        assert_eq!(seen, ["5", "4", "3", "2", "1"]);
        assert_eq!(get(&mut server, "/Task?_getpages=99").0, 410);
    }

    #[test]
    fn a_batch_answers_each_entry_and_a_transaction_all_or_none() {
        let mut server = server();
        server.put(json!({ "resourceType": "Patient", "id": "p" }));
        let gets = |urls: &[&str]| {
            urls.iter().map(|url| json!({ "request": { "method": "GET", "url": url } })).collect::<Vec<_>>()
        };
        let urls = ["Patient/p", "Patient/q", "http://127.0.0.1:4711/fhir/Patient?_id=p"];
        let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": gets(&urls) });
        let answer = ask(&mut server, "POST", "", &[], &batch);
        let bundle: Value = serde_json::from_str(&answer.body).unwrap();
        let statuses: Vec<&str> = (0..3).map(|at| text(&bundle["entry"][at]["response"], "status")).collect();
        assert_eq!((text(&bundle, "type"), statuses), ("batch-response", vec!["200", "404", "200"]));
        assert_eq!(bundle["entry"][1]["response"]["outcome"]["resourceType"], "OperationOutcome");
        assert_eq!(bundle["entry"][2]["resource"]["total"], 1);
        server.set_batch(false);
        assert_eq!(ask(&mut server, "POST", "/", &[], &batch).status, 405);

        let mut entry = gets(&["ServiceRequest"]);
        entry.push(json!({
            "resource": { "resourceType": "Task", "id": "t", "focus": { "reference": "urn:uuid:1" } },
            "request": { "method": "PUT", "url": "http://127.0.0.1:4711/fhir/Task/t/_history/3" },
        }));
        entry.push(json!({
            "fullUrl": "urn:uuid:1",
            "resource": { "resourceType": "ServiceRequest" },
            "request": { "method": "POST", "url": "ServiceRequest" },
        }));
        let mut transaction = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entry });
        let answer = ask(&mut server, "POST", "/", &[], &transaction);
        let bundle: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((answer.status, text(&bundle, "type")), (200, "transaction-response"));
        assert_eq!(bundle["entry"][0]["resource"]["total"], 1);
        assert_eq!(bundle["entry"][2]["response"]["location"], format!("{BASE}/ServiceRequest/1/_history/1"));
        assert_eq!(server.get("Task", "t").unwrap()["focus"]["reference"], "ServiceRequest/1");

        transaction["entry"][0]["request"]["url"] = json!("Patient/q");
        assert_eq!(ask(&mut server, "POST", "/", &[], &transaction).status, 404);
        assert_eq!((server.history("Task", "t").len(), server.all("ServiceRequest").len()), (1, 1));
    }

    #[test]
    fn the_capability_statement_says_what_is_offered() {
        let mut server = server();
        for offered in [true, false] {
            server.set_batch(offered);
            server.set_if_none_exist(offered);
            let (_, statement) = get(&mut server, "/metadata");
            let rest = &statement["rest"][0];
            assert_eq!(rest["resource"][0]["conditionalCreate"], offered);
            assert_eq!(rest["interaction"].as_array().unwrap().contains(&json!({ "code": "batch" })), offered);
            assert_eq!(statement["fhirVersion"], "4.0.1");
        }
    }

    #[test]
    fn it_refuses_what_it_does_not_offer_and_fails_when_told_to() {
        let mut server = server();
        server.fail_next(vec![503, 500]);
        let task = json!({ "resourceType": "Task" });
        for (method, target, body, status) in [
            ("POST", "/Task", &task, 503),
            ("POST", "/Task", &task, 500),
            ("POST", "/Task", &Value::Null, 400),
            ("POST", "/Patient", &task, 400),
            ("POST", "/Subscription", &json!({ "resourceType": "Subscription" }), 404),
            ("DELETE", "/Task/1", &Value::Null, 405),
            ("GET", "", &Value::Null, 405),
            ("PUT", "/Task", &task, 405),
            ("GET", "/Task/1/$x/y", &Value::Null, 404),
            ("GET", "x/Task", &Value::Null, 404),
            ("GET", "//metadata", &Value::Null, 200),
        ] {
            let answer = ask(&mut server, method, target, &[], body);
            assert_eq!(answer.status, status, "{method} {target}");
            assert_eq!(answer.body.contains("OperationOutcome"), status >= 400);
        }
        assert!(server.all("Task").is_empty());
        assert_eq!(server.log().len(), 11);
        assert_eq!(server.log()[5], "DELETE /Task/1 -> 405");
        assert_eq!(server.log()[9], "GET /fhirx/Task -> 404");
    }

    #[test]
    fn a_required_token_is_checked() {
        let mut server = server();
        server.require_bearer("secret");
        let refused = ask(&mut server, "GET", "/Task", &[("authorization", "Bearer other")], &Value::Null);
        assert_eq!((refused.status, shown(&refused, "WWW-Authenticate")), (401, "Bearer"));
        assert_eq!(ask(&mut server, "GET", "/Task", &[("authorization", "bearer secret")], &Value::Null).status, 200);
        assert_eq!(get(&mut server, "/metadata").0, 200);
        assert_eq!(server.log(), ["GET /Task -> 401", "GET /Task -> 200", "GET /metadata -> 200"]);
    }
}
