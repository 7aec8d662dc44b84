//! From words to a tree: a Pratt parser with FHIRPath's order of operators.
//!
//! Functions are resolved here, so that one that is not known is found before anything is evaluated, and patterns that
//! are literals are compiled once. Bounded: length, nesting. <https://hl7.org/fhirpath/N1/#grammar>

use regex::{Regex, RegexBuilder};

use super::Fault;
use super::date::Moment;
use super::decimal::Decimal;
use super::functions::Function;
use super::item::SYSTEM;
use super::lex::{self, Word};
use super::quantity::Unit;
use crate::fhir::definitions;

/// Longest expression, in bytes.
const LONGEST: usize = 16 * 1024;
/// Deepest tree: what evaluating it costs in stack.
const DEEPEST: usize = 64;
/// Largest compiled pattern, in bytes.
const LARGEST_PATTERN: usize = 1 << 20;

/// An operator between two expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Implies,
    Or,
    Xor,
    And,
    In,
    Contains,
    Equal,
    NotEqual,
    Equivalent,
    NotEquivalent,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Union,
    Plus,
    Minus,
    Concatenate,
    Times,
    Over,
    Div,
    Mod,
}

/// A type that is asked for: one of FHIR's, one of FHIRPath's own, or either where the name is that of both.
#[derive(Debug, Clone)]
pub(super) struct TypeName {
    /// FHIR's type.
    pub(super) fhir: Option<&'static str>,
    /// FHIRPath's own, and FHIR's primitives that are read as it.
    pub(super) system: Option<(&'static str, &'static [&'static str])>,
    /// Written without `FHIR.` or `System.`: then FHIRPath's own name also means those primitives.
    pub(super) loose: bool,
}

/// What `is`, `as` and `ofType` ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TypeQuestion {
    Is,
    /// As R4 uses `as`, it picks from many just as `ofType` does.
    OfType,
}

/// A function's call.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) function: Function,
    pub(super) arguments: Vec<Tree>,
    /// The first argument, compiled, where it is a literal pattern.
    pub(super) pattern: Option<Regex>,
}

/// An expression.
#[derive(Debug, Clone)]
pub(super) enum Tree {
    Empty,
    Boolean(bool),
    Integer(i64),
    Decimal(Decimal),
    Text(String),
    Moment(Moment),
    Quantity(Decimal, Unit),
    This,
    Index,
    Total,
    Variable(String),
    /// An element by name; without anything before it, that of `$this`, or `$this` itself by its type.
    Member(Option<Box<Tree>>, String),
    Call(Option<Box<Tree>>, Box<Call>),
    Indexer(Box<Tree>, Box<Tree>),
    Negate(Box<Tree>),
    Type(TypeQuestion, Option<Box<Tree>>, TypeName),
    Binary(Operator, Box<Tree>, Box<Tree>),
}

/// Reads an expression.
pub(super) fn parse(text: &str) -> Result<Tree, Fault> {
    if text.len() > LONGEST {
        return Err(Fault::syntax(LONGEST, "This expression is longer than what is read here."));
    }
    let mut parser = Parser { words: lex::words(text)?, next: 0 };
    let (tree, _) = parser.expression(0, 0)?;
    match parser.peek() {
        Word::End => Ok(tree),
        _ => Err(parser.fault("The expression should end here, or have an operator.")),
    }
}

/// Compiles a pattern: of linear time, the point also meets the end of a line.
pub(super) fn pattern(text: &str) -> Result<Regex, Fault> {
    let built = RegexBuilder::new(text).dot_matches_new_line(true).size_limit(LARGEST_PATTERN).build();
    built.map_err(|_| Fault::NotSupported("a pattern that is no regular expression of linear time".into()))
}

fn known_type(space: Option<&str>, name: &str) -> Result<TypeName, Fault> {
    let fhir = definitions::of(name).map(|def| def.name).filter(|_| space != Some("System"));
    let system = SYSTEM.iter().find(|(known, _)| *known == name).copied().filter(|_| space != Some("FHIR"));
    if fhir.is_none() && system.is_none() {
        return Err(Fault::NotSupported(format!("the type {name}")));
    }
    Ok(TypeName { fhir, system, loose: space.is_none() })
}

/// A tree and how deep it is.
type Grown = (Tree, usize);

struct Parser {
    words: Vec<(usize, Word)>,
    next: usize,
}

fn binary(word: &Word) -> Option<(u8, Operator)> {
    use Operator::*;
    Some(match word {
        Word::Name(name) => match name.as_str() {
            "implies" => (1, Implies),
            "or" => (2, Or),
            "xor" => (2, Xor),
            "and" => (3, And),
            "in" => (4, In),
            "contains" => (4, Contains),
            "div" => (10, Div),
            "mod" => (10, Mod),
            _ => return None,
        },
        Word::Sign(sign) => match *sign {
            "=" => (5, Equal),
            "!=" => (5, NotEqual),
            "~" => (5, Equivalent),
            "!~" => (5, NotEquivalent),
            "<" => (6, Less),
            "<=" => (6, LessOrEqual),
            ">" => (6, Greater),
            ">=" => (6, GreaterOrEqual),
            "|" => (7, Union),
            "+" => (9, Plus),
            "-" => (9, Minus),
            "&" => (9, Concatenate),
            "*" => (10, Times),
            "/" => (10, Over),
            _ => return None,
        },
        _ => return None,
    })
}

/// How tightly `is` and `as` bind, and a sign before an expression.
const TYPE_BINDS: u8 = 8;
const SIGN_BINDS: u8 = 11;

impl Parser {
    fn peek(&self) -> &Word {
        self.words.get(self.next).map_or(&Word::End, |(_, word)| word)
    }

    fn take(&mut self) -> Word {
        let word = self.peek().clone();
        self.next += 1;
        word
    }

    fn fault(&self, why: &str) -> Fault {
        let at = self.words.get(self.next).or(self.words.last()).map_or(0, |(at, _)| *at);
        Fault::syntax(at, why)
    }

    fn takes(&mut self, sign: &str) -> bool {
        let there = matches!(self.peek(), Word::Sign(found) if *found == sign);
        self.next += usize::from(there);
        there
    }

    fn expect(&mut self, sign: &str) -> Result<(), Fault> {
        if self.takes(sign) { Ok(()) } else { Err(self.fault(&format!("A “{sign}” belongs here."))) }
    }

    fn deeper(&self, depth: usize) -> Result<usize, Fault> {
        if depth >= DEEPEST {
            Err(self.fault("This expression is nested deeper than what is read here."))
        } else {
            Ok(depth + 1)
        }
    }

    /// An expression whose operators bind at least as tightly as this. `nesting` is how deep the reader itself is.
    fn expression(&mut self, least: u8, nesting: usize) -> Result<Grown, Fault> {
        let nesting = self.deeper(nesting)?;
        let (mut left, mut depth) = self.signed(nesting)?;
        loop {
            if let Word::Name(name) = self.peek()
                && (name == "is" || name == "as")
                && TYPE_BINDS >= least
            {
                let question = if name == "is" { TypeQuestion::Is } else { TypeQuestion::OfType };
                self.next += 1;
                let name = self.type_name()?;
                depth = self.deeper(depth)?;
                left = Tree::Type(question, Some(Box::new(left)), name);
                continue;
            }
            let Some((binds, operator)) = binary(self.peek()).filter(|(binds, _)| *binds >= least) else {
                return Ok((left, depth));
            };
            self.next += 1;
            let (right, its) = self.expression(binds + 1, nesting)?;
            depth = self.deeper(depth.max(its))?;
            left = Tree::Binary(operator, Box::new(left), Box::new(right));
        }
    }

    fn signed(&mut self, nesting: usize) -> Result<Grown, Fault> {
        if self.takes("+") {
            return self.expression(SIGN_BINDS, nesting);
        }
        if self.takes("-") {
            let (tree, depth) = self.expression(SIGN_BINDS, nesting)?;
            return Ok((Tree::Negate(Box::new(tree)), self.deeper(depth)?));
        }
        self.postfix(nesting)
    }

    fn postfix(&mut self, nesting: usize) -> Result<Grown, Fault> {
        let (mut tree, mut depth) = self.term(nesting)?;
        loop {
            if self.takes(".") {
                let (next, its) = self.invocation(Some(Box::new(tree)), nesting)?;
                (tree, depth) = (next, self.deeper(depth.max(its))?);
            } else if self.takes("[") {
                let (index, its) = self.expression(0, nesting)?;
                self.expect("]")?;
                (tree, depth) = (Tree::Indexer(Box::new(tree), Box::new(index)), self.deeper(depth.max(its))?);
            } else {
                return Ok((tree, depth));
            }
        }
    }

    fn term(&mut self, nesting: usize) -> Result<Grown, Fault> {
        let tree = match self.peek().clone() {
            Word::Sign("(") => {
                self.next += 1;
                let inner = self.expression(0, nesting)?;
                self.expect(")")?;
                return Ok(inner);
            }
            Word::Sign("{") => {
                self.next += 1;
                self.expect("}")?;
                return Ok((Tree::Empty, 1));
            }
            Word::Name(name) if name == "true" || name == "false" => Tree::Boolean(name == "true"),
            Word::Name(name) if ["and", "or", "xor", "implies", "div", "mod"].contains(&name.as_str()) => {
                return Err(self.fault("An operator stands where an expression belongs."));
            }
            Word::Name(_) | Word::Quoted(_) => return self.invocation(None, nesting),
            Word::Special(name) => match name.as_str() {
                "this" => Tree::This,
                "index" => Tree::Index,
                "total" => Tree::Total,
                _ => return Err(self.fault("After “$” comes this, index or total.")),
            },
            Word::Variable(name) => Tree::Variable(name),
            Word::Text(text) => Tree::Text(text),
            Word::Moment(moment) => Tree::Moment(moment),
            Word::Integer(number) => {
                self.next += 1;
                return Ok((self.unit().map_or(Tree::Integer(number), |unit| Tree::Quantity(number.into(), unit)), 1));
            }
            Word::Decimal(number) => {
                self.next += 1;
                return Ok((self.unit().map_or(Tree::Decimal(number), |unit| Tree::Quantity(number, unit)), 1));
            }
            Word::Sign(_) | Word::End => return Err(self.fault("An expression belongs here.")),
        };
        self.next += 1;
        Ok((tree, 1))
    }

    /// `4 days`, `10 'mg'`
    fn unit(&mut self) -> Option<Unit> {
        let unit = match self.peek() {
            Word::Text(code) => Some(Unit::Ucum(code.clone())),
            Word::Name(name) => Unit::calendar(name),
            _ => None,
        }?;
        self.next += 1;
        Some(unit)
    }

    fn identifier(&mut self) -> Result<String, Fault> {
        match self.take() {
            Word::Name(name) | Word::Quoted(name) => Ok(name),
            _ => {
                self.next -= 1;
                Err(self.fault("A name belongs here."))
            }
        }
    }

    fn type_name(&mut self) -> Result<TypeName, Fault> {
        let first = self.identifier()?;
        // `value is FHIR.Quantity.code` is no type; what is behind the second name is a path.
        if (first == "FHIR" || first == "System") && self.takes(".") {
            let name = self.identifier()?;
            return known_type(Some(&first), &name);
        }
        known_type(None, &first)
    }

    /// A name, or a function's call.
    fn invocation(&mut self, of: Option<Box<Tree>>, nesting: usize) -> Result<Grown, Fault> {
        if of.is_some()
            && let Word::Special(name) = self.peek()
            && name == "this"
        {
            return Err(self.fault("$this stands at the beginning of a path."));
        }
        let start = self.next;
        let name = self.identifier()?;
        if !self.takes("(") {
            return Ok((Tree::Member(of, name), 1));
        }
        let question = match name.as_str() {
            "is" => Some(TypeQuestion::Is),
            "as" | "ofType" => Some(TypeQuestion::OfType),
            _ => None,
        };
        if let Some(question) = question {
            let name = self.type_name()?;
            self.expect(")")?;
            return Ok((Tree::Type(question, of, name), 1));
        }
        let function = Function::of(&name).ok_or_else(|| Fault::NotSupported(format!("the function {name}()")))?;
        let (mut arguments, mut depth) = (Vec::new(), 1);
        if !self.takes(")") {
            loop {
                let (argument, its) = self.expression(0, nesting)?;
                arguments.push(argument);
                depth = depth.max(its + 1);
                if self.takes(")") {
                    break;
                }
                self.expect(",")?;
            }
        }
        if !function.takes(arguments.len()) {
            self.next = start;
            return Err(self.fault(&format!("{name}() takes another number of arguments.")));
        }
        let pattern = match arguments.first() {
            Some(Tree::Text(text)) if function.has_pattern() => Some(pattern(text)?),
            _ => None,
        };
        Ok((Tree::Call(of, Box::new(Call { function, arguments, pattern })), depth))
    }
}
