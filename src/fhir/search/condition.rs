//! One parameter as a condition: its name, type and modifier decide what its values mean; chains and `_has` lead to
//! another type's parameters. <https://hl7.org/fhir/R4/search.html#modifiers>

use super::super::published;
use super::super::reference::Reference;
use super::super::resource::ResourceType;
use super::super::search_index::{
    Parameter, ParameterType, SEPARATOR, canonical_reference, fold, fold_code, parameter,
};
use super::super::terminology::{Concept, Terminology};
use super::value::{amount, date, instant, pieces, plain, split, token};
use super::{Filter, MAX_CHAIN, MAX_VALUES, Prefix, Test, Token, bad};
use crate::error::Error;
use crate::id;

/// The condition of a parameter, or nothing where the type has none of this name. `depth` counts the references that
/// led here.
pub(super) fn read(
    kind: ResourceType,
    written: &str,
    value: &str,
    own: &str,
    depth: usize,
) -> Result<Option<Filter>, Error> {
    if let Some(rest) = written.strip_prefix("_has:") {
        return has(rest, value, own, depth);
    }
    if let Some((head, rest)) = written.split_once('.') {
        return chain(kind, head, rest, value, own, depth);
    }
    let (name, modifier) = match written.split_once(':') {
        Some((name, modifier)) => (name, Some(modifier)),
        None => (written, None),
    };
    let filter = match name {
        "_id" | "_lastUpdated" | "_lastupdated" if modifier == Some("missing") => {
            // Every resource has both: those changed since the epoch are all, those before it none.
            let prefix = if missing(name, value)? { Prefix::Lt } else { Prefix::Ge };
            return Ok(Some(Filter::Updated(prefix, 0, 0)));
        }
        "_id" => Filter::Ids(split(value)),
        // Case as the guide itself spells it; `_since` as old subscription texts have it.
        "_lastUpdated" | "_lastupdated" | "_since" => {
            let since = format!("ge{value}");
            let value = if name == "_since" { &since } else { value };
            let (prefix, low, high) = instant(value).ok_or_else(|| bad(name, "is no date."))?;
            Filter::Updated(prefix, low, high)
        }
        _ => {
            let Some(parameter) = parameter(kind, name) else { return Ok(None) };
            return indexed(parameter, modifier, value, own).map(Some);
        }
    };
    match modifier {
        Some(_) => Err(bad(name, "takes no such modifier.")),
        None => Ok(Some(filter)),
    }
}

/// `_has:Task:focus:status=x`
fn has(rest: &str, value: &str, own: &str, depth: usize) -> Result<Option<Filter>, Error> {
    let mut parts = rest.splitn(3, ':');
    let (source, name, inner) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let source = ResourceType::parse(source).ok_or_else(|| bad("_has", "names a type that is not known here."))?;
    let name = parameter(source, name).filter(|known| known.kind == ParameterType::Reference);
    let name = name.ok_or_else(|| bad("_has", "goes by a reference parameter of that type."))?.name;
    check_depth("_has", depth)?;
    let its = read(source, inner, value, own, depth + 1)?;
    Ok(its.map(|its| Filter::Has { source, name, its: Box::new(its) }))
}

/// `owner:Organization.name=x`; without a type, of every type that has such a parameter.
fn chain(
    kind: ResourceType,
    head: &str,
    rest: &str,
    value: &str,
    own: &str,
    depth: usize,
) -> Result<Option<Filter>, Error> {
    let (name, target) = head.split_once(':').map_or((head, None), |(name, target)| (name, Some(target)));
    let Some(known) = parameter(kind, name) else { return Ok(None) };
    if known.kind != ParameterType::Reference {
        return Err(bad(name, "is no reference: there is nothing to chain to."));
    }
    check_depth(name, depth)?;
    let targets: Vec<ResourceType> = match target {
        Some(target) => {
            vec![ResourceType::parse(target).ok_or_else(|| bad(name, "names a type that is not known here."))?]
        }
        None => known.targets.iter().filter_map(|target| ResourceType::parse(target)).collect(),
    };
    let (mut to, mut fault) = (Vec::new(), None);
    for target in targets {
        match read(target, rest, value, own, depth + 1) {
            Ok(Some(filter)) => to.push((target, filter)),
            Ok(None) => {}
            Err(error) => fault = Some(error),
        }
    }
    match (to.is_empty(), fault) {
        (true, Some(error)) => Err(error),
        (true, None) => Ok(None),
        (false, _) => Ok(Some(Filter::Chain { name: known.name, to })),
    }
}

fn check_depth(name: &str, depth: usize) -> Result<(), Error> {
    if depth < MAX_CHAIN {
        return Ok(());
    }
    Err(bad(name, &format!("leads over more than {MAX_CHAIN} references.")).code("too-costly"))
}

/// What `:missing` asks for.
fn missing(name: &str, value: &str) -> Result<bool, Error> {
    value.parse().map_err(|_| bad(name, "with :missing takes true or false."))
}

/// The condition of an indexed parameter.
fn indexed(known: &'static Parameter, modifier: Option<&str>, value: &str, own: &str) -> Result<Filter, Error> {
    let name = known.name;
    let (mut not, no_such) = (false, || bad(name, "takes no such modifier."));
    let folded = || split(value).iter().map(|text| fold(text).trim().to_string()).collect();
    let test = match (known.kind, modifier) {
        (_, Some("missing")) => Test::Present(!missing(name, value)?),
        (ParameterType::Token, None | Some("not")) => {
            not = modifier.is_some();
            Test::Tokens(pieces(value, ',').iter().map(|text| known_token(known, token(text))).collect())
        }
        (ParameterType::Token, Some(set @ ("in" | "not-in"))) if !known.exact => {
            not = set == "not-in";
            Test::Tokens(members(known, value, own)?)
        }
        (ParameterType::Token, Some(way @ ("above" | "below"))) if !known.exact => {
            Test::Tokens(subsumed(known, value, way == "above")?)
        }
        (ParameterType::Token, Some("text")) => Test::Says(folded()),
        (ParameterType::Token, Some("of-type")) if known.exact => {
            let all: Option<Vec<Token>> = pieces(value, ',').iter().map(|text| of_type(text)).collect();
            Test::Tokens(all.ok_or_else(|| bad(name, "with :of-type takes system|code|value."))?)
        }
        (ParameterType::Reference, None) => {
            Test::References(split(value).iter().flat_map(|text| references(known, text, own)).collect())
        }
        (ParameterType::Reference, Some("identifier")) => {
            let marked = |token: Token| Token { code: token.code.map(|code| format!("{SEPARATOR}{code}")), ..token };
            let tokens = pieces(value, ',').iter().map(|text| marked(token(text))).collect::<Vec<_>>();
            if tokens.iter().any(|token| token.code.is_none()) {
                return Err(bad(name, "with :identifier takes a value, with its system or without."));
            }
            Test::Tokens(tokens)
        }
        (ParameterType::Reference, Some(kind)) => {
            let kind = ResourceType::parse(kind).ok_or_else(no_such)?;
            Test::References(split(value).iter().map(|text| of_kind(kind, text, own)).collect())
        }
        (ParameterType::Date, None) => {
            let dates: Option<Vec<_>> = split(value).iter().map(|text| date(text)).collect();
            Test::Dates(dates.ok_or_else(|| bad(name, "is no date."))?)
        }
        (ParameterType::Quantity, None) => {
            let amounts: Option<Vec<_>> = pieces(value, ',').iter().map(|text| amount(text)).collect();
            Test::Amounts(amounts.ok_or_else(|| bad(name, "is no number, or number|system|code."))?)
        }
        (ParameterType::Composite, None) => {
            let pairs: Option<Vec<_>> = pieces(value, ',').iter().map(|text| pair(known, text)).collect();
            Test::Pairs(pairs.ok_or_else(|| bad(name, "takes two values with a $ between them."))?)
        }
        (ParameterType::Text, None) => Test::Begins(folded()),
        (ParameterType::Text, Some("contains")) => Test::Contains(folded()),
        (ParameterType::Text, Some("exact")) => Test::Exact(split(value)),
        (ParameterType::Uri, None) => Test::Is(split(value)),
        (ParameterType::Uri, Some("below")) => Test::Below(split(value)),
        (ParameterType::Uri, Some("above")) => Test::Above(split(value)),
        (ParameterType::Canonical, None) => Test::Is(split(value).iter().map(|text| canonical(text, own)).collect()),
        (
            ParameterType::Token
            | ParameterType::Date
            | ParameterType::Quantity
            | ParameterType::Composite
            | ParameterType::Text
            | ParameterType::Uri
            | ParameterType::Canonical,
            Some(_),
        ) => return Err(no_such()),
    };
    Ok(Filter::Indexed { name, test, not })
}

/// A token as the index holds the parameter's: codes without case, and the system that plain codes imply left out.
fn known_token(known: &Parameter, Token { system, code }: Token) -> Token {
    let implied = known.implied.is_some() && system.as_deref() == known.implied;
    Token {
        system: if implied { Some(String::new()) } else { system },
        code: if known.exact { code } else { code.map(|code| fold_code(&code)) },
    }
}

fn coded<'a>(known: &Parameter, codes: impl IntoIterator<Item = &'a Concept>) -> Result<Vec<Token>, Error> {
    let token = |one: &Concept| Token { system: Some(one.system.clone()), code: Some(one.code.clone()) };
    let all: Vec<Token> = codes.into_iter().map(|one| known_token(known, token(one))).collect();
    if all.len() > MAX_VALUES {
        return Err(bad(known.name, &format!("means more than {MAX_VALUES} codes this way.")).code("too-costly"));
    }
    Ok(all)
}

/// `:in`: the codes of value sets, which are named by their URL or by where they are read here.
fn members(known: &Parameter, value: &str, own: &str) -> Result<Vec<Token>, Error> {
    let mut codes = Vec::new();
    for text in split(value) {
        let url = match Reference::parse(&text, own) {
            Reference::Local(key) => published::at(&key).and_then(|set| set.text_at("url")),
            _ => Some(text.as_str()),
        };
        codes.extend(url.and_then(|url| Terminology::held().expand(url).ok()).ok_or_else(|| {
            let text = "takes with :in and :not-in a value set that is held here whole; /ValueSet lists them.";
            bad(known.name, text).code("not-supported")
        })?);
    }
    coded(known, &codes)
}

/// `:below` and `:above`: a code and those it subsumes, or that subsume it.
fn subsumed(known: &Parameter, value: &str, up: bool) -> Result<Vec<Token>, Error> {
    let mut codes = Vec::new();
    for text in pieces(value, ',') {
        let Token { system, code } = token(text);
        let system = system.as_deref().or(known.implied);
        let found = system.zip(code).and_then(|(system, code)| Terminology::held().subsumed(system, &code, up));
        codes.extend(found.ok_or_else(|| {
            let text =
                "takes with :above and :below system|code of a system that is held here whole; /CodeSystem lists them.";
            bad(known.name, text).code("not-supported")
        })?);
    }
    coded(known, codes)
}

fn pair(known: &Parameter, text: &str) -> Option<(Token, Token)> {
    let parts = pieces(text, '$');
    match parts.as_slice() {
        [one, other] => Some((known_token(known, token(one)), known_token(known, token(other)))),
        _ => None,
    }
}

/// `system|code|value` of an identifier's type and value.
fn of_type(text: &str) -> Option<Token> {
    let parts: Vec<String> = pieces(text, '|').iter().map(|part| plain(part)).collect();
    let [system, code, value] = parts.as_slice() else { return None };
    let code = format!("{SEPARATOR}{}{SEPARATOR}{value}", fold_code(code));
    Some(Token { system: Some(format!("{SEPARATOR}{system}")), code: Some(code) })
}

/// Every form a reference may have in the index.
fn references(known: &Parameter, text: &str, own: &str) -> Vec<String> {
    match Reference::parse(text, own) {
        Reference::Other(id) if id::is_valid(&id) => {
            known.targets.iter().map(|target| format!("{target}/{id}")).collect()
        }
        _ => vec![canonical_reference(text, own)],
    }
}

/// `owner:Organization=`: an id of that type, or a whole reference.
fn of_kind(kind: ResourceType, text: &str, own: &str) -> String {
    match Reference::parse(text, own) {
        Reference::Local(key) if key.kind == kind => key.to_string(),
        Reference::Remote { base, key } if key.kind == kind => format!("{base}/{key}"),
        Reference::Other(id) if id::is_valid(&id) => format!("{kind}/{id}"),
        // Of another type: nothing is stored so.
        _ => format!("{kind}/"),
    }
}

/// A canonical URL: ours as `Type/id`, also where the id alone is written.
fn canonical(text: &str, own: &str) -> String {
    let (bare, version) = text.split_once('|').map_or((text, None), |(bare, version)| (bare, Some(version)));
    let bare = if id::is_valid(bare) { format!("Questionnaire/{bare}") } else { canonical_reference(bare, own) };
    version.map_or(bare.clone(), |version| format!("{bare}|{version}"))
}
