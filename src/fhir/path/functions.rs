//! The functions, by name; and those that work on collections.
//!
//! What works on one text is in [`super::texts`], what makes one type of another in [`super::convert`], what asks about
//! other resources in [`super::references`]. <https://hl7.org/fhirpath/N1/#functions>

use super::Fault;
use super::evaluate::{Evaluator, Items, Scope, known, single, truth};
use super::item::{Item, shown};
use super::operators::{self, Set};
use super::parse::{Call, Tree};
use crate::fhir::validate::narrative;

macro_rules! functions {
    ($($name:literal $variant:ident $least:literal $most:literal,)*) => {
        /// A function that this evaluator has.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Function { $($variant,)* }

        /// Each with its name and how many arguments it takes.
        const TABLE: &[(&str, Function, usize, usize)] = &[$(($name, Function::$variant, $least, $most),)*];
    };
}

functions! {
    // About existence.
    "empty" Empty 0 0,
    "exists" Exists 0 1,
    "all" All 1 1,
    "allTrue" AllTrue 0 0,
    "anyTrue" AnyTrue 0 0,
    "allFalse" AllFalse 0 0,
    "anyFalse" AnyFalse 0 0,
    "subsetOf" SubsetOf 1 1,
    "supersetOf" SupersetOf 1 1,
    "count" Count 0 0,
    "distinct" Distinct 0 0,
    "isDistinct" IsDistinct 0 0,
    "not" Not 0 0,
    // Picking and combining.
    "where" Where 1 1,
    "select" Select 1 1,
    "repeat" Repeat 1 1,
    "aggregate" Aggregate 1 2,
    "single" Single 0 0,
    "first" First 0 0,
    "last" Last 0 0,
    "tail" Tail 0 0,
    "skip" Skip 1 1,
    "take" Take 1 1,
    "intersect" Intersect 1 1,
    "exclude" Exclude 1 1,
    "union" Union 1 1,
    "combine" Combine 1 1,
    "children" Children 0 0,
    "descendants" Descendants 0 0,
    "iif" Iif 2 3,
    "trace" Trace 1 2,
    // From one type to another.
    "toBoolean" ToBoolean 0 0,
    "toInteger" ToInteger 0 0,
    "toDecimal" ToDecimal 0 0,
    "toString" ToString 0 0,
    "toDate" ToDate 0 0,
    "toDateTime" ToDateTime 0 0,
    "toTime" ToTime 0 0,
    "toQuantity" ToQuantity 0 0,
    "convertsToBoolean" ConvertsToBoolean 0 0,
    "convertsToInteger" ConvertsToInteger 0 0,
    "convertsToDecimal" ConvertsToDecimal 0 0,
    "convertsToString" ConvertsToString 0 0,
    "convertsToDate" ConvertsToDate 0 0,
    "convertsToDateTime" ConvertsToDateTime 0 0,
    "convertsToTime" ConvertsToTime 0 0,
    "convertsToQuantity" ConvertsToQuantity 0 0,
    // Texts.
    "startsWith" StartsWith 1 1,
    "endsWith" EndsWith 1 1,
    "contains" Contains 1 1,
    "indexOf" IndexOf 1 1,
    "lastIndexOf" LastIndexOf 1 1,
    "substring" Substring 1 2,
    "length" Length 0 0,
    "upper" Upper 0 0,
    "lower" Lower 0 0,
    "trim" Trim 0 0,
    "toChars" ToChars 0 0,
    "split" Split 1 1,
    "join" Join 0 1,
    "replace" Replace 2 2,
    "matches" Matches 1 1,
    "matchesFull" MatchesFull 1 1,
    "replaceMatches" ReplaceMatches 2 2,
    // Numbers.
    "abs" Abs 0 0,
    "ceiling" Ceiling 0 0,
    "floor" Floor 0 0,
    "round" Round 0 1,
    "truncate" Truncate 0 0,
    // Time.
    "now" Now 0 0,
    "today" Today 0 0,
    "timeOfDay" TimeOfDay 0 0,
    // FHIR's own.
    "extension" Extension 1 1,
    "hasExtension" HasExtension 1 1,
    "hasValue" HasValue 0 0,
    "getValue" GetValue 0 0,
    "resolve" Resolve 0 0,
    "memberOf" MemberOf 1 1,
    "conformsTo" ConformsTo 1 1,
    "htmlChecks" HtmlChecks 0 0,
}

impl Function {
    /// The function of this name.
    pub(super) fn of(name: &str) -> Option<Self> {
        TABLE.iter().find(|(known, ..)| *known == name).map(|(_, function, ..)| *function)
    }
    /// Whether it takes so many arguments.
    pub(super) fn takes(self, count: usize) -> bool {
        TABLE.iter().any(|(_, function, least, most)| *function == self && (*least..=*most).contains(&count))
    }
    /// Whether its first argument is a pattern.
    pub(super) fn has_pattern(self) -> bool {
        matches!(self, Function::Matches | Function::MatchesFull | Function::ReplaceMatches)
    }
}

impl<'a> Evaluator<'_, 'a> {
    pub(super) fn call(&self, call: &'a Call, input: Items<'a>, scope: &Scope<'a>) -> Result<Items<'a>, Fault> {
        self.step(input.len())?;
        let arguments = call.arguments.as_slice();
        match call.function {
            Function::Empty => Ok(known(Some(input.is_empty()))),
            Function::Exists => match arguments {
                [criterion] => Ok(known(Some(!self.filtered(input, criterion)?.is_empty()))),
                _ => Ok(known(Some(!input.is_empty()))),
            },
            Function::All => self.all(input, arguments),
            Function::AllTrue => flags(&input, |flags| flags.iter().all(|flag| *flag)),
            Function::AnyTrue => flags(&input, |flags| flags.iter().any(|flag| *flag)),
            Function::AllFalse => flags(&input, |flags| flags.iter().all(|flag| !*flag)),
            Function::AnyFalse => flags(&input, |flags| flags.iter().any(|flag| !*flag)),
            Function::SubsetOf => subset(&input, self.argument(arguments, 0, scope)?),
            Function::SupersetOf => subset(&self.argument(arguments, 0, scope)?, input),
            Function::Count => Ok(count(input.len())),
            Function::Distinct => Ok(Set::of(input)?.into_items()),
            Function::IsDistinct => {
                let all = input.len();
                Ok(known(Some(Set::of(input)?.into_items().len() == all)))
            }
            Function::Not => Ok(known(truth(&input)?.map(|flag| !flag))),
            Function::Where => match arguments {
                [criterion] => self.filtered(input, criterion),
                _ => Ok(Vec::new()),
            },
            Function::Select => self.selected(&input, arguments),
            Function::Repeat => self.repeated(input, arguments),
            Function::Aggregate => self.aggregated(input, arguments, scope),
            Function::Single => Ok(single(&input)?.cloned().into_iter().collect()),
            Function::First => Ok(input.into_iter().take(1).collect()),
            Function::Last => Ok(input.into_iter().next_back().into_iter().collect()),
            Function::Tail => Ok(input.into_iter().skip(1).collect()),
            Function::Skip => Ok(input.into_iter().skip(self.amount(arguments, scope)?).collect()),
            Function::Take => Ok(input.into_iter().take(self.amount(arguments, scope)?).collect()),
            Function::Intersect => {
                let other = Set::of(self.argument(arguments, 0, scope)?)?;
                let mut found = Set::default();
                for item in input {
                    if other.has(&item)? {
                        found.add(item)?;
                    }
                }
                Ok(found.into_items())
            }
            Function::Exclude => {
                let other = Set::of(self.argument(arguments, 0, scope)?)?;
                let mut found = Vec::new();
                for item in input {
                    if !other.has(&item)? {
                        found.push(item);
                    }
                }
                Ok(found)
            }
            Function::Union => {
                let other = self.argument(arguments, 0, scope)?;
                Ok(Set::of(input.into_iter().chain(other))?.into_items())
            }
            Function::Combine => {
                let other = self.argument(arguments, 0, scope)?;
                Ok(input.into_iter().chain(other).collect())
            }
            Function::Children => self.children(&input),
            Function::Descendants => self.descendants(input),
            Function::Iif => self.iif(input, arguments, scope),
            // Health data is not printed.
            Function::Trace => Ok(input),
            Function::ToBoolean
            | Function::ToInteger
            | Function::ToDecimal
            | Function::ToString
            | Function::ToDate
            | Function::ToDateTime
            | Function::ToTime
            | Function::ToQuantity
            | Function::ConvertsToBoolean
            | Function::ConvertsToInteger
            | Function::ConvertsToDecimal
            | Function::ConvertsToString
            | Function::ConvertsToDate
            | Function::ConvertsToDateTime
            | Function::ConvertsToTime
            | Function::ConvertsToQuantity
            | Function::Abs
            | Function::Ceiling
            | Function::Floor
            | Function::Round
            | Function::Truncate => self.converted(call.function, &input, arguments, scope),
            Function::StartsWith
            | Function::EndsWith
            | Function::Contains
            | Function::IndexOf
            | Function::LastIndexOf
            | Function::Substring
            | Function::Length
            | Function::Upper
            | Function::Lower
            | Function::Trim
            | Function::ToChars
            | Function::Split
            | Function::Join
            | Function::Replace
            | Function::Matches
            | Function::MatchesFull
            | Function::ReplaceMatches => self.text_function(call, &input, scope),
            Function::Now | Function::Today | Function::TimeOfDay => self.clock(call.function),
            Function::Extension => self.extensions(&input, arguments, scope),
            Function::HasExtension => Ok(known(Some(!self.extensions(&input, arguments, scope)?.is_empty()))),
            Function::HasValue => Ok(known(Some(matches!(input.as_slice(), [item] if has_value(item))))),
            Function::GetValue => match input.as_slice() {
                [item] if has_value(item) => Ok(item.atom().into_iter().collect()),
                _ => Ok(Vec::new()),
            },
            Function::Resolve => self.resolved(&input),
            Function::MemberOf => self.member_of(&input, &self.argument(arguments, 0, scope)?),
            // Of each, as R4 asks it of one div.
            Function::HtmlChecks => {
                let fine = |item: &Item<'a>| shown(item).is_some_and(|text| narrative::fault(&text).is_none());
                Ok(known(Some(input.iter().all(fine))))
            }
            Function::ConformsTo => Err(Fault::NotKnown("whether something conforms to a profile".into())),
        }
    }

    /// An argument that is evaluated once, where the call stands.
    pub(super) fn argument(&self, arguments: &'a [Tree], index: usize, scope: &Scope<'a>) -> Result<Items<'a>, Fault> {
        arguments.get(index).map_or(Ok(Vec::new()), |tree| self.eval(tree, scope))
    }

    /// An argument that says how many.
    fn amount(&self, arguments: &'a [Tree], scope: &Scope<'a>) -> Result<usize, Fault> {
        match single(&self.argument(arguments, 0, scope)?)?.and_then(Item::atom) {
            Some(Item::Integer(amount)) => Ok(usize::try_from(amount.max(0)).unwrap_or(usize::MAX)),
            _ => Err(Fault::Mismatch("skip and take are given a whole number.")),
        }
    }

    fn filtered(&self, input: Items<'a>, criterion: &'a Tree) -> Result<Items<'a>, Fault> {
        let mut found = Vec::new();
        for (index, item) in input.into_iter().enumerate() {
            if truth(&self.eval(criterion, &Scope::item(item.clone(), index))?)? == Some(true) {
                found.push(item);
            }
        }
        Ok(found)
    }

    /// True for nothing; false as soon as one is false, whatever can't be told about the others.
    fn all(&self, input: Items<'a>, arguments: &'a [Tree]) -> Result<Items<'a>, Fault> {
        let mut fault = None;
        for (index, item) in input.into_iter().enumerate() {
            for criterion in arguments {
                match self.eval(criterion, &Scope::item(item.clone(), index)).and_then(|items| truth(&items)) {
                    Ok(Some(true)) => {}
                    Ok(Some(false) | None) => return Ok(known(Some(false))),
                    Err(other @ Fault::NotKnown(_)) => fault = Some(other),
                    Err(other) => return Err(other),
                }
            }
        }
        fault.map_or(Ok(known(Some(true))), Err)
    }

    fn selected(&self, input: &[Item<'a>], arguments: &'a [Tree]) -> Result<Items<'a>, Fault> {
        let mut found = Vec::new();
        for (index, item) in input.iter().enumerate() {
            for projection in arguments {
                found.append(&mut self.eval(projection, &Scope::item(item.clone(), index))?);
            }
        }
        self.step(found.len())?;
        Ok(found)
    }

    /// The projection of the projection, until there is nothing new.
    fn repeated(&self, input: Items<'a>, arguments: &'a [Tree]) -> Result<Items<'a>, Fault> {
        let mut all = Set::default();
        let mut round = input;
        while !round.is_empty() {
            let mut next = Vec::new();
            for item in self.selected(&round, arguments)? {
                if all.add(item.clone())? {
                    next.push(item);
                }
            }
            round = next;
        }
        Ok(all.into_items())
    }

    fn aggregated(&self, input: Items<'a>, arguments: &'a [Tree], scope: &Scope<'a>) -> Result<Items<'a>, Fault> {
        let mut total = self.argument(arguments, 1, scope)?;
        for (index, item) in input.into_iter().enumerate() {
            if let Some(step) = arguments.first() {
                total = self.eval(step, &Scope { this: vec![item], index: Some(index), total: Some(total) })?;
            }
        }
        Ok(total)
    }

    fn iif(&self, input: Items<'a>, arguments: &'a [Tree], scope: &Scope<'a>) -> Result<Items<'a>, Fault> {
        // The three expressions are about the input, as a whole.
        let own = Scope { this: input, index: scope.index, total: scope.total.clone() };
        let holds = truth(&self.argument(arguments, 0, &own)?)? == Some(true);
        self.argument(arguments, if holds { 1 } else { 2 }, &own)
    }

    fn children(&self, of: &[Item<'a>]) -> Result<Items<'a>, Fault> {
        let mut found = Vec::new();
        for item in of {
            self.here(item)?;
            item.children(&mut found);
        }
        self.step(found.len())?;
        Ok(found)
    }

    fn descendants(&self, input: Items<'a>) -> Result<Items<'a>, Fault> {
        let mut all = Vec::new();
        let mut level = self.children(&input)?;
        while !level.is_empty() {
            let next = self.children(&level)?;
            all.append(&mut level);
            level = next;
        }
        Ok(all)
    }

    fn extensions(&self, input: &[Item<'a>], arguments: &'a [Tree], scope: &Scope<'a>) -> Result<Items<'a>, Fault> {
        let url = self.argument(arguments, 0, scope)?;
        let Some(url) = single(&url)?.and_then(shown) else { return Ok(Vec::new()) };
        let mut found = self.members(input, "extension")?;
        let has = |item: &Item<'a>| match item {
            Item::Node(node) => node.value.and_then(|value| value.get("url")?.as_str()) == Some(url.as_str()),
            _ => false,
        };
        found.retain(has);
        Ok(found)
    }
}

fn has_value(item: &Item<'_>) -> bool {
    match item {
        Item::Node(node) => node.has_value(),
        Item::Elsewhere(_) => false,
        _ => true,
    }
}

fn count<'a>(count: usize) -> Items<'a> {
    i64::try_from(count).ok().map(Item::Integer).into_iter().collect()
}

fn flags<'a>(input: &[Item<'a>], holds: impl Fn(&[bool]) -> bool) -> Result<Items<'a>, Fault> {
    let mut flags = Vec::with_capacity(input.len());
    for item in input {
        match item.atom() {
            Some(Item::Boolean(flag)) => flags.push(flag),
            _ => return Err(Fault::Mismatch("Something else stands where true or false belongs.")),
        }
    }
    Ok(known(Some(holds(&flags))))
}

fn subset<'a>(items: &[Item<'a>], of: Items<'a>) -> Result<Items<'a>, Fault> {
    for item in items {
        let mut there = false;
        for other in &of {
            there = there || operators::one(item, other)?;
        }
        if !there {
            return Ok(known(Some(false)));
        }
    }
    Ok(known(Some(true)))
}
