//! Walks the tree of an expression.
//!
//! `and`, `or` and `implies` are decided by either side: what one side can't know does not matter when the other decides.
//! Bounded in steps. <https://hl7.org/fhirpath/N1/#expressions>

use std::borrow::Cow;
use std::cell::Cell;

use super::item::{Item, system_name};
use super::operators::{self, Set};
use super::parse::{Operator, Tree, TypeName, TypeQuestion};
use super::quantity::{Quantity, UCUM};
use super::{Context, Fault};
use crate::fhir::definitions::Form;

/// A collection.
pub(super) type Items<'a> = Vec<Item<'a>>;

/// What `$this`, `$index` and `$total` mean.
pub(super) struct Scope<'a> {
    pub(super) this: Items<'a>,
    pub(super) index: Option<usize>,
    pub(super) total: Option<Items<'a>>,
}

impl<'a> Scope<'a> {
    /// One item of a collection.
    pub(super) fn item(item: Item<'a>, index: usize) -> Self {
        Scope { this: vec![item], index: Some(index), total: None }
    }
}

/// An evaluation.
pub(super) struct Evaluator<'c, 'a> {
    pub(super) context: &'c Context<'a>,
    focus: Item<'a>,
    steps: Cell<usize>,
}

/// A collection as a condition: empty is none; one item that is no boolean is true.
pub(super) fn truth(items: &[Item<'_>]) -> Result<Option<bool>, Fault> {
    match items {
        [] => Ok(None),
        [item @ Item::Node(node)] => match item.atom() {
            Some(Item::Boolean(flag)) => Ok(Some(flag)),
            // A boolean that has extensions only says neither.
            None if node.def.is_some_and(|def| def.name == "boolean") => Ok(None),
            _ => Ok(Some(true)),
        },
        [Item::Boolean(flag)] => Ok(Some(*flag)),
        [_] => Ok(Some(true)),
        _ => Err(Fault::Mismatch("Several items stand where a condition belongs.")),
    }
}

/// The one item of a collection, if it has one.
pub(super) fn single<'i, 'a>(items: &'i [Item<'a>]) -> Result<Option<&'i Item<'a>>, Fault> {
    match items {
        [] => Ok(None),
        [item] => Ok(Some(item)),
        _ => Err(Fault::Mismatch("Several items stand where one belongs.")),
    }
}

/// A truth value as a collection.
pub(super) fn known<'a>(truth: Option<bool>) -> Items<'a> {
    truth.map(Item::Boolean).into_iter().collect()
}

impl<'c, 'a> Evaluator<'c, 'a> {
    pub(super) fn new(context: &'c Context<'a>, focus: &Item<'a>) -> Self {
        Evaluator { context, focus: focus.clone(), steps: Cell::new(0) }
    }

    pub(super) fn run(&self, tree: &'a Tree, focus: Item<'a>) -> Result<Items<'a>, Fault> {
        self.eval(tree, &Scope { this: vec![focus], index: None, total: None })
    }

    /// Counts steps.
    pub(super) fn step(&self, steps: usize) -> Result<(), Fault> {
        let taken = self.steps.get().saturating_add(steps);
        self.steps.set(taken);
        if taken > self.context.steps { Err(Fault::TooCostly) } else { Ok(()) }
    }

    /// What the tree gives in this scope.
    pub(super) fn eval(&self, tree: &'a Tree, scope: &Scope<'a>) -> Result<Items<'a>, Fault> {
        self.step(1)?;
        match tree {
            Tree::Empty => Ok(Vec::new()),
            Tree::Boolean(flag) => Ok(vec![Item::Boolean(*flag)]),
            Tree::Integer(number) => Ok(vec![Item::Integer(*number)]),
            Tree::Decimal(number) => Ok(vec![Item::Decimal(*number)]),
            Tree::Text(text) => Ok(vec![Item::Text(Cow::Borrowed(text))]),
            Tree::Moment(moment) => Ok(vec![Item::Moment(*moment)]),
            Tree::Quantity(value, unit) => Ok(vec![Item::Quantity(Quantity { value: *value, unit: unit.clone() })]),
            Tree::This => Ok(scope.this.clone()),
            Tree::Index => {
                Ok(scope.index.and_then(|index| i64::try_from(index).ok()).map(Item::Integer).into_iter().collect())
            }
            Tree::Total => Ok(scope.total.clone().unwrap_or_default()),
            Tree::Variable(name) => self.variable(name),
            Tree::Member(None, name) => self.first_member(&scope.this, name),
            Tree::Member(Some(of), name) => self.members(&self.eval(of, scope)?, name),
            Tree::Call(of, call) => {
                let input = self.input(of.as_deref(), scope)?;
                self.call(call, input, scope)
            }
            Tree::Indexer(of, index) => self.indexed(self.eval(of, scope)?, &self.eval(index, scope)?),
            Tree::Negate(of) => self.negated(&self.eval(of, scope)?),
            Tree::Type(question, of, name) => self.typed(*question, self.input(of.as_deref(), scope)?, name),
            Tree::Binary(operator, left, right) => self.binary(*operator, left, right, scope),
        }
    }

    fn input(&self, of: Option<&'a Tree>, scope: &Scope<'a>) -> Result<Items<'a>, Fault> {
        match of {
            Some(of) => self.eval(of, scope),
            None => Ok(scope.this.clone()),
        }
    }

    fn variable(&self, name: &str) -> Result<Items<'a>, Fault> {
        let url = |text: String| Ok(vec![Item::Text(Cow::Owned(text))]);
        match name {
            "resource" => Ok(vec![self.context.resource.clone()]),
            "rootResource" => Ok(vec![self.context.root.clone()]),
            "context" => Ok(vec![self.focus.clone()]),
            "ucum" => url(UCUM.into()),
            "sct" => url("http://snomed.info/sct".into()),
            "loinc" => url("http://loinc.org".into()),
            _ => {
                if let Some((_, items)) = self.context.variables.iter().find(|(known, _)| *known == name) {
                    return Ok(items.clone());
                }
                if let Some(rest) = name.strip_prefix("vs-") {
                    return url(format!("http://hl7.org/fhir/ValueSet/{rest}"));
                }
                if let Some(rest) = name.strip_prefix("ext-") {
                    return url(format!("http://hl7.org/fhir/StructureDefinition/{rest}"));
                }
                Err(Fault::NotSupported(format!("the variable %{name}")))
            }
        }
    }

    /// At the beginning of a path, a name may also be that of the focus' type.
    fn first_member(&self, this: &[Item<'a>], name: &str) -> Result<Items<'a>, Fault> {
        if name.starts_with(|c: char| c.is_ascii_uppercase()) {
            let is = |item: &&Item<'a>| match item {
                Item::Node(node) => node.def.is_some_and(|def| def.is(name)),
                Item::Elsewhere(def) => def.is(name),
                _ => false,
            };
            let fitting: Items<'a> = this.iter().filter(is).cloned().collect();
            if !fitting.is_empty() {
                return Ok(fitting);
            }
        }
        self.members(this, name)
    }

    pub(super) fn members(&self, of: &[Item<'a>], name: &str) -> Result<Items<'a>, Fault> {
        let mut found = Vec::new();
        for item in of {
            self.here(item)?;
            item.members(name, &mut found);
        }
        self.step(of.len() + found.len())?;
        Ok(found)
    }

    /// What isn't here has no elements that could be looked at.
    pub(super) fn here(&self, item: &Item<'a>) -> Result<(), Fault> {
        if matches!(item, Item::Elsewhere(_)) { Err(Fault::elsewhere()) } else { Ok(()) }
    }

    fn indexed(&self, items: Items<'a>, index: &[Item<'a>]) -> Result<Items<'a>, Fault> {
        let index = match single(index)?.and_then(Item::atom) {
            None => return Ok(Vec::new()),
            Some(Item::Integer(index)) => usize::try_from(index).ok(),
            Some(_) => return Err(Fault::Mismatch("An index is a whole number.")),
        };
        Ok(index.and_then(|index| items.into_iter().nth(index)).into_iter().collect())
    }

    fn negated(&self, items: &[Item<'a>]) -> Result<Items<'a>, Fault> {
        let negated = match single(items)?.and_then(Item::atom) {
            None => None,
            Some(Item::Integer(number)) => number.checked_neg().map(Item::Integer),
            Some(Item::Decimal(number)) => number.negated().map(Item::Decimal),
            Some(Item::Quantity(one)) => {
                one.value.negated().map(|value| Item::Quantity(Quantity { value, unit: one.unit }))
            }
            Some(_) => return Err(Fault::Mismatch("Only a number has a sign.")),
        };
        Ok(negated.into_iter().collect())
    }

    fn typed(&self, question: TypeQuestion, items: Items<'a>, name: &TypeName) -> Result<Items<'a>, Fault> {
        match question {
            TypeQuestion::Is => match single(&items)? {
                None => Ok(Vec::new()),
                Some(item) => Ok(vec![Item::Boolean(self.is(item, name)?)]),
            },
            TypeQuestion::OfType => {
                let mut found = Vec::new();
                for item in items {
                    if self.is(&item, name)? {
                        found.push(item);
                    }
                }
                Ok(found)
            }
        }
    }

    /// Whether an item is of this type or one that builds on it.
    fn is(&self, item: &Item<'a>, name: &TypeName) -> Result<bool, Fault> {
        self.step(1)?;
        let def = match item {
            Item::Node(node) => node.def,
            Item::Elsewhere(def) => Some(*def),
            other => return Ok(name.system.is_some_and(|(wanted, _)| system_name(other) == Some(wanted))),
        };
        let Some(def) = def else { return Err(Fault::NotKnown("the type of an element".into())) };
        let read_as = |(_, primitives): (&str, &[&str])| primitives.iter().any(|one| def.is(one));
        let primitive = name.loose && def.form == Form::Primitive && name.system.is_some_and(read_as);
        Ok(primitive || name.fhir.is_some_and(|wanted| def.is(wanted)))
    }

    fn binary(
        &self,
        operator: Operator,
        left: &'a Tree,
        right: &'a Tree,
        scope: &Scope<'a>,
    ) -> Result<Items<'a>, Fault> {
        let decided = match operator {
            Operator::And => Some((Some(false), false)),
            Operator::Or => Some((Some(true), true)),
            Operator::Implies => Some((Some(false), true)),
            _ => None,
        };
        if let Some((left_decides, answer)) = decided {
            let one = self.eval(left, scope).and_then(|items| truth(&items));
            if one == Ok(left_decides) {
                return Ok(known(Some(answer)));
            }
            let two = self.eval(right, scope).and_then(|items| truth(&items));
            if two == Ok(Some(answer)) {
                return Ok(known(Some(answer)));
            }
            // Neither decides alone: true and true, false or false, true implies false; else not known.
            let (one, two) = (one?, two?);
            return Ok(known(if one.is_some() && two.is_some() { Some(!answer) } else { None }));
        }
        let (one, two) = (self.eval(left, scope)?, self.eval(right, scope)?);
        self.step(one.len() + two.len())?;
        match operator {
            Operator::And | Operator::Or | Operator::Implies => Ok(Vec::new()),
            Operator::Xor => Ok(known(truth(&one)?.zip(truth(&two)?).map(|(one, two)| one != two))),
            Operator::Equal => Ok(known(operators::all_equal(&one, &two)?)),
            Operator::NotEqual => Ok(known(operators::all_equal(&one, &two)?.map(|equal| !equal))),
            Operator::Equivalent => Ok(known(Some(operators::all_equivalent(&one, &two)?))),
            Operator::NotEquivalent => Ok(known(Some(!operators::all_equivalent(&one, &two)?))),
            Operator::In => self.within(&one, two),
            Operator::Contains => self.within(&two, one),
            Operator::Union => Ok(Set::of(one.into_iter().chain(two))?.into_items()),
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
                let (Some(one), Some(two)) = (single(&one)?, single(&two)?) else { return Ok(Vec::new()) };
                self.here(one)?;
                self.here(two)?;
                let order = operators::compare(one, two)?;
                Ok(known(order.map(|order| match operator {
                    Operator::Less => order.is_lt(),
                    Operator::LessOrEqual => order.is_le(),
                    Operator::Greater => order.is_gt(),
                    _ => order.is_ge(),
                })))
            }
            Operator::Concatenate => Ok(vec![operators::joined(single(&one)?, single(&two)?)?]),
            Operator::Plus | Operator::Minus | Operator::Times | Operator::Over | Operator::Div | Operator::Mod => {
                let (Some(one), Some(two)) = (single(&one)?, single(&two)?) else { return Ok(Vec::new()) };
                self.here(one)?;
                self.here(two)?;
                Ok(operators::calculate(operator, one, two)?.into_iter().collect())
            }
        }
    }

    /// Whether one item is in a collection.
    pub(super) fn within(&self, item: &[Item<'a>], all: Items<'a>) -> Result<Items<'a>, Fault> {
        let Some(item) = single(item)? else { return Ok(Vec::new()) };
        for one in &all {
            if operators::one(item, one)? {
                return Ok(known(Some(true)));
            }
        }
        Ok(known(Some(false)))
    }
}
