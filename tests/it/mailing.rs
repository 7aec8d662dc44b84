//! Subscriptions by mail, against a mail server on a socket of its own: what goes out, what never does, and what
//! happens when the server is away.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use loopgate::app::Owed;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::databases::Place;
use crate::gateway::{HANDSHAKE, HOOK, TestGateway, county as partners};
use crate::notifications::{status, subscription};

pub const TO: &str = "mailto:casework@clinic.example";

/// A mail server: what it took, and what it does with the next mails.
#[derive(Clone, Default)]
pub struct Server {
    taken: Arc<Mutex<Vec<String>>>,
    moods: Arc<Mutex<VecDeque<Mood>>>,
}

#[derive(Clone, Copy)]
enum Mood {
    /// Hangs up at once.
    Away,
    /// Answers the recipient with this line.
    Refuses(&'static str),
}

impl Server {
    /// Its mails, newest last: envelope and text.
    pub fn taken(&self) -> Vec<String> {
        self.taken.lock().unwrap().clone()
    }
    fn next(&self, moods: &[Mood]) {
        self.moods.lock().unwrap().extend(moods);
    }
    async fn listen(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let mood = self.moods.lock().unwrap().pop_front();
            let _ = match mood {
                Some(Mood::Away) => Ok(()),
                Some(Mood::Refuses(line)) => self.talk(stream, line).await,
                None => self.talk(stream, "250 fine").await,
            };
        }
    }
    async fn talk(&self, stream: TcpStream, to_recipient: &str) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut mail = String::new();
        stream.write_all(b"220 post.test\r\n").await?;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let answer = match line.split([' ', ':', '\r']).next().unwrap_or("") {
                "EHLO" => "250-post.test\r\n250 8BITMIME",
                "MAIL" => "250 fine",
                "RCPT" => to_recipient,
                "DATA" => {
                    stream.write_all(b"354 go on\r\n").await?;
                    let mut text = String::new();
                    while !text.ends_with("\r\n.\r\n") && stream.read_line(&mut text).await? > 0 {}
                    self.taken.lock().unwrap().push(format!("{mail}{text}"));
                    "250 taken"
                }
                "QUIT" => "221 bye",
                _ => "502 not here",
            };
            mail.push_str(&line);
            stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
        }
    }
}

/// The county with a mail server.
pub async fn county() -> (TestGateway, Server) {
    county_with("").await
}

/// The same, with more in `[email]`.
async fn county_with(more: &str) -> (TestGateway, Server) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let server = Server::default();
    tokio::spawn(server.clone().listen(listener));
    let settings =
        format!("[email]\nsmtp = \"smtp://{at}\"\nfrom = \"no-reply@hub.example.org\"\n{more}{}", partners());
    (TestGateway::with(Place::sqlite(), &settings).await.settled().await, server)
}

pub fn by_mail(to: &str) -> Value {
    let mut body = subscription(to);
    body["channel"]["type"] = json!("email");
    body["channel"]["payload"] = json!("text/plain");
    body["channel"].as_object_mut().unwrap().remove("header");
    body
}

pub async fn subscribed(county: &TestGateway, body: &Value) -> String {
    let answer = county.post("clinic", "Subscription", body).await;
    assert_eq!((answer.status, answer.body["status"].as_str()), (201, Some("requested")), "{}", answer.body);
    county.later(HANDSHAKE).await;
    answer.id()
}

/// The event numbers the mails name, in order.
pub fn numbers(mails: &[String]) -> Vec<i64> {
    let of = |mail: &String| {
        let line = mail.lines().find_map(|line| line.strip_prefix("Events: ")).map(str::to_string);
        line.and_then(|line| {
            let (from, to) = line.split_once(" to ")?;
            Some((from.parse::<i64>().ok()?, to.parse::<i64>().ok()?))
        })
    };
    mails.iter().filter_map(of).flat_map(|(from, to)| from..=to).collect()
}

// S-152, S-153: where the configuration lets it, a program reads the same notification from the attachment.
#[tokio::test]
async fn a_notification_is_attached_where_that_is_configured() {
    for (payload, name) in [
        ("text/plain;attach=application/fhir+json", "notification.json"),
        ("text/plain; charset=UTF-8; attach=\"application/fhir+xml\"", "notification.xml"),
    ] {
        let (county, server) = county_with("attach = true\n").await;
        let mut body = by_mail(TO);
        body["channel"]["payload"] = json!(payload);
        subscribed(&county, &body).await;
        let task = county.refers("sr1", "housing-instability").await;
        county.deliver_due().await;
        let mails = server.taken();
        let [first, .., last] = mails.as_slice() else { panic!("{mails:?}") };
        for (mail, said) in [(first, "handshake"), (last, "event-notification")] {
            let (head, bundle) = mail.split_once(&format!("filename=\"{name}\"")).unwrap();
            assert!(head.contains("text/plain; charset=utf-8") && head.contains("multipart/mixed"), "{mail}");
            let bundle = bundle.replace("=\r\n", "");
            assert!(bundle.contains(said), "{mail}");
            assert_eq!(bundle.contains(&format!("https://hub.test/fhir/Task/{task}")), said != "handshake", "{mail}");
        }
        assert_eq!(numbers(&mails[1..]).first(), Some(&1));
    }
}

// S-150, S-151, S-152, S-153, G-112: a first mail, then one for what happened, and nothing in them about anybody.
#[tokio::test]
async fn a_mail_says_that_something_happened_and_nothing_about_anybody() {
    for content in ["empty", "id-only"] {
        let (county, server) = county().await;
        let mut body = by_mail(TO);
        body["channel"]["_payload"]["extension"][0]["valueCode"] = json!(content);
        let id = subscribed(&county, &body).await;
        assert_eq!(status(&county, "clinic", &id).await, "active");
        let first = server.taken().remove(0);
        for part in [
            "MAIL FROM:<no-reply@hub.example.org>",
            "RCPT TO:<casework@clinic.example>",
            "From now on you get a mail",
            "Auto-Submitted: auto-generated",
            &format!("https://hub.test/fhir/Subscription/{id}"),
        ] {
            assert!(first.contains(part), "{part}: {first}");
        }

        let task = county.refers("sr1", "housing-instability").await;
        county.deliver_due().await;
        let relayed = county.relayed(&task).await.pop().unwrap();
        for step in ["accepted", "completed"] {
            county.answers("agency", &relayed, step).await;
            county.deliver_due().await;
        }
        let mails = server.taken().split_off(1);
        let numbers = numbers(&mails);
        assert!(numbers.len() >= 3);
        assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>(), "each event once and in order");
        let patient = county.task(&task).await["for"]["reference"].to_string();
        let patient = patient.trim_matches('"').rsplit('/').next().unwrap().to_string();
        for mail in std::iter::once(&first).chain(&mails) {
            assert_eq!(mail.contains(&format!("/Task/{task}")), content == "id-only" && *mail != first, "{mail}");
            let text = mail.to_lowercase();
            for secret in [
                "water",
                "baxter",
                "colin",
                "mountain view",
                "deerland",
                "housing",
                "accepted",
                "completed",
                "application/fhir",
                &relayed,
                &patient,
            ] {
                assert!(!text.contains(&secret.to_lowercase()), "{secret}: {mail}");
            }
        }
        // That a mail server took a mail is no evidence that the source knows.
        assert_ne!(county.level(&task).await.0, "L4");
    }
}

// S-150, S-107: a mail server that is away, or has no time, delays a mail; it comes once.
#[tokio::test]
async fn a_mail_waits_for_the_mail_server_and_comes_once() {
    let (county, server) = county().await;
    server.next(&[Mood::Away, Mood::Refuses("451 later")]);
    let id = subscribed(&county, &by_mail(TO)).await;
    assert_eq!((status(&county, "clinic", &id).await, server.taken().len()), ("requested".into(), 0));
    county.later(Duration::from_secs(6)).await;
    assert_eq!((status(&county, "clinic", &id).await, server.taken().len()), ("requested".into(), 0));
    county.later(Duration::from_secs(34)).await;
    assert_eq!((status(&county, "clinic", &id).await, server.taken().len()), ("active".into(), 1));

    server.next(&[Mood::Away, Mood::Refuses("550 not me Water")]);
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    county.later(Duration::from_secs(6)).await;
    assert_eq!(server.taken().len(), 1);
    county.later(Duration::from_secs(34)).await;
    county.later(Duration::from_secs(3_600)).await;
    let numbers = numbers(&server.taken());
    assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>());
    assert!(!numbers.is_empty());
    let tries = county.gateway.app.attempts(Owed::Notify, &id).await.unwrap();
    assert_eq!(tries.iter().filter(|one| one.outcome != "done").count(), 4, "{tries:?}");
    assert!(format!("{tries:?}").contains("answered 550") && !format!("{tries:?}").contains("Water"));
}

// S-108: an address that is never taken ends in error, as a hook does.
#[tokio::test]
async fn an_address_that_is_never_taken_ends_in_error() {
    let (county, server) = county().await;
    server.next(&[Mood::Refuses("550 nobody here"); 20]);
    let id = subscribed(&county, &by_mail(TO)).await;
    for _ in 0..20 {
        county.later(Duration::from_secs(86_400)).await;
    }
    assert_eq!((status(&county, "clinic", &id).await, server.taken().len()), ("error".into(), 0));
}

// S-028, S-030, S-114, S-151, S-152, S-154, S-155: what a mail can't do is refused with its element.
#[tokio::test]
async fn what_a_mail_cannot_do_is_refused() {
    let (county, server) = county().await;
    let refused = async |pointer: &str, value: Value, element: &str| {
        let mut body = by_mail(TO);
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[name] = value;
        let answer = county.post("clinic", "Subscription", &body).await;
        assert_eq!((answer.status, answer.expression()), (422, element), "{pointer}: {}", answer.body);
    };
    for to in [
        "mailto:a@x.org\r\nBcc: b@x.org",
        "mailto:a@x.org,b@x.org",
        "mailto:a@x.org?cc=b@x.org",
        "a@x.org",
        "https://x.org/hook",
    ] {
        refused("/channel/endpoint", json!(to), "Subscription.channel.endpoint").await;
    }
    for payload in ["application/fhir+json", "text/plain;attach=application/fhir+json", "text/html"] {
        refused("/channel/payload", json!(payload), "Subscription.channel.payload").await;
    }
    let full = json!([{"url": subscription(HOOK)["channel"]["_payload"]["extension"][0]["url"],
        "valueCode": "full-resource"}]);
    refused("/channel/_payload/extension", full, "Subscription.channel.payload.extension").await;
    refused("/channel/header", json!(["Bcc: b@x.org"]), "Subscription.channel.header").await;
    let heartbeat = json!([{"url": "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-heartbeat-period",
        "valueUnsignedInt": 60}]);
    refused("/channel/extension", heartbeat, "Subscription.channel.extension").await;
    county.later(HANDSHAKE).await;
    assert!(server.taken().is_empty());

    let without = TestGateway::county().await.settled().await;
    let answer = without.post("clinic", "Subscription", &by_mail(TO)).await;
    assert_eq!((answer.status, answer.expression()), (422, "Subscription.channel.type"), "{}", answer.body);
}

// A subscriber may change from a rest-hook to mail: the headers it had there stay behind.
#[tokio::test]
async fn a_rest_hook_becomes_mail_without_its_headers() {
    let (county, server) = county().await;
    let id = crate::notifications::subscribed(&county, "clinic", HOOK).await;
    let mut body = by_mail(TO);
    body["id"] = json!(id);
    let answer = county.put("clinic", &format!("Subscription/{id}"), &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    county.deliver_due().await;
    assert_eq!((status(&county, "clinic", &id).await, server.taken().len()), ("active".into(), 1));
    assert!(!server.taken().remove(0).contains("hush"));
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    assert_eq!(county.world.heard(HOOK).len(), 1, "the handshake of then, and nothing after");
    assert!(!numbers(&server.taken()).is_empty());
}
