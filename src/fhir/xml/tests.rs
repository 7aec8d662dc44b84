//! Both ways and back, what is refused, and what any bytes do.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::error::{Error, Kind};
use crate::fhir::definitions::{self, Element, Form, TypeDef, TypeRef};
use crate::fhir::json::{self, Bounds};

const TASK: &str = r##"{"resourceType":"Task","id":"t1","meta":{"versionId":"3","profile":["http://a/b"]},"implicitRules":"http://r",
"_implicitRules":{"id":"x"},
"text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">\n  <p  class='a'>Education <span>for\tall</span>  &amp; &#160;\r\n</p><br/><!-- kept --></div>"},
"contained":[{"resourceType":"Patient","id":"p","name":[{"given":["Ann",null,"Lee"],"_given":[null,{"id":"g","extension":[{"url":"http://e/x","valueDecimal":1.00}]},null]}],"multipleBirthInteger":2},
{"resourceType":"Bundle","type":"collection","entry":[{"resource":{"resourceType":"Basic","code":{"text":"x"}}}]}],
"extension":[{"url":"http://e/1","id":"e1","extension":[{"url":"a","valueBoolean":false},{"url":"b","_valueString":{"extension":[{"url":"http://e/2","valueCode":"unknown"}]}}]}],
"status":"requested","intent":"order","_intent":{"extension":[{"url":"http://e/3","valueInteger":-7}]},
"description":"line one\nline two\r\n\ttab \"quoted\" 'and' <tag> & more \u00e9\ud83d\ude00","_authoredOn":{"id":"only-id"},
"for":{"reference":"#p"},"note":[{"text":"a"},{"text":" b ","id":"n2"}],
"input":[{"type":{"coding":[{"system":"http://s","code":"c","userSelected":true}]},"valueDecimal":0.010000000000000000000000001},
{"type":{"text":"q"},"valueQuantity":{"value":1.50e+3,"unit":"mg"}}]}"##;

fn parsed(text: &str) -> Value {
    json::parse(text.as_bytes(), Bounds::default()).unwrap()
}

fn reads(text: &str) -> Result<Value, Error> {
    read(text.as_bytes(), Bounds::default())
}

fn task(inside: &str) -> String {
    format!("<Task xmlns=\"http://hl7.org/fhir\">{inside}</Task>")
}

// R-006: nothing is lost either way.
#[test]
fn a_resource_comes_back_as_it_was() {
    let before = parsed(TASK);
    let text = write(&before);
    let after = reads(&text).unwrap();
    assert_eq!(after, before);
    // Numbers and the narrative to the byte.
    for part in ["1.00", "0.010000000000000000000000001", "1.50e+3"] {
        assert!(after.to_string().contains(part), "{part}");
        assert!(text.contains(&format!("value=\"{part}\"")), "{part}");
    }
    assert_eq!(write(&after), text);
}

#[test]
fn elements_stand_in_the_standards_order() {
    let text = write(&parsed(
        r#"{"intent":"order","extension":[{"valueString":"x","url":"http://u","id":"i"}],"for":{"display":"d","reference":"r"},
        "_status":{"id":"s"},"input":[{"valueInteger":1,"type":{"text":"t"}}],"id":"1","resourceType":"Task"}"#,
    ));
    assert_eq!(
        text,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Task xmlns=\"http://hl7.org/fhir\"><id value=\"1\"/>\
         <extension id=\"i\" url=\"http://u\"><valueString value=\"x\"/></extension><status id=\"s\"/>\
         <intent value=\"order\"/><for><reference value=\"r\"/><display value=\"d\"/></for>\
         <input><type><text value=\"t\"/></type><valueInteger value=\"1\"/></input></Task>"
    );
}

#[test]
fn other_spellings_read_the_same() {
    let expected = json!({"resourceType": "Task", "status": "draft", "description": "a b & c\u{e9} <", "priority": "urgent",
        "text": {"status": "empty", "div": "<div xmlns=\"http://www.w3.org/1999/xhtml\" class=\"x\"><p>a</p><br/></div>"}});
    for text in [
        // Prefixes, a declaration, comments, instructions, schemaLocation, single quotes, a byte-order mark.
        "\u{feff}<?xml version='1.0' encoding='utf-8' standalone='yes'?><!-- c --><?p i?>
         <f:Task xmlns:f='http://hl7.org/fhir' xmlns:x='http://www.w3.org/2001/XMLSchema-instance' x:schemaLocation='a b'
           xmlns:h='http://www.w3.org/1999/xhtml'><!-- c --><f:text><f:status value='empty'/>
           <h:div class=\"x\"><h:p>a</h:p><h:br/></h:div></f:text><?p i?>
           <f:status value='draft'></f:status><f:priority value='urgent'/><f:description value='a\nb &#38; c&#xE9; &lt;'/></f:Task> <!-- c -->",
        "<Task xmlns='http://hl7.org/fhir'><text><status value='empty'/><div xmlns=\"http://www.w3.org/1999/xhtml\" class=\"x\"><p>a</p><?p i?><br/></div></text>
         <status value='draft'/><priority value='urgent'/><description value='a b &amp; cé &#60;'/></Task>",
    ] {
        let mut read = reads(text).unwrap();
        let div = read["text"]["div"].as_str().unwrap().replace(" xmlns:h='http://www.w3.org/1999/xhtml'", "");
        read["text"]["div"] = json!(div);
        assert_eq!(read, expected);
    }
    // A default namespace declared around the narrative moves into it.
    let outer = "<f:Basic xmlns:f='http://hl7.org/fhir' xmlns='http://www.w3.org/1999/xhtml'><f:text><div>x</div></f:text></f:Basic>";
    assert_eq!(reads(outer).unwrap()["text"]["div"], "<div xmlns=\"http://www.w3.org/1999/xhtml\">x</div>");
    assert_eq!(reads(&task("<priority value='routine'/>")).unwrap()["priority"], "routine");
    assert_eq!(reads("<Task xmlns='http://hl7.org/fhir'/>").unwrap(), json!({"resourceType": "Task"}));
    let count = reads("<Bundle xmlns='http://hl7.org/fhir'><total value='+5'/></Bundle>").unwrap();
    assert_eq!(count["total"].to_string(), "5");
}

#[test]
fn lists_and_what_stands_beside_them_are_padded() {
    let name = |inside: &str| {
        let text = format!("<Patient xmlns='http://hl7.org/fhir'><name>{inside}</name></Patient>");
        reads(&text).unwrap()["name"][0].clone()
    };
    assert_eq!(name("<given value='a'/>"), json!({"given": ["a"]}));
    assert_eq!(name("<given value='a'/><given id='i'/>"), json!({"given": ["a", null], "_given": [null, {"id": "i"}]}));
    assert_eq!(name("<given id='i'/>"), json!({"_given": [{"id": "i"}]}));
    assert_eq!(
        name("<given value='a'/><family value='f'/><given value='b'/>"),
        json!({"given": ["a", "b"], "family": "f"})
    );
}

/// What is refused, where, and with which words.
#[test]
fn what_is_no_resource_is_refused_with_its_place() {
    let bomb = "<!DOCTYPE l [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]>";
    let fhir = "xmlns='http://hl7.org/fhir'";
    let div = |inside: &str| task(&format!("<text><div xmlns='http://www.w3.org/1999/xhtml'>{inside}</div></text>"));
    let cases: &[(String, Option<&str>, &str)] = &[
        (String::new(), None, "no resource"),
        ("plain".into(), None, "no resource"),
        ("<Task>".into(), None, "no resource of FHIR R4"),
        (format!("<Nope {fhir}/>"), None, "no resource of FHIR R4"),
        (format!("<DomainResource {fhir}/>"), None, "no resource of FHIR R4"),
        ("<Task xmlns='http://hl7.org/fhir/'/>".into(), None, "in the namespace"),
        ("<f:Task/>".into(), None, "no resource"),
        (format!("{bomb}<Task {fhir}/>"), None, "a DOCTYPE"),
        (format!("<Task {fhir}><!DOCTYPE x></Task>"), Some("Task"), "a DOCTYPE"),
        (format!("<Task {fhir}/><Task {fhir}/>"), Some("Task"), "more than one"),
        (format!("<Task {fhir}>"), Some("Task"), "ends too early"),
        (format!("<Task {fhir}></Patient>"), Some("Task"), "not well-formed"),
        (format!("<?xml version='1.1'?><Task {fhir}/>"), None, "another version"),
        (format!("<?xml version='1.0' encoding='ISO-8859-1'?><Task {fhir}/>"), None, "UTF-8 only"),
        (format!("<Task {fhir}><?xml version='1.0'?></Task>"), Some("Task"), "not well-formed"),
        (task("<status value='a\u{1}b'/>"), None, "character"),
        (task("<status value='&#1;'/>"), Some("Task.status"), "not well-formed"),
        (task("<status value='&a;'/>"), Some("Task.status"), "entity"),
        (task("<status value='<'/>"), Some("Task.status"), "not well-formed"),
        (task("<status value='a' value='b'/>"), Some("Task.status"), "twice"),
        (task("<status value=a/>"), Some("Task.status"), "not well-formed"),
        (task("<status/>"), Some("Task.status"), "without value or children"),
        (task("<status value='a'>text</status>"), Some("Task.status"), "text beside elements"),
        (task("<status value='a'><b/></status>"), Some("Task.status"), "element \"b\""),
        (task("<status colour='a' value='b'/>"), Some("Task.status"), "attribute \"colour\""),
        (task("<status value='a'/><status value='b'/>"), Some("Task.status"), "stands here once"),
        (task("<colour value='a'/>"), Some("Task"), "element \"colour\""),
        (task("<Status value='a'/>"), Some("Task"), "element \"Status\""),
        (task("<status xmlns='http://x' value='a'/>"), Some("Task"), "namespace"),
        (task("<input value='a'/>"), Some("Task.input[0]"), "a value where elements belong"),
        (task("<input/>"), Some("Task.input[0]"), "without value or children"),
        (
            task("<input><type><text value='a'/></type></input><input><valueInteger value='1.0'/></input>"),
            Some("Task.input[1].value"),
            "no integer",
        ),
        (task("<input><valueInteger value='007'/></input>"), Some("Task.input[0].value"), "no integer"),
        (task("<input><valueDecimal value='1,5'/></input>"), Some("Task.input[0].value"), "no decimal"),
        (task("<input><valueDecimal value='NaN'/></input>"), Some("Task.input[0].value"), "no decimal"),
        (task("<input><valueDecimal value=''/></input>"), Some("Task.input[0].value"), "no decimal"),
        (task("<input><valueBoolean value='TRUE'/></input>"), Some("Task.input[0].value"), "no boolean"),
        (task("<input><value value='x'/></input>"), Some("Task.input[0]"), "element \"value\""),
        (task("<extension><url value='x'/></extension>"), Some("Task.extension[0]"), "element \"url\""),
        (task("<code url='x'/>"), Some("Task.code"), "attribute \"url\""),
        (task("<id id='x' value='y'/>"), Some("Task.id"), "no id"),
        (format!("<Task {fhir} id='x'/>"), Some("Task"), "no attributes"),
        (task("<contained/>"), Some("Task.contained[0]"), "is empty"),
        (task("<contained><Nope/></contained>"), Some("Task.contained[0]"), "no resource"),
        (task("<contained><Basic/><Basic/></contained>"), Some("Task.contained[0]"), "more than one"),
        (task("<text><div>a</div></text>"), Some("Task.text"), "namespace"),
        (div("&nbsp;"), Some("Task.text.div"), "entity"),
        (div("&#0;"), Some("Task.text.div"), "entity"),
        (div("<p>"), Some("Task.text.div"), "not well-formed"),
        (div("]]>"), Some("Task.text.div"), "not well-formed"),
        (div("<p a=b>x</p>"), Some("Task.text.div"), "not well-formed"),
        (div("<p a='1' a='2'>x</p>"), Some("Task.text.div"), "twice"),
        (div("<svg xmlns='http://www.w3.org/2000/svg'/>"), Some("Task.text.div"), "XHTML only"),
        (div("<!DOCTYPE x>"), Some("Task.text.div"), "not well-formed"),
        (div("<a x:href='b' xmlns:x='c'/>"), Some("Task.text.div"), "XHTML does not have"),
    ];
    for (text, place, words) in cases {
        let error = reads(text).unwrap_err();
        assert_eq!(error.kind, Kind::Malformed, "{text}");
        assert_eq!(error.issues[0].expression.as_deref(), *place, "{text}: {error}");
        assert!(error.text().contains(words), "{text}: {error}");
    }
    // Where it is.
    let error = reads(&task("\n  <status value='a'/>\n   <colour/>")).unwrap_err();
    assert!(error.text().ends_with("(line 3, column 4)"), "{error}");
    // Never a value, and no name that is none.
    let error = reads(&task("<input><valueInteger value='secret'/></input>")).unwrap_err();
    assert!(!error.to_string().contains("secret"));
    let error = reads(&task("<secr\u{e9}t/>")).unwrap_err();
    assert!(!error.to_string().contains("secr"));
}

#[test]
fn other_encodings_are_refused_by_name() {
    let utf16: Vec<u8> = "\u{feff}<Task/>".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in [utf16.as_slice(), &[0xfe, 0xff, 0, b'<'], b"<\0T\0", b"<Task a='\xe9'/>"] {
        assert!(read(bytes, Bounds::default()).unwrap_err().text().contains("UTF-8"));
    }
}

#[test]
fn depth_length_and_attributes_are_bounded() {
    let nested = |n: usize| {
        task(&format!("{}<valueString value='x'/>{}", "<extension url='u'>".repeat(n), "</extension>".repeat(n)))
    };
    // As in JSON: a list and an object each.
    let bounds = Bounds { depth: 21, string: 100 };
    for (levels, fits) in [(10, true), (11, false)] {
        let text = nested(levels);
        let as_json = reads(&text).unwrap().to_string();
        assert_eq!(read(text.as_bytes(), bounds).is_ok(), fits, "{levels}");
        assert_eq!(json::parse(as_json.as_bytes(), bounds).is_ok(), fits, "{levels}");
    }
    assert!(reads(&nested(100_000)).unwrap_err().text().contains("nested deeper"));
    assert!(read(nested(100_000).as_bytes(), Bounds { depth: usize::MAX, string: 1 }).is_err());
    let div = format!("<text><div xmlns='{XHTML}'>{}</div></text>", "<b>".repeat(100_000));
    assert!(reads(&task(&div)).unwrap_err().text().contains("nested too deeply"));
    for (length, fits) in [(100, true), (101, false)] {
        let read = read(task(&format!("<description value='{}'/>", "x".repeat(length))).as_bytes(), bounds);
        assert_eq!(read.err().map(|error| error.kind), (!fits).then_some(Kind::TooLarge), "{length}");
    }
    let many = |what: &dyn Fn(usize) -> String| (0..200_000).map(what).collect::<String>();
    for attributes in [many(&|n| format!(" a{n}='1'")), many(&|n| format!(" xmlns:a{n}='u'"))] {
        assert!(reads(&task(&format!("<status{attributes}/>"))).is_err());
        assert!(reads(&task(&format!("<text><div xmlns='{XHTML}'><p{attributes}/></div></text>"))).is_err());
    }
}

/// Copies come from servers that validate less than we do.
#[test]
fn anything_is_written_as_well_formed_xml() {
    let text = write(
        &json!({"resourceType": "Task", "status": ["a", ["b"], null], "colour": {"url": "u", "deep": [true, {"x": 1}]},
        "a b": "no name", "_status": {"id": "s"}, "intent": {"odd": "object"}, "focus": "text", "contained": [{"id": "no type"}],
        "description": "bell \u{7} end", "note": [], "text": {"div": "<p>no div", "_div": {"id": "x"}}, "input": [null]}),
    );
    let mut events = reader::events(&text);
    let mut names = Vec::new();
    loop {
        match events.read_event().unwrap() {
            quick_xml::events::Event::Start(start) => names.push(start.name().as_ref().to_string()),
            quick_xml::events::Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(
        names,
        [
            "Task",
            "text",
            "div",
            "pre",
            "contained",
            "id",
            "status",
            "status",
            "intent",
            "odd",
            "description",
            "focus",
            "colour",
            "url",
            "deep",
            "deep",
            "x"
        ]
    );
    assert!(text.contains("bell \u{fffd} end") && text.contains("&lt;p&gt;no div"));
    assert!(write(&Value::Null).starts_with("<?xml"));
}

#[test]
fn a_narrative_with_html_names_of_characters_is_shown() {
    let shown = |div: &str| {
        let text = write(&json!({"resourceType": "Task", "text": {"status": "generated", "div": div}}));
        reads(&text).unwrap()["text"]["div"].as_str().unwrap().to_string()
    };
    let div = |inside: &str| format!("<div xmlns=\"{XHTML}\">{inside}</div>");
    assert_eq!(
        shown(&div("a&nbsp;b &ntilde; &yuml; &mdash; &alpha; &hearts; &amp;nbsp;")),
        div("a&#160;b &#241; &#255; &#8212; &#945; &#9829; &amp;nbsp;")
    );
    assert_eq!(
        shown(&div("<br>&nbsp;")),
        div(&format!(
            "<pre>{}</pre>",
            "&lt;div xmlns=&quot;http://www.w3.org/1999/xhtml&quot;&gt;&lt;br&gt;&amp;nbsp;&lt;/div&gt;"
        ))
    );
    for no_div in
        ["", "text", "<div>no namespace</div>", &format!("{0}{0}", div("twice")), &format!(" {}", div("space"))]
    {
        assert!(shown(no_div).contains("<pre>"), "{no_div}");
    }
}

// ------------------------------------------------------------------------------------------------ any resource

/// A value of a primitive type, as its JSON.
fn primitive(name: &'static str) -> BoxedStrategy<Value> {
    let text = |texts: Vec<&'static str>| proptest::sample::select(texts).prop_map(Value::from).boxed();
    match name {
        "boolean" => any::<bool>().prop_map(Value::from).boxed(),
        "integer" | "unsignedInt" | "positiveInt" => any::<i32>().prop_map(Value::from).boxed(),
        "decimal" => proptest::sample::select(vec!["0", "1.00", "-0.10", "1e+9", "123456789012345678901234567890.5"])
            .prop_map(|text| serde_json::from_str(text).unwrap())
            .boxed(),
        "xhtml" => "[ -~\n\t\r]{0,8}"
            .prop_map(|text| {
                let mut inside = String::new();
                writer::escape(&mut inside, &text);
                format!("<div xmlns=\"{XHTML}\">\n {inside}<br/> <b class='x'>{inside}\r\n</b></div>").into()
            })
            .boxed(),
        "code" | "id" => text(vec!["a", "b-c"]),
        _ => "[^\u{0}-\u{8}\u{b}\u{c}\u{e}-\u{1f}\u{fffe}\u{ffff}]{1,6}".prop_map(Value::from).boxed(),
    }
}

/// What may stand under this element: key, and value or list.
fn element(element: &'static Element, type_: &'static TypeRef, depth: u32) -> BoxedStrategy<Vec<(String, Value)>> {
    let (key, list) = (element.json_key(type_), element.is_list());
    let def = type_.def();
    if def.form == Form::Primitive {
        let beside = element.name != "id" && !element.xml_attribute && def.name != "xhtml" && depth > 0;
        let extra =
            if beside { prop_oneof![Just(Value::Null), extras(depth - 1)].boxed() } else { Just(Value::Null).boxed() };
        let one = (primitive(def.name), extra, any::<bool>()).prop_map(|(value, extra, none)| {
            if none && !extra.is_null() { (Value::Null, extra) } else { (value, extra) }
        });
        return proptest::collection::vec(one, 1..=if list { 3 } else { 1 })
            .prop_map(move |all| {
                let (values, extras): (Vec<Value>, Vec<Value>) = all.into_iter().unzip();
                let mut out = Vec::new();
                for (key, mut items) in [(key.clone(), values), (format!("_{key}"), extras)] {
                    if items.iter().any(|item| !item.is_null()) {
                        out.push((key, if list { Value::Array(items) } else { items.pop().unwrap() }));
                    }
                }
                out
            })
            .boxed();
    }
    let inner = if def.name == "Resource" { resource(depth - 1) } else { object(def, depth - 1) };
    proptest::collection::vec(inner, 1..=if list { 2 } else { 1 })
        .prop_map(move |mut all| vec![(key.clone(), if list { Value::Array(all) } else { all.pop().unwrap() })])
        .boxed()
}

fn extras(depth: u32) -> BoxedStrategy<Value> {
    let _ = depth;
    prop_oneof![Just(json!({"id": "i"})), Just(json!({"extension": [{"url": "http://u", "valueDecimal": 1}]}))].boxed()
}

/// Some elements of a type, never none.
fn object(def: &'static TypeDef, depth: u32) -> BoxedStrategy<Value> {
    let fits = move |element: &&Element| {
        let def = element.types[0].def();
        element.name != "resourceType" && (depth > 0 || def.form == Form::Primitive)
    };
    let elements: Vec<&'static Element> = def.elements().iter().filter(fits).collect();
    proptest::sample::subsequence(elements.clone(), 1..=3.min(elements.len()))
        .prop_flat_map(move |chosen| {
            let each: Vec<_> = chosen
                .into_iter()
                .map(|one| {
                    let types: Vec<&'static TypeRef> =
                        one.types.iter().filter(|type_| depth > 0 || type_.def().form == Form::Primitive).collect();
                    proptest::sample::select(types).prop_flat_map(move |type_| element(one, type_, depth))
                })
                .collect();
            each.prop_map(|all| Value::Object(all.into_iter().flatten().collect::<Map<String, Value>>()))
        })
        .boxed()
}

fn resource(depth: u32) -> BoxedStrategy<Value> {
    let all: Vec<&'static TypeDef> = definitions::types().filter(|def| def.form == Form::Resource).collect();
    proptest::sample::select(all)
        .prop_flat_map(move |def| {
            object(def, depth).prop_map(move |mut body| {
                body["resourceType"] = def.name.into();
                body
            })
        })
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_resource_comes_back_as_it_was(before in resource(4)) {
        let text = write(&before);
        prop_assert_eq!(reads(&text).unwrap(), before, "{}", text);
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes, Bounds::default());
    }

    /// Valid XML with something thrown in: an error, or JSON that the JSON reader takes and that is written again.
    #[test]
    fn damaged_xml_never_panics(at in any::<prop::sample::Index>(), cut in 0_usize..9, text in "[<>/&;!\"'= a-z\\[\\]?-]{0,6}") {
        let mut whole = write(&parsed(TASK));
        let mut from = at.index(whole.len());
        let mut to = (from + cut).min(whole.len());
        while !whole.is_char_boundary(from) { from -= 1; }
        while !whole.is_char_boundary(to) { to += 1; }
        whole.replace_range(from..to, &text);
        if let Ok(value) = reads(&whole) {
            prop_assert_eq!(&json::parse(value.to_string().as_bytes(), Bounds::default()).unwrap(), &value);
            prop_assert_eq!(reads(&write(&value)).unwrap(), value);
        }
    }

    #[test]
    fn any_narrative_is_written_as_well_formed_xml(text in "(<|>|/|&|;|div|b|nbsp| |=|\"|'|xmlns|http://www.w3.org/1999/xhtml|[a-z]|<div xmlns=\"http://www.w3.org/1999/xhtml\">|</div>|-|!|\\[|\\]|\\?){0,30}") {
        let written = write(&json!({"resourceType": "Basic", "text": {"div": text}}));
        prop_assert!(reads(&written).is_ok(), "{}", written);
    }
}
