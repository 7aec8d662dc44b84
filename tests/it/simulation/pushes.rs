//! What the pantry's server tells over our Subscription: in time, late, twice, or not at all.

use super::*;

impl Simulation {
    /// Its server counts an event for each, and has one notification more to send; some are lost.
    pub(super) fn pantry_has_news(&mut self) {
        for (id, status, secret) in self.ours_at_the_pantry() {
            if status != "active" {
                continue;
            }
            let count = self.counted.entry(id.clone()).or_default();
            *count += 1;
            let count = *count;
            if self.dice.one_in(4) {
                self.did("a notification is lost", format!("{count} of {id}"));
            } else {
                self.under_way.push((secret, notification("event-notification", count)));
            }
        }
    }

    /// What is under way arrives, in some order; a Subscription that is new is shaken hands about first.
    pub(super) async fn pantry_tells(&mut self) {
        for (id, status, secret) in self.ours_at_the_pantry() {
            if status == "requested" && !self.dice.one_in(4) {
                self.county.world.at(PANTRY, |pantry| {
                    pantry.update("Subscription", &id, |one| one["status"] = json!("active"));
                });
                let count = *self.counted.entry(id.clone()).or_default();
                self.tells(&secret, &notification("handshake", count)).await;
            }
        }
        let mut all = std::mem::take(&mut self.under_way);
        if self.dice.one_in(3) {
            all.reverse();
        }
        for (secret, body) in all {
            self.tells(&secret, &body).await;
        }
    }

    /// Something arrives once more.
    pub(super) async fn tells_twice(&mut self) {
        let Some((secret, body)) = self.dice.of(&self.under_way) else { return };
        self.tells(&secret, &body).await;
    }

    pub(super) async fn tells(&mut self, secret: &str, body: &Value) {
        let request = axum::http::Request::post("/hooks/pantry").header("authorization", secret);
        let request = request.header("content-type", "application/fhir+json");
        let request = request.body(axum::body::Body::from(body.to_string())).unwrap();
        let answer = tower::ServiceExt::oneshot(self.county.gateway.router(), request).await.unwrap();
        let kind = body["entry"][0]["resource"]["parameter"][1]["valueCode"].clone();
        self.did("pantry tells", format!("{kind}: {}", answer.status()));
        assert!(answer.status().as_u16() == 200, "a notification was answered {}", answer.status());
    }

    /// Its server is set up anew, and our Subscription was not in what was kept.
    pub(super) fn pantry_loses_our_subscription(&mut self) {
        let all = self.ours_at_the_pantry();
        let Some((id, ..)) = self.dice.of(&all) else { return };
        self.county.world.at(PANTRY, |pantry| pantry.erase("Subscription", &id));
        self.did("pantry loses our Subscription", id);
    }
}

/// A notification with this number.
fn notification(kind: &str, number: u64) -> Value {
    let mut list = vec![
        json!({"name": "status", "valueCode": "active"}),
        json!({"name": "type", "valueCode": kind}),
        json!({"name": "events-since-subscription-start", "valueString": number.to_string()}),
    ];
    if kind == "event-notification" {
        let part = json!([{"name": "event-number", "valueString": number.to_string()}]);
        list.push(json!({"name": "notification-event", "part": part}));
    }
    json!({"resourceType": "Bundle", "type": "history", "entry": [{"resource": {"resourceType": "Parameters", "parameter": list}}]})
}
