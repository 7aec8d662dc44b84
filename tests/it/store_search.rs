//! Search: SQL answers as the rules written for memory do, and pages lose and repeat nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use loopgate::fhir::search::{Amount, Filter, Order, Prefix, Query, Sort, Test, Token, satisfies};
use loopgate::fhir::search_index::{ParameterType, Row, SEPARATOR, parameters, rows};
use loopgate::fhir::{Key, Resource, ResourceType};
use loopgate::store::{Store, Viewer};
use loopgate::time::Timestamp;
use serde_json::{Value, json};

use crate::databases::{BEGINNING, Place};
use crate::on_both;
use crate::store::{OWN, insert, resource, task};

pub fn query(kind: ResourceType) -> Query {
    Query {
        kind,
        filters: Vec::new(),
        sort: vec![Sort { by: Order::Created, descending: true }],
        count: 1_000,
        cursor: None,
        includes: Vec::new(),
        total: true,
        used: Vec::new(),
        own: OWN.to_string(),
    }
}

/// The ids found and the total. Without a total they are read in another way, and are the same.
pub async fn find(store: &Store, query: &Query, viewer: &Viewer) -> (Vec<String>, u64) {
    let page = store.read().await.unwrap().search(query, viewer).await.unwrap();
    let plain = Query { total: false, ..query.clone() };
    let uncounted = store.read().await.unwrap().search(&plain, viewer).await.unwrap();
    assert_eq!((&page.hits, &page.next), (&uncounted.hits, &uncounted.next), "{query:?}");
    (page.hits.into_iter().map(|hit| hit.key.id.clone()).collect(), page.total.unwrap())
}

/// Numbers that only look random; the same for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }
    fn of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

const CODES: &[&str] = &["requested", "Requested", "a,b", "a%b", "a_b", "axb", "!", "", "é", "null", "'", "|"];
const SYSTEMS: &[&str] = &["http://s", "http://S", "urn:x"];
const NAMES: &[&str] =
    &["Ann", "anna", "ANNA Maria", "an%a", "a_na", "Ämne", "ämne", "Straße", "İpek", "!bang", "Zoë", "日本"];
const DATES: &[&str] =
    &["1950", "1950-01", "1950-01-01", "2026-03-01T10:00:00Z", "2026-03-01T10:00:00.5+02:00", "2026-03"];
const PLACES: &[&str] =
    &["Patient/p1", "Patient/P1", "https://hub/fhir/Patient/p1", "https://ehr/fhir/Patient/p1", "p1"];

fn made_up(kind: &str, dice: &mut Dice) -> Value {
    let mut body = json!({"resourceType": kind});
    let mut set = |name: &str, value: Value, dice: &mut Dice| {
        if !dice.one_in(4) {
            body[name] = value;
        }
    };
    let coding = |dice: &mut Dice| {
        if dice.one_in(3) {
            json!({"code": dice.of(CODES)})
        } else {
            json!({"system": dice.of(SYSTEMS), "code": dice.of(CODES)})
        }
    };
    let identifier = json!([{"system": dice.of(SYSTEMS), "value": dice.of(CODES)}, {"value": dice.of(CODES)}]);
    set("identifier", identifier, dice);
    let profiles = json!({"profile": [dice.of(SYSTEMS), dice.of(SYSTEMS)]});
    set("meta", profiles, dice);
    let (status, code, date, place) =
        (dice.of(CODES), coding(dice), dice.of(DATES), json!({"reference": dice.of(PLACES)}));
    match kind {
        "Task" => {
            set("status", json!(status), dice);
            set("code", json!({"coding": [code, coding(dice)], "text": dice.of(NAMES)}), dice);
            let owner =
                json!({"reference": dice.of(PLACES), "identifier": {"system": "http://s", "value": dice.of(CODES)}});
            set("owner", owner, dice);
            set("authoredOn", json!(date), dice);
            set("for", place, dice);
            let output = json!([{"valueReference": {"reference": "Procedure/1"}}, {"valueString": "x"}]);
            set("output", output, dice);
        }
        "Observation" => {
            set("status", json!(status), dice);
            set("code", json!({"coding": [code, coding(dice)], "text": dice.of(NAMES)}), dice);
            set("valueCodeableConcept", json!({"coding": [coding(dice)]}), dice);
            let amounts: [Value; 5] = [json!(5), json!(5.4), json!(-1), json!(5.4), json!(1e20)];
            let amount = json!({"value": amounts[dice.below(5)], "unit": dice.of(CODES), "system": dice.of(SYSTEMS), "code": "g"});
            set("valueQuantity", amount, dice);
            set("effectivePeriod", json!({"start": date}), dice);
            set("subject", place, dice);
        }
        "Patient" => {
            set("name", json!([{"family": dice.of(NAMES), "given": [dice.of(NAMES), dice.of(NAMES)]}]), dice);
            set("birthDate", json!(date), dice);
        }
        _ => {
            set("status", json!(status), dice);
            set("category", json!([{"coding": [code]}]), dice);
            set("subject", place, dice);
            let period = match dice.below(3) {
                0 => json!({"start": date}),
                1 => json!({"end": date}),
                _ => json!({"start": date, "end": dice.of(DATES)}),
            };
            set("occurrencePeriod", period, dice);
        }
    }
    body
}

/// What is stored, as the rules in memory look at it.
type Known = BTreeMap<String, (Timestamp, Vec<Row>)>;

fn some<T>(dice: &mut Dice, mut one: impl FnMut(&mut Dice) -> T) -> Vec<T> {
    (0..dice.below(4)).map(|_| one(dice)).collect()
}

fn made_up_filter(kind: ResourceType, known: &Known, dice: &mut Dice) -> Filter {
    let prefix = Prefix::ALL[dice.below(9)].1;
    match dice.below(8) {
        0 => {
            let ids: Vec<&String> = known.keys().collect();
            return Filter::Ids(some(dice, |dice| if dice.one_in(5) { "none".into() } else { dice.of(&ids).clone() }));
        }
        1 => {
            let times: Vec<i64> = known.values().map(|(updated, _)| updated.0).collect();
            let from = times[dice.below(times.len())] + i64::try_from(dice.below(3)).unwrap() - 1;
            let width = [1, 1, 2, 1_000_000][dice.below(4)];
            return Filter::Updated(prefix, from, from + width);
        }
        _ => {}
    }
    let all: Vec<_> = parameters(kind).filter(|parameter| parameter.name != "_tag").collect();
    let parameter = dice.of(&all);
    let rows: Vec<&Row> =
        known.values().flat_map(|(_, rows)| rows).filter(|row| row.parameter == parameter.name).collect();
    let value = |dice: &mut Dice| {
        if rows.is_empty() || dice.one_in(6) { "nothing".to_string() } else { dice.of(&rows).value.clone() }
    };
    let part = |dice: &mut Dice| {
        let letters: Vec<char> = value(dice).chars().collect();
        letters.iter().take(1 + dice.below(3)).collect::<String>()
    };
    let words = |dice: &mut Dice| {
        let said: Vec<&str> =
            rows.iter().flat_map(|row| row.text.split('\n')).filter(|text| !text.is_empty()).collect();
        if said.is_empty() { "nothing".to_string() } else { dice.of(&said).chars().take(3).collect() }
    };
    let half = |dice: &mut Dice, other: bool| {
        let part = |text: &str| {
            let (one, two) = text.split_once(SEPARATOR).unwrap_or(("nothing", "at all"));
            if other { two.to_string() } else { one.to_string() }
        };
        let of = |dice: &mut Dice| (!rows.is_empty()).then(|| dice.of(&rows));
        let system = of(dice).filter(|_| dice.one_in(2)).map(|row| part(&row.system));
        Token { system, code: of(dice).filter(|_| !dice.one_in(3)).map(|row| part(&row.value)) }
    };
    let test =
        match (dice.below(6), parameter.kind) {
            (0, _) => Test::Present(dice.one_in(2)),
            (1, ParameterType::Token) => Test::Says(some(dice, words)),
            (_, ParameterType::Token) => Test::Tokens(some(dice, |dice| {
                let system = [None, Some(""), Some("http://s"), Some("http://S")][dice.below(4)];
                Token { system: system.map(String::from), code: (!dice.one_in(4)).then(|| value(dice)) }
            })),
            (_, ParameterType::Reference) => Test::References(some(dice, value)),
            (1, ParameterType::Text) => Test::Exact(some(dice, |dice| {
                if rows.is_empty() { "Nothing".to_string() } else { dice.of(&rows).system.clone() }
            })),
            (1, ParameterType::Uri) => Test::Below(some(dice, part)),
            (2, ParameterType::Uri) => Test::Above(some(dice, |dice| value(dice) + "/x")),
            (_, ParameterType::Uri | ParameterType::Canonical) => Test::Is(some(dice, value)),
            (_, ParameterType::Composite) => Test::Pairs(some(dice, |dice| (half(dice, false), half(dice, true)))),
            (_, ParameterType::Quantity) => Test::Amounts(some(dice, |dice| {
                let point = if rows.is_empty() { 0 } else { dice.of(&rows).low };
                let from = point.saturating_sub([0, 1, 500_000][dice.below(3)]);
                let (system, unit) =
                    (dice.one_in(3).then(|| "http://s".to_string()), dice.one_in(3).then(|| value(dice)));
                Amount {
                    prefix: Prefix::ALL[dice.below(9)].1,
                    from,
                    to: from + 1 + [0, 1_000_000][dice.below(2)],
                    system,
                    unit,
                }
            })),
            (2, ParameterType::Text) => Test::Contains(some(dice, |dice| {
                let letters: Vec<char> = value(dice).chars().collect();
                letters.iter().skip(dice.below(3)).take(2).collect()
            })),
            (_, ParameterType::Text) => Test::Begins(some(dice, part)),
            (_, ParameterType::Date) => Test::Dates(some(dice, |dice| {
                let (low, high) = if rows.is_empty() {
                    (0, 1)
                } else {
                    let row = dice.of(&rows);
                    (row.low, row.high)
                };
                let (from, to) =
                    (low.saturating_add([0, 0, 1][dice.below(3)]), high.saturating_sub([0, 0, 1][dice.below(3)]));
                (Prefix::ALL[dice.below(9)].1, from.max(i64::MIN / 2), to.min(i64::MAX / 2))
            })),
        };
    Filter::Indexed { name: parameter.name, test, not: dice.one_in(4) }
}

async fn store_made_up(store: &Store, place: &Place, kind: &str, dice: &mut Dice) -> Known {
    let mut known = Known::new();
    for number in 0..60 {
        place.clock.advance(Duration::from_micros(dice.below(3) as u64));
        let id = format!("{}{number}", if dice.one_in(2) { "r" } else { "R" });
        let mut tx = store.begin().await.unwrap();
        let mut written = tx.insert_resource(resource(made_up(kind, dice)), &id, "clinic", "POST", OWN).await.unwrap();
        if dice.one_in(4) {
            tx.commit().await.unwrap();
            tx = store.begin().await.unwrap();
            let again = resource(made_up(kind, dice));
            written = tx.update_resource(&written.stored, again, "clinic", OWN).await.unwrap();
        }
        if dice.one_in(6) {
            tx.delete_resource(&written.stored, "clinic").await.unwrap();
        } else {
            known.insert(id, (written.stored.updated, rows(&written.resource, OWN)));
        }
        tx.commit().await.unwrap();
    }
    known
}

on_both!(sql_finds_exactly_what_the_rules_in_memory_accept, async |place: Place| {
    let store = place.store().await;
    for (seed, kind) in [(1, "Task"), (2, "Patient"), (3, "ServiceRequest"), (4, "Observation")] {
        let mut dice = Dice(seed);
        let kind = ResourceType::parse(kind).unwrap();
        let known = store_made_up(&store, &place, kind.name(), &mut dice).await;
        let mut hits = 0;
        for round in 0..300 {
            let mut asked = query(kind);
            asked.filters = (0..1 + dice.below(3)).map(|_| made_up_filter(kind, &known, &mut dice)).collect();
            let (found, total) = find(&store, &asked, &Viewer::Operator).await;
            let found_set: BTreeSet<String> = found.iter().cloned().collect();
            let accepted = known.iter().filter(|(id, (updated, rows))| {
                asked.filters.iter().all(|filter| satisfies(filter, id, *updated, rows))
            });
            let expected: BTreeSet<String> = accepted.map(|(id, _)| id.clone()).collect();
            assert_eq!(found_set, expected, "seed {seed}, round {round}: {:?}", asked.filters);
            assert_eq!((found.len(), total), (expected.len(), expected.len() as u64), "seed {seed}, round {round}");
            hits += found.len();
        }
        assert!(hits > 1_000, "seed {seed} asks for too little to show anything: {hits}");
    }
});

pub fn person(family: Option<&str>, born: Option<&str>) -> Resource {
    let mut body = json!({"resourceType": "Patient"});
    if let Some(family) = family {
        body["name"] = json!([{"family": family}]);
    }
    if let Some(born) = born {
        body["birthDate"] = json!(born);
    }
    resource(body)
}

/// Thirty people of few names and birthdays, by threes in one transaction: many equal keys of every order.
async fn crowd(store: &Store, dice: &mut Dice) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for group in 0..10 {
        let mut tx = store.begin().await.unwrap();
        for number in 0..3 {
            let id = format!("{}{group}-{number}", dice.of(&["p", "P", "x"]));
            let family = [None, Some("smith"), Some("Smith"), Some("ämne"), Some("zoe")][dice.below(5)];
            let born = [None, Some("1950-01-01"), Some("1990")][dice.below(3)];
            tx.insert_resource(person(family, born), &id, "clinic", "POST", OWN).await.unwrap();
            ids.insert(id);
        }
        tx.commit().await.unwrap();
    }
    ids
}

/// Orders of one key or two; the second goes the other way.
const ORDERS: [&[Order]; 8] = [
    &[Order::Created],
    &[Order::Updated],
    &[Order::Id],
    &[Order::Date("birthdate")],
    &[Order::Value("family")],
    &[Order::Value("identifier")],
    &[Order::Value("family"), Order::Date("birthdate")],
    &[Order::Date("birthdate"), Order::Created],
];

fn sort(order: &[Order], descending: bool) -> Vec<Sort> {
    order.iter().enumerate().map(|(index, by)| Sort { by: *by, descending: descending == (index == 0) }).collect()
}

/// Reads all pages; `between` happens after each with its last entry.
async fn pages(store: &Store, mut asked: Query, mut between: impl AsyncFnMut(&str)) -> Vec<String> {
    let mut seen = Vec::new();
    for _ in 0..1_000 {
        let page = store.read().await.unwrap().search(&asked, &Viewer::Operator).await.unwrap();
        assert!(page.hits.len() <= asked.count);
        seen.extend(page.hits.into_iter().map(|hit| hit.key.id.clone()));
        if page.next.is_none() {
            return seen;
        }
        asked.cursor = page.next;
        between(seen.last().unwrap()).await;
    }
    panic!("pages without end: {asked:?}");
}

fn all_orders() -> impl Iterator<Item = Query> {
    ORDERS.into_iter().flat_map(|order| {
        [(true, 1), (false, 4), (true, 7), (false, 30)].map(|(descending, count)| Query {
            sort: sort(order, descending),
            count,
            ..query(ResourceType::PATIENT)
        })
    })
}

on_both!(pages_neither_repeat_nor_skip_while_rows_are_inserted, async |place: Place| {
    let store = place.store().await;
    let mut dice = Dice(7);
    let old = crowd(&store, &mut dice).await;
    let mut number = 0;
    for asked in all_orders() {
        let whole = find(&store, &Query { count: 1_000, ..asked.clone() }, &Viewer::Operator).await.0;
        let only_old = |list: Vec<String>| list.into_iter().filter(|id| old.contains(id)).collect::<Vec<_>>();
        let seen = pages(&store, asked.clone(), async |_| {
            if !dice.one_in(5) {
                return;
            }
            number += 1;
            place.clock.advance(Duration::from_micros(dice.below(2) as u64));
            let family = [None, Some("smith"), Some("zz")][dice.below(3)];
            insert(&store, &format!("n{number}"), person(family, Some("1950-01-01"))).await;
        })
        .await;
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "repeated: {asked:?}");
        assert_eq!(only_old(seen), only_old(whole), "{asked:?}");
    }
});

on_both!(a_page_goes_on_where_the_last_entry_stood_though_it_is_deleted, async |place: Place| {
    let store = place.store().await;
    for asked in all_orders().filter(|asked| asked.count < 30) {
        let ids = crowd(&store, &mut Dice(11)).await;
        let seen = pages(&store, asked.clone(), async |last| {
            let mut tx = store.begin().await.unwrap();
            let key = Key::new(ResourceType::PATIENT, last);
            let current = tx.resource_for_update(&key).await.unwrap().unwrap();
            tx.delete_resource(&current, "clinic").await.unwrap();
            tx.commit().await.unwrap();
        })
        .await;
        assert_eq!(seen.len(), ids.len(), "{asked:?}");
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), ids, "{asked:?}");
        let mut tx = store.begin().await.unwrap();
        for table in ["resource", "resource_version", "search_index"] {
            tx.run(format!("delete from {table}"), Vec::new()).await.unwrap();
        }
        tx.commit().await.unwrap();
    }
});

on_both!(orders_are_what_they_say, async |place: Place| {
    let store = place.store().await;
    let names = [("a", "Zimmer", "1990"), ("b", "adams", "1950"), ("c", "Brown", "1970")];
    for (id, family, born) in names {
        insert(&store, id, person(Some(family), Some(born))).await;
    }
    let mut tx = store.begin().await.unwrap();
    let current = tx.resource_for_update(&Key::new(ResourceType::PATIENT, "a")).await.unwrap().unwrap();
    tx.update_resource(&current, person(Some("Zimmer"), Some("1990")), "clinic", OWN).await.unwrap();
    tx.commit().await.unwrap();
    let orders = [
        (Order::Created, "abc"),
        (Order::Id, "abc"),
        (Order::Updated, "bca"),
        (Order::Date("birthdate"), "bca"),
        (Order::Value("family"), "bca"),
    ];
    for (order, expected) in orders {
        let mut asked = Query { sort: sort(&[order], false), ..query(ResourceType::PATIENT) };
        assert_eq!(find(&store, &asked, &Viewer::Operator).await.0.concat(), expected, "{order:?}");
        asked.sort = sort(&[order], true);
        let backwards: String = expected.chars().rev().collect();
        assert_eq!(find(&store, &asked, &Viewer::Operator).await.0.concat(), backwards, "{order:?}");
    }
    let counted = Query { count: 0, ..query(ResourceType::PATIENT) };
    assert_eq!(find(&store, &counted, &Viewer::Operator).await, (vec![], 3));
});

on_both!(values_longer_than_the_index_takes_are_found, async |place: Place| {
    let store = place.store().await;
    let long = "ä".repeat(3_000);
    let body = json!({"resourceType": "Patient", "name": [{"family": long}], "identifier": [{"value": long}],
        "meta": {"profile": [long]}});
    insert(&store, "p1", resource(body)).await;
    let tests = [
        ("family", Test::Begins(vec!["a".repeat(3_000)])),
        ("family", Test::Contains(vec!["a".repeat(40)])),
        ("family", Test::Exact(vec![long.clone()])),
        ("_profile", Test::Is(vec![long.clone()])),
        ("identifier", Test::Tokens(vec![Token { system: None, code: Some(long) }])),
    ];
    for (name, test) in tests {
        let filters = vec![Filter::Indexed { name, test, not: false }];
        let asked = Query { filters, ..query(ResourceType::PATIENT) };
        assert_eq!(find(&store, &asked, &Viewer::Operator).await.1, 1, "{name}");
    }
});

on_both!(zero_characters_are_no_error, async |place: Place| {
    let store = place.store().await;
    insert(&store, "t1", task("a\0b")).await;
    let tokens = vec![Token { system: Some("\0".into()), code: Some("\0".into()) }];
    for (test, expected) in
        [(Test::Tokens(tokens), 0), (Test::Tokens(vec![Token { system: None, code: Some("a\0b".into()) }]), 1)]
    {
        let filters = vec![Filter::Indexed { name: "status", test, not: false }];
        let asked = Query { filters, ..query(ResourceType::TASK) };
        assert_eq!(find(&store, &asked, &Viewer::Operator).await.1, expected);
    }
});

on_both!(a_poll_by_owner_and_time_finds_what_changed_since, async |place: Place| {
    let store = place.store().await;
    for number in 0..6 {
        place.clock.advance(Duration::from_secs(1));
        let owner = if number % 2 == 0 { "Organization/o1" } else { "Organization/o2" };
        let body = json!({"resourceType": "Task", "status": "requested", "owner": {"reference": owner}});
        insert(&store, &format!("t{number}"), resource(body)).await;
    }
    let since = BEGINNING.plus(Duration::from_secs(3)).0;
    let owner = Filter::Indexed { name: "owner", test: Test::References(vec!["Organization/o1".into()]), not: false };
    for (prefix, expected) in [(Prefix::Ge, vec!["t4", "t2"]), (Prefix::Gt, vec!["t4"]), (Prefix::Lt, vec!["t0"])] {
        let filters = vec![Filter::Updated(prefix, since, since + 1), owner.clone()];
        let asked = Query { filters, ..query(ResourceType::TASK) };
        assert_eq!(find(&store, &asked, &Viewer::Operator).await.0, expected, "{prefix:?}");
    }
});
