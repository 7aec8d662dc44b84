//! Preconditions of a write: what must hold of the stored version, as `If-Match` and `If-None-Match` say it in a header
//! or in a Bundle's entry.
//!
//! A malformed precondition is 400: who meant to be careful must not be answered as if he had not been. Tags are read in
//! all their spellings: weak, strong, a list. <https://hl7.org/fhir/R4/http.html#concurrency>,
//! <https://www.rfc-editor.org/rfc/rfc9110#name-preconditions>

use crate::error::{Error, Kind};

/// No version has this number: an entity tag that is none of ours never matches.
const NEVER: i64 = -1;

/// What a client demands of what its write would replace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Precondition {
    /// Nothing.
    #[default]
    Nothing,
    /// `If-Match: *`: something is there.
    Exists,
    /// `If-Match: W/"3"`: one of these versions is the current one.
    Version(Vec<i64>),
    /// `If-None-Match: *`: nothing is there.
    Absent,
}

impl Precondition {
    /// Reads the values of `If-Match` and `If-None-Match`.
    pub fn read(if_match: Option<&str>, if_none_match: Option<&str>) -> Result<Precondition, Error> {
        match (if_match, if_none_match) {
            (None, None) => Ok(Precondition::Nothing),
            (Some("*"), None) => Ok(Precondition::Exists),
            (Some(list), None) => {
                let versions = tags(list)
                    .filter(|tags| !tags.is_empty())
                    .ok_or_else(|| bad("If-Match names versions, such as W/\"3\"."))?;
                Ok(Precondition::Version(versions.iter().map(|tag| number(tag).unwrap_or(NEVER)).collect()))
            }
            (None, Some("*")) => Ok(Precondition::Absent),
            // Ignoring it would overwrite what the client meant to spare.
            (None, Some(_)) => Err(bad("Of a write, If-None-Match takes only *: create it, if it is not there.")),
            (Some(_), Some(_)) => Err(bad("A write takes If-Match or If-None-Match, not both.")),
        }
    }

    /// Whether a client said which version it read.
    pub fn names_a_version(&self) -> bool {
        matches!(self, Precondition::Version(_))
    }

    /// 412 unless it holds; `current` is the version that is there, none where nothing is or where it was deleted.
    pub fn check(&self, current: Option<i64>) -> Result<(), Error> {
        let (holds, text) = match (self, current) {
            (Precondition::Nothing, _) => (true, ""),
            (Precondition::Exists, _) => (current.is_some(), "If-Match: * was sent, and there is nothing here."),
            (Precondition::Version(wanted), Some(version)) => (
                wanted.contains(&version),
                "This has changed since you read it: If-Match does not name the current version. Read it again and decide again.",
            ),
            (Precondition::Version(_), None) => (false, "If-Match names a version, and there is nothing here."),
            (Precondition::Absent, _) => (current.is_none(), "If-None-Match: * was sent, and this is here already."),
        };
        if holds { Ok(()) } else { Err(Error::new(Kind::VersionConflict, text)) }
    }
}

fn bad(text: &str) -> Error {
    Error::malformed(text).code("value")
}

/// The version number a tag stands for.
fn number(tag: &str) -> Option<i64> {
    tag.parse().ok().filter(|number| *number > 0)
}

/// What stands between the quotes of the entity tags of a list, weak or strong; `None` when one of them is none.
pub fn tags(list: &str) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    let mut rest = list.trim();
    while !rest.is_empty() {
        let inner = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"')?;
        let (tag, after) = inner.split_once('"')?;
        found.push(tag);
        rest = after.trim_start();
        if !rest.is_empty() {
            rest = rest.strip_prefix(',')?.trim_start();
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn if_match(text: &str) -> Result<Precondition, Error> {
        Precondition::read(Some(text), None)
    }

    // HAPI sends the strong form (reference-clients §2.6).
    #[test]
    fn if_match_takes_every_spelling_of_a_tag() {
        for (text, versions) in [
            ("W/\"3\"", vec![3]),
            ("\"3\"", vec![3]),
            ("W/\"1\", \"2\"", vec![1, 2]),
            (" W/\"3\" ", vec![3]),
            ("W/\"abc\"", vec![NEVER]),
            ("\"0\"", vec![NEVER]),
            ("\"a,b\"", vec![NEVER]),
        ] {
            assert_eq!(if_match(text).unwrap(), Precondition::Version(versions), "{text}");
        }
        assert_eq!(if_match("*").unwrap(), Precondition::Exists);
        assert_eq!(Precondition::read(None, None).unwrap(), Precondition::Nothing);
        for bad in ["3", "W/3", "\"3", "", "w/\"3\"", "\"1\" \"2\"", "*, \"1\""] {
            assert_eq!(if_match(bad).unwrap_err().kind, Kind::Malformed, "{bad}");
        }
    }

    //
    #[test]
    fn a_write_may_ask_for_nothing_to_be_there() {
        assert_eq!(Precondition::read(None, Some("*")).unwrap(), Precondition::Absent);
        assert!(Precondition::read(None, Some("W/\"3\"")).is_err());
        assert!(Precondition::read(Some("*"), Some("*")).is_err());
    }

    #[test]
    fn what_is_demanded_holds_or_is_412() {
        let version = |list: &[i64]| Precondition::Version(list.to_vec());
        for (demand, current, holds) in [
            (Precondition::Nothing, None, true),
            (Precondition::Exists, Some(1), true),
            (Precondition::Exists, None, false),
            (version(&[1, 3]), Some(3), true),
            (version(&[2]), Some(3), false),
            (version(&[3]), None, false),
            (Precondition::Absent, None, true),
            (Precondition::Absent, Some(1), false),
        ] {
            let kind = demand.check(current).err().map(|error| error.kind.status());
            assert_eq!(kind, (!holds).then_some(412), "{demand:?} {current:?}");
        }
    }
}
