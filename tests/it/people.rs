//! People with accounts of our own: signing in, what is refused and how it looks, and how long it lasts.
//!
//! What the browser sees of it is told in `people_pages`.

use std::net::IpAddr;
use std::time::Duration;

use loopgate::app::people::accounts::{self, Given, SignIn};
use loopgate::app::people::{Session, Visit, code_now};
use loopgate::config::PersonRole;
use loopgate::error::Kind;
use loopgate::gateway::Gateway;
use loopgate::time::Clock;
use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{TestGateway, county, partner};
use crate::on_both;

/// Everybody's.
pub const PASSWORD: &str = "correct horse battery";
const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

/// Somebody with an account and an authenticator.
pub struct User {
    pub name: &'static str,
    secret: String,
    pub recovery: Vec<String>,
}

impl User {
    fn new(name: &'static str, given: &Given) -> User {
        let secret = given.authenticator.split("secret=").nth(1).unwrap().split('&').next().unwrap();
        User { name, secret: secret.to_string(), recovery: given.recovery.clone() }
    }

    /// An account as the command line makes it.
    pub async fn add(county: &TestGateway, name: &'static str, role: PersonRole) -> User {
        let config = county.gateway.app.config();
        let given = accounts::add(&county.store().await, config, name, &role, PASSWORD).await.unwrap();
        User::new(name, &given)
    }

    /// What the authenticator shows now.
    pub fn code(&self, clock: &Clock) -> String {
        code_now(&self.secret, clock.now())
    }
}

async fn typed(gateway: &Gateway, name: &str, password: &str, code: &str, visit: &Visit) -> Option<String> {
    let typed = SignIn { name: name.into(), password: password.into(), code: code.into() };
    gateway.app.sign_in(&typed, visit).await.unwrap()
}

fn from(address: IpAddr) -> Visit {
    Visit { request: "r".into(), address: Some(address), cookie: None }
}

/// Signs in, with a code that was not used yet; what the cookie holds.
pub async fn signs_in(county: &TestGateway, user: &User) -> String {
    county.clock.advance(Duration::from_secs(60));
    let code = user.code(&county.clock);
    typed(&county.gateway, user.name, PASSWORD, &code, &from(HOME)).await.expect("signed in")
}

async fn session(county: &TestGateway, cookie: &str) -> Option<Session> {
    county.gateway.app.session(cookie).await.unwrap()
}

/// Signs-in and -outs on record, oldest first: subtype, outcome, who.
async fn on_record(county: &TestGateway) -> Vec<(String, String, Value)> {
    let found =
        county.get("root", "AuditEvent?type=http://dicom.nema.org/resources/ontology/DCM|110114&_sort=date").await;
    let told = |event: Value| {
        let subtype = event["subtype"][0]["display"].as_str().unwrap().to_string();
        let outcome = event["outcomeDesc"].as_str().unwrap_or("done").to_string();
        let person = event["agent"].as_array().unwrap().iter().find(|agent| agent["requestor"] == true).cloned();
        (subtype, outcome, person.unwrap_or_default()["who"]["identifier"]["value"].clone())
    };
    found.entries().into_iter().map(told).collect()
}

// A-044
on_both!(a_person_signs_in_with_all_three_and_acts_in_the_role, async |place| {
    let county = TestGateway::with(place, &county()).await;
    let ana = User::add(&county, "ana", PersonRole::Coordinator).await;
    let cookie = signs_in(&county, &ana).await;
    let session = session(&county, &cookie).await.unwrap();
    assert_eq!((session.person.subject.as_str(), &session.person.role), ("ana", &PersonRole::Coordinator));
    assert_eq!(session.identity.partner.id, "hub");
    assert_eq!(session.identity.person.as_deref(), Some("ana"));
    // The same again over another gateway of the same database.
    let another = county.another().await;
    assert!(another.app.session(&cookie).await.unwrap().is_some());
    county.clock.advance(Duration::from_secs(1));
    another.app.sign_out(&Visit { cookie: Some(cookie.clone()), ..from(HOME) }).await.unwrap();
    assert!(self::session(&county, &cookie).await.is_none(), "the cookie is worth nothing after that, at either");
    let told = on_record(&county).await;
    assert_eq!(told, [("Login".into(), "done".into(), json!("ana")), ("Logout".into(), "done".into(), json!("ana"))]);
});

on_both!(nothing_secret_is_in_the_database, async |place| {
    let county = TestGateway::with(place, &county()).await;
    let ana = User::add(&county, "ana", PersonRole::Auditor).await;
    let cookie = signs_in(&county, &ana).await;
    let mut reader = county.store().await.read().await.unwrap();
    let all = "select name || role || partner || password || secret || recovery from account
         union all select hash || subject || name || role from session
         union all select who from sign_in_failure
         union all select coalesce(query, '') || coalesce(detail, '') || coalesce(token, '') from audit";
    let rows = reader.all(all, Vec::new()).await.unwrap();
    assert!(rows.len() > 2);
    for row in rows {
        let text = row.text(0).unwrap();
        for secret in [PASSWORD, ana.secret.as_str(), ana.recovery[0].as_str(), cookie.as_str()] {
            assert!(!text.contains(secret), "{text}");
        }
    }
});

on_both!(whatever_is_wrong_looks_the_same, async |place| {
    let county = TestGateway::with(place, &county()).await;
    let ana = User::add(&county, "ana", PersonRole::Coordinator).await;
    let ben = User::add(&county, "ben", PersonRole::Coordinator).await;
    county.clock.advance(Duration::from_secs(60));
    let code = ana.code(&county.clock);
    for (name, password, code) in [
        ("ana", "wrong horse battery", code.as_str()),
        ("ana", PASSWORD, "000000"),
        ("nobody", PASSWORD, &code),
        ("", "", ""),
        ("ana", PASSWORD, &ben.code(&county.clock)),
        ("ana", PASSWORD, &ben.recovery[0]),
        (&"x".repeat(100_000), PASSWORD, &code),
    ] {
        assert_eq!(typed(&county.gateway, name, password, code, &from(HOME)).await, None, "{name:.9} {code}");
    }
    // The name is forgiving, the rest is not.
    assert!(typed(&county.gateway, " Ana ", PASSWORD, &code, &from(HOME)).await.is_some());
    // Whoever has an account is named on record; what else was typed as a name is not.
    let told = on_record(&county).await;
    let who: Vec<&Value> = told.iter().map(|(.., who)| who).collect();
    let (ana, nobody) = (&json!("ana"), &Value::Null);
    assert_eq!(who, [ana, ana, nobody, nobody, ana, ana, nobody, ana]);
});

// RFC 6238 §5.2: a code counts once; so does a recovery code.
on_both!(a_code_counts_once, async |place| {
    let county = TestGateway::with(place, &county()).await;
    let ana = User::add(&county, "ana", PersonRole::Coordinator).await;
    county.clock.advance(Duration::from_secs(60));
    let (before, another) = (ana.code(&county.clock), county.another().await);
    county.clock.advance(Duration::from_secs(30));
    let code = ana.code(&county.clock);
    assert!(typed(&county.gateway, "ana", PASSWORD, &code, &from(HOME)).await.is_some());
    assert_eq!(typed(&another, "ana", PASSWORD, &code, &from(HOME)).await, None, "used at the other gateway");
    assert_eq!(typed(&another, "ana", PASSWORD, &before, &from(HOME)).await, None, "nor one of before");
    let recovery = ana.recovery[3].to_lowercase();
    assert!(typed(&another, "ana", PASSWORD, &recovery, &from(HOME)).await.is_some());
    assert_eq!(typed(&county.gateway, "ana", PASSWORD, &recovery, &from(HOME)).await, None, "used");
    assert!(typed(&county.gateway, "ana", PASSWORD, &ana.recovery[4], &from(HOME)).await.is_some());
});

// Two at the same moment with one code: one of them.
on_both!(a_code_counts_once_at_the_same_moment, async |place| {
    let county = TestGateway::with(place, &county()).await;
    let ana = User::add(&county, "ana", PersonRole::Coordinator).await;
    county.clock.advance(Duration::from_secs(60));
    let (code, another, visit) = (ana.code(&county.clock), county.another().await, from(HOME));
    let (one, two) = tokio::join!(
        typed(&county.gateway, "ana", PASSWORD, &code, &visit),
        typed(&another, "ana", PASSWORD, &code, &visit)
    );
    assert_eq!(usize::from(one.is_some()) + usize::from(two.is_some()), 1);
});

on_both!(tries_in_vain_end_in_pauses_that_grow, async |place| {
    let county = TestGateway::with(place, &county()).await;
    let ana = User::add(&county, "ana", PersonRole::Coordinator).await;
    county.clock.advance(Duration::from_secs(60));
    // An account that nobody has is locked like any other: what is refused shows nothing.
    for name in ["ana", "nobody"] {
        for _ in 0..5 {
            assert_eq!(typed(&county.gateway, name, "wrong", "000000", &from(HOME)).await, None);
        }
    }
    let right = async |county: &TestGateway| {
        let code = ana.code(&county.clock);
        typed(&county.gateway, "ana", PASSWORD, &code, &from(HOME)).await
    };
    assert_eq!(right(&county).await, None, "locked, though all is right");
    assert_eq!(
        typed(&county.another().await, "ana", PASSWORD, &ana.recovery[0], &from(HOME)).await,
        None,
        "everywhere"
    );
    let (_, outcome, who) =
        on_record(&county).await.into_iter().find(|(_, outcome, _)| outcome.contains("Locked")).unwrap();
    assert_eq!((outcome.as_str(), who), ("Locked out after too many tries in vain", json!("ana")));
    county.clock.advance(Duration::from_secs(31));
    assert_eq!(typed(&county.gateway, "ana", "wrong", "000000", &from(HOME)).await, None);
    county.clock.advance(Duration::from_secs(31));
    assert_eq!(right(&county).await, None, "the second pause is a minute");
    county.clock.advance(Duration::from_secs(31));
    assert!(right(&county).await.is_some());
    // Success forgets what was before.
    assert_eq!(typed(&county.gateway, "ana", "wrong", "000000", &from(HOME)).await, None);
    county.clock.advance(Duration::from_secs(30));
    assert!(right(&county).await.is_some());
});

on_both!(an_address_that_guesses_many_names_has_to_wait, async |place| {
    let county = TestGateway::with(place, &county()).await;
    let ana = User::add(&county, "ana", PersonRole::Coordinator).await;
    county.clock.advance(Duration::from_secs(60));
    // What is too long for a password costs no hash: this is about counting.
    let long = "x".repeat(2_000);
    for number in 0..50 {
        assert_eq!(typed(&county.gateway, &format!("guess{number}"), &long, "000000", &from(HOME)).await, None);
    }
    let code = ana.code(&county.clock);
    assert_eq!(typed(&county.gateway, "ana", PASSWORD, &code, &from(HOME)).await, None, "from there nobody");
    assert!(typed(&county.gateway, "ana", PASSWORD, &code, &from("198.51.100.1".parse().unwrap())).await.is_some());
});

on_both!(a_session_ends_when_it_is_idle_and_in_any_case, async |place| {
    let county =
        TestGateway::with(place, &format!("[people]\nsession_idle = \"10m\"\nsession_lifetime = \"1h\"\n{}", county()))
            .await;
    let ana = User::add(&county, "ana", PersonRole::Coordinator).await;
    let cookie = signs_in(&county, &ana).await;
    for _ in 0..6 {
        assert!(session(&county, &cookie).await.is_some());
        county.clock.advance(Duration::from_secs(590));
    }
    assert!(session(&county, &cookie).await.is_some(), "59 minutes");
    county.clock.advance(Duration::from_secs(60));
    assert!(session(&county, &cookie).await.is_none(), "an hour, though it was in use");
    let cookie = signs_in(&county, &ana).await;
    county.clock.advance(Duration::from_secs(600));
    assert!(session(&county, &cookie).await.is_none(), "idle");
    for nonsense in ["", "x", &"0".repeat(64), &cookie.to_uppercase()] {
        assert!(session(&county, nonsense).await.is_none());
    }
});

on_both!(signing_in_gives_a_new_session_and_ends_the_one_before, async |place| {
    let county = TestGateway::with(place, &county()).await;
    let ana = User::add(&county, "ana", PersonRole::Coordinator).await;
    let first = signs_in(&county, &ana).await;
    county.clock.advance(Duration::from_secs(60));
    let visit = Visit { cookie: Some(first.clone()), ..from(HOME) };
    let second = typed(&county.gateway, "ana", PASSWORD, &ana.code(&county.clock), &visit).await.unwrap();
    assert_ne!(first, second);
    assert!(session(&county, &first).await.is_none() && session(&county, &second).await.is_some());
    // A cookie that somebody planted becomes no session.
    county.clock.advance(Duration::from_secs(60));
    let planted = "a".repeat(64);
    let visit = Visit { cookie: Some(planted.clone()), ..from(HOME) };
    let third = typed(&county.gateway, "ana", PASSWORD, &ana.code(&county.clock), &visit).await.unwrap();
    assert!(third != planted && session(&county, &planted).await.is_none());
    // At most ten at a time: the oldest give way.
    for _ in 0..9 {
        signs_in(&county, &ana).await;
    }
    assert!(session(&county, &second).await.is_none() && session(&county, &third).await.is_some());
});

on_both!(another_role_password_or_the_end_of_an_account_ends_its_sessions, async |place| {
    let county = TestGateway::with(place, &county()).await;
    let (store, config) = (county.store().await, county.gateway.app.config().clone());
    let ana = User::add(&county, "ana", PersonRole::Administrator).await;
    let cookie = signs_in(&county, &ana).await;
    accounts::set_role(&store, &config, "ana", &PersonRole::Auditor).await.unwrap();
    assert!(session(&county, &cookie).await.is_none(), "another role");
    let cookie = signs_in(&county, &ana).await;
    assert_eq!(session(&county, &cookie).await.unwrap().person.role, PersonRole::Auditor);
    for _ in 0..6 {
        typed(&county.gateway, "ana", "wrong", "000000", &from(HOME)).await;
    }
    let given = accounts::reset(&store, &config, "ana", "another horse battery").await.unwrap();
    assert!(session(&county, &cookie).await.is_none(), "another password");
    let renewed = User::new("ana", &given);
    county.clock.advance(Duration::from_secs(60));
    let code = renewed.code(&county.clock);
    assert_eq!(typed(&county.gateway, "ana", PASSWORD, &code, &from(HOME)).await, None, "the old password");
    let cookie = typed(&county.gateway, "ana", "another horse battery", &code, &from(HOME)).await;
    let cookie = cookie.expect("the pause has ended with the reset");
    accounts::remove(&store, &config, "ana").await.unwrap();
    assert!(session(&county, &cookie).await.is_none(), "the account's end");
    for error in [
        accounts::remove(&store, &config, "ana").await.unwrap_err(),
        accounts::reset(&store, &config, "ana", PASSWORD).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, Kind::NotFound);
    }
    // A-043: each of these is on record, and of whom.
    let told = county.get("root", "AuditEvent?type=110113&_sort=date&_total=accurate").await;
    let said: Vec<(Value, Value, Value)> = told
        .entries()
        .iter()
        .map(|one| {
            let person = &one["entity"][0];
            assert_eq!(
                (&person["what"]["identifier"]["value"], &person["role"]["code"]),
                (&json!("ana"), &json!("11")),
                "{one}"
            );
            assert_eq!(one["agent"][0]["who"]["reference"], "Organization/hub");
            (one["action"].clone(), one["subtype"][0]["code"].clone(), person["detail"][0]["valueString"].clone())
        })
        .collect();
    assert_eq!(
        said,
        [
            ("C", "110137", "administrator"),
            ("U", "110136", "auditor"),
            ("U", "110137", "auditor"),
            ("D", "110137", "auditor")
        ]
        .map(|(action, code, role)| (json!(action), json!(code), json!(role)))
    );
    assert_eq!(told.body["total"], 4);
    let locked = county.get("root", "AuditEvent?type=110114&outcome=4&_summary=count").await;
    assert!(locked.body["total"].as_u64().unwrap() >= 6, "{}", locked.body);
});

/// Staff act for their partner and no further; who is nobody's staff any more is nobody.
#[tokio::test]
async fn staff_are_their_partners_source_and_target_and_no_more() {
    let both = partner("both", "\"target\", \"operator\"", "channel = \"light\"");
    let mut county = TestGateway::with(Place::sqlite(), &format!("{}{both}", county())).await;
    let ben = User::add(&county, "ben", PersonRole::Staff("both".into())).await;
    let cookie = signs_in(&county, &ben).await;
    let identity = session(&county, &cookie).await.unwrap().identity;
    assert_eq!(
        (identity.partner.id.as_str(), identity.partner.roles.len()),
        ("both", 1),
        "no operator by the back door"
    );
    county.without("both").await;
    assert!(session(&county, &cookie).await.is_none());
    county.clock.advance(Duration::from_secs(60));
    assert_eq!(typed(&county.gateway, "ben", PASSWORD, &ben.code(&county.clock), &from(HOME)).await, None);
}

#[tokio::test]
async fn accounts_are_checked_when_they_are_made() {
    let county = TestGateway::county().await;
    let (store, config) = (county.store().await, county.gateway.app.config().clone());
    let add = async |name: &str, role: PersonRole, password: &str| {
        accounts::add(&store, &config, name, &role, password).await.map(|_| ()).map_err(|error| error.kind)
    };
    for name in ["", "Ana", "a b", "a|b", "a/b", &"x".repeat(65)] {
        assert_eq!(add(name, PersonRole::Auditor, PASSWORD).await, Err(Kind::Invalid), "{name}");
    }
    for partner in ["nobody", "desk", "root"] {
        assert_eq!(add("ana", PersonRole::Staff(partner.into()), PASSWORD).await, Err(Kind::Invalid), "{partner}");
    }
    assert_eq!(add("ana", PersonRole::Auditor, "short").await, Err(Kind::Invalid));
    assert_eq!(add("ana", PersonRole::Auditor, PASSWORD).await, Ok(()));
    assert_eq!(add("ana", PersonRole::Auditor, PASSWORD).await, Err(Kind::Conflict));
    let listed = accounts::list(&store).await.unwrap();
    assert_eq!(listed, [("ana".to_string(), "auditor".to_string(), String::new())]);
}

/// What an operator types, and what comes back: the password by standard input alone.
#[test]
fn accounts_are_kept_from_the_command_line() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("hub.toml");
    let text = "[gateway]\norganization = { id = \"hub\", name = \"County Hub\" }\n[store]\nurl = \"sqlite://DB\"\n";
    std::fs::write(&config, text.replace("DB", folder.path().join("gateway.db").to_str().unwrap())).unwrap();
    let run = |arguments: &str, input: &str| {
        let mut command = std::process::Command::new(crate::running::PROGRAM);
        command.arg("user").args(arguments.split(' ')).arg("--config").arg(&config);
        let piped = std::process::Stdio::piped;
        let mut child = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
    };
    let (code, said, _) = run("add ana --role administrator", &format!("{PASSWORD}\n"));
    assert!(code == 0 && said.contains("otpauth://totp/ana?secret=") && said.contains("issuer=County%20Hub"), "{said}");
    assert_eq!(said.lines().count(), 13, "{said}");
    let (code, _, said) = run("add ana --role administrator", &format!("{PASSWORD}\n"));
    assert!(code == 1 && said.contains("There is an account of this name"), "{said}");
    let (code, _, said) = run("add ben --role staff", "");
    assert!(code == 1 && said.contains("--partner"), "{said}");
    let (code, _, said) = run("add ben --role auditor", "short\n");
    assert!(code == 1 && said.contains("12 to 1024") && !said.contains("short\n"), "{said}");
    assert_eq!(run("role ana --role auditor", "").0, 0);
    assert_eq!(run("list", "").1, "ana auditor\n");
    assert!(run("reset ana", "another horse battery\n").1.contains("otpauth://"));
    assert_eq!(run("remove ana", "").0, 0);
    assert_eq!(run("remove ana", "").0, 1);
    assert_eq!(run("list", "").1, "");
}
