//! Subscriptions by websocket, over real sockets: what is heard and in which order, who may bind what and for how long,
//! and that nothing is lost between one socket and the next.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use loopgate::app::Owed;
use loopgate::gateway::Gateway;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::databases::Place;
use crate::gateway::{TestGateway, county as partners};
use crate::notifications::{numbers, says, status, subscription, up_to};
use crate::on_both;

const BACKPORT: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition";
/// Longer than anything here takes on a machine that is not broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// A subscriber's end of a socket.
pub struct Client {
    say: mpsc::UnboundedSender<String>,
    heard: mpsc::UnboundedReceiver<Message>,
}

impl Client {
    /// Connects, with a token or without, and listens.
    async fn connect(gateway: &Gateway, token: &str) -> Client {
        Client::with(gateway, token, true).await
    }

    /// The same; who does not listen answers no ping.
    async fn with(gateway: &Gateway, token: &str, listens: bool) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let router = gateway.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Client::at(at, token, listens).await
    }

    async fn at(at: std::net::SocketAddr, token: &str, listens: bool) -> Client {
        let mut request = format!("ws://{at}/websocket").into_client_request().unwrap();
        if !token.is_empty() {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let stream = TcpStream::connect(at).await.unwrap();
        let (mut sink, mut stream) = client_async(request, stream).await.unwrap().0.split();
        let (say, mut saying) = mpsc::unbounded_channel::<String>();
        let (hear, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(text) = saying.recv().await {
                let _ = sink.send(Message::text(text)).await;
            }
        });
        tokio::spawn(async move {
            if !listens {
                std::future::pending::<()>().await;
            }
            while let Some(Ok(message)) = stream.next().await {
                if !matches!(message, Message::Ping(_)) {
                    let _ = hear.send(message);
                }
            }
        });
        Client { say, heard }
    }

    /// Connects and binds with a token for this Subscription; the socket and its handshake.
    pub async fn bound(county: &TestGateway, gateway: &Gateway, who: &str, id: &str) -> (Client, Value) {
        let mut client = Client::connect(gateway, "").await;
        client.say(&format!("bind-with-token {}", token(county, who, &format!("{id}/")).await));
        let handshake = client.hears().await;
        assert_eq!(says(&handshake, "type"), "handshake", "{handshake}");
        (client, handshake)
    }

    fn say(&self, text: &str) {
        self.say.send(text.to_string()).unwrap();
    }
    async fn next(&mut self) -> Message {
        tokio::time::timeout(PATIENCE, self.heard.recv()).await.expect("nothing is heard").expect("the socket has gone")
    }
    async fn text(&mut self) -> String {
        let message = self.next().await;
        assert!(message.is_text(), "{message:?}");
        message.into_text().unwrap().to_string()
    }
    async fn hears(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }
    /// What has arrived already.
    pub fn has_heard(&mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Ok(message) = self.heard.try_recv() {
            all.push(serde_json::from_str(message.to_text().unwrap()).unwrap());
        }
        all
    }
    /// The code with which the gateway closes.
    async fn closed(&mut self) -> u16 {
        loop {
            if let Message::Close(frame) = self.next().await {
                return frame.unwrap().code.into();
            }
        }
    }
}

pub fn all_numbers(told: &[Value]) -> Vec<i64> {
    told.iter().flat_map(numbers).collect()
}

/// A Subscription to Tasks by websocket.
pub fn by_socket(content: &str) -> Value {
    let mut body = subscription("");
    body["channel"]["type"] = json!("websocket");
    body["channel"]["_payload"]["extension"][0]["valueCode"] = json!(content);
    let channel = body["channel"].as_object_mut().unwrap();
    channel.remove("header");
    channel.remove("endpoint");
    body
}

pub async fn subscribed(county: &TestGateway, who: &str, body: &Value) -> String {
    let answer = county.post(who, "Subscription", body).await;
    assert_eq!((answer.status, answer.body["status"].as_str()), (201, Some("active")), "S-057: {}", answer.body);
    county.deliver_due().await;
    answer.id()
}

async fn token(county: &TestGateway, who: &str, place: &str) -> String {
    let answer = county.get(who, &format!("Subscription/{place}$get-ws-binding-token")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["parameter"][0]["valueString"].as_str().unwrap().to_string()
}

/// A part of `$deliveries` about this Subscription.
pub async fn stands(county: &TestGateway, id: &str, name: &str) -> Value {
    let answer = county.get("root", &format!("Subscription/{id}/$deliveries")).await;
    let parts = answer.body["parameter"][0]["part"].as_array().cloned().unwrap();
    let part = parts.into_iter().find(|part| part["name"] == name).unwrap_or_default();
    part.as_object().and_then(|part| part.iter().find(|(key, _)| key.starts_with("value"))).unwrap().1.clone()
}

pub async fn a_round(county: &TestGateway, request: &str) -> String {
    let task = county.refers(request, "housing-instability").await;
    county.deliver_due().await;
    let relayed = county.relayed(&task).await.pop().unwrap();
    county.answers("agency", &relayed, "accepted").await;
    county.deliver_due().await;
    task
}

// S-140, S-141, S-143: a handshake, then every event once and in order; and a frame is no evidence that anybody read it.
#[tokio::test]
async fn a_bound_socket_hears_each_event_once_and_in_order() {
    let county = TestGateway::county().await.settled().await;
    let id = subscribed(&county, "clinic", &by_socket("id-only")).await;
    let (mut client, handshake) = Client::bound(&county, &county.gateway, "clinic", &id).await;
    assert_eq!(says(&handshake, "events-since-subscription-start"), "0");
    assert_eq!((handshake["type"].as_str(), handshake["entry"].as_array().unwrap().len()), (Some("history"), 1));
    let task = a_round(&county, "sr1").await;
    let told = client.has_heard();
    assert_eq!(all_numbers(&told), up_to(all_numbers(&told).len() as i64));
    assert!(told.len() >= 3);
    for bundle in &told {
        assert_eq!((says(bundle, "type"), says(bundle, "status")), ("event-notification".into(), "active".into()));
        assert_eq!(bundle["entry"][1]["fullUrl"], format!("https://hub.test/fhir/Task/{task}"));
        assert!(bundle["entry"][1].get("resource").is_none());
    }
    assert_eq!(stands(&county, &id, "waiting").await, "0");
    assert_eq!(stands(&county, &id, "bound").await, true);
    assert!(county.gateway.app.metrics().await.unwrap().contains("loopgate_sockets 1\n"));
    assert_ne!(county.level(&task).await.0, "L4");
}

// S-057, S-110, S-180: nothing is tried while nothing is bound; it waits visibly, and comes in order when a socket is.
#[tokio::test]
async fn what_happens_while_nothing_is_bound_comes_when_something_is() {
    let county = TestGateway::county().await.settled().await;
    let id = subscribed(&county, "clinic", &by_socket("id-only")).await;
    a_round(&county, "sr1").await;
    county.later(Duration::from_secs(3_600)).await;
    let waiting = stands(&county, &id, "waiting").await;
    assert!(waiting != "0" && stands(&county, &id, "bound").await == false);
    assert_eq!(status(&county, "clinic", &id).await, "active");
    let tries = county.gateway.app.attempts(Owed::Notify, &id).await.unwrap();
    assert!(tries.iter().all(|one| one.outcome == "done") && tries.len() <= 2, "{tries:?}");
    let metrics = county.gateway.app.metrics().await.unwrap();
    assert!(metrics.contains(&format!("loopgate_events_waiting{{status=\"active\"}} {}\n", waiting.as_str().unwrap())));

    let (mut client, handshake) = Client::bound(&county, &county.gateway, "clinic", &id).await;
    assert_eq!(says(&handshake, "events-since-subscription-start"), waiting);
    county.deliver_due().await;
    let told = all_numbers(&client.has_heard());
    assert_eq!(told, up_to(waiting.as_str().unwrap().parse().unwrap()));
}

// S-106, S-109: who does not answer is unbound in the time it asked for, and hears the same events over its next socket.
on_both!(a_broken_socket_loses_nothing, async |place: Place| {
    let county = TestGateway::with(place, &partners()).await.settled().await;
    let mut body = by_socket("id-only");
    body["channel"]["extension"] = json!([{"url": format!("{BACKPORT}/backport-timeout"), "valueUnsignedInt": 1}]);
    let id = subscribed(&county, "clinic", &body).await;
    let deaf = Client::with(&county.gateway, "", false).await;
    deaf.say(&format!("bind-with-token {}", token(&county, "clinic", "").await));
    // Bound, once the token is used up.
    while !stands(&county, &id, "bound").await.as_bool().unwrap() {
        tokio::task::yield_now().await;
    }
    a_round(&county, "sr1").await;
    assert_eq!(stands(&county, &id, "bound").await, false);
    let count: i64 = stands(&county, &id, "waiting").await.as_str().unwrap().parse().unwrap();
    assert_eq!(stands(&county, &id, "events").await, count.to_string(), "none of it counts as taken");
    let (mut client, _) = Client::bound(&county, &county.gateway, "clinic", &id).await;
    county.deliver_due().await;
    assert_eq!(all_numbers(&client.has_heard()), up_to(count));
    a_round(&county, "sr2").await;
    let more = all_numbers(&client.has_heard());
    assert_eq!(more, (count + 1..=count + more.len() as i64).collect::<Vec<_>>());
});

// Two gateways on one database: the one that holds the socket sends, and no other; when it has died, the next one does.
on_both!(the_gateway_that_holds_the_socket_sends, async |place: Place| {
    let county = TestGateway::with(place, &partners()).await.settled().await;
    let other = county.another().await;
    let id = subscribed(&county, "clinic", &by_socket("id-only")).await;
    let (mut client, _) = Client::bound(&county, &other, "clinic", &id).await;
    a_round(&county, "sr1").await;
    assert!(client.has_heard().is_empty(), "this gateway can't");
    other.worker.deliver_due().await.unwrap();
    let told = all_numbers(&client.has_heard());
    assert!(told.len() >= 3 && told == up_to(told.len() as i64));
    // It dies; its binding stands in nobody's way.
    drop(other);
    a_round(&county, "sr2").await;
    let (mut again, _) = Client::bound(&county, &county.gateway, "clinic", &id).await;
    county.deliver_due().await;
    let rest = all_numbers(&again.has_heard());
    assert!(rest.len() >= 3);
    assert_eq!(rest, (told.len() as i64 + 1..=(told.len() + rest.len()) as i64).collect::<Vec<_>>());
    assert_eq!(client.closed().await, 1000, "it is bound to another socket now");
});

// S-140, S-142: a token is for its Subscriptions and its partner, for a while, and once.
#[tokio::test]
async fn a_token_binds_once_what_it_is_for() {
    let county = TestGateway::county().await.settled().await;
    let (one, two) = (
        subscribed(&county, "clinic", &by_socket("id-only")).await,
        subscribed(&county, "clinic", &by_socket("empty")).await,
    );
    let theirs = subscribed(&county, "agency", &by_socket("id-only")).await;
    let hook = crate::notifications::subscribed(&county, "clinic", crate::gateway::HOOK).await;
    let asked = async |who: &str, path: &str| county.get(who, &format!("Subscription/{path}")).await;
    let all = asked("clinic", "$get-ws-binding-token").await;
    let parts = all.body["parameter"].as_array().unwrap();
    let ids: Vec<_> = parts.iter().filter(|part| part["name"] == "subscription").collect();
    assert!(ids.len() == 2 && all.headers["cache-control"] == "no-store", "{all:?}");
    assert_eq!(parts.last().unwrap()["valueUrl"], "wss://hub.test/websocket");
    let later = county.clock.now().plus(Duration::from_secs(1_800)).to_string();
    assert_eq!(parts[1], json!({"name": "expiration", "valueDateTime": later}));
    let input = json!({"resourceType": "Parameters", "parameter": [{"name": "id", "valueId": two}]});
    let posted = county.post("clinic", "Subscription/$get-ws-binding-token", &input).await;
    assert_eq!(posted.body["parameter"][2]["valueString"], two);
    for (who, path, expected) in [
        ("clinic", format!("{theirs}/$get-ws-binding-token"), 404),
        ("root", format!("{one}/$get-ws-binding-token"), 404),
        ("clinic", format!("{hook}/$get-ws-binding-token"), 422),
        ("kitchen", "$get-ws-binding-token".into(), 422),
    ] {
        assert_eq!(asked(who, &path).await.status, expected, "{who} {path}");
    }

    let mut client = Client::connect(&county.gateway, "").await;
    let used = all.body["parameter"][0]["valueString"].as_str().unwrap();
    client.say(&format!("bind-with-token: {used}"));
    let of = |bundle: &Value| bundle["entry"][0]["resource"]["parameter"][0]["valueReference"]["reference"].to_string();
    let mut shaken = [of(&client.hears().await), of(&client.hears().await)];
    shaken.sort();
    let mut expected = [&one, &two].map(|id| format!("\"https://hub.test/fhir/Subscription/{id}\""));
    expected.sort();
    assert_eq!(shaken, expected, "S-142: several over one socket");
    client.say(&format!("bind-with-token {used}"));
    assert_eq!(client.hears().await["resourceType"], "OperationOutcome", "once");
    let strange = token(&county, "agency", "").await;
    client.say(&format!("bind-with-token {strange}"));
    assert_eq!(client.hears().await["issue"][0]["code"], "forbidden", "another partner's");
    let late = token(&county, "clinic", "").await;
    county.later(Duration::from_secs(1_800)).await;
    let mut next = Client::connect(&county.gateway, "").await;
    next.say(&format!("bind-with-token {late}"));
    assert_eq!(next.hears().await["issue"][0]["code"], "forbidden", "too late");
    assert_eq!(client.closed().await, 1000, "what it was bound to has expired");
    assert_eq!(stands(&county, &one, "bound").await, false);
}

// S-142, S-038: who is switched off, deleted or bound elsewhere hears no more, and its socket is closed.
#[tokio::test]
async fn what_is_over_closes_its_socket() {
    let county = TestGateway::county().await.settled().await;
    let id = subscribed(&county, "clinic", &by_socket("id-only")).await;
    let (mut old, _) = Client::bound(&county, &county.gateway, "clinic", &id).await;
    let (mut new, _) = Client::bound(&county, &county.gateway, "clinic", &id).await;
    a_round(&county, "sr1").await;
    assert!(!new.has_heard().is_empty());
    assert_eq!(old.closed().await, 1000);
    let mut body = by_socket("id-only");
    body["id"] = json!(id);
    body["status"] = json!("off");
    assert_eq!(county.put("clinic", &format!("Subscription/{id}"), &body).await.status, 200);
    a_round(&county, "sr2").await;
    assert_eq!(new.closed().await, 1000);
    // It may become a rest-hook, and whoever can then sends.
    let mut hook = subscription(crate::gateway::HOOK);
    hook["id"] = json!(id);
    assert_eq!(county.put("clinic", &format!("Subscription/{id}"), &hook).await.status, 200);
    county.deliver_due().await;
    assert_eq!(status(&county, "clinic", &id).await, "active");
}

// S-040: the end comes, bound or not.
#[tokio::test]
async fn a_socket_does_not_put_off_the_end() {
    let county = TestGateway::county().await.settled().await;
    let mut body = by_socket("id-only");
    body["end"] = json!(county.clock.now().plus(Duration::from_secs(600)).to_string());
    let (bound, unbound) = (subscribed(&county, "clinic", &body).await, subscribed(&county, "clinic", &body).await);
    let (mut client, _) = Client::bound(&county, &county.gateway, "clinic", &bound).await;
    county.later(Duration::from_secs(600)).await;
    for id in [bound, unbound] {
        assert_eq!(status(&county, "clinic", &id).await, "off");
    }
    assert_eq!(client.closed().await, 1000);
}

// S-104, S-143: heartbeats where asked for, and XML where that is the payload.
#[tokio::test]
async fn a_socket_hears_heartbeats_and_xml() {
    let county = TestGateway::county().await.settled().await;
    let mut body = by_socket("full-resource");
    body["channel"]["payload"] = json!("application/fhir+xml");
    body["channel"]["extension"] =
        json!([{"url": format!("{BACKPORT}/backport-heartbeat-period"), "valueUnsignedInt": 60}]);
    subscribed(&county, "clinic", &body).await;
    let mut client = Client::connect(&county.gateway, "").await;
    client.say(&format!("bind-with-token {}", token(&county, "clinic", "").await));
    assert!(client.text().await.contains("<valueCode value=\"handshake\"/>"));
    county.later(Duration::from_secs(60)).await;
    let beat = client.text().await;
    assert!(beat.contains("?><Bundle") && beat.contains("<valueCode value=\"heartbeat\"/>"), "{beat}");
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    assert!(client.text().await.contains("<Task"));
}

// S-208: bind, bound, ping; for the partner that showed its token, and its own alone.
#[tokio::test]
async fn a_classic_socket_is_bound_and_pinged() {
    let county = TestGateway::county().await.settled().await;
    let mut body = by_socket("id-only");
    body["criteria"] = json!("Task?status=requested,accepted");
    let channel = body["channel"].as_object_mut().unwrap();
    channel.remove("_payload");
    channel.remove("payload");
    let id = subscribed(&county, "clinic", &body).await;
    let topical = subscribed(&county, "clinic", &by_socket("empty")).await;
    for (who, which) in [("", &id), ("agency", &id), ("clinic", &topical)] {
        let mut stranger = Client::connect(&county.gateway, who).await;
        stranger.say(&format!("bind {which}"));
        assert_eq!(stranger.hears().await["resourceType"], "OperationOutcome", "{who}");
    }
    let mut client = Client::connect(&county.gateway, "clinic").await;
    client.say(&format!("bind {id}"));
    assert_eq!(client.text().await, format!("bound {id}"));
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    assert_eq!(client.text().await, format!("ping {id}"));
    drop(client);
    county.refers("sr2", "housing-instability").await;
    county.deliver_due().await;
    assert_eq!(status(&county, "clinic", &id).await, "active", "no socket is no error");
}

// S-161: what was taken back meanwhile is a number and no more, whatever the content.
#[tokio::test]
async fn a_socket_tells_nothing_that_may_not_be_seen() {
    for content in ["id-only", "full-resource"] {
        let county = TestGateway::county().await.settled().await;
        let id = subscribed(&county, "agency", &by_socket(content)).await;
        let task = county.refers("sr1", "housing-instability").await;
        county.deliver_due().await;
        let relayed = county.relayed(&task).await.pop().unwrap();
        county.takes_back("agency", &relayed).await;
        let (mut client, _) = Client::bound(&county, &county.gateway, "agency", &id).await;
        county.deliver_due().await;
        let told = client.has_heard();
        assert!(!all_numbers(&told).is_empty());
        assert!(told.iter().all(|bundle| !bundle.to_string().contains(&relayed)), "{told:?}");
    }
}

// Frames, mistakes and sockets have bounds; what asks for no socket gets an answer.
#[tokio::test]
async fn sockets_have_bounds() {
    let county = TestGateway::county().await.settled().await;
    let id = subscribed(&county, "clinic", &by_socket("id-only")).await;
    let mut wrong = Client::connect(&county.gateway, "").await;
    for _ in 0..3 {
        wrong.say("bind-with-token nothing");
    }
    assert_eq!(wrong.closed().await, 1008);
    let long = Client::connect(&county.gateway, "").await;
    long.say(&"x".repeat(2_000));
    let mut heard = long.heard;
    assert!(!matches!(tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap(), Some(Message::Text(_))));
    let mut many = Vec::new();
    for _ in 0..16 {
        let more = subscribed(&county, "clinic", &by_socket("empty")).await;
        many.push(Client::bound(&county, &county.gateway, "clinic", &more).await.0);
    }
    let mut one_more = Client::connect(&county.gateway, "").await;
    one_more.say(&format!("bind-with-token {}", token(&county, "clinic", &format!("{id}/")).await));
    assert_eq!(one_more.hears().await["issue"][0]["code"], "throttled");
    let request = axum::http::Request::get("/websocket").body(axum::body::Body::empty()).unwrap();
    let answer = tower::ServiceExt::oneshot(county.gateway.router(), request).await.unwrap();
    assert_eq!(answer.status(), 400);
    let mut body = by_socket("id-only");
    body["channel"]["endpoint"] = json!("https://ehr.test/hook");
    let answer = county.post("clinic", "Subscription", &body).await;
    assert_eq!((answer.status, answer.expression()), (422, "Subscription.channel.endpoint"));
    let mut body = by_socket("id-only");
    body["channel"]["header"] = json!(["X-Place: here"]);
    let answer = county.post("clinic", "Subscription", &body).await;
    assert_eq!((answer.status, answer.expression()), (422, "Subscription.channel.header"));
}

// The gateway as it is served: its own listener and worker; when it stops, it says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_served_gateway_keeps_sockets_and_closes_them() {
    let county = TestGateway::county().await.settled().await;
    let id = subscribed(&county, "clinic", &by_socket("id-only")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(county.gateway.clone().serve(listener, stopped));
    let mut client = Client::at(at, "", true).await;
    client.say(&format!("bind-with-token {}", token(&county, "clinic", &format!("{id}/")).await));
    assert_eq!(says(&client.hears().await, "type"), "handshake");
    county.refers("sr1", "housing-instability").await;
    assert_eq!(numbers(&client.hears().await), [1]);
    stop.send(true).unwrap();
    assert_eq!(client.closed().await, 1001);
    serving.await.unwrap().unwrap();
}
