//! The outbox: nothing owed is lost, nothing is sent by two at once, and whoever lost its lease has no say.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use loopgate::store::{Busy, Claimed, Delivery, Kind, Outcome, Store};
use loopgate::time::Timestamp;
use tokio::task::JoinSet;

use crate::databases::Place;
use crate::on_both;

const LEASE: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);

async fn owe(store: &Store, subject: &str, partner: &str, due_at: Timestamp) {
    let mut tx = store.begin().await.unwrap();
    let delivery = Delivery {
        kind: Kind::Deliver,
        subject: subject.into(),
        partner: partner.into(),
        lane: format!("fhir:{partner}"),
        due_at,
    };
    tx.enqueue(&delivery).await.unwrap();
    tx.commit().await.unwrap();
}

async fn claim(store: &Store, now: Timestamp, most: usize, busy: &Busy) -> Vec<Claimed> {
    let mut tx = store.begin().await.unwrap();
    let claimed = tx.claim("here", now, LEASE, most, busy).await.unwrap();
    tx.commit().await.unwrap();
    claimed
}

async fn claim_one(place: &Place, store: &Store) -> Option<Claimed> {
    let mut claimed = claim(store, place.clock.now(), 9, &Busy::default()).await;
    assert!(claimed.len() < 2);
    claimed.pop()
}

async fn finish(store: &Store, claimed: &Claimed, outcome: &Outcome) -> bool {
    let mut tx = store.begin().await.unwrap();
    let ours = tx.finish(claimed, outcome).await.unwrap();
    tx.commit().await.unwrap();
    ours
}

async fn next_due(store: &Store) -> Option<Timestamp> {
    store.read().await.unwrap().next_due("here", &Busy::default()).await.unwrap()
}

on_both!(eight_workers_claim_two_hundred_deliveries_without_a_double, async |place: Place| {
    let store = place.store().await;
    let now = place.clock.now();
    let mut tx = store.begin().await.unwrap();
    for number in 0..200 {
        let subject = format!("t{number}");
        tx.enqueue(&Delivery {
            kind: Kind::Deliver,
            subject,
            partner: "pantry".into(),
            lane: "fhir:pantry".into(),
            due_at: now,
        })
        .await
        .unwrap();
    }
    tx.commit().await.unwrap();
    let (mut workers, all) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for number in 0..8 {
        // Half of them are of a second gateway, where a second gateway may be.
        let store = if number % 2 == 0 || place.is_sqlite() { store.clone() } else { place.open().await };
        let all = all.clone();
        workers.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claimed = claim(&store, now, 7, &Busy::default()).await;
                assert!(claimed.len() <= 7, "more than asked for");
                // What another one looks at is not seen for a moment.
                if claimed.is_empty() && all.load(Ordering::SeqCst) >= 200 {
                    return mine;
                }
                for one in &claimed {
                    assert!(finish(&store, one, &Outcome::Done).await);
                }
                all.fetch_add(claimed.len(), Ordering::SeqCst);
                mine.extend(claimed.into_iter().map(|one| one.subject));
            }
        });
    }
    let claimed = workers.join_all().await.concat();
    // Skipping what another one has locked, a worker may stop early, but never all of them.
    assert_eq!((claimed.len(), claimed.iter().collect::<HashSet<_>>().len()), (200, 200));
    assert_eq!(next_due(&store).await, None);
});

on_both!(what_is_not_due_is_not_claimed_and_the_oldest_goes_first, async |place: Place| {
    let store = place.store().await;
    let now = place.clock.now();
    owe(&store, "late", "pantry", now.plus(MINUTE)).await;
    owe(&store, "second", "pantry", now).await;
    owe(&store, "first", "pantry", now.minus(MINUTE)).await;
    let first = claim(&store, now, 1, &Busy::default()).await;
    assert_eq!(
        (first[0].subject.as_str(), first[0].kind, first[0].partner.as_str()),
        ("first", Kind::Deliver, "pantry")
    );
    assert_eq!(claim(&store, now, 9, &Busy::default()).await[0].subject, "second");
    assert!(claim(&store, now, 9, &Busy::default()).await.is_empty());
    assert_eq!(claim(&store, now.plus(Duration::from_secs(59)), 9, &Busy::default()).await, []);
    assert_eq!(claim(&store, now.plus(MINUTE), 9, &Busy::default()).await.len(), 3);
});

on_both!(a_lease_that_has_run_out_is_claimed_again_and_its_late_end_is_dropped, async |place: Place| {
    let store = place.store().await;
    owe(&store, "t1", "pantry", place.clock.now()).await;
    let slow = claim_one(&place, &store).await.unwrap();
    assert_eq!((slow.attempts, slow.repeated), (1, false));
    place.clock.advance(LEASE);
    let next = claim_one(&place, &store).await.unwrap();
    assert_eq!((next.attempts, next.repeated), (2, true));

    for outcome in [Outcome::Done, Outcome::Exhausted("late".into()), Outcome::Retry(Timestamp(0), "late".into())] {
        assert!(!finish(&store, &slow, &outcome).await);
    }
    let mut tx = store.begin().await.unwrap();
    tx.let_go(&slow, place.clock.now()).await.unwrap();
    assert!(!tx.holds(&slow).await.unwrap());
    assert!(tx.holds(&next).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(claim_one(&place, &store).await, None);
    assert!(finish(&store, &next, &Outcome::Done).await);
    let attempts = store.read().await.unwrap().attempts(Kind::Deliver, "t1").await.unwrap();
    assert_eq!(attempts.iter().map(|attempt| attempt.outcome.as_str()).collect::<Vec<_>>(), ["done"]);
    assert!(!finish(&store, &next, &Outcome::Done).await, "a second end of the same try");
});

on_both!(owed_again_while_it_is_sent_it_is_due_again_afterwards, async |place: Place| {
    let store = place.store().await;
    owe(&store, "t1", "pantry", place.clock.now()).await;
    for outcome in [Outcome::Done, Outcome::Exhausted("no".into()), Outcome::Again(place.clock.now().plus(MINUTE))] {
        let claimed = claim_one(&place, &store).await.unwrap();
        assert_eq!(claimed.attempts, 1, "counted from the last end");
        owe(&store, "t1", "pantry", place.clock.now()).await;
        assert_eq!(claim_one(&place, &store).await, None, "while somebody has it");
        assert!(finish(&store, &claimed, &outcome).await);
    }
    let last = claim_one(&place, &store).await.unwrap();
    assert!(finish(&store, &last, &Outcome::Done).await);
    assert_eq!(claim_one(&place, &store).await, None);
    let counts = store.read().await.unwrap().delivery_counts().await.unwrap();
    assert_eq!(counts, [("deliver".to_string(), "done".to_string(), 1)]);
});

on_both!(what_owes_itself_again_comes_when_it_says, async |place: Place| {
    let store = place.store().await;
    let now = place.clock.now();
    owe(&store, "t1", "pantry", now).await;
    for others in [0, 1] {
        let claimed = claim_one(&place, &store).await.unwrap();
        for _ in 0..others {
            owe(&store, "t1", "pantry", now).await;
        }
        let mut tx = store.begin().await.unwrap();
        let lane = "fhir:pantry".to_string();
        let (kind, subject, partner) = (Kind::Deliver, "t1".to_string(), "pantry".to_string());
        tx.enqueue(&Delivery { kind, subject, partner, lane, due_at: now }).await.unwrap();
        assert!(tx.finish(&claimed, &Outcome::Again(now.plus(MINUTE))).await.unwrap());
        tx.commit().await.unwrap();
        if others == 0 {
            assert_eq!(claim_one(&place, &store).await, None, "a minute later, and no sooner");
            place.clock.advance(MINUTE);
        } else {
            assert!(claim_one(&place, &store).await.is_some(), "somebody else has owed it meanwhile");
        }
    }
});

on_both!(owed_twice_is_one_delivery_at_the_earlier_time, async |place: Place| {
    let store = place.store().await;
    let now = place.clock.now();
    owe(&store, "t1", "pantry", now.plus(MINUTE)).await;
    owe(&store, "t1", "pantry", now.plus(MINUTE).plus(MINUTE)).await;
    assert_eq!(next_due(&store).await, Some(now.plus(MINUTE)));
    owe(&store, "t1", "pantry", now).await;
    assert_eq!(next_due(&store).await, Some(now));
    assert!(claim_one(&place, &store).await.is_some());
});

// A notification that our own trouble broke off was no failed try, and says nothing of the subscriber; a POST of a Task may
// have arrived.
on_both!(what_was_let_go_or_lost_counts_against_no_subscriber, async |place: Place| {
    let store = place.store().await;
    for (kind, expected) in [(Kind::Notify, (1, false)), (Kind::Deliver, (2, true))] {
        let (subject, partner, lane) = ("t1".to_string(), "pantry".to_string(), "a:b".to_string());
        let mut tx = store.begin().await.unwrap();
        tx.enqueue(&Delivery { kind, subject, partner, lane, due_at: place.clock.now() }).await.unwrap();
        tx.commit().await.unwrap();
        let first = claim_one(&place, &store).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        tx.let_go(&first, place.clock.now().plus(MINUTE)).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(claim_one(&place, &store).await, None);
        place.clock.advance(MINUTE);
        let second = claim_one(&place, &store).await.unwrap();
        assert_eq!((second.attempts, second.repeated), expected);
        place.clock.advance(LEASE);
        let third = claim_one(&place, &store).await.unwrap();
        assert_eq!((third.attempts, third.repeated), expected, "a lost worker");
        assert!(finish(&store, &third, &Outcome::Done).await);
    }
});

on_both!(what_failed_for_good_is_owed_afresh_but_known_to_have_been_tried, async |place: Place| {
    let store = place.store().await;
    owe(&store, "t1", "pantry", place.clock.now()).await;
    let claimed = claim_one(&place, &store).await.unwrap();
    finish(&store, &claimed, &Outcome::Exhausted("no answer".into())).await;
    assert_eq!(next_due(&store).await, None);
    owe(&store, "t1", "pantry", place.clock.now()).await;
    let claimed = claim_one(&place, &store).await.unwrap();
    assert_eq!((claimed.attempts, claimed.repeated), (1, true));
    finish(&store, &claimed, &Outcome::Done).await;
    owe(&store, "t1", "pantry", place.clock.now()).await;
    assert!(!claim_one(&place, &store).await.unwrap().repeated);
});

on_both!(busy_partners_are_left_out, async |place: Place| {
    let store = place.store().await;
    let now = place.clock.now();
    for partner in ["a", "b", "c"] {
        owe(&store, &format!("for {partner}"), partner, now).await;
    }
    let claimed = claim(&store, now, 9, &Busy { full: vec!["a".into(), "c".into()], ..Busy::default() }).await;
    assert_eq!(claimed.iter().map(|one| one.partner.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(claim(&store, now, 9, &Busy::default()).await.len(), 2);
});

// S-106: a claim brings no more of a lane and of a partner than there is room for, the oldest first; nobody is hidden.
on_both!(a_claim_takes_what_there_is_room_for, async |place: Place| {
    let store = place.store().await;
    let now = place.clock.now();
    for number in 0..20 {
        owe(&store, &format!("a{number:02}"), "a", now.plus(Duration::from_micros(number))).await;
    }
    owe(&store, "b", "b", now.plus(Duration::from_secs(1))).await;
    let now = now.plus(Duration::from_secs(2));
    let subjects = async |busy: Busy| {
        let mut subjects: Vec<String> = claim(&store, now, 9, &busy).await.into_iter().map(|one| one.subject).collect();
        subjects.sort();
        subjects
    };
    assert_eq!(subjects(Busy { per_lane: 3, ..Busy::default() }).await, ["a00", "a01", "a02", "b"]);
    assert_eq!(subjects(Busy { per_partner: 1, ..Busy::default() }).await, ["a03"]);
    assert_eq!(subjects(Busy { full: vec!["fhir:a".into()], ..Busy::default() }).await, [""; 0]);
    assert_eq!(subjects(Busy::default()).await.len(), 9, "no more than was asked for");
});

on_both!(the_next_time_to_look_is_the_next_due_or_the_end_of_a_lease, async |place: Place| {
    let store = place.store().await;
    let now = place.clock.now();
    assert_eq!(next_due(&store).await, None);
    owe(&store, "t1", "pantry", now).await;
    owe(&store, "t2", "pantry", now.plus(Duration::from_secs(90))).await;
    assert_eq!(next_due(&store).await, Some(now));
    let claimed = claim_one(&place, &store).await.unwrap();
    assert_eq!(next_due(&store).await, Some(now.plus(LEASE)));
    finish(&store, &claimed, &Outcome::Retry(now.plus(Duration::from_secs(300)), "503".into())).await;
    assert_eq!(next_due(&store).await, Some(now.plus(Duration::from_secs(90))));
});

on_both!(the_last_hundred_tries_are_shown_oldest_first, async |place: Place| {
    let store = place.store().await;
    owe(&store, "t1", "pantry", place.clock.now()).await;
    for number in 0..105 {
        let claimed = claim_one(&place, &store).await.unwrap();
        assert_eq!(claimed.attempts, number + 1);
        finish(&store, &claimed, &Outcome::Retry(place.clock.now(), number.to_string())).await;
    }
    let attempts = store.read().await.unwrap().attempts(Kind::Deliver, "t1").await.unwrap();
    let expected: Vec<String> = (5..105).map(|number| number.to_string()).collect();
    assert_eq!(attempts.iter().flat_map(|attempt| attempt.detail.clone()).collect::<Vec<_>>(), expected);
    assert!(
        attempts.iter().all(|attempt| attempt.outcome == "retry") && attempts.is_sorted_by_key(|attempt| attempt.at)
    );
    // A quiet poll is no news.
    let claimed = claim_one(&place, &store).await.unwrap();
    finish(&store, &claimed, &Outcome::Again(place.clock.now())).await;
    assert_eq!(store.read().await.unwrap().attempts(Kind::Deliver, "t1").await.unwrap(), attempts);
    assert_eq!(claim_one(&place, &store).await.unwrap().attempts, 1);
});

on_both!(old_tries_are_forgotten_and_what_is_owed_stays, async |place: Place| {
    let store = place.store().await;
    owe(&store, "t1", "cbo", place.clock.now()).await;
    for _ in 0..3 {
        let claimed = claim_one(&place, &store).await.unwrap();
        assert!(finish(&store, &claimed, &Outcome::Retry(place.clock.now(), "x".into())).await);
        place.clock.advance(MINUTE);
    }
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.forget_attempts(place.clock.now().minus(MINUTE + MINUTE)).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(store.read().await.unwrap().attempts(Kind::Deliver, "t1").await.unwrap().len(), 2);
    assert!(claim_one(&place, &store).await.unwrap().repeated);
});

on_both!(what_a_rolled_back_transaction_owed_is_not_owed, async |place: Place| {
    let store = place.store().await;
    let mut tx = store.begin().await.unwrap();
    let delivery = Delivery {
        kind: Kind::Poll,
        subject: "clinic".into(),
        partner: "clinic".into(),
        lane: "fhir:clinic".into(),
        due_at: place.clock.now(),
    };
    tx.enqueue(&delivery).await.unwrap();
    drop(tx);
    assert_eq!(claim_one(&place, &store).await, None);
});
