//! Query strings and forms: to decoded pairs, and back into links.
//!
//! A `+` is a space, as forms have it, but where no space can stand and clients often write it bare: before a time zone
//! and in a media type. The one place for this: addresses, forms, `If-None-Exist` and the entries of
//! Bundles are all read here.
//! <https://url.spec.whatwg.org/#application/x-www-form-urlencoded>

use super::resource::ResourceType;
use crate::error::Error;

/// The decoded pairs of a query string or form, in order; empty names are dropped.
pub fn pairs(text: Option<&str>) -> Result<Vec<(String, String)>, Error> {
    let unreadable = || Error::malformed("The query is not percent-encoded UTF-8.").code("value");
    let parts = text.unwrap_or("").split('&').filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let (name, value) = (decode(name, true)?, decode(value, true)?);
        let value = if name == "_format" { value.replace(' ', "+") } else { zoned(value) };
        Some((name, value))
    };
    let read: Option<Vec<_>> = parts.map(pair).collect();
    Ok(read.ok_or_else(unreadable)?.into_iter().filter(|(name, _)| !name.is_empty()).collect())
}

/// The dates of a list with the `+` of their time zones: a space behind a time of day and before hours and minutes was
/// one.
fn zoned(value: String) -> String {
    if !value.contains(' ') {
        return value;
    }
    let clock = |text: &str| {
        let shape = text.bytes().map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
        shape.eq(*b"00:00")
    };
    let date = |item: &str| {
        let (time, zone) = item.rsplit_once(' ')?;
        let (_, of_day) = time.rsplit_once('T')?;
        (clock(zone) && clock(of_day.get(..5)?)).then(|| format!("{time}+{zone}"))
    };
    let items = value.split(',').map(|item| date(item).unwrap_or_else(|| item.to_string()));
    items.collect::<Vec<_>>().join(",")
}

/// Parameters that say how results are shown: no condition.
const RESULT: &[&str] = &[
    "_sort",
    "_count",
    "_include",
    "_revinclude",
    "_summary",
    "_total",
    "_elements",
    "_contained",
    "_containedType",
    "_page",
];

/// The search of a conditional interaction: filters alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Criteria(Vec<(String, String)>);

impl Criteria {
    /// Reads `If-None-Exist`: what stands behind the question mark. Public clients (HAPI's) write the address before it
    /// as well, which must then be that of the type.
    pub fn if_none_exist(kind: ResourceType, text: &str) -> Result<Self, Error> {
        let (address, query) = match text.split_once('?') {
            Some((address, query)) if !address.contains('=') => (address.trim(), query),
            _ => ("", text),
        };
        if !address.is_empty() && address.trim_end_matches('/').rsplit('/').next() != Some(kind.name()) {
            let text =
                format!("If-None-Exist holds search parameters of {kind} alone, such as identifier=system|value.");
            return Err(Error::malformed(text).code("value"));
        }
        Criteria::read(query.trim())
    }

    /// Reads a query.
    pub fn read(text: &str) -> Result<Self, Error> {
        Criteria::of(&pairs(Some(text))?)
    }

    /// The parameters of a request, without those that are about its answer's format.
    pub fn of(pairs: &[(String, String)]) -> Result<Self, Error> {
        let pairs = pairs.iter().filter(|(name, _)| name != "_format" && name != "_pretty").cloned();
        let pairs: Vec<(String, String)> = pairs.collect();
        let shows = |name: &str| RESULT.contains(&name.split(':').next().unwrap_or(name));
        if pairs.iter().any(|(name, _)| shows(name)) {
            let text =
                "A condition takes search filters only, none of the parameters about results (_sort, _count, …).";
            return Err(Error::malformed(text).code("not-supported"));
        }
        Ok(Criteria(pairs))
    }

    /// Its parameters.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

/// Undoes percent-encoding; a `%` that encodes nothing stays. `None` when the result is no UTF-8.
pub fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Some(text.to_string());
    }
    let digit =
        |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16)).and_then(|n| u8::try_from(n).ok());
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(byte) = bytes.get(index) {
        index += 1;
        match (byte, digit(bytes.get(index)), digit(bytes.get(index + 1))) {
            (b'%', Some(high), Some(low)) => {
                out.push(high * 16 + low);
                index += 2;
            }
            (b'+', ..) if plus_is_space => out.push(b' '),
            _ => out.push(*byte),
        }
    }
    String::from_utf8(out).ok()
}

/// A link: the address, then the pairs percent-encoded.
pub fn link<'a>(address: &str, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = address.to_string();
    for (index, (name, value)) in pairs.into_iter().enumerate() {
        out.push(if index == 0 { '?' } else { '&' });
        encode(name, &mut out);
        out.push('=');
        encode(value, &mut out);
    }
    out
}

/// Encodes what may not stand in a query; `:`, `/` and `,` may, and stay readable.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// The value of the one parameter of this name; more than one is refused.
pub fn once<'a>(pairs: &'a [(String, String)], name: &str) -> Result<Option<&'a str>, Error> {
    let mut found = pairs.iter().filter(|(known, value)| known == name && !value.is_empty());
    let first = found.next();
    if found.next().is_some() {
        return Err(Error::malformed(format!("The parameter {name} stands here at most once.")).code("value"));
    }
    Ok(first.map(|(_, value)| value.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn queries_are_decoded() {
        let read = |text| pairs(Some(text)).unwrap();
        let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
        assert_eq!(read("a=1&&b=x%20y+z&c&=q"), [pair("a", "1"), pair("b", "x y z"), pair("c", "")]);
        assert_eq!(
            read("_profile=http://x/y&s=a%7Cb&p=100%"),
            [pair("_profile", "http://x/y"), pair("s", "a|b"), pair("p", "100%")]
        );
        assert!(pairs(Some("a=%ff")).is_err());
        assert!(pairs(None).unwrap().is_empty());
    }

    //
    #[test]
    fn a_bare_plus_stays_one_where_no_space_can_stand() {
        let at = "2026-03-01T10:00";
        for (text, value) in [
            (format!("d={at}+01:00"), format!("{at}+01:00")),
            (format!("d=ge{at}:00.5+01:00,lt{at}:01%2B02:00"), format!("ge{at}:00.5+01:00,lt{at}:01+02:00")),
            ("_format=application/fhir+json".into(), "application/fhir+json".into()),
            ("name=Ann+Lee,Jo".into(), "Ann Lee,Jo".into()),
            ("name=Tea+10:00".into(), "Tea 10:00".into()),
        ] {
            let read = pairs(Some(&text)).unwrap();
            assert_eq!(read.first().map(|pair| pair.1.as_str()), Some(value.as_str()), "{text}");
            let again = link("", read.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            assert_eq!(pairs(again.strip_prefix('?')).unwrap(), read, "{again}");
            assert_eq!(again.contains("%2B"), value.contains('+'), "a plus is written as one: {again}");
        }
    }

    #[test]
    fn a_link_is_encoded() {
        let link = link("https://hub/fhir/Task", [("owner:missing", "true"), ("identifier", "s|a b&c=é\"+")]);
        assert_eq!(link, "https://hub/fhir/Task?owner:missing=true&identifier=s%7Ca%20b%26c%3D%C3%A9%22%2B");
    }

    #[test]
    fn a_parameter_that_stands_twice_is_refused() {
        let read = pairs(Some("_count=1&_count=2&_since=&_page=3")).unwrap();
        assert!(once(&read, "_count").is_err());
        assert_eq!((once(&read, "_since").unwrap(), once(&read, "_page").unwrap()), (None, Some("3")));
    }

    //
    #[test]
    fn a_condition_holds_filters_alone() {
        let read = |text: &str| Criteria::if_none_exist(ResourceType::TASK, text);
        for text in [
            "identifier=http%3A%2F%2Fa%7Cb&_format=json",
            "?identifier=http://a|b",
            "Task?identifier=http://a|b",
            "https://hub/fhir/Task?identifier=http%3A%2F%2Fa%7Cb",
        ] {
            let criteria = read(text).unwrap();
            assert_eq!(criteria.pairs(), [("identifier".to_string(), "http://a|b".to_string())], "{text}");
        }
        // A question mark in a value is part of it.
        assert_eq!(read("identifier=a?b").unwrap().pairs(), [("identifier".to_string(), "a?b".to_string())]);
        for bad in [
            "_count=1&identifier=a",
            "_include:iterate=Task:focus",
            "_sort=x",
            "a=%ff",
            "Patient?identifier=a",
            "x?a=b",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn links_read_back_as_written(name in "\\PC{1,12}", value in "\\PC{0,24}") {
            let link = link("", [(name.as_str(), value.as_str())]);
            prop_assert_eq!(pairs(link.strip_prefix('?')).unwrap(), [(name, value)]);
        }
    }
}
