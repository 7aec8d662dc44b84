//! Looking at a partner's server: what it says it offers, and what it does when it is asked for nothing.
//!
//! The same look is taken daily by the worker and by `loopgate partner check`. It reads the CapabilityStatement and the
//! SMART configuration, and asks searches that can find nothing (a requester who does not exist, a time that is far off):
//! an answer with hits shows that a parameter is ignored. It writes nothing and reads no health data.

use serde_json::{Value, json};

use super::client::{Failure, Server};
use super::poll;
use crate::app::peers::{Copies, DiscoverPlan, Finding, Known, Verdict, Way};
use crate::app::{App, Claimed};
use crate::config::{Follow, OutboundAuth};
use crate::error::Error;
use crate::fhir::capability_statement::{CapabilityStatement, Push};

/// After every change there can be.
const FAR_OFF: &str = "&_lastUpdated=ge2999-01-01T00:00:00Z&_count=1";
/// Whom no Task names, and what has no such id.
const NOBODY: &str = "loopgate-nobody";

/// What the guide's servers offer and we make use of, by side.
const SOURCE: &[(&str, &[&str])] = &[
    ("Task", &["create", "read", "update", "search-type"]),
    ("ServiceRequest", &["read", "search-type"]),
    ("Patient", &["read", "search-type"]),
    ("Consent", &["read", "search-type"]),
    ("Condition", &["read"]),
    ("Goal", &["read"]),
    ("Observation", &["read"]),
    ("Organization", &["read"]),
    ("Practitioner", &["read"]),
    ("PractitionerRole", &["read"]),
];
const TARGET: &[(&str, &[&str])] = &[("Task", &["create", "read", "update", "search-type"])];

pub(super) async fn run(
    app: &App,
    server: &Server<'_>,
    claimed: &Claimed,
    plan: DiscoverPlan,
) -> Result<Result<(), Failure>, Error> {
    match look(server, &plan).await {
        Ok(known) => app.discovered(claimed, &known).await.map(Ok),
        Err(failure) => Ok(Err(failure)),
    }
}

/// How a server took a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Took {
    /// It found nothing, as it should.
    Well,
    /// It found something: it has not understood.
    Ignored,
    /// It said no.
    Refused(u16),
}

/// Looks at a server. What may pass by itself is a failure.
pub(super) async fn look(server: &Server<'_>, plan: &DiscoverPlan) -> Result<Known, Failure> {
    let mut findings = Findings::default();
    let statement = match poll::statement(server).await {
        Ok(statement) => statement,
        Err(failure) if failure.status.is_some_and(|status| (400..500).contains(&status) && status != 429) => {
            findings.missing(format!("CapabilityStatement: it {}", failure.why));
            Value::Null
        }
        Err(failure) => return Err(failure),
    };
    let read = CapabilityStatement(&statement);
    if !statement.is_null() {
        claims(read, plan, &mut findings);
    }
    identity(server, plan, &mut findings).await;
    let mut known = Known {
        batch: read.takes_batch(),
        push: read.push(),
        source: Way::Plain,
        target: Way::Plain,
        copies: Copies::ById,
        outcomes: false,
        findings: Vec::new(),
    };
    follow(plan, known.push, &mut findings);
    let questions = questions(plan);
    let mut took = None;
    if known.batch {
        took = in_batch(server, &questions).await?;
        match &took {
            Some(took) if shut(took).is_some() => {}
            Some(_) => findings.works("batch"),
            None => findings.instead("batch: offered and refused; it is asked one search after the other"),
        }
        known.batch = took.is_some();
    } else {
        findings.instead("batch: not offered; it is asked one search after the other");
    }
    let took = match took {
        Some(took) => took,
        None => one_by_one(server, &questions).await?,
    };
    if let Some(status) = shut(&took) {
        // How it answers those it knows shows when it knows us.
        findings.missing(closed(plan, status));
        known.findings = findings.0;
        return Ok(known);
    }
    let mut took = questions.into_iter().zip(took).map(|(question, took)| (question.about, took));
    let mut of = |about: About| took.by_ref().find(|(its, _)| *its == about).map_or(Took::Well, |(_, took)| took);
    if let Some(filter) = &plan.target {
        known.target = way(server, filter, "requester", (of(About::Asked), of(About::Named)), &mut findings).await?;
        match of(About::Identified) {
            Took::Well => findings.works("Task?identifier: what an unanswered create left is found again"),
            Took::Ignored => findings.instead("Task?identifier is ignored: identifiers are compared by us"),
            Took::Refused(status) => findings.missing(format!(
                "Task?identifier: it answered {status}; a create that goes unanswered can't be looked up before it is repeated"
            )),
        }
        known.outcomes = of(About::Outcomes) == Took::Well;
        match known.outcomes {
            true => findings.works("Procedure?based-on: what its Task does not name is found too"),
            false => findings.instead("Procedure?based-on is not answered: outcomes are what its Task names"),
        }
    }
    if let Some(filter) = &plan.source {
        known.source = way(server, filter, "owner", (of(About::Asked), of(About::Named)), &mut findings).await?;
        known.copies = copies(server, (of(About::Copies), of(About::Clinical)), &mut findings).await?;
    }
    known.findings = findings.0;
    Ok(known)
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, verdict: Verdict, text: impl Into<String>) {
        self.0.push(Finding { verdict, text: text.into() });
    }
    fn works(&mut self, text: impl Into<String>) {
        self.add(Verdict::Works, text);
    }
    fn instead(&mut self, text: impl Into<String>) {
        self.add(Verdict::Instead, text);
    }
    fn missing(&mut self, text: impl Into<String>) {
        self.add(Verdict::Missing, text);
    }
}

/// What its CapabilityStatement claims, beside what the guide demands of its side.
fn claims(read: CapabilityStatement<'_>, plan: &DiscoverPlan, findings: &mut Findings) {
    match read.fhir_version() {
        Some(version) if version.starts_with("4.0") => findings.works(format!("FHIR {version}")),
        Some(_) => findings.missing("FHIR R4: it speaks another release"),
        None => findings.missing("FHIR R4: it does not say what it speaks"),
    }
    if !read.writes_json() {
        findings.instead("JSON: not offered; XML is read");
    }
    let sides = [(plan.source.is_some(), SOURCE), (plan.target.is_some(), TARGET)];
    let mut told: Vec<&str> = Vec::new();
    for (kind, demanded) in sides.into_iter().filter(|(has, _)| *has).flat_map(|(_, side)| side) {
        if told.contains(kind) {
            continue;
        }
        told.push(kind);
        let lacking: Vec<&str> =
            demanded.iter().copied().filter(|interaction| !read.offers(kind, interaction)).collect();
        match lacking.is_empty() {
            true => findings.works(format!("{kind}: {}", demanded.join(", "))),
            false => findings.missing(format!("{kind}: {}", lacking.join(", "))),
        }
    }
    if plan.target.is_some() && !read.offers("Procedure", "read") {
        findings.instead("Procedure: read is not offered; it posts its outcomes to us");
    }
    match read.conditional_create("Task") {
        true => findings.works("conditional create of Task"),
        false => findings.instead("conditional create of Task: not offered; our identifier is searched for first"),
    }
    match read.heeds_if_match("Task") {
        true => findings.works("If-Match on Task"),
        false => findings.instead("If-Match on Task: not offered; a Task is read before each write"),
    }
}

/// How changes are learnt.
fn follow(plan: &DiscoverPlan, push: Push, findings: &mut Findings) {
    let Some(fhir) = &plan.partner.fhir else { return };
    let seconds = fhir.poll_every.as_secs();
    let every = format!("it is polled every {seconds} s, sooner while something is urgent");
    match (fhir.follow, push) {
        (Follow::Poll, _) => findings.works(format!("following: {every} (configured)")),
        (_, Push::Topic) => findings.works("Subscription: to the guide's topic"),
        (_, Push::Unsaid) => {
            findings.instead(format!(
                "Subscription: its topics are not said; topic, then criteria are tried, else {every}"
            ));
        }
        (Follow::Subscribe, Push::None) => {
            findings.instead(format!("Subscription: not offered; tried all the same (configured), else {every}"));
        }
        (Follow::Auto, Push::None) => findings.instead(format!("Subscription: not offered; {every}")),
    }
}

/// What its SMART configuration says of how we show who we are. A server without one may be fine.
async fn identity(server: &Server<'_>, plan: &DiscoverPlan, findings: &mut Findings) {
    let url = format!("{}/.well-known/smart-configuration", server.base());
    let answer = server.send("GET", &url, &[("accept", "application/json")], None).await.ok();
    let document = answer.filter(|answer| answer.is_success());
    let document: Option<Value> = document.and_then(|answer| serde_json::from_slice(&answer.body).ok());
    let published = document.as_ref().and_then(|document| document.get("token_endpoint")).and_then(Value::as_str);
    match (plan.partner.fhir.as_ref().map(|fhir| &fhir.auth), published) {
        (Some(OutboundAuth::BackendServices { token_url, .. }), Some(published)) if token_url == published => {
            findings.works("SMART configuration: its token endpoint is the configured one");
        }
        (Some(OutboundAuth::BackendServices { .. }), Some(_)) => {
            findings.missing("SMART configuration: it publishes another token endpoint than auth.token_url");
        }
        (Some(OutboundAuth::BackendServices { .. }), None) => {
            findings.instead("SMART configuration: none; the configured token endpoint is used");
        }
        (Some(OutboundAuth::None) | None, Some(_)) => {
            findings.instead("SMART configuration: it hands out tokens, and none is configured for us");
        }
        (Some(OutboundAuth::Bearer(_)), _) | (Some(OutboundAuth::None) | None, None) => {}
    }
}

/// What a question is to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// Whether Tasks are found by whom they name and since when.
    Asked,
    /// Whether whom they name counts at all.
    Named,
    /// Whether a Task is found by our identifier.
    Identified,
    /// Whether what became of a request is found by what it is based on.
    Outcomes,
    /// Whether changes of other types are found by id and since when: a request, and a clinical resource.
    Copies,
    Clinical,
}

struct Question {
    about: About,
    search: String,
}

/// In the order in which they are judged.
fn questions(plan: &DiscoverPlan) -> Vec<Question> {
    let mut list = Vec::new();
    let mut ask = |about, search| list.push(Question { about, search });
    if let Some(filter) = &plan.target {
        ask(About::Asked, Way::Plain.search(filter, FAR_OFF));
        ask(About::Named, format!("Task?requester={}/Organization/{NOBODY}&_count=1", plan.own));
        ask(About::Identified, format!("Task?identifier={}/Task%7C{NOBODY}&_count=1", plan.own));
        ask(About::Outcomes, format!("Procedure?based-on={}/ServiceRequest/{NOBODY}&_count=1", plan.own));
    }
    if let Some(filter) = &plan.source {
        ask(About::Asked, Way::Plain.search(filter, FAR_OFF));
        ask(About::Named, format!("Task?owner={}/Organization/{NOBODY}&_count=1", plan.own));
        ask(About::Copies, format!("ServiceRequest?_id={NOBODY}{FAR_OFF}"));
        ask(About::Clinical, format!("Condition?_id={NOBODY}{FAR_OFF}"));
    }
    list
}

/// How changes of what was copied are asked for, by what came of asking for a request and for a clinical resource.
async fn copies(
    server: &Server<'_>,
    (request, clinical): (Took, Took),
    findings: &mut Findings,
) -> Result<Copies, Failure> {
    if (request, clinical) == (Took::Well, Took::Well) {
        findings.works("?_id and ?_lastUpdated: changes of what was copied are asked for together");
        return Ok(Copies::ById);
    }
    if request != Took::Ignored && clinical != Took::Ignored {
        let mut well = true;
        for kind in ["ServiceRequest", "Condition"] {
            well = well && ask(server, &format!("{kind}?_id={NOBODY}&patient={NOBODY}{FAR_OFF}")).await? == Took::Well;
        }
        if well {
            findings.instead("?_id with ?_lastUpdated is answered with the patient alone; so it is asked");
            return Ok(Copies::WithPatient);
        }
    }
    findings.instead("?_id with ?_lastUpdated is not answered: what was copied is read anew daily");
    Ok(Copies::Unasked)
}

/// The way in which a side's Tasks are asked for, by what came of asking.
async fn way(
    server: &Server<'_>,
    filter: &str,
    name: &str,
    (asked, named): (Took, Took),
    findings: &mut Findings,
) -> Result<Way, Failure> {
    let by_id = name == "requester";
    if named == Took::Ignored {
        // Other people's Tasks are none of our business; at a source we can only pass over them.
        match by_id {
            true => findings.instead(format!("Task?{name} is ignored: our Tasks are read by their ids")),
            false => findings.missing(format!("Task?{name} is ignored: it shows us Tasks that are not ours")),
        }
        return Ok(if by_id { Way::ById } else { Way::Plain });
    }
    let refused = match asked {
        Took::Well => {
            findings.works(format!("Task?{name}&_lastUpdated: one question tells what has changed"));
            return Ok(Way::Plain);
        }
        Took::Ignored => {
            findings.instead(format!("Task?{name}: _lastUpdated is ignored; all are read each time and compared"));
            return Ok(Way::Whole);
        }
        Took::Refused(status) => status,
    };
    for (way, since, text) in [
        (Way::Coded, FAR_OFF, "is answered with a code alone; so it is asked"),
        (Way::Whole, "&_count=1", "is answered without _lastUpdated alone; all are read each time and compared"),
    ] {
        let search = if way == Way::Whole { format!("Task?{filter}{since}") } else { way.search(filter, since) };
        match ask(server, &search).await? {
            // Without a time it may find what there is.
            Took::Well => {}
            Took::Ignored if way == Way::Whole => {}
            Took::Ignored | Took::Refused(_) => continue,
        }
        findings.instead(format!("Task?{name} {text}"));
        return Ok(way);
    }
    match by_id {
        true => findings.instead(format!("Task?{name}: it answered {refused}; our Tasks are read by their ids")),
        false => findings.missing(format!("Task?{name}: it answered {refused}; Tasks it keeps for us are not found")),
    }
    Ok(if by_id { Way::ById } else { Way::Plain })
}

async fn ask(server: &Server<'_>, search: &str) -> Result<Took, Failure> {
    let response = server.send("GET", &format!("{}/{search}", server.base()), &[], None).await?;
    match response.status {
        200..300 => Ok(took(response.value(server.bounds).ok().as_ref())),
        429 | 500.. => Err(Failure::answered(&response)),
        status => Ok(Took::Refused(status)),
    }
}

async fn one_by_one(server: &Server<'_>, questions: &[Question]) -> Result<Vec<Took>, Failure> {
    let mut all = Vec::new();
    for question in questions {
        let took = ask(server, &question.search).await?;
        if took == Took::Refused(401) {
            return Ok(vec![took; questions.len()]);
        }
        all.push(took);
    }
    Ok(all)
}

/// The status by which it refuses everything to whoever we are to it.
fn shut(took: &[Took]) -> Option<u16> {
    let refused = |one: &Took| match one {
        Took::Refused(status @ (401 | 403)) => Some(*status),
        Took::Well | Took::Ignored | Took::Refused(_) => None,
    };
    let all: Option<Vec<u16>> = took.iter().map(refused).collect();
    all?.first().copied()
}

fn closed(plan: &DiscoverPlan, status: u16) -> String {
    let why = match plan.partner.fhir.as_ref().map(|fhir| &fhir.auth) {
        Some(OutboundAuth::None) | None => "no partner.fhir.auth is configured",
        Some(OutboundAuth::Bearer(_) | OutboundAuth::BackendServices { .. }) => {
            "partner.fhir.auth is not enough for it"
        }
    };
    format!("its searches: it answered {status} to every one, and {why}; how it answers them is not known")
}

/// All at once; none when it does not take batches after all.
async fn in_batch(server: &Server<'_>, questions: &[Question]) -> Result<Option<Vec<Took>>, Failure> {
    let entries: Vec<Value> =
        questions.iter().map(|one| json!({"request": {"method": "GET", "url": one.search}})).collect();
    let bundle = json!({"resourceType": "Bundle", "type": "batch", "entry": entries});
    let response = server.send("POST", server.base(), &[], Some(bundle.to_string())).await?;
    if matches!(response.status, 429 | 500..) {
        return Err(Failure::answered(&response));
    }
    if response.status == 401 {
        return Ok(Some(vec![Took::Refused(401); questions.len()]));
    }
    let answer = if response.is_success() { response.value(server.bounds).ok() } else { None };
    let entries = answer.as_ref().and_then(|answer| answer.get("entry")).and_then(Value::as_array);
    let Some(entries) = entries.filter(|entries| entries.len() == questions.len()) else { return Ok(None) };
    let status = |entry: &Value| -> Option<u16> {
        entry.get("response")?.get("status")?.as_str()?.split(' ').next()?.parse().ok()
    };
    let each = entries.iter().map(|entry| match status(entry)? {
        200..300 => Some(took(entry.get("resource"))),
        status => Some(Took::Refused(status)),
    });
    Ok(each.collect())
}

/// A searchset without hits is what was to be found.
fn took(bundle: Option<&Value>) -> Took {
    let hits = bundle.and_then(|bundle| bundle.get("entry")).and_then(Value::as_array);
    let is_match = |entry: &Value| entry.pointer("/search/mode").is_none_or(|mode| mode == "match");
    if hits.is_some_and(|hits| hits.iter().any(is_match)) { Took::Ignored } else { Took::Well }
}
