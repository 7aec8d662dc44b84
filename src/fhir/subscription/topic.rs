//! The topics that can be subscribed to: one table, read by the check of a Subscription, by the matching of changes and
//! by the CapabilityStatement; `profiles/SubscriptionTopic-*.json` says the same for people (a test compares them).
//!
//! The first two are the guide's (G-116…G-118), the rest are ours. <http://hl7.org/fhir/uv/subscriptions-backport>

use crate::fhir::resource::ResourceType;

/// How a resource changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// Its first version, or made anew after a deletion.
    Created,
    /// A further version.
    Updated,
    /// It is gone.
    Deleted,
}

impl Change {
    /// Its code in topics and in the database.
    pub fn code(self) -> &'static str {
        match self {
            Change::Created => "create",
            Change::Updated => "update",
            Change::Deleted => "delete",
        }
    }
    /// The change of this code.
    pub fn parse(code: &str) -> Option<Change> {
        [Change::Created, Change::Updated, Change::Deleted].into_iter().find(|change| change.code() == code)
    }
}

/// Which further versions are news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Every one.
    Any,
    /// Those whose capacity differs from the version before.
    Capacity,
}

/// Something that can be subscribed to.
#[derive(Debug)]
pub struct Topic {
    /// Its canonical.
    pub url: &'static str,
    /// Another spelling that means the same (S-013).
    pub alias: Option<&'static str>,
    /// The version served.
    pub version: &'static str,
    /// What it is about.
    pub kind: ResourceType,
    /// The changes that trigger it.
    pub on: &'static [Change],
    /// What the new state must satisfy, as a search; a deletion passes.
    pub current: &'static str,
    /// Which updates count.
    pub news: News,
    /// The search parameters it can be filtered by.
    pub filters: &'static [&'static str],
}

/// The guide's topic: a Task was created or changed, but no draft (G-116).
pub const TASK_TOPIC: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/SubscriptionTopic/Task";

use Change::{Created, Deleted, Updated};

/// The table.
pub static TOPICS: &[Topic] = &[
    Topic {
        url: TASK_TOPIC,
        alias: None,
        version: "3.0.0",
        kind: ResourceType::TASK,
        on: &[Created, Updated, Deleted],
        current: "status:not=draft&intent=order",
        news: News::Any,
        // G-117, then ours.
        filters: &["_lastUpdated", "code", "owner", "requester", "status", "patient", "_id"],
    },
    Topic {
        // Lower case: so the guide spells it.
        url: "http://hl7.org/fhir/us/sdoh-clinicalcare/SubscriptionTopic/Servicerequest",
        alias: Some("http://hl7.org/fhir/us/sdoh-clinicalcare/SubscriptionTopic/ServiceRequest"),
        version: "3.0.0",
        kind: ResourceType::SERVICE_REQUEST,
        on: &[Updated, Deleted],
        current: "",
        news: News::Any,
        filters: &["_lastUpdated", "_id"],
    },
    Topic {
        url: "https://loopgate.org/fhir/SubscriptionTopic/procedure",
        alias: None,
        version: "1.0.0",
        kind: ResourceType::PROCEDURE,
        on: &[Created, Updated, Deleted],
        current: "",
        news: News::Any,
        filters: &["_lastUpdated", "_id", "patient", "based-on", "status", "code"],
    },
    Topic {
        url: "https://loopgate.org/fhir/SubscriptionTopic/capacity",
        alias: None,
        version: "1.0.0",
        kind: ResourceType::HEALTHCARE_SERVICE,
        on: &[Created, Updated],
        current: "",
        news: News::Capacity,
        filters: &["_lastUpdated", "_id", "organization", "service-category"],
    },
    Topic {
        url: "https://loopgate.org/fhir/SubscriptionTopic/consent",
        alias: None,
        version: "1.0.0",
        kind: ResourceType::CONSENT,
        on: &[Created, Updated, Deleted],
        current: "",
        news: News::Any,
        filters: &["_lastUpdated", "_id", "patient", "status", "category"],
    },
];

/// The topic of this canonical; one with a version must name the version served (S-012).
pub fn topic(canonical: &str) -> Option<&'static Topic> {
    let (url, version) = canonical.split_once('|').map_or((canonical, None), |(url, version)| (url, Some(version)));
    TOPICS
        .iter()
        .find(|topic| topic.url == url || topic.alias == Some(url))
        .filter(|topic| version.is_none_or(|version| version == topic.version))
}

/// The topics about resources of this type.
pub fn topics_of(kind: ResourceType) -> impl Iterator<Item = &'static Topic> {
    TOPICS.iter().filter(move |topic| topic.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::path::Path;

    // G-194
    #[test]
    fn a_topic_is_found_by_its_spellings_and_its_version() {
        assert_eq!(topic(TASK_TOPIC).unwrap().kind, ResourceType::TASK);
        assert!(topic(&format!("{TASK_TOPIC}|3.0.0")).is_some());
        assert!(topic(&format!("{TASK_TOPIC}|9.9.9")).is_none(), "S-012");
        let request = "http://hl7.org/fhir/us/sdoh-clinicalcare/SubscriptionTopic/";
        assert_eq!(
            topic(&format!("{request}ServiceRequest")).map(|found| found.url),
            topic(&format!("{request}Servicerequest")).map(|found| found.url),
            "S-013"
        );
        assert!(topic("http://example.org/topic").is_none());
    }

    /// S-009, G-116…G-118: what is published about a topic is what the table does.
    #[test]
    fn the_published_topics_say_what_the_table_does() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
        for topic in TOPICS {
            let name = topic.url.rsplit('/').next().unwrap();
            let text = std::fs::read_to_string(folder.join(format!("SubscriptionTopic-{name}.json"))).unwrap();
            let published: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&published["url"], &published["version"]), (&topic.url.into(), &topic.version.into()));
            let trigger = &published["resourceTrigger"][0];
            let names = |list: &Value| -> Vec<String> {
                list.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_string()).collect()
            };
            let on: Vec<&str> = topic.on.iter().map(|change| change.code()).collect();
            assert_eq!(names(&trigger["supportedInteraction"]), on, "{name}");
            assert!(trigger["resource"].as_str().unwrap().ends_with(&format!("/{}", topic.kind)), "{name}");
            assert_eq!(trigger["queryCriteria"]["current"].as_str().unwrap_or(""), topic.current, "{name}");
            let filters = published["canFilterBy"].as_array().unwrap();
            let mut published: Vec<&str> = filters.iter().map(|one| one["filterParameter"].as_str().unwrap()).collect();
            let mut known = topic.filters.to_vec();
            published.sort_unstable();
            known.sort_unstable();
            assert_eq!(published, known, "{name}");
            // Every filter is a search parameter, and the criterion is a search.
            for filter in topic.filters.iter().filter(|name| !name.starts_with('_')) {
                assert!(crate::fhir::search_index::parameter(topic.kind, filter).is_some(), "{name} {filter}");
            }
        }
    }
}
