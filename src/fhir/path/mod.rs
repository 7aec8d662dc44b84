//! FHIRPath: an expression is parsed once, and evaluated over JSON with the types of [`super::definitions`].
//!
//! For the invariants of profiles and the criteria of topics that are read at run time. What it promises: three-valued
//! logic (empty is not false), exact decimals, partial dates whose order may be unknown, no guess. A function or variable
//! that it doesn't have is [`Fault::NotSupported`], what it can't know here (a value set, another server's resource) is
//! [`Fault::NotKnown`]: never a silent pass. Nothing is printed, and no fault holds a value. Bounded: the expression's
//! length and depth, the steps of an evaluation, patterns (of linear time). Deviations from the standard's letter, as R4's
//! own invariants need them: `as` picks from many items; `Boolean`, `DateTime` … without `System.` before them also mean
//! the FHIR primitive. Leaves out `type()`, roots and logarithms, UCUM's arithmetic.
//! <https://hl7.org/fhirpath/N1/>, <https://hl7.org/fhir/R4/fhirpath.html>

mod convert;
mod date;
mod decimal;
mod evaluate;
mod functions;
mod item;
mod lex;
mod operators;
mod parse;
mod quantity;
mod references;
mod step;
mod texts;

#[cfg(test)]
mod tests;

use serde_json::Value;

pub use date::Moment;
pub use decimal::Decimal;
pub use item::{Item, Node};
pub use quantity::{Quantity, Unit};

use crate::time::Timestamp;

/// Why an expression could not be read or evaluated. None of them holds a value of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The text is no FHIRPath; at this byte.
    Syntax {
        /// The byte where it stops being one.
        at: usize,
        /// What belongs there.
        why: String,
    },
    /// It uses what this evaluator doesn't have: a function, a variable, a type.
    NotSupported(String),
    /// It asks what can't be known here: a value set, a resource that is elsewhere.
    NotKnown(String),
    /// It does what FHIRPath forbids, such as comparing a list.
    Mismatch(&'static str),
    /// It takes more steps than are given to one evaluation.
    TooCostly,
}

impl Fault {
    fn syntax(at: usize, why: &str) -> Self {
        Fault::Syntax { at, why: why.to_string() }
    }
    fn elsewhere() -> Self {
        Fault::NotKnown("what a reference points at".into())
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Syntax { at, why } => write!(out, "no FHIRPath at byte {at}: {why}"),
            Fault::NotSupported(what) => write!(out, "not supported: {what}"),
            Fault::NotKnown(what) => write!(out, "not known here: {what}"),
            Fault::Mismatch(what) => out.write_str(what),
            Fault::TooCostly => out.write_str("it takes too many steps"),
        }
    }
}

impl std::error::Error for Fault {}

/// The answer to a criterion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It can't be told (FHIRPath's empty).
    Empty,
}

/// Whether two JSON values say the same: numbers by value, keys in any order.
pub fn same_json(left: &Value, right: &Value) -> bool {
    operators::same(Some(left), Some(right))
}

/// Finds what a reference points at; none if it isn't here.
pub type Resolve<'a> = &'a dyn Fn(&str) -> Option<&'a Value>;
/// Whether a code, Coding or CodeableConcept is in a value set; none if that is not known.
pub type MemberOf<'a> = &'a dyn Fn(&Item<'_>, &str) -> Option<bool>;

/// Steps that an evaluation is given unless its context says otherwise.
const MOST_STEPS: usize = 2_000_000;

/// What an expression is evaluated in.
#[derive(Clone)]
pub struct Context<'a> {
    /// `%resource`
    pub resource: Item<'a>,
    /// `%rootResource`: where contained resources are looked up.
    pub root: Item<'a>,
    /// `now()`, `today()`; without it they are not known.
    pub now: Option<Timestamp>,
    /// `resolve()` beyond contained resources and the entries of the Bundle that is the root.
    pub resolve: Option<Resolve<'a>>,
    /// `memberOf()`; without it no value set is known.
    pub member_of: Option<MemberOf<'a>>,
    /// Further variables, by name without `%`.
    pub variables: Vec<(&'a str, Vec<Item<'a>>)>,
    /// Most steps of one evaluation; one is about an item looked at.
    pub steps: usize,
}

impl<'a> Context<'a> {
    /// That of a resource which is its own root.
    pub fn new(resource: &'a Value) -> Self {
        let resource = Item::resource(resource);
        let root = resource.clone();
        Context { resource, root, now: None, resolve: None, member_of: None, variables: Vec::new(), steps: MOST_STEPS }
    }
}

/// A parsed expression. It is kept and shared between threads.
#[derive(Debug, Clone)]
pub struct Expression {
    text: String,
    tree: parse::Tree,
}

/// Two are equal when they are written the same.
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Expression {
    /// Reads an expression. Functions and types that are not supported are found here.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        Ok(Expression { text: text.to_string(), tree: parse::parse(text)? })
    }

    /// The collection it gives for this focus, which is also `%context`.
    pub fn evaluate<'a>(&'a self, context: &Context<'a>, focus: Item<'a>) -> Result<Vec<Item<'a>>, Fault> {
        evaluate::Evaluator::new(context, &focus).run(&self.tree, focus.clone())
    }

    /// Whether it holds for this focus.
    pub fn is_true<'a>(&'a self, context: &Context<'a>, focus: Item<'a>) -> Result<Truth, Fault> {
        Ok(match evaluate::truth(&self.evaluate(context, focus)?)? {
            Some(true) => Truth::True,
            Some(false) => Truth::False,
            None => Truth::Empty,
        })
    }
}
