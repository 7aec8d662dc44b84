//! The program itself: started, killed, stopped, and asked on the command line. Partners are real sockets.
//!
//! `LOOPGATE_KILLS=n` kills it n times (default 25).

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use loopgate::demo::patient;
use serde_json::{Value, json};

use crate::databases::Place;
use crate::running::{PROGRAM, Running, kills, random};

#[tokio::test(flavor = "multi_thread")]
async fn a_referral_goes_round_and_the_program_stops_when_told() {
    let mut running = Running::prepared(None).await;
    running.start().await;
    let task = running.refers("sr1").await.unwrap();
    running.all_ends_well(&[task]).await;
    let (status, took) = running.stop();
    assert_eq!(status, Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");
    running.log_is_clean();
}

// A-085, D17: whatever is asked for, and however it goes wrong, what a person is called stands in no log, no error and no
// measurement; nor does a token.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_is_called_stands_nowhere_but_in_resources() {
    let mut running = Running::prepared(None).await;
    running.start().await;
    let task = running.refers("sr1").await.unwrap();
    running.until("accepted", async || running.status(&task).await == "accepted").await;
    let person = patient::context(&crate::running::now()).remove(0);
    let name = person["name"][0]["family"].as_str().unwrap();
    let born = person["birthDate"].as_str().unwrap();
    let json = ("content-type", "application/fhir+json");
    let form = ("content-type", "application/x-www-form-urlencoded");
    let searched = format!("family={name}&birthdate={born}");
    let half = format!("{{\"resourceType\":\"Patient\",\"name\":[{{\"family\":\"{name}\"");
    let wrong = json!({"resourceType": "Patient", "birthDate": format!("{born}{name}"), "gender": name, "deceasedBoolean": name});
    let task_for =
        json!({"resourceType": "Task", "status": name, "intent": "order", "for": {"display": name}}).to_string();
    let (wrong, get, post) = (wrong.to_string(), reqwest::Method::GET, reqwest::Method::POST);
    let mut refused = String::new();
    for (who, method, path, header, body) in [
        ("clinic", &get, format!("/fhir/Patient?{searched}"), json, ""),
        (
            "clinic",
            &get,
            format!("/fhir/Patient?{searched}&_sort={name}&{name}:exact={name}&birthdate={name}"),
            json,
            "",
        ),
        ("clinic", &post, "/fhir/Patient/_search".into(), form, searched.as_str()),
        ("clinic", &get, format!("/fhir/Patient/{name}"), json, ""),
        ("clinic", &get, format!("/{name}/{name}?{name}"), json, ""),
        ("clinic", &get, format!("/fhir/{name}"), json, ""),
        (name, &get, "/fhir/Task".into(), json, ""),
        ("clinic", &post, "/fhir/Patient".into(), json, half.as_str()),
        ("clinic", &post, "/fhir/Patient".into(), json, wrong.as_str()),
        ("clinic", &post, "/fhir/Task".into(), json, task_for.as_str()),
        ("clinic", &post, "/fhir".into(), json, half.as_str()),
        (name, &post, "/auth/token".into(), form, searched.as_str()),
        ("clinic", &post, format!("/hooks/{name}"), json, half.as_str()),
    ] {
        let asked = running.ask(who, method.clone(), &path).header(header.0, header.1).body(body.to_string());
        let answer = asked.header("user-agent", name).header("x-forwarded-for", name).send().await.unwrap();
        let found = answer.status() == 200;
        let text = answer.text().await.unwrap();
        // The id that was asked for is told again: ids are nobody's name.
        if !found && path != format!("/fhir/Patient/{name}") {
            refused.push_str(&text);
        }
    }
    assert!(refused.len() > 1_000, "nothing was refused");
    let measured = running.ask("root", get, "/metrics").send().await.unwrap().text().await.unwrap();
    running.stop();
    for (place, text) in [("an error", &refused), ("the measurements", &measured), ("the log", &running.log())] {
        for word in [name, born, "birthdate=", "family="] {
            assert!(!text.contains(word), "{place}: {text}");
        }
    }
    running.log_is_clean();
}

// Many requests to a slow server last longer than a lease: still one fetch, and it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_source_is_read_once() {
    let mut running = Running::prepared(None).await;
    running.start().await;
    running.ehr.answers_after(Duration::from_millis(500));
    let task = running.refers("sr1").await.unwrap();
    running.until("accepted", async || running.status(&task).await == "accepted").await;
    let reads =
        running.ehr.act(|ehr| ehr.log().iter().filter(|line| line.starts_with("GET /ServiceRequest/sr1")).count());
    assert_eq!(reads, 1);
}

// Told to stop while the pantry has the Task and has not answered yet: it is looked for there before it is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_a_delivery_makes_no_second_task() {
    let mut running = Running::prepared(None).await;
    running.timeout = "20s";
    running.start().await;
    running.pantry.answers_after(Duration::from_secs(15));
    let task = running.refers("sr1").await.unwrap();
    running.until("at the pantry", async || !running.pantry.tasks().is_empty()).await;
    let (status, took) = running.stop();
    assert!(status == Some(0) && took < Duration::from_secs(10), "{status:?} {took:?}");
    running.pantry.answers_after(Duration::ZERO);
    running.start().await;
    running.all_ends_well(&[task]).await;
}

async fn killed(database: Option<&str>, kills: u64) {
    let mut running = Running::prepared(database).await;
    running.start().await;
    let mut taken: Vec<String> = Vec::new();
    for round in 0..kills {
        // Late answers widen the moment between the POST and its record.
        running.pantry.answers_after(Duration::from_millis(random(60)));
        for number in 0..1 + random(3) {
            taken.extend(running.refers(&format!("sr{round}-{number}")).await);
        }
        if round % 3 == 0 {
            running.pantry_completes_all();
        }
        tokio::time::sleep(Duration::from_millis(random(400))).await;
        running.kill();
        running.start().await;
    }
    running.pantry.answers_after(Duration::ZERO);
    for task in &taken {
        let read = running.get("clinic", &format!("/fhir/Task/{task}")).await.unwrap();
        assert_eq!(read["id"], json!(task), "acknowledged and lost");
    }
    running.all_ends_well(&taken).await;
    running.log_is_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_loses_nothing_and_sends_nothing_twice() {
    killed(None, kills(25)).await;
}

// Two gateways on one database, one of them killed again and again.
#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_on_one_database_send_nothing_twice() {
    let Some(place) = Place::postgres().await else { return };
    let mut one = Running::prepared(Some(place.url())).await;
    one.start().await;
    let mut other = Running::prepared(Some(place.url())).await;
    (other.ehr, other.pantry) = (one.ehr.clone(), one.pantry.clone());
    other.start().await;
    let mut taken = Vec::new();
    for round in 0..8 {
        one.pantry.answers_after(Duration::from_millis(random(60)));
        let (here, there) = (format!("here{round}"), format!("there{round}"));
        let (first, second) = tokio::join!(one.refers(&here), other.refers(&there));
        taken.extend(first.into_iter().chain(second));
        if round % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(random(300))).await;
            other.kill();
            other.start().await;
        }
    }
    assert!(taken.len() >= 14);
    one.all_ends_well(&taken).await;
}

fn run(arguments: &[&str], folder: &Path) -> Output {
    Command::new(PROGRAM).args(arguments).current_dir(folder).env_remove("RUST_LOG").output().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_string).collect()
}

#[test]
fn wrong_usage_is_two() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in
        [&[][..], &["fly"], &["serve"], &["validate"], &["check-config", "--config"], &["demo", "--listen", "x"]]
    {
        let output = run(arguments, folder.path());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_configuration_is_checked_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let bad = "[server]\nlisten = \"nowhere\"\npublic_url = \"https://hub.test\"\nsped = 1\n[gateway]\norganization = { id = \"hub\", name = \"Hub\" }\n[store]\nurl = \"mysql://x\"\n[delivery]\ntimeout = \"soon\"\n";
    std::fs::write(folder.path().join("bad.toml"), bad).unwrap();
    let output = run(&["check-config", "--config", "bad.toml"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    let lines = lines(&output);
    for (line, key) in [("2", "listen"), ("4", "sped"), ("8", "url"), ("10", "timeout")] {
        assert!(lines.iter().any(|one| one.contains(key) && one.contains(line)), "{key}: {lines:?}");
    }
    assert_eq!(run(&["check-config", "--config", "none.toml"], folder.path()).status.code(), Some(1));
    assert_eq!(run(&["serve", "--config", "bad.toml"], folder.path()).status.code(), Some(1));
}

/// What the packages hold is read as well, and each that can't be is told at its place.
#[test]
fn packages_are_opened_by_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let good = crate::validation::packed(&[
        json!({"name": "a.guide", "version": "1.0.0"}),
        json!({"resourceType": "ValueSet", "url": "http://a/v"}),
    ]);
    std::fs::write(folder.path().join("good.tgz"), good).unwrap();
    std::fs::write(folder.path().join("bad.tgz"), "no package").unwrap();
    let head =
        "[gateway]\norganization = { id = \"hub\", name = \"Hub\" }\n[store]\nurl = \"sqlite://x.db\"\n[validation]\n";
    let check = |packages: &str| {
        std::fs::write(folder.path().join("hub.toml"), format!("{head}packages = {packages}\n")).unwrap();
        let output = run(&["check-config", "--config", "hub.toml"], folder.path());
        (output.status.code(), lines(&output))
    };
    assert_eq!(check("[\"good.tgz\"]"), (Some(0), vec!["0 partners, no faults.".to_string()]));
    let (status, lines) = check("[\n \"good.tgz\",\n \"bad.tgz\",\n \"none.tgz\"]");
    assert_eq!((status, lines.len()), (Some(1), 2), "{lines:?}");
    assert!(lines[0].starts_with("line 8: validation.packages[1]: This is no FHIR package"), "{lines:?}");
    assert!(lines[1].starts_with("line 9: validation.packages[2]: it can't be read"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partners_server_is_checked_and_practised_with() {
    let running = Running::prepared(None).await;
    let (config, base) = (running.config(), running.pantry.base.clone());
    let config = config.to_str().unwrap();
    let output = run(&["partner", "check", "pantry", "--config", config, "--practice"], running.folder.path());
    assert_eq!(output.status.code(), Some(0), "{:?}", lines(&output));
    assert!(lines(&output).iter().any(|line| line.contains("completes it with Procedure/")), "{:?}", lines(&output));
    assert_eq!(running.ehr.tasks().len(), 0, "nothing at the clinic");
    let output = run(&["partner", "check", &base, "--config", config], running.folder.path());
    assert_eq!(output.status.code(), Some(0), "{:?}", lines(&output));
    // Without a configuration addresses must be public.
    let output = run(&["partner", "check", &base], running.folder.path());
    assert_eq!((output.status.code(), lines(&output).len()), (Some(1), 0));
    running.pantry.act(|server| server.require_bearer("other"));
    let output = run(&["partner", "check", "pantry", "--config", config], running.folder.path());
    assert_eq!(output.status.code(), Some(1), "{:?}", lines(&output));
    assert_eq!(run(&["partner", "check"], running.folder.path()).status.code(), Some(2));
}

#[tokio::test]
async fn a_good_configuration_migrates() {
    let running = Running::prepared(None).await;
    let config = running.config();
    let config = config.to_str().unwrap();
    let output = run(&["check-config", "--config", config], running.folder.path());
    assert_eq!(output.status.code(), Some(0), "{:?}", lines(&output));
    for _ in 0..2 {
        assert_eq!(run(&["migrate", "--config", config], running.folder.path()).status.code(), Some(0));
    }
    let output = run(&["audit", "verify", "--config", config], running.folder.path());
    assert_eq!(
        (output.status.code(), lines(&output)[0].as_str()),
        (Some(0), "0 seals, 0 rows in them, 0 rows not sealed yet.")
    );
    let output = run(&["audit", "verify", "--config", config, "--seal", "1:ab"], running.folder.path());
    assert_eq!(output.status.code(), Some(1), "{:?}", lines(&output));
    for arguments in [&["capability"][..], &["capability", "--config", config]] {
        let output = run(arguments, running.folder.path());
        let statement: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &statement["resourceType"]), (Some(0), &json!("CapabilityStatement")));
    }
}

// `loopgate capability | head`
#[test]
fn who_reads_no_further_is_not_told_of_a_panic() {
    let mut program = Command::new(PROGRAM)
        .arg("capability")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(program.stdout.take());
    let output = program.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(1), ""));
}

#[test]
fn files_are_validated_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("good.json", &patient::context("2027-01-15T08:00:00Z")[0].to_string());
    write("bad.json", "{\"resourceType\":\"Task\"}");
    write("broken.json", "{");
    write("empty.json", "");
    let issues = |files: &[&str]| {
        let output = run(&[&["validate"], files].concat(), folder.path());
        let lines = lines(&output);
        let outcomes = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let worst = outcomes.map(|one| {
            assert_eq!(one["resourceType"], "OperationOutcome");
            one["issue"].as_array().unwrap().iter().any(|issue| issue["severity"] == "error")
        });
        (output.status.code(), worst.collect::<Vec<_>>())
    };
    assert_eq!(issues(&["good.json"]), (Some(0), vec![false]));
    assert_eq!(
        issues(&["bad.json", "good.json", "none.json", "broken.json", "empty.json"]),
        (Some(1), vec![true, false, true, true, true])
    );
    // The packages of a configuration count as well.
    let url = "http://example.org/fhir/StructureDefinition/born";
    let born = json!({"resourceType": "StructureDefinition", "url": url, "name": "Born", "status": "active", "kind": "resource",
        "abstract": false, "type": "Patient", "derivation": "constraint",
        "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Patient",
        "differential": {"element": [{"id": "Patient.birthDate", "path": "Patient.birthDate", "min": 1}]}});
    let package = crate::validation::packed(&[json!({"name": "born", "version": "1.0.0"}), born]);
    std::fs::write(folder.path().join("born.tgz"), package).unwrap();
    let config = "[server]\n[gateway]\norganization = { id = \"hub\", name = \"Hub\" }\n[store]\nurl = \"sqlite://x.db\"\n\
                  [validation]\npackages = [\"born.tgz\"]\n";
    write("hub.toml", config);
    write("unborn.json", &json!({"resourceType": "Patient", "meta": {"profile": [url]}}).to_string());
    assert_eq!(issues(&["unborn.json"]).0, Some(0));
    assert_eq!(issues(&["--config", "hub.toml", "unborn.json"]), (Some(1), vec![true]));
    write("hub.toml", &config.replace("born.tgz", "nowhere.tgz"));
    assert_eq!(run(&["validate", "--config", "hub.toml", "unborn.json"], folder.path()).status.code(), Some(1));
}
