//! What must hold at the end of every simulation (design §8), judged from outside: by what the parties can read, by what
//! stands at their servers, and by everything the gateway has sent. Who may see what is worked out here anew.

use std::collections::{BTreeMap, BTreeSet};

use loopgate::referral::Status;
use serde_json::Value;

use crate::gateway::{EHR, HOOK, PANTRY};
use crate::simulation::{Flaw, Simulation, WARD, offers};

const TARGETS: [&str; 3] = ["agency", "kitchen", "pantry"];
const SOURCES: [&str; 2] = ["clinic", "ward"];
const KINDS: [&str; 7] = ["Task", "ServiceRequest", "Patient", "Consent", "Condition", "Procedure", "Provenance"];
/// Resources that are asked for by id without a right, per seed.
const PROBES: u64 = 10;

/// A referral as it ended.
struct Ended {
    n: usize,
    id: String,
    task: Value,
    relays: Vec<Value>,
    standing: Value,
}

/// A Task's status.
pub fn status_of(task: &Value) -> Status {
    Status::parse(task["status"].as_str().unwrap_or("")).expect("a stored status")
}

fn owner_of(task: &Value) -> &str {
    task["owner"]["reference"].as_str().unwrap_or("").trim_start_matches("Organization/")
}

/// The gateway's id of a referral's Task.
pub async fn task_of(simulation: &Simulation, n: usize) -> Option<String> {
    let need = &simulation.needs[n];
    let found = simulation.county.get("root", &format!("Task?identifier=urn:{}%7Ctask-{n}", need.source)).await;
    let found = found.entries();
    assert!(found.len() <= 1, "referral {n} became {} Tasks", found.len());
    found.first().map(|task| task["id"].as_str().unwrap().to_string())
}

pub async fn at_the_end(simulation: &mut Simulation) {
    let mut all = Vec::new();
    for n in 0..simulation.needs.len() {
        let Some(id) = task_of(simulation, n).await else {
            not_taken(simulation, n);
            continue;
        };
        let task = simulation.county.task(&id).await;
        let relays =
            simulation.county.get("root", &format!("Task?part-of=Task/{id}&_sort=authored-on")).await.entries();
        let standing = simulation.county.get("desk", &format!("Task/{id}/$loop-status")).await.body;
        all.push(Ended { n, id, task, relays, standing });
    }
    let on_record = conflicts(simulation).await;
    for one in &all {
        nothing_is_lost(simulation, one);
        the_answers_agree(simulation, one);
        the_kept_task_agrees(simulation, one, &on_record);
    }
    histories_are_legal(simulation, &all).await;
    the_pantry_agrees(simulation, &all, &on_record);
    events_are_numbered(simulation).await;
    requests_stayed_inside(simulation);
    nothing_left_without_consent(simulation, &all);
    nobody_saw_too_much(simulation, &all).await;
    repeats_change_nothing(simulation).await;
}

/// The Tasks that are in conflict on record.
async fn conflicts(simulation: &Simulation) -> BTreeSet<String> {
    let found = simulation.county.get("desk", "Task/$conflicts").await;
    assert_eq!(found.status, 200, "{}", found.body);
    let all = found.body["parameter"].as_array().into_iter().flatten();
    let ours = all.filter_map(|one| {
        let parts = one["part"].as_array()?;
        let ours = parts.iter().find(|part| part["name"] == "ours")?;
        ours["valueReference"]["reference"].as_str()?.split("/Task/").nth(1)?.split('/').next()
    });
    ours.map(str::to_string).collect()
}

/// A referral the gateway has never seen: only one that ended at the source before we looked.
fn not_taken(simulation: &Simulation, n: usize) {
    let need = &simulation.needs[n];
    let kept = need.kept.as_ref().unwrap_or_else(|| panic!("referral {n} was accepted and is gone"));
    let theirs = simulation.county.world.at(need.base, |house| house.get("Task", kept).cloned());
    let Some(theirs) = theirs else {
        return assert!(simulation.set_back.contains(need.base), "referral {n}, kept at the source, is gone");
    };
    assert!(status_of(&theirs).is_terminal(), "referral {n}, kept at the source, was looked over");
}

fn parameter<'a>(standing: &'a Value, name: &str) -> Option<&'a Value> {
    standing["parameter"].as_array()?.iter().find(|one| one["name"] == name)
}

fn steps<'a>(one: &'a Ended, what: &'a str) -> impl Iterator<Item = &'a str> {
    let all = one.standing["parameter"].as_array().into_iter().flatten();
    all.filter(move |part| part["part"][0]["valueCode"] == what)
        .filter_map(|part| part["part"][3]["valueString"].as_str())
}

/// Accepted means: it ended and the source knows, or somebody has to act, by a certain time.
fn nothing_is_lost(simulation: &Simulation, one: &Ended) {
    let (n, status) = (one.n, status_of(&one.task));
    let closed = parameter(&one.standing, "closed").is_some_and(|part| part["valueBoolean"] == true);
    let waits = parameter(&one.standing, "waitingOn").is_some() && parameter(&one.standing, "due").is_some();
    assert!(closed || waits, "referral {n} is {status}, and nobody has to act: {}", one.standing);
    let need = &simulation.needs[n];
    if status == Status::EnteredInError {
        return;
    }
    if status.is_terminal() {
        let explained = status == Status::Completed || one.task["statusReason"]["text"].is_string();
        assert!(explained, "referral {n} is {status} without a reason");
        assert!(closed, "referral {n} is {status}, its source has read it, and the loop is open: {}", one.standing);
    } else {
        assert!(need.flaw == Flaw::None, "referral {n} with {:?} is {status}", need.flaw);
        assert!(!need.consent_withdrawn, "referral {n} is {status} though its consent was withdrawn");
        let gateway = "https://hub.test/fhir/Organization/hub";
        let on_us =
            parameter(&one.standing, "waitingOn").is_some_and(|part| part["valueReference"]["reference"] == gateway);
        let held = parameter(&one.standing, "held").is_some();
        let open = one.relays.iter().any(|relay| owner_of(relay).is_empty() && !status_of(relay).is_terminal());
        assert!(!on_us || held || open, "referral {n} is {status} and waits for us, who are idle: {}", one.standing);
    }
}

/// Design D5.
fn the_answers_agree(simulation: &Simulation, one: &Ended) {
    let source = status_of(&one.task);
    let answers: Vec<Status> = one.relays.iter().map(status_of).collect();
    let live: Vec<Status> = answers.iter().copied().filter(|status| *status != Status::EnteredInError).collect();
    let open: Vec<Status> = live.iter().copied().filter(|status| !status.is_terminal()).collect();
    let held = parameter(&one.standing, "held").is_some();
    let told = format!("referral {}: source {source}, targets {answers:?}, held {held}", one.n);
    if source.is_terminal() {
        assert!(open.is_empty(), "ended, and a target still works on it. {told}");
    }
    use Status::{Accepted, Cancelled, Completed, EnteredInError, Failed, InProgress, OnHold, Rejected, Requested};
    let completed = live.contains(&Completed);
    let agrees = match source {
        Status::Draft => live.is_empty(),
        Requested => live.is_empty() || (held && open.is_empty() && !completed),
        Accepted => {
            held || (open.iter().all(|status| matches!(status, Requested | OnHold)) && !open.is_empty() && !completed)
        }
        InProgress => {
            held || open.iter().any(|status| matches!(status, Accepted | InProgress))
                || (completed && !open.is_empty())
                // Begun once; what has begun since has been given up, and another was asked.
                || !open.is_empty()
        }
        OnHold => held || !open.is_empty(),
        Completed => completed,
        Failed | Rejected => !completed,
        Cancelled | EnteredInError => true,
    };
    assert!(agrees, "{told}");
    if open.is_empty() && !live.is_empty() && !held && !source.is_terminal() {
        panic!("every target has ended, and the source was not told. {told}");
    }
    let _ = simulation;
}

/// Direct light: the EHR's own Task says what ours says, or the conflict is on record.
fn the_kept_task_agrees(simulation: &Simulation, one: &Ended, on_record: &BTreeSet<String>) {
    let need = &simulation.needs[one.n];
    let Some(kept) = &need.kept else { return };
    let versions: Vec<Value> =
        simulation.county.world.at(need.base, |house| house.history("Task", kept).into_iter().cloned().collect());
    legal(&versions, &format!("at the source's server, Task {kept}"));
    let Some(theirs) = versions.last() else {
        let told = on_record.contains(&one.id) || status_of(&one.task).is_terminal();
        return assert!(told, "referral {}: its Task at the source is gone, and nobody is told", one.n);
    };
    let (ours, theirs) = (status_of(&one.task), status_of(theirs));
    let conflict = on_record.contains(&one.id) || (theirs.is_terminal() && steps(one, "ignored").next().is_some());
    assert!(ours == theirs || conflict, "referral {}: ours is {ours}, the source's own {theirs}", one.n);
}

fn legal(versions: &[Value], place: &str) {
    for pair in versions.windows(2) {
        let (from, to) = (status_of(&pair[0]), status_of(&pair[1]));
        assert!(from == to || from.may_become(to), "an illegal step {from} -> {to} {place}");
    }
}

async fn histories_are_legal(simulation: &Simulation, all: &[Ended]) {
    for one in all {
        let ids = one.relays.iter().map(|relay| relay["id"].as_str().unwrap()).chain([one.id.as_str()]);
        for id in ids {
            let mut versions = simulation.county.get("root", &format!("Task/{id}/_history?_count=200")).await.entries();
            versions.reverse();
            legal(&versions, &format!("in our Task {id}"));
            let mut last = String::new();
            for (index, version) in versions.iter().enumerate() {
                assert_eq!(version["meta"]["versionId"], (index + 1).to_string(), "versions of Task {id}");
                let updated = version["meta"]["lastUpdated"].as_str().unwrap().to_string();
                let moment = |text: &str| loopgate::time::Timestamp::parse(text);
                assert!(last.is_empty() || moment(&last) <= moment(&updated), "Task {id}: {last}, then {updated}");
                last = updated;
            }
            assert_eq!(versions.last().unwrap()["status"], simulation.county.task(id).await["status"]);
        }
    }
}

fn the_pantry_agrees(simulation: &Simulation, all: &[Ended], on_record: &BTreeSet<String>) {
    let world = &simulation.county.world;
    let theirs: Vec<Value> = world.at(PANTRY, |pantry| pantry.all("Task").into_iter().cloned().collect());
    let mut seen = BTreeSet::new();
    for task in &theirs {
        let id = task["identifier"][0]["value"].as_str().unwrap();
        assert!(seen.insert(id.to_string()), "our Task {id} stands twice at the pantry");
        let versions: Vec<Value> = world
            .at(PANTRY, |pantry| pantry.history("Task", task["id"].as_str().unwrap()).into_iter().cloned().collect());
        legal(&versions, &format!("at the pantry, our Task {id}"));
        let (one, ours) = all
            .iter()
            .find_map(|one| Some((one, one.relays.iter().find(|relay| relay["id"] == id)?)))
            .unwrap_or_else(|| panic!("the pantry has a Task {id} that is not ours"));
        let (ours, theirs) = (status_of(ours), status_of(task));
        // What both have ended, each in its own way, stays so; what we have ended must not go on there.
        let conflict = on_record.contains(id)
            || theirs.is_terminal() && steps(one, "ignored").any(|how| how.contains(&format!("Task/{id} ")));
        let withdrawn = ours == Status::Cancelled && theirs == Status::Rejected;
        assert!(ours == theirs || conflict || withdrawn, "Task {id}: ours is {ours}, the pantry's {theirs}");
    }
    for relay in all.iter().flat_map(|one| &one.relays) {
        let fhir = owner_of(relay) == "pantry" && !seen.contains(relay["id"].as_str().unwrap());
        let light = relay["identifier"].is_array() && status_of(relay).is_terminal();
        let claimed = steps_claimed(all, relay);
        let told = on_record.contains(relay["id"].as_str().unwrap());
        assert!(!fhir || light || claimed || told, "the pantry never got Task {}", relay["id"]);
    }
}

/// Whether the pantry claimed this one at our API, and so has it there.
fn steps_claimed(all: &[Ended], relay: &Value) -> bool {
    let id = format!("put of Task/{} ", relay["id"].as_str().unwrap());
    all.iter().any(|one| steps(one, "accepted").any(|how| how.starts_with(&id)))
}

async fn events_are_numbered(simulation: &Simulation) {
    let Some(id) = &simulation.subscription else { return };
    let answer = simulation.county.get("clinic", &format!("Subscription/{id}/$events")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let known: BTreeMap<u64, String> = events(&answer.body).into_iter().collect();
    let numbers: Vec<u64> = known.keys().copied().collect();
    let wanted: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, wanted, "the events' numbers");
    let mut newest = 0;
    for bundle in simulation.county.world.heard(HOOK) {
        for (number, focus) in events(&bundle) {
            assert_eq!(known.get(&number), Some(&focus), "event {number} is two different ones");
            assert!(number <= newest + 1 || number > newest, "event {number} after {newest}");
            newest = newest.max(number);
        }
        let told: Vec<u64> = events(&bundle).into_iter().map(|(number, _)| number).collect();
        assert!(told.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a notification with the events {told:?}");
        assert!(told.last().is_none_or(|last| *last == newest), "after event {newest} came {told:?}");
    }
}

fn events(bundle: &Value) -> Vec<(u64, String)> {
    let parameters = bundle["entry"][0]["resource"]["parameter"].as_array().cloned().unwrap_or_default();
    let named = |event: &Value, name: &str, value: &str| {
        let parts = event["part"].as_array().cloned().unwrap_or_default();
        let part = parts.into_iter().find(|part| part["name"] == name).unwrap_or_default();
        part.pointer(value).and_then(Value::as_str).unwrap_or("").to_string()
    };
    let told = parameters.iter().filter(|one| one["name"] == "notification-event");
    told.map(|event| {
        let number = named(event, "event-number", "/valueString").parse().unwrap();
        (number, named(event, "focus", "/valueReference/reference"))
    })
    .collect()
}

fn requests_stayed_inside(simulation: &Simulation) {
    for request in simulation.county.world.requests() {
        let url = request.split_once(' ').unwrap().1;
        let below =
            |base: &str| url.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
        assert!(url == HOOK || [EHR, WARD, PANTRY].into_iter().any(below), "a request went to {url}");
    }
}

/// The numbers `n` of `{word}n#` in a text.
fn marks(text: &str, word: &str) -> BTreeSet<usize> {
    let parts = text.split(word).skip(1);
    parts.filter_map(|rest| rest.split_once('#')?.0.parse().ok()).collect()
}

fn nothing_left_without_consent(simulation: &Simulation, all: &[Ended]) {
    for (url, body) in simulation.county.world.bodies() {
        let to = [PANTRY, EHR, WARD].into_iter().find(|base| url.starts_with(base));
        for n in ["mark", "who", "why"].iter().flat_map(|word| marks(&body, word)) {
            let need = &simulation.needs[n];
            match to {
                Some(PANTRY) => {
                    assert_eq!(need.flaw, Flaw::None, "referral {n} reached the pantry");
                    assert!(offers("pantry", need.category), "referral {n} reached the pantry");
                    let one = all.iter().find(|one| one.n == n).unwrap();
                    assert!(
                        one.relays.iter().any(|relay| owner_of(relay) == "pantry"),
                        "referral {n} reached the pantry"
                    );
                }
                Some(base) => assert_eq!(need.base, base, "referral {n} was written to another source"),
                None => panic!("a notification carries health data: {body}"),
            }
        }
        let others = ["by-agency", "by-kitchen"];
        assert!(
            to != Some(PANTRY) || !others.iter().any(|by| body.contains(by)),
            "the pantry was sent another's words"
        );
    }
}

/// What a target may see of a referral, worked out from who was asked: the Task, the person, the reason.
fn may_see(simulation: &Simulation, one: &Ended, target: &str) -> (bool, bool, bool) {
    let need = &simulation.needs[one.n];
    let revoked = one.task["statusReason"]["coding"][0]["code"] == "no-consent";
    if need.flaw != Flaw::None || !offers(target, need.category) || revoked {
        return (false, false, false);
    }
    let mine: Vec<&Value> = one.relays.iter().filter(|relay| owner_of(relay) == target).collect();
    let asked = mine.iter().any(|relay| status_of(relay) != Status::Draft);
    let open = one.relays.iter().any(|relay| owner_of(relay).is_empty() && status_of(relay) == Status::Requested);
    let working = mine.iter().any(|relay| !status_of(relay).is_terminal());
    (asked || open, asked, working)
}

fn check_seen(simulation: &Simulation, all: &[Ended], who: &str, how: &str, body: &Value) {
    let text = body.to_string();
    for (index, word) in ["mark", "who", "why"].into_iter().enumerate() {
        for n in marks(&text, word) {
            if SOURCES.contains(&who) {
                assert_eq!(simulation.needs[n].source, who, "{who} saw referral {n} by {how}");
                continue;
            }
            let one = all.iter().find(|one| one.n == n).unwrap();
            let allowed = may_see(simulation, one, who);
            let allowed = [allowed.0, allowed.1, allowed.2][index];
            assert!(allowed, "{who} saw “{word}” of referral {n} by {how}: {text}");
        }
    }
    for other in TARGETS.into_iter().filter(|other| *other != who && TARGETS.contains(&who)) {
        assert!(!text.contains(&format!("by-{other}")), "{who} saw what {other} said, by {how}: {text}");
    }
}

async fn nobody_saw_too_much(simulation: &mut Simulation, all: &[Ended]) {
    let everybody: Vec<&str> = TARGETS.into_iter().chain(SOURCES).collect();
    for who in &everybody {
        let kind = simulation.dice.of(&KINDS).unwrap();
        for how in [
            "Task?_count=200&_include=Task:focus&_include=Task:patient&_include=Task:part-of".to_string(),
            format!("{kind}?_count=200"),
        ] {
            let found = simulation.county.get(who, &how).await;
            assert_eq!(found.status, 200, "{}", found.body);
            check_seen(simulation, all, who, &how, &found.body);
        }
    }
    for _ in 0..PROBES {
        let kind = simulation.dice.of(&KINDS).unwrap();
        let everything = simulation.county.get("root", &format!("{kind}?_count=500")).await.entries();
        let Some(one) = simulation.dice.of(&everything) else { continue };
        let (id, version) = (one["id"].as_str().unwrap(), one["meta"]["versionId"].as_str().unwrap());
        let who = simulation.dice.of(&everybody).unwrap();
        for how in [
            format!("{kind}/{id}"),
            format!("{kind}/{id}/_history"),
            format!("{kind}/{id}/_history/{version}"),
            format!("{kind}/{id}/_history/1"),
            format!("{kind}?_id={id}"),
        ] {
            let found = simulation.county.get(who, &how).await;
            assert!(found.status < 500, "{}", found.body);
            check_seen(simulation, all, who, &how, &found.body);
        }
    }
}

/// Everything once more: nothing gets a new version, and nothing new is sent but questions.
async fn repeats_change_nothing(simulation: &mut Simulation) {
    async fn versions(simulation: &Simulation) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for kind in ["Task", "ServiceRequest", "Patient", "Procedure"] {
            let all = simulation.county.get("root", &format!("{kind}?_count=500")).await.entries();
            found.extend(all.iter().map(|one| format!("{kind}/{} {}", one["id"], one["meta"]["versionId"])));
        }
        found.sort_unstable();
        let world = &simulation.county.world;
        for base in [EHR, WARD, PANTRY] {
            let tasks: Vec<String> = world.at(base, |house| {
                house
                    .all("Task")
                    .iter()
                    .map(|task| format!("{base} {} {}", task["id"], task["meta"]["versionId"]))
                    .collect()
            });
            found.extend(tasks);
        }
        found
    }
    let before = versions(simulation).await;
    for need in simulation.needs.clone() {
        if need.kept.is_none() {
            let again = simulation.county.post(need.source, "Task", &need.body).await;
            assert_eq!((again.status, Some(again.id())), (200, need.task), "referral {} again", need.n);
        }
    }
    for partner in ["clinic", "ward", "pantry"] {
        simulation.county.poll(partner).await;
    }
    assert_eq!(before, versions(simulation).await, "repeating changed something");
}
