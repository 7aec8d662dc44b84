//! The terminology operations: `$expand` and `$validate-code` on ValueSet, `$lookup` and `$validate-code` on CodeSystem,
//! `$translate` on ConceptMap.
//!
//! Answered from what is held ([`crate::fhir::terminology`]). What is not held is refused as "not checked", and never
//! answered with yes or no. Value sets and maps that come along in the request are not taken.
//! <https://hl7.org/fhir/R4/terminology-service.html>

use serde_json::{Value, json};

use super::extract::Asked;
use super::operations::{Inputs, inputs};
use crate::error::{Error, Kind};
use crate::fhir::concept_map::{Match, Question, translate};
use crate::fhir::licensed::Form;
use crate::fhir::terminology::{Concept, Lookup, Membership, Terminology};
use crate::fhir::{Key, ResourceType, published};
use crate::id;
use crate::time::Timestamp;

/// Most codes of one expansion.
const MOST_CODES: usize = 1_000;

/// Answers an operation on this type; `None` when it has no such operation.
pub(super) fn answer(
    kind: &str,
    name: &str,
    id: Option<&str>,
    asked: &mut Asked,
    now: Timestamp,
) -> Option<Result<Value, Error>> {
    let mut question = || Asking::read(kind, id, asked);
    Some(match (kind, name) {
        ("ValueSet", "expand") => question().and_then(|asking| asking.expand(now)),
        ("ValueSet", "validate-code") => question().and_then(|asking| asking.in_set()),
        ("CodeSystem", "validate-code") => question().and_then(|asking| asking.in_system()),
        ("CodeSystem", "lookup") => question().and_then(|asking| asking.lookup()),
        ("ConceptMap", "translate") => question().and_then(|asking| asking.translate()),
        _ => return None,
    })
}

/// A code that is asked about, with what the client says of it.
struct Coding {
    system: String,
    code: String,
    display: Option<String>,
}

struct Asking {
    inputs: Inputs,
    /// The canonical URL of what is asked, by id or by `url`.
    url: Option<String>,
    codings: Vec<Coding>,
}

impl Asking {
    fn read(kind: &str, id: Option<&str>, asked: &mut Asked) -> Result<Self, Error> {
        let parameters = asked.parameters()?;
        let inputs = inputs(&asked.pairs, &parameters);
        let mut codings = Vec::new();
        for parameter in &parameters {
            if ["valueSet", "conceptMap", "codeSystem"]
                .iter()
                .any(|name| parameter.get("name").is_some_and(|its| its == name))
                && parameter.get("resource").is_some()
            {
                return Err(Error::new(
                    Kind::NotSupported,
                    "Give the URL of one that is here; a resource in the request is not taken.",
                ));
            }
            let one = parameter.get("valueCoding").into_iter();
            let several = parameter.get("valueCodeableConcept").and_then(|concept| concept.get("coding"));
            let several = several.and_then(Value::as_array).into_iter().flatten();
            codings.extend(one.chain(several).filter_map(Coding::read));
        }
        if let Some(code) = inputs.one("code") {
            let system = inputs.one("system").unwrap_or_default();
            codings.push(Coding { system, code, display: inputs.one("display") });
        }
        let url = match id {
            None => inputs.one("url"),
            Some(id) => {
                let key = ResourceType::parse(kind).map(|kind| Key::new(kind, id));
                let found = key.as_ref().and_then(published::at).and_then(|resource| resource.text_at("url"));
                Some(
                    found
                        .ok_or_else(|| Error::new(Kind::NotFound, format!("There is no {kind} with this id here.")))?
                        .to_string(),
                )
            }
        };
        Ok(Asking { inputs, url, codings })
    }

    fn url(&self, what: &str) -> Result<&str, Error> {
        self.url.as_deref().ok_or_else(|| missing("url", &format!("Name the {what} by its canonical URL.")))
    }

    fn value_set(&self) -> Result<&str, Error> {
        let url = self.url("ValueSet")?;
        if Terminology::held().knows(url) {
            return Ok(url);
        }
        Err(Error::new(Kind::NotFound, "This ValueSet is not held here; ValueSet?url= finds those that are."))
    }

    fn expand(&self, now: Timestamp) -> Result<Value, Error> {
        let url = self.value_set()?;
        let lacking = |system: String| not_held(&system);
        let mut codes = Terminology::held().expand(url).map_err(lacking)?;
        let filter = self.inputs.one("filter");
        if let Some(words) = &filter {
            let words: Vec<String> = words.to_lowercase().split_whitespace().map(str::to_string).collect();
            codes.retain(|concept| words.iter().all(|word| mentions(concept, word)));
        }
        let (offset, count) = (self.size("offset")?.unwrap_or(0), self.size("count")?);
        let total = codes.len();
        let most = count.unwrap_or(MOST_CODES).min(MOST_CODES);
        let shown: Vec<Value> = codes.iter().skip(offset).take(most).map(contains).collect();
        let mut expansion = json!({"identifier": format!("urn:uuid:{}", id::uuid()), "timestamp": now.to_string(),
            "total": total, "offset": offset});
        let number = |name: &str, value: usize| json!({"name": name, "valueInteger": value});
        let mut used: Vec<Value> = filter.iter().map(|text| json!({"name": "filter", "valueString": text})).collect();
        used.extend(count.map(|count| number("count", count)));
        used.extend((offset > 0).then(|| number("offset", offset)));
        if !used.is_empty() {
            expansion["parameter"] = Value::Array(used);
        }
        if !shown.is_empty() {
            expansion["contains"] = Value::Array(shown);
        }
        let mut out =
            json!({"resourceType": "ValueSet", "url": crate::fhir::terminology::bare(url), "status": "active"});
        let known = published::all().iter().find(|one| one.text_at("url") == out["url"].as_str());
        for name in ["id", "version", "name", "title", "status"] {
            if let Some(value) = known.and_then(|known| known.at(name)) {
                out[name] = value.clone();
            }
        }
        out["expansion"] = expansion;
        Ok(out)
    }

    fn size(&self, name: &str) -> Result<Option<usize>, Error> {
        Ok(self.inputs.number(name)?.map(|number| usize::try_from(number).unwrap_or(usize::MAX)))
    }

    /// `ValueSet/$validate-code`: one of the codings in it is enough.
    fn in_set(&self) -> Result<Value, Error> {
        let url = self.value_set()?;
        let mut open = None;
        let mut wrong = None;
        for coding in self.codings()? {
            match Terminology::held().contains(url, &coding.system, &coding.code) {
                Membership::Known(true) => match coding.named_otherwise() {
                    None => return Ok(verdict(true, None, coding.display_here())),
                    Some(text) => wrong = Some((text, coding.display_here())),
                },
                Membership::Known(false) => {}
                Membership::Unknown => open = Some(coding),
            }
        }
        if let Some((text, display)) = wrong {
            return Ok(verdict(false, Some(text), display));
        }
        match open {
            None => Ok(verdict(false, Some("The code is not in this value set.".into()), None)),
            Some(coding) => coding.refuse_or(|| Err(not_held(&coding.system))),
        }
    }

    fn in_system(&self) -> Result<Value, Error> {
        self.about_codes(|coding, system| match Terminology::held().lookup(system, &coding.code) {
            Lookup::Held(concept) => match coding.named_otherwise_than(concept) {
                None => Ok(verdict(true, None, concept.display.clone())),
                Some(text) => Ok(verdict(false, Some(text), concept.display.clone())),
            },
            Lookup::NoSuchCode => Ok(verdict(false, Some("The code system has no such code.".into()), None)),
            Lookup::Malformed(form) => Ok(verdict(false, Some(about(form).into()), None)),
            Lookup::NotChecked => Err(not_held(system)),
        })
    }

    fn lookup(&self) -> Result<Value, Error> {
        self.about_codes(|coding, system| match Terminology::held().lookup(system, &coding.code) {
            Lookup::Held(concept) => {
                let (name, version) = Terminology::held().system(system).unwrap_or((system, None));
                let display = concept.display.as_deref().unwrap_or(&concept.code);
                let mut out = vec![json!({"name": "name", "valueString": name})];
                out.extend(version.map(|version| json!({"name": "version", "valueString": version})));
                out.push(json!({"name": "display", "valueString": display}));
                out.extend(concept.definition.as_ref().map(|text| {
                    json!({"name": "property", "part": [{"name": "code", "valueCode": "definition"},
                        {"name": "value", "valueString": text}]})
                }));
                Ok(json!({"resourceType": "Parameters", "parameter": out}))
            }
            Lookup::NoSuchCode => Err(Error::new(Kind::NotFound, "The code system has no such code.")),
            Lookup::Malformed(form) => Err(Error::new(Kind::NotFound, about(form))),
            Lookup::NotChecked => Err(not_held(system)),
        })
    }

    /// The first coding and its system, which may be named by `url`.
    fn about_codes<T>(&self, then: impl FnOnce(&Coding, &str) -> Result<T, Error>) -> Result<T, Error> {
        let coding = self.codings()?.first().ok_or_else(|| missing("code", "Name the code."))?;
        let system = self.url.as_deref().filter(|_| coding.system.is_empty()).unwrap_or(&coding.system);
        if system.is_empty() {
            return Err(missing("system", "Name the code system by its canonical URL."));
        }
        then(coding, system)
    }

    fn translate(&self) -> Result<Value, Error> {
        if self.inputs.one("reverse").is_some_and(|text| text == "true") {
            return Err(Error::new(Kind::NotSupported, "Maps are not read backwards here."));
        }
        let (source, target) = (self.inputs.one("source"), self.inputs.one("target"));
        let target_system = self.inputs.one("targetsystem");
        let mut found: Option<Vec<Match>> = None;
        for coding in self.codings()? {
            let question = Question {
                map: self.url.as_deref(),
                source: source.as_deref(),
                target: target.as_deref(),
                system: Some(coding.system.as_str()).filter(|system| !system.is_empty()),
                code: &coding.code,
                target_system: target_system.as_deref(),
            };
            if let Some(matches) = translate(question) {
                found.get_or_insert_default().extend(matches);
            }
        }
        let Some(found) = found else {
            return Err(Error::new(
                Kind::NotFound,
                "No ConceptMap here translates this; ConceptMap?source-system= finds those that are.",
            ));
        };
        let good = found.iter().any(|one| one.code.is_some() && !["unmatched", "disjoint"].contains(&one.equivalence));
        let mut out = vec![json!({"name": "result", "valueBoolean": good})];
        if !good {
            out.push(json!({"name": "message", "valueString": "The map has no translation of this code."}));
        }
        out.extend(found.iter().map(matched));
        Ok(json!({"resourceType": "Parameters", "parameter": out}))
    }

    fn codings(&self) -> Result<&[Coding], Error> {
        if self.codings.is_empty() {
            return Err(missing("code", "Give a code with its system, a coding, or a codeableConcept."));
        }
        Ok(&self.codings)
    }
}

impl Coding {
    fn read(value: &Value) -> Option<Coding> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_string);
        Some(Coding { system: text("system").unwrap_or_default(), code: text("code")?, display: text("display") })
    }

    fn held(&self) -> Option<&'static Concept> {
        match Terminology::held().lookup(&self.system, &self.code) {
            Lookup::Held(concept) => Some(concept),
            Lookup::NoSuchCode | Lookup::Malformed(_) | Lookup::NotChecked => None,
        }
    }

    fn display_here(&self) -> Option<String> {
        self.held().and_then(|concept| concept.display.clone())
    }

    fn named_otherwise(&self) -> Option<String> {
        self.named_otherwise_than(self.held()?)
    }

    /// What to say when the client calls the code by another name than we do.
    fn named_otherwise_than(&self, concept: &Concept) -> Option<String> {
        let (said, known) = (self.display.as_ref()?, concept.display.as_ref()?);
        (!said.eq_ignore_ascii_case(known)).then(|| "The code is there, under another display.".to_string())
    }

    /// A code that its system can't have is wrong, though the system is not held.
    fn refuse_or(&self, otherwise: impl FnOnce() -> Result<Value, Error>) -> Result<Value, Error> {
        match Terminology::held().lookup(&self.system, &self.code) {
            Lookup::Malformed(form) => Ok(verdict(false, Some(about(form).into()), None)),
            Lookup::Held(_) | Lookup::NoSuchCode | Lookup::NotChecked => otherwise(),
        }
    }
}

fn about(form: Form) -> &'static str {
    match form {
        Form::WrongCheckDigit => "The check digit of the code is wrong.",
        Form::Wrong | Form::Fits => "No code of this system looks like this.",
    }
}

fn missing(name: &str, text: &str) -> Error {
    Error::invalid(format!("Parameters.parameter.where(name = '{name}')"), text).code("required")
}

fn not_held(system: &str) -> Error {
    let shown: String = system.chars().take(200).collect();
    Error::new(Kind::Invalid, format!("Not checked: the codes of {shown} are not held here.")).code("not-supported")
}

fn mentions(concept: &Concept, word: &str) -> bool {
    concept.code.to_lowercase().contains(word)
        || concept.display.as_ref().is_some_and(|display| display.to_lowercase().contains(word))
}

fn contains(concept: &Concept) -> Value {
    let mut out = json!({"system": concept.system, "code": concept.code});
    if let Some(display) = &concept.display {
        out["display"] = json!(display);
    }
    out
}

fn verdict(result: bool, message: Option<String>, display: Option<String>) -> Value {
    let mut out = vec![json!({"name": "result", "valueBoolean": result})];
    out.extend(message.map(|text| json!({"name": "message", "valueString": text})));
    out.extend(display.map(|text| json!({"name": "display", "valueString": text})));
    json!({"resourceType": "Parameters", "parameter": out})
}

fn matched(one: &Match) -> Value {
    let concept = |system: Option<&str>, code: &str, display: Option<&str>| {
        let mut coding = json!({"code": code});
        if let Some(system) = system {
            coding["system"] = json!(system);
        }
        if let Some(display) = display {
            coding["display"] = json!(display);
        }
        coding
    };
    let mut parts = vec![json!({"name": "equivalence", "valueCode": one.equivalence})];
    if let Some(code) = &one.code {
        parts.push(json!({"name": "concept", "valueCoding": concept(Some(one.system), code, one.display)}));
    }
    for (property, system, code, display) in &one.products {
        parts.push(json!({"name": "product", "part": [{"name": "element", "valueUri": property},
            {"name": "concept", "valueCoding": concept(*system, code, *display)}]}));
    }
    parts.push(json!({"name": "source", "valueUri": one.map}));
    json!({"name": "match", "part": parts})
}
