//! What operators and subscribers do to Subscriptions, and what may not be seen any more, on every channel: what holds for a
//! rest-hook holds for sockets, mails and text messages.

use std::time::Duration;

use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{TestGateway, county as partners};
use crate::notifications::{numbers, up_to};
use crate::sockets::{Client, a_round, all_numbers, by_socket, stands};
use crate::{mailing, on_both, sockets, texting};

async fn operation(county: &TestGateway, who: &str, id: &str, name: &str) {
    let path = format!("Subscription/{id}/${name}");
    let answer = county.post(who, &path, &json!({"resourceType": "Parameters"})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

async fn kept(county: &TestGateway, id: &str) -> Vec<i64> {
    numbers(&county.get("clinic", &format!("Subscription/{id}/$events")).await.body)
}

// S-184: held, let go and asked for again, over a socket.
#[tokio::test]
async fn a_socket_is_held_let_go_and_told_again() {
    let county = TestGateway::county().await.settled().await;
    let id = sockets::subscribed(&county, "clinic", &by_socket("id-only")).await;
    let (mut client, _) = Client::bound(&county, &county.gateway, "clinic", &id).await;
    operation(&county, "root", &id, "pause").await;
    a_round(&county, "sr1").await;
    assert!(client.has_heard().is_empty());
    operation(&county, "root", &id, "resume").await;
    county.deliver_due().await;
    let all = kept(&county, &id).await;
    assert_eq!((all_numbers(&client.has_heard()), &all), (all.clone(), &up_to(all.len() as i64)));
    operation(&county, "clinic", &id, "resend?eventsSinceNumber=2").await;
    a_round(&county, "sr2").await;
    let told = all_numbers(&client.has_heard());
    assert_eq!(
        told,
        (2..=all.len() as i64).chain(all.len() as i64 + 1..=kept(&county, &id).await.len() as i64).collect::<Vec<_>>()
    );
}

// S-184: the same by mail.
#[tokio::test]
async fn mails_are_held_let_go_and_sent_again() {
    let (county, server) = mailing::county().await;
    let id = mailing::subscribed(&county, &mailing::by_mail(mailing::TO)).await;
    operation(&county, "root", &id, "pause").await;
    a_round(&county, "sr1").await;
    assert_eq!(server.taken().len(), 1, "the first mail, which says that mails will come");
    operation(&county, "root", &id, "resume").await;
    county.deliver_due().await;
    let all = kept(&county, &id).await;
    assert_eq!(mailing::numbers(&server.taken()), all);
    operation(&county, "clinic", &id, "resend?eventsUntilNumber=2").await;
    county.deliver_due().await;
    assert_eq!(mailing::numbers(&server.taken()), all.iter().copied().chain(1..=2).collect::<Vec<_>>());
}

// S-184: the same by text message, each time under an id of its own.
#[tokio::test]
async fn messages_are_held_let_go_and_sent_again() {
    let county = texting::county().await;
    let id = texting::subscribed(&county).await;
    let ids = || -> Vec<Value> { county.world.heard(texting::SENDER).iter().map(|one| one["id"].clone()).collect() };
    operation(&county, "root", &id, "pause").await;
    a_round(&county, "sr1").await;
    assert_eq!(ids().len(), 1);
    operation(&county, "root", &id, "resume").await;
    county.deliver_due().await;
    let last = kept(&county, &id).await.len();
    assert_eq!(ids()[1..], [json!(format!("{id}-event-{last}"))]);
    operation(&county, "clinic", &id, "resend").await;
    county.deliver_due().await;
    assert_eq!(ids()[2..], [json!(format!("{id}-again-{last}"))]);
}

/// A referral whose source loses its grant before what waits is let go.
async fn taken_back(county: &TestGateway, id: &str, request: &str) -> String {
    operation(county, "root", id, "pause").await;
    let task = a_round(county, request).await;
    let mut tx = county.store().await.begin().await.unwrap();
    let text = format!("update resource_grant set ended = 1 where partner = 'clinic' and id = '{task}'");
    assert!(tx.run(text, Vec::new()).await.unwrap() > 0);
    tx.commit().await.unwrap();
    operation(county, "root", id, "resume").await;
    county.deliver_due().await;
    task
}

// S-153, S-161, D11: people get no mail or message about what they may not see any more, not even that there was something;
// the numbers go on, and what comes after is told.
#[tokio::test]
async fn what_may_not_be_seen_is_not_mailed_or_texted() {
    let (county, server) = mailing::county().await;
    let id = mailing::subscribed(&county, &mailing::by_mail(mailing::TO)).await;
    let task = taken_back(&county, &id, "sr1").await;
    assert_eq!(server.taken().len(), 1, "{:?}", server.taken());
    let hidden = kept(&county, &id).await.len() as i64;
    a_round(&county, "sr2").await;
    let mails = server.taken();
    assert!(mails.len() > 1 && mails.iter().all(|mail| !mail.contains(&task)));
    assert_eq!(mailing::numbers(&mails), (hidden + 1..=kept(&county, &id).await.len() as i64).collect::<Vec<_>>());

    let county = texting::county().await;
    let id = texting::subscribed(&county).await;
    taken_back(&county, &id, "sr1").await;
    assert_eq!(county.world.heard(texting::SENDER).len(), 1);
    a_round(&county, "sr2").await;
    assert!(county.world.heard(texting::SENDER).len() > 1);
}

// A gateway dies with a socket: what is bound to it is its alone until the binding ends, and then it is bound to nothing.
on_both!(a_binding_outlives_its_gateway_for_its_time_only, async |place: Place| {
    let county = TestGateway::with(place, &partners()).await.settled().await;
    let other = county.another().await;
    let id = sockets::subscribed(&county, "clinic", &by_socket("id-only")).await;
    let (_client, _) = Client::bound(&county, &other, "clinic", &id).await;
    drop(other);
    a_round(&county, "sr1").await;
    county.later(Duration::from_secs(29 * 60)).await;
    assert_eq!(stands(&county, &id, "bound").await, true);
    assert_eq!(stands(&county, &id, "tries").await, 0, "nobody else tries");
    county.later(Duration::from_secs(2 * 60)).await;
    assert_eq!(stands(&county, &id, "bound").await, false);
    let (mut client, _) = Client::bound(&county, &county.gateway, "clinic", &id).await;
    county.deliver_due().await;
    assert_eq!(all_numbers(&client.has_heard()), kept(&county, &id).await);
});
