//! Paths: what an address leads to, and which methods the table offers there.
//!
//! Promises that slashes too many are forgiven, that ids are ids, and that what the log calls a place holds no id.
//! <https://hl7.org/fhir/R4/http.html#general>

use axum::http::Method;

use super::routes::Interaction::{self, Create, Delete, History, Patch, Read, Search, TypeHistory, Update, Vread};
use super::routes::{Operation, operations_of, row_of};
use crate::fhir::{Key, ResourceType, compartment, query};
use crate::id;

/// Where a search looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Area {
    /// All types.
    All,
    /// One type.
    Type(ResourceType),
    /// The compartment of this Patient: one type of it, or all.
    Compartment(Key, Option<ResourceType>),
}

/// A place below the FHIR base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The base itself: batch and transaction, and a search of all.
    Base,
    /// `metadata`
    Metadata,
    /// `T`
    Type(ResourceType),
    /// `Patient/id/T`, `Patient/id/*`
    Compartment(Key, Option<ResourceType>),
    /// `_search` behind any of these: a search as a form.
    Search(Area),
    /// `T/id`
    Instance(Key),
    /// `T/id/_history`
    History(Key),
    /// `T/_history`
    TypeHistory(ResourceType),
    /// `_history`
    SystemHistory,
    /// `T/id/_history/n`
    Version(Key, String),
    /// `T/$name`, `T/id/$name`
    Operation(&'static Operation, ResourceType, Option<String>),
}

/// A page for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// `/`
    Home,
    /// `/people.css`
    Style,
    /// `/sign-in`
    SignIn,
    /// `/sign-in/provider`
    Provider,
    /// `/sign-in/callback`
    Callback,
    /// `/sign-out`
    SignOut,
}

impl Page {
    /// Whether somebody proves there who it is.
    pub fn signs_in(self) -> bool {
        match self {
            Page::SignIn | Page::Provider | Page::Callback => true,
            Page::Home | Page::Style | Page::SignOut => false,
        }
    }
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// A page for people.
    People(Page),
    /// `/health/live`
    Live,
    /// `/health/ready`
    Ready,
    /// `/metrics`
    Metrics,
    /// `/fhir/.well-known/smart-configuration`
    SmartConfiguration,
    /// `/hooks/{partner}`
    Hook(String),
    /// `/auth/token`
    Token,
    /// `/auth/jwks`
    Keys,
    /// `/auth/introspect`
    Introspect,
    /// `/auth/revoke`
    Revoke,
    /// `/sign-out/back-channel`: for the identity provider.
    BackChannelLogout,
    /// `/websocket`
    Websocket,
    /// A place below the FHIR base.
    Fhir(Place),
    /// Nothing, below the FHIR base: who has no token learns no more than that.
    Nowhere,
    /// Nothing.
    Unknown,
}

/// The path of the public URL, which a proxy in front may or may not have taken off.
pub fn prefix(public_url: &str) -> Vec<String> {
    let authority = public_url.split_once("://").map_or(public_url, |(_, rest)| rest);
    segments(authority.split_once('/').map_or("", |(_, path)| path)).unwrap_or_default()
}

/// Where a path leads. Double and trailing slashes count as none, as public clients send them (`//metadata`).
pub fn door(path: &str, prefix: &[String]) -> Door {
    let Some(segments) = segments(path) else { return Door::Unknown };
    let segments = segments.strip_prefix(prefix).unwrap_or(&segments);
    let names: Vec<&str> = segments.iter().map(String::as_str).collect();
    match names.as_slice() {
        [] => Door::People(Page::Home),
        ["people.css"] => Door::People(Page::Style),
        ["sign-in"] => Door::People(Page::SignIn),
        ["sign-in", "provider"] => Door::People(Page::Provider),
        ["sign-in", "callback"] => Door::People(Page::Callback),
        ["sign-out"] => Door::People(Page::SignOut),
        ["sign-out", "back-channel"] => Door::BackChannelLogout,
        ["health", "live"] => Door::Live,
        ["health", "ready"] => Door::Ready,
        ["metrics"] => Door::Metrics,
        ["hooks", partner] => Door::Hook((*partner).to_string()),
        ["websocket"] => Door::Websocket,
        ["auth", "token"] => Door::Token,
        ["auth", "jwks"] => Door::Keys,
        ["auth", "introspect"] => Door::Introspect,
        ["auth", "revoke"] => Door::Revoke,
        ["fhir", ".well-known", "smart-configuration"] => Door::SmartConfiguration,
        // Readable without a token, so unknown without one, too: there is no UDAP here.
        ["fhir", ".well-known", ..] => Door::Unknown,
        ["fhir", rest @ ..] => place(rest).map_or(Door::Nowhere, Door::Fhir),
        _ => Door::Unknown,
    }
}

/// Where the address of a Bundle's entry leads, which is relative to the base; none: nowhere.
pub fn below_base(path: &str) -> Option<Place> {
    let segments = segments(path)?;
    place(&segments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn segments(path: &str) -> Option<Vec<String>> {
    path.split('/').filter(|part| !part.is_empty()).map(|part| query::decode(part, false)).collect()
}

fn place(names: &[&str]) -> Option<Place> {
    if let [area @ .., "_search"] = names {
        return match place(area)? {
            Place::Base => Some(Place::Search(Area::All)),
            Place::Type(kind) => Some(Place::Search(Area::Type(kind))),
            Place::Compartment(patient, kind) => Some(Place::Search(Area::Compartment(patient, kind))),
            Place::Metadata
            | Place::Search(_)
            | Place::Instance(_)
            | Place::History(_)
            | Place::TypeHistory(_)
            | Place::SystemHistory
            | Place::Version(..)
            | Place::Operation(..) => None,
        };
    }
    let kind = |name: &str| ResourceType::parse(name).filter(|kind| row_of(*kind).is_some());
    let key = |name: &str, id: &str| Some(Key::new(kind(name)?, Some(id).filter(|id| id::is_valid(id))?));
    let operation = |on: &str, name: &str| {
        kind(on)?;
        operations_of(on).find(|known| known.name == name)
    };
    match names {
        [] => Some(Place::Base),
        ["metadata"] => Some(Place::Metadata),
        ["_history"] => Some(Place::SystemHistory),
        [name] => kind(name).map(Place::Type),
        [name, "_history"] => kind(name).map(Place::TypeHistory),
        [name, last] => match last.strip_prefix('$') {
            Some(asked) => {
                let known = operation(name, asked).filter(|known| known.on_type)?;
                Some(Place::Operation(known, kind(name)?, None))
            }
            None => key(name, last).map(Place::Instance),
        },
        [name, id, "_history"] => key(name, id).map(Place::History),
        ["Patient", id, "*"] => key("Patient", id).map(|key| Place::Compartment(key, None)),
        ["Patient", id, member] if ResourceType::parse(member).is_some() => {
            let member = kind(member).filter(|kind| compartment::holds(*kind))?;
            key("Patient", id).map(|key| Place::Compartment(key, Some(member)))
        }
        [name, id, last] => {
            let known = operation(name, last.strip_prefix('$')?).filter(|known| known.on_instance)?;
            key(name, id).map(|key| Place::Operation(known, key.kind, Some(key.id)))
        }
        [name, id, "_history", version] => key(name, id).map(|key| Place::Version(key, version.to_string())),
        _ => None,
    }
}

impl Door {
    /// The methods offered here, for dispatch and for `Allow`; none: there is nothing here.
    pub fn allowed(&self) -> Vec<&'static str> {
        match self {
            Door::Live | Door::Ready | Door::Metrics | Door::Keys => vec!["GET", "HEAD"],
            Door::SmartConfiguration => vec!["GET", "HEAD", "OPTIONS"],
            Door::People(Page::Home | Page::Style) => vec!["GET", "HEAD"],
            Door::People(Page::Provider | Page::Callback) => vec!["GET"],
            Door::People(Page::SignIn) => vec!["GET", "HEAD", "POST"],
            Door::People(Page::SignOut) => vec!["POST"],
            Door::Websocket => vec!["GET"],
            Door::Token | Door::Introspect | Door::Revoke | Door::BackChannelLogout | Door::Hook(_) => vec!["POST"],
            Door::Fhir(place) => place.allowed(),
            Door::Nowhere | Door::Unknown => Vec::new(),
        }
    }

    /// Whether only a partner's token opens it. The OAuth doors, the hooks and the sockets ask for proof of their own.
    pub fn needs_token(&self) -> bool {
        match self {
            Door::Fhir(place) => *place != Place::Metadata,
            Door::Metrics | Door::Nowhere => true,
            Door::People(_) | Door::Live | Door::Ready | Door::SmartConfiguration | Door::Keys | Door::Hook(_) => false,
            Door::Websocket | Door::Token | Door::Introspect | Door::Revoke | Door::BackChannelLogout => false,
            Door::Unknown => false,
        }
    }

    /// Whether it is asked for within what an address may ask a minute. What probes and first contacts read costs nothing.
    pub fn is_counted(&self) -> bool {
        !matches!(self, Door::Live | Door::Ready | Door::Fhir(Place::Metadata))
    }

    /// How the log names it: types and patterns, never ids.
    pub fn label(&self) -> String {
        match self {
            Door::People(Page::Home) => "/".into(),
            Door::People(Page::Style) => "/people.css".into(),
            Door::People(Page::SignIn) => "/sign-in".into(),
            Door::People(Page::Provider) => "/sign-in/provider".into(),
            Door::People(Page::Callback) => "/sign-in/callback".into(),
            Door::People(Page::SignOut) => "/sign-out".into(),
            Door::Live => "/health/live".into(),
            Door::Ready => "/health/ready".into(),
            Door::Metrics => "/metrics".into(),
            Door::SmartConfiguration => "/fhir/.well-known/smart-configuration".into(),
            Door::Hook(_) => "/hooks".into(),
            Door::Websocket => "/websocket".into(),
            Door::Token => "/auth/token".into(),
            Door::Keys => "/auth/jwks".into(),
            Door::Introspect => "/auth/introspect".into(),
            Door::Revoke => "/auth/revoke".into(),
            Door::BackChannelLogout => "/sign-out/back-channel".into(),
            Door::Fhir(place) => place.label(),
            Door::Nowhere | Door::Unknown => "unknown".into(),
        }
    }
}

impl Place {
    pub fn allowed(&self) -> Vec<&'static str> {
        let offers = |kind: ResourceType, wanted: &[Interaction]| {
            let offered = row_of(kind).map_or(&[][..], |row| row.interactions);
            let methods = wanted.iter().filter(|one| offered.contains(one)).flat_map(|one| match one {
                Create => &["POST"][..],
                Read | Vread | History | TypeHistory | Search => &["GET", "HEAD"],
                Update => &["PUT"],
                Patch => &["PATCH"],
                Delete => &["DELETE"],
            });
            methods.copied().collect()
        };
        match self {
            Place::Base => vec!["GET", "HEAD", "POST"],
            Place::Metadata => vec!["GET", "HEAD", "OPTIONS"],
            Place::SystemHistory | Place::Compartment(..) => vec!["GET", "HEAD"],
            Place::Type(kind) => offers(*kind, &[Search, Create, Update, Patch, Delete]),
            Place::Search(_) => vec!["POST"],
            Place::Instance(key) => offers(key.kind, &[Read, Update, Patch, Delete]),
            Place::History(key) => offers(key.kind, &[History]),
            Place::TypeHistory(kind) => offers(*kind, &[TypeHistory]),
            Place::Version(key, _) => offers(key.kind, &[Vread]),
            Place::Operation(known, ..) if known.get => vec!["GET", "HEAD", "POST"],
            Place::Operation(..) => vec!["POST"],
        }
    }

    /// The type, and the resource, that it is about.
    pub fn about(&self) -> Option<(ResourceType, Option<&str>)> {
        match self {
            Place::Base | Place::Metadata | Place::SystemHistory | Place::Search(Area::All) => None,
            Place::Type(kind) | Place::Search(Area::Type(kind)) | Place::TypeHistory(kind) => Some((*kind, None)),
            Place::Compartment(key, _) | Place::Search(Area::Compartment(key, _)) => Some((key.kind, Some(&key.id))),
            Place::Instance(key) | Place::History(key) | Place::Version(key, _) => Some((key.kind, Some(&key.id))),
            Place::Operation(_, kind, id) => Some((*kind, id.as_deref())),
        }
    }

    /// What is done there, as the record has it.
    pub fn action(&self, method: &Method) -> &'static str {
        match (self, method.as_str()) {
            (Place::Operation(..), _) => "operation",
            (Place::Search(_), _) => "search",
            (Place::Type(_), "POST") => "create",
            (_, "PUT") => "update",
            (_, "PATCH") => "patch",
            (_, "DELETE") => "delete",
            (Place::History(_) | Place::TypeHistory(_) | Place::SystemHistory, _) => "history",
            (Place::Version(..), _) => "vread",
            (Place::Instance(_), _) => "read",
            (Place::Type(_) | Place::Compartment(..) | Place::Base | Place::Metadata, _) => "search",
        }
    }

    fn label(&self) -> String {
        match self {
            Place::Base => "/fhir".into(),
            Place::Metadata => "metadata".into(),
            Place::SystemHistory => "_history".into(),
            Place::Type(kind) => kind.to_string(),
            Place::Compartment(key, kind) => format!("{}/{{id}}/{}", key.kind, kind.map_or("*", ResourceType::name)),
            Place::Search(Area::All) => "_search".into(),
            Place::Search(Area::Type(kind)) => format!("{kind}/_search"),
            Place::Search(Area::Compartment(key, kind)) => {
                format!("{}/_search", Place::Compartment(key.clone(), *kind).label())
            }
            Place::Instance(key) => format!("{}/{{id}}", key.kind),
            Place::History(key) => format!("{}/{{id}}/_history", key.kind),
            Place::TypeHistory(kind) => format!("{kind}/_history"),
            Place::Version(key, _) => format!("{}/{{id}}/_history/{{n}}", key.kind),
            Place::Operation(known, kind, None) => format!("{kind}/${}", known.name),
            Place::Operation(known, kind, Some(_)) => format!("{kind}/{{id}}/${}", known.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(path: &str) -> Vec<&'static str> {
        door(path, &[]).allowed()
    }

    //
    //
    #[test]
    fn slashes_are_forgiven_and_nothing_else() {
        for path in ["/fhir/metadata", "/fhir//metadata", "//fhir/metadata/", "/fhir/metadata//"] {
            assert_eq!(door(path, &[]), Door::Fhir(Place::Metadata), "{path}");
        }
        assert_eq!(door("/fhir/", &[]), Door::Fhir(Place::Base));
        assert_eq!(door("/", &[]), Door::People(Page::Home));
        for path in [
            "/fhir/task/1",
            "/fhir/Task/a b",
            "/fhir/Task/a%2Fb",
            "/fhir/Task/1/x",
            "/fhir/Task/$events",
            "/fhir/Account",
        ] {
            assert_eq!(door(path, &[]), Door::Nowhere, "{path}");
        }
        for path in ["/fhirx", "/auth", "/auth/tokens", "/hooks", "/fhir/.well-known/udap", "/%ff"] {
            assert_eq!(door(path, &[]), Door::Unknown, "{path}");
        }
    }

    #[test]
    fn the_public_urls_path_may_stand_in_front() {
        let prefix = prefix("https://hub.example.org/a/b");
        assert_eq!(prefix, ["a", "b"]);
        for path in ["/a/b/fhir/metadata", "/fhir/metadata"] {
            assert_eq!(door(path, &prefix), Door::Fhir(Place::Metadata), "{path}");
        }
        assert!(super::prefix("https://hub.example.org").is_empty());
    }

    //
    #[test]
    fn the_methods_come_from_the_table() {
        assert_eq!(allowed("/fhir/Task"), ["GET", "HEAD", "POST", "PUT", "PATCH"]);
        assert_eq!(allowed("/fhir/Condition"), ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]);
        assert_eq!(allowed("/fhir/Task/1"), ["GET", "HEAD", "PUT", "PATCH"]);
        assert_eq!(allowed("/fhir/Condition/1"), ["GET", "HEAD", "PUT", "PATCH", "DELETE"]);
        assert_eq!(allowed("/fhir/Encounter/1"), ["GET", "HEAD"]);
        assert_eq!(allowed("/fhir/Task/1/$relay"), ["POST"]);
        assert_eq!(allowed("/fhir/Subscription/%24status"), ["GET", "HEAD", "POST"]);
        assert_eq!(allowed("/fhir/Task/_history"), ["GET", "HEAD"]);
        assert_eq!(allowed("/fhir"), ["GET", "HEAD", "POST"]);
        // what anybody's page may read, it may ask for with headers of its own.
        for open in ["/fhir/metadata", "/fhir/.well-known/smart-configuration"] {
            assert_eq!(allowed(open), ["GET", "HEAD", "OPTIONS"], "{open}");
        }
        //
        for compartment in ["/fhir/Patient/1/*", "/fhir/Patient/1/Task", "/fhir/Patient/1/AuditEvent"] {
            assert_eq!(allowed(compartment), ["GET", "HEAD"], "{compartment}");
            assert_eq!(allowed(&format!("{compartment}/_search")), ["POST"], "{compartment}");
        }
        assert_eq!((allowed("/fhir/_search"), allowed("/fhir/Task/_search")), (vec!["POST"], vec!["POST"]));
        for none in ["/fhir/Patient/1/Organization", "/fhir/Group/1/Task", "/fhir/Task/1/_search", "/fhir/Patient/*"] {
            assert!(allowed(none).is_empty(), "{none}");
        }
        for without in ["/fhir/Encounter/1/_history", "/fhir/Encounter/_history", "/fhir/ValueSet/_history"] {
            assert!(allowed(without).is_empty(), "{without}");
        }
    }

    #[test]
    fn the_log_never_names_an_id() {
        for path in
            ["/fhir/Task/secret", "/fhir/Task/secret/_history/7", "/fhir/Task/secret/$relay", "/fhir/secret", "/secret"]
        {
            assert!(!door(path, &[]).label().contains("secret"), "{path}");
        }
    }
}
