//! The language's own meaning, as tables: an expression and what it gives.

mod rules;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::item::shown;
use super::*;

fn person() -> Value {
    json!({
        "resourceType": "Patient", "id": "p1",
        "meta": {"versionId": "3", "lastUpdated": "2026-11-26T10:00:00Z"},
        "text": {"status": "generated", "div": "<div xmlns=\"http://www.w3.org/1999/xhtml\">Ann</div>"},
        "contained": [{"resourceType": "Organization", "id": "o1", "name": "House"}],
        "extension": [
            {"url": "http://a", "valueString": "one"},
            {"url": "http://b", "valueQuantity": {"value": 2.50, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"}}],
        "identifier": [{"system": "urn:s", "value": "42"}],
        "active": true,
        "name": [
            {"use": "official", "family": "Tester", "given": ["Ann", "Bea"]},
            {"use": "usual", "given": ["Annie", null], "_given": [null, {"extension": [{"url": "http://c", "valueCode": "masked"}]}]}],
        "gender": "female",
        "birthDate": "1990-05-03", "_birthDate": {"extension": [{"url": "http://time", "valueDateTime": "1990-05-03T10:00:00+01:00"}]},
        "_deceasedBoolean": {"extension": [{"url": "http://x", "valueCode": "unknown"}]},
        "multipleBirthInteger": 2,
        "contact": [{"name": {"family": "Guard"}}, {"telecom": [{"system": "phone", "value": "1"}]}],
        "managingOrganization": {"reference": "#o1"},
        "generalPractitioner": [{"reference": "Practitioner/7"}, {"reference": "https://ehr.example/fhir/Organization/8/_history/2"}]
    })
}

/// What an expression gives, written out: values as they are shown, elements as JSON.
fn run(text: &str, resource: &Value) -> Result<String, Fault> {
    let expression = Expression::parse(text)?;
    let mut context = Context::new(resource);
    context.now = crate::time::Timestamp::parse("2026-11-26T12:30:00Z");
    let member_of = |item: &Item<'_>, set: &str| match set {
        "urn:known" => Some(matches!(shown(item).as_deref(), Some("female" | "male"))),
        _ => None,
    };
    context.member_of = Some(&member_of);
    context.variables = vec![("previous", vec![])];
    let items = expression.evaluate(&context, Item::resource(resource))?;
    let show = |item: &Item<'_>| match item {
        Item::Node(node) if shown(item).is_none() => node.value.map_or("-".to_string(), Value::to_string),
        Item::Elsewhere(def) => format!("<{}>", def.name),
        other => shown(other).unwrap_or_default(),
    };
    Ok(items.iter().map(show).collect::<Vec<_>>().join(","))
}

fn check(cases: &[(&str, &str)]) {
    let resource = person();
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(text, expected)| {
            let found = run(text, &resource).unwrap_or_else(|fault| format!("! {fault}"));
            (found != *expected).then(|| format!("{text}\n  expected {expected}\n  found    {found}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn paths_find_elements_choices_and_what_stands_beside() {
    check(&[
        ("Patient.name.given", "Ann,Bea,Annie,-"),
        ("name.given.count()", "4"),
        ("name.given.extension('http://c').value", "masked"),
        ("name[0].given[1]", "Bea"),
        ("name[7].given", ""),
        ("Patient.deceased.exists()", "true"),
        ("deceased.hasValue()", "false"),
        ("deceased.extension.value", "unknown"),
        ("multipleBirth", "2"),
        ("multipleBirth is integer", "true"),
        ("multipleBirthInteger", "2"),
        ("extension('http://b').value.value", "2.5"),
        ("extension('http://b').value is Quantity", "true"),
        ("extension.value.ofType(string)", "one"),
        ("birthDate.extension('http://time').value", "1990-05-03T10:00:00+01:00"),
        ("birthDate.extension('http://time').value is dateTime", "true"),
        ("Resource.id", "p1"),
        ("DomainResource.id", "p1"),
        ("Observation.id", ""),
        ("nothing", ""),
        ("text.`div`.exists()", "true"),
        ("text.`div`.htmlChecks()", "true"),
        ("'<div xmlns=\"http://www.w3.org/1999/xhtml\"><script>x</script></div>'.htmlChecks()", "false"),
        ("contained.name", "House"),
        ("contained is Organization", "true"),
        ("children().where($this is Identifier).value", "42"),
        ("meta.versionId is id", "true"),
        ("descendants().ofType(code)", "female,generated,official,usual,kg,unknown,phone,masked"),
        ("contact.count()", "2"),
        ("id & meta.versionId", "p13"),
    ]);
}

#[test]
fn logic_has_three_values() {
    let mut cases = Vec::new();
    for (left, right, and, or, xor, implies) in [
        ("true", "true", "true", "true", "false", "true"),
        ("true", "false", "false", "true", "true", "false"),
        ("true", "{}", "", "true", "", ""),
        ("false", "true", "false", "true", "true", "true"),
        ("false", "false", "false", "false", "false", "true"),
        ("false", "{}", "false", "", "", "true"),
        ("{}", "true", "", "true", "", "true"),
        ("{}", "false", "false", "", "", ""),
        ("{}", "{}", "", "", "", ""),
    ] {
        for (operator, expected) in [("and", and), ("or", or), ("xor", xor), ("implies", implies)] {
            cases.push((format!("{left} {operator} {right}"), expected));
        }
    }
    let cases: Vec<(&str, &str)> = cases.iter().map(|(text, expected)| (text.as_str(), *expected)).collect();
    check(&cases);
    check(&[
        ("true.not()", "false"),
        ("{}.not()", ""),
        ("{}.all(true)", "true"),
        ("{}.all(false)", "true"),
        ("{}.exists()", "false"),
        ("{}.empty()", "true"),
        ("{}.allTrue()", "true"),
        ("{}.anyTrue()", "false"),
        ("(true | false).allTrue()", "false"),
        ("(true | false).anyFalse()", "true"),
        ("{} = {}", ""),
        ("{} = 1", ""),
        ("{} ~ {}", "true"),
        ("{} < 1", ""),
        ("name = name", "true"),
        ("name = name.first()", "false"),
        ("name.first() and true", "true"),
        ("(1 | 2) and true", "! Several items stand where a condition belongs."),
        ("iif(active, 'yes', 'no')", "yes"),
        ("iif({}, 'yes')", ""),
        ("name.iif(count() > 1, 'many', 'one')", "many"),
    ]);
}

#[test]
fn what_one_side_can_not_know_the_other_may_decide() {
    check(&[
        ("gender.memberOf('urn:known')", "true"),
        ("gender.memberOf('urn:secret')", "! not known here: the value set urn:secret"),
        ("active and gender.memberOf('urn:secret')", "! not known here: the value set urn:secret"),
        ("active or gender.memberOf('urn:secret')", "true"),
        ("gender.memberOf('urn:secret') or active", "true"),
        ("active.not() implies gender.memberOf('urn:secret')", "true"),
        ("generalPractitioner.resolve().name", "! not known here: what a reference points at"),
        ("generalPractitioner.all(resolve().exists())", "true"),
        (
            "generalPractitioner.where(resolve() is Organization).reference",
            "https://ehr.example/fhir/Organization/8/_history/2",
        ),
        ("generalPractitioner.resolve()", "<Practitioner>,<Organization>"),
        ("managingOrganization.resolve().name", "House"),
        ("'#gone'.resolve()", ""),
        ("'urn:uuid:1'.resolve()", "! not known here: what a reference points at"),
        ("conformsTo('urn:x')", "! not known here: whether something conforms to a profile"),
    ]);
}

#[test]
fn numbers_are_exact_and_types_keep_apart() {
    check(&[
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("0.1 + 0.2 = 0.3", "true"),
        ("1 / 4", "0.25"),
        ("(1 / 3).round(3)", "0.333"),
        ("5 div 2", "2"),
        ("-5 mod 3", "-2"),
        ("5.5 mod 0.7", "0.6"),
        ("1 / 0", ""),
        ("1 div 0", ""),
        ("9223372036854775807 + 1", ""),
        ("1.0 = 1", "true"),
        ("1.10 ~ 1.1", "true"),
        ("1.12 ~ 1.1", "true"),
        ("1.12 = 1.1", "false"),
        ("1 = '1'", "false"),
        ("1 is Integer", "true"),
        ("1.0 is System.Decimal", "true"),
        ("'a' + 'b'", "ab"),
        ("'a' & {}", "a"),
        ("'a' + {}", ""),
        ("-7.abs()", "-7"),
        ("(-7).abs()", "7"),
        ("1.5.ceiling() | 1.5.floor() | (-1.5).truncate()", "2,1,-1"),
        ("active is boolean", "true"),
        ("active is Boolean", "true"),
        ("active is System.Boolean", "false"),
        ("active is FHIR.boolean", "true"),
        ("birthDate is Date", "true"),
        ("Patient is DomainResource", "true"),
        ("(name.first() as HumanName).family", "Tester"),
        ("'5'.toInteger() + 1", "6"),
        ("'5.0'.toInteger()", ""),
        ("'1.50'.toDecimal()", "1.50"),
        ("'yes'.toBoolean()", "true"),
        ("'maybe'.convertsToBoolean()", "false"),
        ("3.toString() & true.toString()", "3true"),
        ("name.toString()", "! Several items stand where one belongs."),
        ("4 'kg' = 4.0 'kg'", "true"),
        ("extension('http://b').value = 2.5 'kg'", "true"),
        ("extension('http://b').value < 3 'kg'", "true"),
        ("4 'kg' = 4000 'g'", "! not known here: how two units compare"),
        ("7 days = 1 week", "true"),
        ("60 'min' <= 2 hours", "true"),
        ("1 year > 11 months", "true"),
        ("'4 days'.toQuantity() = 4 days", "true"),
        ("2 'kg' * 3", "6 'kg'"),
    ]);
}

#[test]
fn dates_are_known_as_far_as_they_are_written() {
    check(&[
        ("birthDate = @1990-05-03", "true"),
        ("birthDate < @1990-06", "true"),
        ("birthDate < @1990", ""),
        ("birthDate = @1990-05", ""),
        ("birthDate ~ @1990-05", "false"),
        ("@2026-01-01 <= @2030-01-01", "true"),
        ("@2026-11-26T10:00:00Z = @2026-11-26T11:00:00+01:00", "true"),
        ("@2026-11-26T10:00:00Z = @2026-11-26T10:00:00", ""),
        ("@T10:00 < @T10:30", "true"),
        ("@T10:00 = @2026", "false"),
        ("@2026-01-31 + 1 month", "2026-02-28"),
        ("@2026 + 24 months", "2028"),
        ("@2026-03-01 - 1 day", "2026-02-28"),
        ("today()", "2026-11-26"),
        ("now() > @2026-11-26T12:00:00Z", "true"),
        ("birthDate.toString().length()", "10"),
        ("birthDate + 1 'kg'", "! Only a span of time is added to a date."),
        ("'2026-02-30'.convertsToDate()", "false"),
        ("meta.lastUpdated <= now()", "true"),
        ("birthDate > 'a'", "! Two things are compared that have no order."),
    ]);
}

#[test]
fn texts() {
    check(&[
        ("'abc'.startsWith('ab') and 'abc'.endsWith('bc') and 'abc'.contains('')", "true"),
        ("'héllo'.indexOf('l') | 'héllo'.lastIndexOf('l')", "2,3"),
        ("'abc'.indexOf('x')", "-1"),
        ("'abcdef'.substring(2) & 'abcdef'.substring(1, 2)", "cdefbc"),
        ("'abc'.substring(3)", ""),
        ("'abc'.substring(-1)", ""),
        ("'ABC'.lower() & 'abc'.upper()", "abcABC"),
        ("'abc'.replace('b', 'x')", "axc"),
        ("'2026-11'.matches('^[0-9]{4}')", "true"),
        ("'2026-11'.matchesFull('[0-9]{4}')", "false"),
        ("'a\\nb'.matches('a.b')", "true"),
        ("'11/30/1972'.replaceMatches('\\\\b(?P<m>\\\\d+)/(?P<d>\\\\d+)', '$d-$m')", "30-11/1972"),
        ("'a,b'.split(',').join(';')", "a;b"),
        ("name.given.first().toChars().count()", "3"),
        ("' a '.trim().length()", "1"),
        ("'Two  Words' ~ 'two words'", "true"),
        ("{}.startsWith('a')", ""),
        ("'a'.startsWith({})", ""),
        ("name.given.startsWith('A')", "! Several items stand where one belongs."),
        ("'abc'.matches('(a)\\\\1')", "! not supported: a pattern that is no regular expression of linear time"),
        ("gender.upper()", "FEMALE"),
        ("name.first().upper()", "! Something else stands where a text belongs."),
    ]);
}

#[test]
fn collections() {
    check(&[
        ("(1 | 2 | 1)", "1,2"),
        ("(1 | 2).combine(2)", "1,2,2"),
        ("(1 | 2).union(2 | 3)", "1,2,3"),
        ("(1 | 2 | 3).intersect(2 | 3 | 4)", "2,3"),
        ("(1 | 2 | 3).exclude(2)", "1,3"),
        ("(1).combine(1).isDistinct()", "false"),
        ("(1).combine(1.0).distinct()", "1"),
        ("(1 | 2).subsetOf(1 | 2 | 3) and (1 | 2).supersetOf(1)", "true"),
        ("2 in (1 | 2)", "true"),
        ("{} in (1 | 2)", ""),
        ("1 in {}", "false"),
        ("(1 | 2) contains 2", "true"),
        ("gender in ('male' | 'female')", "true"),
        ("(1 | 2 | 3).first() | (1 | 2 | 3).last()", "1,3"),
        ("(1 | 2 | 3).tail()", "2,3"),
        ("(1 | 2 | 3).skip(1).take(1)", "2"),
        ("(1 | 2 | 3).where($index > 0)", "2,3"),
        ("(1 | 2 | 3).select($this * 2)", "2,4,6"),
        ("(1 | 2 | 3).aggregate($this + $total, 0)", "6"),
        ("(1 | 2).single()", "! Several items stand where one belongs."),
        ("name.where(use = 'official').given.last()", "Bea"),
        ("name.exists(use = 'old')", "false"),
        ("name.all(given.exists())", "true"),
        ("name.select(given.first() & use)", "Annofficial,Annieusual"),
        ("name.first().given.union(name.first().use)", "Ann,Bea,official"),
        ("name.select(use.union(given.first()))", "official,Ann,usual,Annie"),
        ("contact.repeat(name | telecom).count()", "2"),
        ("name.given.trace('x', $this).count()", "4"),
        ("name.distinct().count()", "2"),
        ("(name | name).count()", "2"),
        ("%previous.empty()", "true"),
        ("%`vs-x` & %ucum", "http://hl7.org/fhir/ValueSet/xhttp://unitsofmeasure.org"),
        ("%resource.id = %context.id and %rootResource.id = 'p1'", "true"),
    ]);
}

#[test]
fn what_is_not_there_is_said_and_not_passed() {
    for (text, what) in [
        ("name.subsumes('x')", "the function subsumes()"),
        ("active and foo()", "the function foo()"),
        ("value is Citation", "the type Citation"),
        ("%factory", "the variable %factory"),
        ("name.type()", "the function type()"),
    ] {
        assert_eq!(run(text, &person()), Err(Fault::NotSupported(what.into())), "{text}");
    }
    let nothing = json!({"resourceType": "Patient"});
    let context = Context::new(&nothing);
    let now = Expression::parse("now()").unwrap();
    assert!(matches!(now.evaluate(&context, Item::resource(&nothing)), Err(Fault::NotKnown(_))));
    for text in [
        "",
        "a.",
        "a b",
        "(a",
        "a[",
        "1 +",
        "a.where()",
        "exists(1, 2)",
        "a.$this",
        "$that",
        "'a",
        "and",
        "div = 1",
        "@x",
    ] {
        assert!(matches!(Expression::parse(text), Err(Fault::Syntax { .. })), "{text}: {:?}", Expression::parse(text));
    }
}

#[test]
fn operators_bind_as_the_grammar_says() {
    check(&[
        ("1 + 2 & 3", "33"),
        ("2 * 3 + 4 = 10 and true", "true"),
        ("false and false or true", "true"),
        ("true or false and false", "true"),
        ("false implies true implies false", "false"),
        ("1 | 2 = 2", "false"),
        ("1 in 1 | 2", "true"),
        ("1 < 2 = true", "true"),
        ("1 is Integer = true", "true"),
        ("active = true implies name.exists()", "true"),
        ("-1 + 2", "1"),
        ("+1", "1"),
        ("2 - -1", "3"),
        ("name.given [ 0 ] /* first */ // and no more", "Ann"),
        ("contains.is.as.in", ""),
    ]);
}

#[test]
fn everything_is_bounded() {
    let syntax = |text: String| matches!(Expression::parse(&text), Err(Fault::Syntax { .. }));
    assert!(syntax("a".repeat(20_000)));
    assert!(syntax(format!("{}1{}", "(".repeat(5_000), ")".repeat(5_000))));
    assert!(syntax(vec!["1"; 3_000].join("+")));
    assert!(syntax(format!("a{}", ".a".repeat(3_000))));
    assert!(syntax(format!("{}1", "-".repeat(3_000))));
    let resource = person();
    // What is allowed to be deep fits on a small stack.
    let deep = [
        format!("{}true{}", "name.first().where(".repeat(20), ")".repeat(20)),
        format!("{}true{}", "iif(true, ".repeat(60), ", 1)".repeat(60)),
        format!("{}1{}", "(1 + ".repeat(30), ")".repeat(30)),
        vec!["1"; 60].join("+"),
    ];
    let small = std::thread::Builder::new().stack_size(1 << 20);
    let all = small.spawn(move || deep.map(|text| run(&text, &resource).map(|found| found.len() < 200))).unwrap();
    assert_eq!(all.join().unwrap(), [Ok(true), Ok(true), Ok(true), Ok(true)]);
    // A cross product that would never end.
    let many: Vec<Value> = (0..400).map(|n| json!({"use": "usual", "text": n.to_string()})).collect();
    let many = json!({"resourceType": "Patient", "name": many});
    assert_eq!(
        run("name.where(%resource.name.where(%resource.name.where(text = 'x').empty()).empty()).count()", &many),
        Err(Fault::TooCostly)
    );
    let long = json!({"resourceType": "Patient", "language": "x".repeat(600_000)});
    assert_eq!(run("language & language & language", &long).map(|text| text.len()), Ok(1_800_000));
    assert_eq!(run("language.replace('', language)", &long), Err(Fault::TooCostly));
    assert_eq!(run("language.replaceMatches('^', '$0$0$0')", &long), Err(Fault::TooCostly));
}

#[test]
fn a_bundle_resolves_its_own_entries() {
    let bundle = json!({"resourceType": "Bundle", "type": "collection", "entry": [
        {"fullUrl": "https://a/fhir/Task/1", "resource": {"resourceType": "Task", "focus": {"reference": "ServiceRequest/2"}, "for": {"reference": "urn:uuid:3"}}},
        {"fullUrl": "https://a/fhir/ServiceRequest/2", "resource": {"resourceType": "ServiceRequest", "priority": "urgent"}},
        {"fullUrl": "urn:uuid:3", "resource": {"resourceType": "Patient", "gender": "other"}}]});
    assert_eq!(run("entry.resource.ofType(Task).focus.resolve().priority", &bundle), Ok("urgent".into()));
    assert_eq!(run("entry.resource.ofType(Task).for.resolve().gender", &bundle), Ok("other".into()));
    assert_eq!(run("entry[0].resource.is(Task)", &bundle), Ok("true".into()));
}

#[test]
fn expressions_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Expression>();
}

proptest! {
    #[test]
    fn any_text_is_an_expression_or_a_fault(text in "\\PC{0,80}") {
        let _ = Expression::parse(&text);
    }

    #[test]
    fn any_words_are_evaluated_or_a_fault(words in proptest::collection::vec(prop::sample::select(vec![
        "name", "given", ".", "(", ")", "[", "]", "0", "1.5", "'a'", "@2026-02", "@T10", "4 days", "=", "~", "<", "+", "-", "*", "/", "&", "|",
        "and", "or", "implies", "is", "as", "in", "div", "mod", "where", "select", "all", "exists()", "first()", "descendants()", "children()",
        "repeat", "iif", ",", "{}", "true", "$this", "$index", "%resource", "birthDate", "extension", "value", "toString()", "toQuantity()",
        "matches", "replaceMatches", "substring", "resolve()", "Patient", "string", "Quantity", "today()"]), 0..24)) {
        let _ = run(&words.join(" "), &person());
        let _ = run(&words.concat(), &person());
    }
}
