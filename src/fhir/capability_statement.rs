//! What a partner's CapabilityStatement says it offers, as far as we make use of it.
//!
//! Reads what servers really publish: anything that is missing is taken as not offered, and anything unknown is passed
//! over. Ours is made from the table of routes, and elsewhere. <https://hl7.org/fhir/R4/capabilitystatement.html>

use serde_json::Value;

use super::subscription::TASK_TOPIC;

/// The extension that names a topic, and the statement of the Backport's servers.
const TOPIC: &str =
    "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/capabilitystatement-subscriptiontopic-canonical";
const BACKPORT: &str = "/CapabilityStatement/backport-subscription-server";

/// How a server tells others of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// By topic, as the guide asks for.
    Topic,
    /// It takes Subscriptions; whether to topics or by criteria alone, it does not say.
    Unsaid,
    /// It takes none.
    None,
}

impl Push {
    /// Its code in the database.
    pub fn code(self) -> &'static str {
        match self {
            Push::Topic => "topic",
            Push::Unsaid => "unsaid",
            Push::None => "none",
        }
    }
    /// The one with this code.
    pub fn parse(code: &str) -> Option<Push> {
        [Push::Topic, Push::Unsaid, Push::None].into_iter().find(|push| push.code() == code)
    }
}

/// A CapabilityStatement of kind `instance`, read.
#[derive(Debug, Clone, Copy)]
pub struct CapabilityStatement<'v>(pub &'v Value);

impl<'v> CapabilityStatement<'v> {
    /// The FHIR release it speaks.
    pub fn fhir_version(self) -> Option<&'v str> {
        self.0.get("fhirVersion").and_then(Value::as_str)
    }

    /// Whether it writes JSON, which is what we ask for first.
    pub fn writes_json(self) -> bool {
        list(self.0, "format").filter_map(Value::as_str).any(|format| format.contains("json"))
    }

    /// Whether it takes batches.
    pub fn takes_batch(self) -> bool {
        self.rests().flat_map(|rest| list(rest, "interaction")).any(|one| is(one, "code", "batch"))
    }

    /// Whether a type offers this interaction.
    pub fn offers(self, kind: &str, interaction: &str) -> bool {
        self.resources(kind).flat_map(|one| list(one, "interaction")).any(|one| is(one, "code", interaction))
    }

    /// Whether a type's conditional create can be relied on.
    pub fn conditional_create(self, kind: &str) -> bool {
        self.resources(kind).any(|one| one.get("conditionalCreate") == Some(&Value::Bool(true)))
    }

    /// Whether a type's updates heed `If-Match`.
    pub fn heeds_if_match(self, kind: &str) -> bool {
        self.resources(kind).any(|one| is(one, "versioning", "versioned-update") || is(one, "versioning", "versioned"))
    }

    /// How it tells of changes.
    pub fn push(self) -> Push {
        if !self.offers("Subscription", "create") {
            return Push::None;
        }
        let says = |one: &'v Value| list(one, "extension").filter(|extension| is(extension, "url", TOPIC));
        let all = self.rests().flat_map(|rest| list(rest, "resource"));
        let topics = all.flat_map(says).filter_map(|extension| {
            extension.as_object()?.iter().find(|(name, _)| name.starts_with("value"))?.1.as_str()
        });
        let ours = topics.into_iter().any(|topic| topic.split('|').next() == Some(TASK_TOPIC));
        let named = list(self.0, "instantiates").chain(list(self.0, "imports")).filter_map(Value::as_str);
        if ours || named.into_iter().any(|canonical| canonical.contains(BACKPORT)) { Push::Topic } else { Push::Unsaid }
    }

    fn rests(self) -> impl Iterator<Item = &'v Value> {
        list(self.0, "rest").filter(|rest| !is(rest, "mode", "client"))
    }

    fn resources(self, kind: &str) -> impl Iterator<Item = &'v Value> {
        self.rests().flat_map(|rest| list(rest, "resource")).filter(move |one| is(one, "type", kind))
    }
}

fn list<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn is(value: &Value, name: &str, expected: &str) -> bool {
    value.get(name).is_some_and(|found| found == expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_offered_is_read_and_nothing_else() {
        let statement = json!({"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1", "format": ["application/fhir+json"],
            "rest": [{"mode": "client", "interaction": [{"code": "batch"}], "resource": [{"type": "Goal", "interaction": [{"code": "read"}]}]},
                {"mode": "server", "searchParam": [{"name": "_lastUpdated"}], "resource": [
                    {"type": "Task", "versioning": "versioned", "conditionalCreate": true,
                     "interaction": [{"code": "read"}, {"code": "create"}], "searchParam": [{"name": "owner"}]},
                    {"type": "Subscription", "interaction": [{"code": "create"}]}]}]});
        let read = CapabilityStatement(&statement);
        assert_eq!((read.fhir_version(), read.writes_json(), read.takes_batch()), (Some("4.0.1"), true, false));
        assert!(read.offers("Task", "create") && !read.offers("Task", "update") && !read.offers("Goal", "read"));
        assert!(read.conditional_create("Task") && read.heeds_if_match("Task") && !read.heeds_if_match("Procedure"));
        assert_eq!(read.push(), Push::Unsaid);
        assert_eq!(CapabilityStatement(&Value::Null).push(), Push::None);
    }

    /// Our own statement, read as a partner's: it takes Subscriptions to the guide's topic.
    #[test]
    fn topics_are_found_where_the_backport_puts_them() {
        let with = |extra: Value| {
            let mut statement =
                json!({"rest": [{"resource": [{"type": "Subscription", "interaction": [{"code": "create"}]}]}]});
            if let (Some(all), Some(more)) = (statement.as_object_mut(), extra.as_object()) {
                all.extend(more.clone());
            }
            CapabilityStatement(&statement).push()
        };
        let named = json!({"instantiates": ["http://hl7.org/fhir/uv/subscriptions-backport/CapabilityStatement/backport-subscription-server-r4"]});
        assert_eq!(with(named), Push::Topic);
        let by_extension = json!({"rest": [{"resource": [{"type": "Subscription", "interaction": [{"code": "create"}],
            "extension": [{"url": TOPIC, "valueCanonical": format!("{TASK_TOPIC}|3.0.0")}]}]}]});
        assert_eq!(with(by_extension), Push::Topic);
        assert_eq!(with(json!({})), Push::Unsaid);
    }

    #[test]
    fn codes_are_read_back() {
        for push in [Push::Topic, Push::Unsaid, Push::None] {
            assert_eq!(Push::parse(push.code()), Some(push));
        }
        assert_eq!(Push::parse("x"), None);
    }
}
