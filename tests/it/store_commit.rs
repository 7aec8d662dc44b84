//! Transactions: all or nothing, durable when `commit` returns, seen by nobody before, and none in another's way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use loopgate::error::Kind;
use loopgate::store::{Arg, Store, Tx};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::databases::Place;
use crate::on_both;
use crate::store::{OWN, insert, task, task_key};

async fn put(tx: &mut Tx, id: &str) {
    tx.insert_resource(task("requested"), id, "clinic", "POST", OWN).await.unwrap();
}

/// The ids that are there.
async fn ids(store: &Store) -> Vec<String> {
    let rows = store.read().await.unwrap().all("select id from resource", Vec::new()).await.unwrap();
    let mut ids: Vec<String> = rows.iter().map(|row| row.text(0).unwrap()).collect();
    ids.sort_unstable();
    ids
}

on_both!(a_dropped_transaction_leaves_nothing, async |place: Place| {
    let store = place.store().await;
    let mut tx = store.begin().await.unwrap();
    put(&mut tx, "t1").await;
    drop(tx);
    assert_eq!(ids(&store).await, [""; 0]);
    insert(&store, "t1", task("draft")).await;
    assert_eq!(ids(&store).await, ["t1"]);
});

on_both!(readers_see_only_what_is_committed, async |place: Place| {
    let store = place.store().await;
    let mut tx = store.begin().await.unwrap();
    put(&mut tx, "t1").await;
    assert!(tx.resource(&task_key("t1")).await.unwrap().is_some());
    assert_eq!(ids(&store).await, [""; 0]);
    tx.commit().await.unwrap();
    assert_eq!(ids(&store).await, ["t1"]);
});

on_both!(in_a_crowd_the_committed_are_all_there_and_the_dropped_are_not, async |place: Place| {
    let store = place.store().await;
    let start = Arc::new(Barrier::new(90));
    let mut crowd = JoinSet::new();
    for number in 0..90 {
        let (store, start) = (store.clone(), start.clone());
        crowd.spawn(async move {
            start.wait().await;
            let mut tx = store.begin().await.unwrap();
            put(&mut tx, &format!("t{number:02}")).await;
            match number % 3 {
                0 => drop(tx),
                1 => tx.commit().await.unwrap(),
                _ => {
                    // A fault of its own must not become its neighbours'.
                    let _ = tx.insert_resource(task("x"), &format!("t{number:02}"), "clinic", "POST", OWN).await;
                    assert_eq!(tx.commit().await.unwrap_err().kind, Kind::Conflict);
                }
            }
        });
    }
    crowd.join_all().await;
    let expected: Vec<String> =
        (0..90).filter(|number| number % 3 == 1).map(|number| format!("t{number:02}")).collect();
    assert_eq!(ids(&store).await, expected);
});

on_both!(after_an_error_a_transaction_can_not_be_committed_and_the_next_one_can, async |place: Place| {
    let store = place.store().await;
    insert(&store, "t1", task("requested")).await;
    for round in 0..3 {
        let mut tx = store.begin().await.unwrap();
        put(&mut tx, &format!("before{round}")).await;
        let taken = "insert into resource (type, id, number, version, updated, created, author, deleted)
            values ('Task', 't1', 0, 1, 0, 0, 'clinic', 0)";
        assert_eq!(tx.run(taken, Vec::new()).await.unwrap_err().kind, Kind::Conflict);
        assert_eq!(tx.resource(&task_key("t1")).await.unwrap_err().kind, Kind::Conflict);
        assert_eq!(tx.commit().await.unwrap_err().kind, Kind::Conflict);
        insert(&store, &format!("next{round}"), task("draft")).await;
    }
    assert_eq!(ids(&store).await, ["next0", "next1", "next2", "t1"]);
});

/// A commit's last frame in the log says how large the database is now; the other frames say zero there.
fn commits_in_log(place: &Place) -> usize {
    let log = std::fs::read(place.folder().unwrap().join("gateway.db-wal")).unwrap();
    let page = usize::try_from(u32::from_be_bytes(log[8..12].try_into().unwrap())).unwrap();
    let frames = log[32..].chunks_exact(24 + page);
    frames.filter(|frame| frame[8..16] == log[16..24] && frame[4..8] != [0; 4]).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_transactions_are_in_the_file_after_fewer_commits() {
    let place = Place::sqlite();
    let store = place.store().await;
    let before = commits_in_log(&place);
    let start = Arc::new(Barrier::new(200));
    let mut crowd = JoinSet::new();
    for number in 0..200 {
        let (store, start) = (store.clone(), start.clone());
        crowd.spawn(async move {
            start.wait().await;
            insert(&store, &format!("t{number:03}"), task("requested")).await;
        });
    }
    crowd.join_all().await;
    // The files as a crash would leave them now.
    let crashed = tempfile::tempdir().unwrap();
    for name in ["gateway.db", "gateway.db-wal"] {
        std::fs::copy(place.folder().unwrap().join(name), crashed.path().join(name)).unwrap();
    }
    let url = format!("sqlite://{}", crashed.path().join("gateway.db").display());
    let restarted = Store::open(&url, place.clock.clone()).await.unwrap();
    assert_eq!(ids(&restarted).await.len(), 200);
    let commits = commits_in_log(&place) - before;
    assert!((4..100).contains(&commits), "{commits} commits for 200 transactions");
}

/// Goes on as long as it is woken so often, then is given up.
struct GivenUp<F> {
    work: Pin<Box<F>>,
    wakes: usize,
}

impl<F: Future> Future for GivenUp<F> {
    type Output = Option<F::Output>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.wakes == 0 {
            return Poll::Ready(None);
        }
        self.wakes -= 1;
        self.work.as_mut().poll(context).map(Some)
    }
}

/// Looks at it once; nothing when it has to wait, and then it is given up.
async fn at_once<F: Future>(work: F) -> Option<F::Output> {
    let mut work = Box::pin(work);
    std::future::poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(8), work).await.expect("nobody should wait for ever")
}

on_both!(a_caller_that_gives_up_at_any_moment_harms_nobody, async |place: Place| {
    let store = place.store().await;
    let (mut rounds, mut given_up, mut sweeps) = (0, 0, 0);
    // How often it wakes before it is done depends on the machine; swept until enough moments were met.
    while sweeps < 5 || given_up <= 15 {
        sweeps += 1;
        assert!(sweeps < 200, "{given_up} moments are too few to be all");
        let (mut wakes, mut finished) = (0, 0);
        while finished < 3 {
            (rounds, wakes) = (rounds + 1, wakes + 1);
            let mut neighbour = store.begin().await.unwrap();
            put(&mut neighbour, &format!("a{rounds:03}")).await;
            let work = async {
                let mut tx = store.begin().await.unwrap();
                put(&mut tx, &format!("b{rounds:03}")).await;
                put(&mut tx, &format!("c{rounds:03}")).await;
                tx.commit().await.unwrap();
            };
            // Dropped as soon as it is given up, not when its neighbour is done. On SQLite the neighbour leaves its
            // commit to it.
            let work = async { GivenUp { work: Box::pin(work), wakes }.await.is_some() };
            let (done, committed) = in_time(async { tokio::join!(work, neighbour.commit()) }).await;
            committed.unwrap();
            finished += usize::from(done);
            given_up += usize::from(!done);
            in_time(insert(&store, &format!("d{rounds:03}"), task("draft"))).await;
        }
    }
    let ids = ids(&store).await;
    let of = |letter: char| -> Vec<String> {
        ids.iter().filter(|id| id.starts_with(letter)).map(|id| id[1..].to_string()).collect()
    };
    assert_eq!((of('a').len(), of('d').len()), (rounds, rounds));
    assert_eq!(of('b'), of('c'), "half a transaction was stored");
    assert!(of('b').len() >= 15);
});

on_both!(a_commit_that_nobody_waits_for_is_still_made, async |place: Place| {
    let store = place.store().await;
    for number in 0..20 {
        let mut tx = store.begin().await.unwrap();
        put(&mut tx, &format!("t{number:02}")).await;
        drop(at_once(tx.commit()).await);
    }
    in_time(async {
        while ids(&store).await.len() < 20 {
            tokio::task::yield_now().await;
        }
    })
    .await;
});

on_both!(a_statement_that_was_given_up_spoils_its_transaction_and_no_other, async |place: Place| {
    let store = place.store().await;
    let mut tx = loop {
        let mut tx = store.begin().await.unwrap();
        put(&mut tx, "t1").await;
        if at_once(tx.referral("r1")).await.is_none() {
            break tx;
        }
        if place.is_sqlite() {
            // Done on the spot: there is no moment at which it could be given up.
            drop(tx);
            assert_eq!(ids(&store).await, [""; 0]);
            return;
        }
    };
    assert_eq!(tx.resource(&task_key("t2")).await.unwrap_err().kind, Kind::Unavailable);
    assert_eq!(tx.commit().await.unwrap_err().kind, Kind::Unavailable);
    in_time(insert(&store, "t2", task("draft"))).await;
    assert_eq!(ids(&store).await, ["t2"]);
});

on_both!(stamps_rise_though_the_clock_stands_still, async |place: Place| {
    let store = place.store().await;
    let mut last = store.newest();
    for number in 0..5 {
        let stamp = insert(&store, &format!("t{number}"), task("draft")).await.updated;
        assert!(stamp > last && store.newest() == stamp);
        last = stamp;
    }
});

on_both!(the_horizon_never_passes_what_is_not_visible_yet, async |place: Place| {
    let store = place.store().await;
    insert(&store, "t1", task("draft")).await;
    let mut tx = store.begin().await.unwrap();
    put(&mut tx, "t2").await;
    place.clock.advance(Duration::from_secs(3));
    assert!(store.horizon() < tx.stamp());
    let stamp = tx.stamp();
    tx.commit().await.unwrap();
    // It moves on when the transaction has ended, at once where nobody else writes.
    place.clock.advance(Duration::from_secs(11));
    assert!(store.horizon() >= stamp);
    if place.is_sqlite() {
        assert_eq!(store.horizon(), place.clock.now());
    }
    // What is stamped from now on lies beyond what was promised, though the clock stands still.
    let promised = store.horizon();
    assert!(insert(&store, "t3", task("draft")).await.updated > promised);
});

#[tokio::test(flavor = "multi_thread")]
async fn a_poller_that_goes_on_from_the_horizon_misses_nothing() {
    let place = Place::sqlite();
    let store = place.store().await;
    let mut crowd = JoinSet::new();
    for writer in 0..8 {
        let store = store.clone();
        crowd.spawn(async move {
            for number in 0..25 {
                let mut tx = store.begin().await.unwrap();
                put(&mut tx, &format!("t{writer}-{number}")).await;
                match number % 5 {
                    0 => drop(tx),
                    1 => drop(at_once(tx.commit()).await),
                    _ => tx.commit().await.unwrap(),
                }
            }
        });
    }
    let mut seen = Vec::new();
    let mut from = 0;
    let mut quiet = false;
    loop {
        let horizon = store.horizon();
        let mut reader = store.read().await.unwrap();
        let text = "select id, updated from resource where updated > $1";
        for row in reader.all(text, vec![Arg::from(from)]).await.unwrap() {
            if row.int(1).unwrap() <= horizon.0 {
                seen.push(row.text(0).unwrap());
            }
        }
        from = horizon.0;
        if quiet {
            break;
        }
        quiet = crowd.is_empty();
        while crowd.try_join_next().is_some_and(|result| result.is_ok()) {}
        if quiet {
            // Waits for commits that nobody waited for.
            insert(&store, "last", task("draft")).await;
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, ids(&store).await);
}

on_both!(a_transaction_that_takes_too_long_is_refused_where_others_rely_on_it, async |place: Place| {
    let store = place.store().await;
    let mut tx = store.begin().await.unwrap();
    put(&mut tx, "t1").await;
    place.clock.advance(Duration::from_secs(6));
    let result = tx.commit().await;
    if place.is_sqlite() {
        result.unwrap();
    } else {
        assert_eq!(result.unwrap_err().kind, Kind::Unavailable);
        assert_eq!(ids(&store).await, [""; 0]);
    }
    insert(&store, "t2", task("draft")).await;
});
