//! Rounds that are interrupted, take long, or meet a clock that is wrong: they go on where they were, and nothing is missed.

use super::*;

/// What the pantry was asked for of a search with pages: the offsets, in order.
pub fn offsets(county: &TestGateway, since: usize) -> Vec<usize> {
    let pages = asked(county, PANTRY, since)
        .into_iter()
        .filter(|one| one.starts_with("GET /Task?requester=") || one.contains("_getpages="));
    pages
        .map(|one| one.split_once("_offset=").map_or(0, |(_, rest)| rest.split('&').next().unwrap().parse().unwrap()))
        .collect()
}

/// So many Tasks at the pantry, all accepted since it was last asked, and one to a page.
async fn away(county: &TestGateway, many: usize) -> Vec<(String, String)> {
    let list = referred(county, many).await;
    county.later(HOUR).await;
    county.later(HOUR).await;
    county.clock.advance(secs(10));
    county.world.tell_time(&county.clock.now().to_string());
    county.world.at(PANTRY, |pantry| pantry.set_page_size(1));
    list.iter().for_each(|(id, _)| sets(county, id, "accepted"));
    list
}

// A round that takes longer than a try may last goes on where it was, at once, however slow the server is.
on_both!(a_long_round_goes_on_where_it_was, async |place: Place| {
    const MANY: usize = 40;
    let county = TestGateway::with(place, &partners()).await.settled().await;
    let list = away(&county, MANY).await;
    let before = count(&county);
    // Fifteen seconds a page, and each fourth answer is lost: no try of ten minutes could read it from the beginning.
    county.world.slow(PANTRY, &county.clock);
    county.later(HOUR).await;
    for _ in 0..400 {
        if offsets(&county, before).contains(&(MANY - 1)) {
            break;
        }
        county.later(secs(5)).await;
    }
    let pages = offsets(&county, before);
    assert!(pages.contains(&(MANY - 1)), "it never came to its end: {pages:?}");
    let first = pages.iter().filter(|offset| **offset == 0).count();
    assert!(first <= 2, "it began anew {first} times: {pages:?}");
    let again = pages.len() - MANY;
    assert!(again <= MANY, "{again} pages were asked for again: {pages:?}");
    for _ in 0..30 {
        county.later(secs(600)).await;
    }
    for (_, task) in &list {
        assert_eq!(county.status(task).await, "in-progress");
    }
});

// The process is ended in the middle of a round, as by `kill -9`: what was taken in is not asked for again.
on_both!(a_round_outlives_the_process, async |place: Place| {
    let mut county = TestGateway::with(place, &partners()).await.settled().await;
    let list = away(&county, 12).await;
    let before = count(&county);
    county.world.fault(PANTRY, &[Fault::None, Fault::None, Fault::None, Fault::None, Fault::Hang]);
    {
        let claimed = {
            county.clock.advance(HOUR);
            county.world.tell_time(&county.clock.now().to_string());
            let all = county.gateway.app.claim(64, &loopgate::app::Busy::default()).await.unwrap();
            all.into_iter().find(|one| one.subject == "pantry" && one.kind == loopgate::app::Owed::Poll).unwrap()
        };
        let mut attending = std::pin::pin!(county.worker().attend(&claimed));
        std::future::poll_fn(|context| {
            assert!(attending.as_mut().poll(context).is_pending(), "it was not cut off");
            match offsets(&county, before).len() {
                0..5 => std::task::Poll::Pending,
                _ => std::task::Poll::Ready(()),
            }
        })
        .await;
    }
    county.restart().await;
    let before = count(&county);
    county.later(secs(60)).await;
    for (_, task) in &list {
        assert_eq!(county.status(task).await, "in-progress");
    }
    assert_eq!(offsets(&county, before), (4..12).collect::<Vec<usize>>());
});

// The place where a round goes on may be forgotten there, or never be answered again: then it begins anew, and nothing is
// lost.
#[tokio::test]
async fn a_place_that_is_forgotten_there_is_begun_anew() {
    for (statuses, tries) in [(vec![410], 1), (vec![404], 1), (vec![500; 3], 3), (vec![401; 3], 3)] {
        let county = TestGateway::county().await.settled().await;
        let list = away(&county, 6).await;
        county.world.fault(PANTRY, &[Fault::None, Fault::None, Fault::LoseAnswer]);
        county.later(HOUR).await;
        let before = count(&county);
        county.world.refuse(PANTRY, "GET", "Task?_getpages", &statuses);
        for _ in 0..tries {
            county.later(secs(600)).await;
        }
        let pages = offsets(&county, before);
        assert!(pages.iter().all(|offset| *offset == pages[0]) && pages[0] > 0, "{statuses:?}: {pages:?}");
        county.later(secs(600)).await;
        for (_, task) in &list {
            assert_eq!(county.status(task).await, "in-progress", "{statuses:?}");
        }
        assert!(offsets(&county, before).contains(&0), "{statuses:?}");
        // And it is over: the next round is one question.
        let before = count(&county);
        county.later(HOUR).await;
        assert_eq!(offsets(&county, before), [0], "{statuses:?}");
    }
}

// A server's clock that was ahead is set right: what changed since is older than what it was last asked for.
#[tokio::test]
async fn a_clock_that_is_set_back_hides_nothing() {
    let county = TestGateway::county().await.settled().await;
    county.world.ahead(PANTRY, 3 * 3_600);
    let list = referred(&county, 2).await;
    county.later(HOUR).await;
    county.world.ahead(PANTRY, 0);
    county.later(secs(600)).await;
    sets(&county, &list[0].0, "accepted");
    county.later(HOUR).await;
    assert_eq!(county.status(&list[0].1).await, "in-progress", "by the next round");
    sets(&county, &list[1].0, "accepted");
    county.later(HOUR).await;
    assert_eq!(county.status(&list[1].1).await, "in-progress");
    let before = count(&county);
    county.later(HOUR).await;
    assert_eq!(asked(&county, PANTRY, before).len(), 1, "once more an hour");
}

// One resource says that it was changed in years to come, or its bundle does: the cursor is not lost to them.
#[tokio::test]
async fn a_change_from_the_future_moves_no_cursor_there() {
    const DATE: &[(&str, &str)] = &[("date", "Fri, 15 Jan 2027 09:00:00 GMT")];
    const FUTURE: &str =
        r#"{"resourceType":"Bundle","type":"searchset","meta":{"lastUpdated":"2099-01-01T00:00:00Z"}}"#;
    const CHANGE: &str = r#"{"resourceType":"Bundle","type":"searchset","entry":[{"resource":{"resourceType":"Task","id":"x",
        "meta":{"versionId":"1","lastUpdated":"2099-01-01T00:00:00Z"},"status":"draft","intent":"order"}}]}"#;
    for fault in [Fault::Say(200, DATE, FUTURE), Fault::Say(200, &[], CHANGE)] {
        let county = TestGateway::county().await.settled().await;
        let list = referred(&county, 1).await;
        county.world.fault(PANTRY, &[fault]);
        county.later(HOUR).await;
        sets(&county, &list[0].0, "accepted");
        county.later(HOUR).await;
        assert_eq!(county.status(&list[0].1).await, "in-progress", "{fault:?}");
    }
}
