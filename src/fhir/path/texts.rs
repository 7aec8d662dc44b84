//! The functions on texts. Places are counted in characters. A longer text than [`LONGEST`] is not made.
//!
//! <https://hl7.org/fhirpath/N1/#string-manipulation>

use std::borrow::Cow;

use regex::Regex;

use super::Fault;
use super::evaluate::{Evaluator, Items, Scope, known, single};
use super::functions::Function;
use super::item::{Item, shown};
use super::parse::{Call, pattern};

/// Longest text that is made, in bytes.
const LONGEST: usize = 1 << 20;

fn text<'a>(text: String) -> Result<Items<'a>, Fault> {
    if text.len() > LONGEST { Err(Fault::TooCostly) } else { Ok(vec![Item::Text(Cow::Owned(text))]) }
}

fn place<'a>(text: &str, byte: Option<usize>) -> Items<'a> {
    let place = byte.map_or(Some(-1), |byte| i64::try_from(text.get(..byte)?.chars().count()).ok());
    place.map(Item::Integer).into_iter().collect()
}

impl<'a> Evaluator<'_, 'a> {
    pub(super) fn text_function(
        &self,
        call: &'a Call,
        input: &[Item<'a>],
        scope: &Scope<'a>,
    ) -> Result<Items<'a>, Fault> {
        if call.function == Function::Join {
            return self.join(call, input, scope);
        }
        let Some(item) = single(input)? else { return Ok(Vec::new()) };
        self.here(item)?;
        let own = match item.atom() {
            Some(_) => shown(item).ok_or(no_text())?,
            // A primitive without a value has no text, either.
            None if matches!(item, Item::Node(node) if node.value.is_none()) => return Ok(Vec::new()),
            None => return Err(no_text()),
        };
        self.step(own.len() / 64)?;
        let given = |index: usize| -> Result<Option<String>, Fault> {
            let items = self.argument(&call.arguments, index, scope)?;
            match single(&items)? {
                None => Ok(None),
                Some(item) => shown(item).map(Some).ok_or(no_text()),
            }
        };
        macro_rules! given {
            ($index:literal) => {
                match given($index)? {
                    Some(text) => text,
                    None => return Ok(Vec::new()),
                }
            };
        }
        match call.function {
            Function::Length => Ok(i64::try_from(own.chars().count()).ok().map(Item::Integer).into_iter().collect()),
            Function::Upper => text(own.to_uppercase()),
            Function::Lower => text(own.to_lowercase()),
            Function::Trim => text(own.trim().to_string()),
            Function::ToChars => {
                self.step(own.len())?;
                Ok(own.chars().map(|c| Item::Text(Cow::Owned(c.to_string()))).collect())
            }
            Function::StartsWith => Ok(known(Some(own.starts_with(&given!(0))))),
            Function::EndsWith => Ok(known(Some(own.ends_with(&given!(0))))),
            Function::Contains => Ok(known(Some(own.contains(&given!(0))))),
            Function::IndexOf => Ok(place(&own, own.find(&given!(0)))),
            Function::LastIndexOf => Ok(place(&own, own.rfind(&given!(0)))),
            Function::Substring => self.substring(call, &own, scope),
            Function::Split => {
                let separator = given!(0);
                self.step(own.len())?;
                Ok(own.split(&separator).map(|part| Item::Text(Cow::Owned(part.to_string()))).collect())
            }
            Function::Replace => {
                let (from, to) = (given!(0), given!(1));
                self.replaced(&own, own.matches(&from).count(), &to)?;
                text(own.replace(&from, &to))
            }
            Function::Matches => Ok(known(Some(self.regex(call, &given!(0))?.is_match(&own)))),
            Function::MatchesFull => {
                let whole = pattern(&format!("^(?:{})$", given!(0)))?;
                Ok(known(Some(whole.is_match(&own))))
            }
            Function::ReplaceMatches => {
                let (from, to) = (self.regex(call, &given!(0))?, given!(1));
                self.replaced(&own, from.find_iter(&own).count(), &to)?;
                text(from.replace_all(&own, to.as_str()).into_owned())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The compiled pattern; one that is not a literal is compiled now.
    fn regex<'p>(&self, call: &'p Call, text: &str) -> Result<Cow<'p, Regex>, Fault> {
        match &call.pattern {
            Some(known) => Ok(Cow::Borrowed(known)),
            None => {
                self.step(10_000)?;
                pattern(text).map(Cow::Owned)
            }
        }
    }

    /// Refuses to make a text that is too long before it is made.
    fn replaced(&self, own: &str, times: usize, to: &str) -> Result<(), Fault> {
        // A pattern's groups may put the whole text into each replacement.
        let longest = to.len().saturating_add(to.matches('$').count().saturating_mul(own.len()));
        let most = own.len().saturating_add(times.saturating_mul(longest));
        self.step(most / 64)?;
        if most > LONGEST { Err(Fault::TooCostly) } else { Ok(()) }
    }

    fn substring(&self, call: &'a Call, own: &str, scope: &Scope<'a>) -> Result<Items<'a>, Fault> {
        let whole = |index: usize| -> Result<Option<i64>, Fault> {
            let items = self.argument(&call.arguments, index, scope)?;
            match single(&items)?.map(Item::atom) {
                None => Ok(None),
                Some(Some(Item::Integer(number))) => Ok(Some(number)),
                Some(_) => Err(Fault::Mismatch("substring is given whole numbers.")),
            }
        };
        let Some(start) = whole(0)? else { return Ok(Vec::new()) };
        let length = whole(1)?.map_or(usize::MAX, |length| usize::try_from(length.max(0)).unwrap_or(usize::MAX));
        let Ok(start) = usize::try_from(start) else { return Ok(Vec::new()) };
        let mut rest = own.chars().skip(start).peekable();
        if rest.peek().is_none() {
            return Ok(Vec::new());
        }
        text(rest.take(length).collect())
    }

    fn join(&self, call: &'a Call, input: &[Item<'a>], scope: &Scope<'a>) -> Result<Items<'a>, Fault> {
        let separator = self.argument(&call.arguments, 0, scope)?;
        let separator = single(&separator)?.and_then(shown).unwrap_or_default();
        let mut parts = Vec::with_capacity(input.len());
        let mut most = 0_usize;
        for item in input {
            self.here(item)?;
            let part = shown(item).ok_or(no_text())?;
            most = most.saturating_add(part.len()).saturating_add(separator.len());
            parts.push(part);
        }
        if most > LONGEST {
            return Err(Fault::TooCostly);
        }
        text(parts.join(&separator))
    }
}

fn no_text() -> Fault {
    Fault::Mismatch("Something else stands where a text belongs.")
}
