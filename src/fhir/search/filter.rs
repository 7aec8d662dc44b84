//! Conditions: what one parameter asks of a resource, or of what it is connected with, in the form of the index.

use super::super::resource::ResourceType;

/// How a date or a quantity compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// The spans are the same or the value's contains the resource's.
    Eq,
    /// Not `Eq`.
    Ne,
    /// Reaches beyond it.
    Gt,
    /// Begins before it.
    Lt,
    /// `Gt` or `Eq`.
    Ge,
    /// `Lt` or `Eq`.
    Le,
    /// Starts after it.
    Sa,
    /// Ends before it.
    Eb,
    /// Overlaps with it; of dates, as far as `Query::asked_at` widens them.
    Ap,
}

impl Prefix {
    /// All of them, with their code.
    pub const ALL: [(&'static str, Prefix); 9] = [
        ("eq", Prefix::Eq),
        ("ne", Prefix::Ne),
        ("gt", Prefix::Gt),
        ("lt", Prefix::Lt),
        ("ge", Prefix::Ge),
        ("le", Prefix::Le),
        ("sa", Prefix::Sa),
        ("eb", Prefix::Eb),
        ("ap", Prefix::Ap),
    ];

    /// Whether a resource's span compares so with the asked one; both include their start and not their end.
    /// <https://hl7.org/fhir/R4/search.html#prefix>
    pub fn holds(self, (low, high): (i64, i64), (from, to): (i64, i64)) -> bool {
        let contained = from <= low && high <= to;
        match self {
            Prefix::Eq => contained,
            Prefix::Ne => !contained,
            Prefix::Gt => high > to,
            Prefix::Lt => low < from,
            Prefix::Ge => high > to || contained,
            Prefix::Le => low < from || contained,
            Prefix::Sa => low >= to,
            Prefix::Eb => high <= from,
            Prefix::Ap => low < to && high > from,
        }
    }
}

/// A token to look for, in the form of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// `Some("")` means "has no system", `None` any.
    pub system: Option<String>,
    /// `None` means any code of the system.
    pub code: Option<String>,
}

/// A quantity to look for: prefix, span in millionths, and its unit as a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amount {
    /// How it compares.
    pub prefix: Prefix,
    /// From here.
    pub from: i64,
    /// To here, exclusive.
    pub to: i64,
    /// The system of the unit.
    pub system: Option<String>,
    /// The unit or its code.
    pub unit: Option<String>,
}

/// What one parameter asks for; the items of a list are alternatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// One of these tokens.
    Tokens(Vec<Token>),
    /// `:text`: one of these begins what the token says to people, folded.
    Says(Vec<String>),
    /// One of these references, in the form of the index.
    References(Vec<String>),
    /// One of these dates: prefix, start, end.
    Dates(Vec<(Prefix, i64, i64)>),
    /// One of these quantities.
    Amounts(Vec<Amount>),
    /// One of these pairs of a composite.
    Pairs(Vec<(Token, Token)>),
    /// Begins with one of these, folded.
    Begins(Vec<String>),
    /// `:contains`: contains one of these, folded.
    Contains(Vec<String>),
    /// `:exact`: is one of these to the letter.
    Exact(Vec<String>),
    /// A uri or canonical that is one of these.
    Is(Vec<String>),
    /// `:below`: a uri that begins with one of these.
    Below(Vec<String>),
    /// `:above`: a uri that one of these begins with.
    Above(Vec<String>),
    /// Has a value at all (false: has none).
    Present(bool),
}

/// One condition; a query's conditions must all hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// `_id`
    Ids(Vec<String>),
    /// `_lastUpdated`
    Updated(Prefix, i64, i64),
    /// Any indexed parameter; `not` also finds resources without a value.
    Indexed {
        /// The parameter's name.
        name: &'static str,
        /// What it asks for.
        test: Test,
        /// `:not`
        not: bool,
    },
    /// Refers to this resource by one of these parameters: that it is in a compartment.
    Refers {
        /// Reference parameters.
        names: &'static [&'static str],
        /// `Type/id`
        to: String,
    },
    /// `owner:Organization.name=x`: refers to a resource that satisfies another condition, of one of these types.
    Chain {
        /// The reference parameter.
        name: &'static str,
        /// What the resource referred to must satisfy, by its type.
        to: Vec<(ResourceType, Filter)>,
    },
    /// `_has:Task:focus:status=x`: a resource that satisfies another condition refers to it.
    Has {
        /// The type of the resource that refers.
        source: ResourceType,
        /// The reference parameter of that type.
        name: &'static str,
        /// What that resource must satisfy.
        its: Box<Filter>,
    },
    /// All of one of these lists: what several scopes allow (`fhir::scope`). No client asks so.
    Any(Vec<Vec<Filter>>),
}

impl Filter {
    /// Whether it speaks of the resource alone, and not of others it is connected with.
    pub fn is_of_one_resource(&self) -> bool {
        match self {
            Filter::Ids(_) | Filter::Updated(..) | Filter::Indexed { .. } | Filter::Refers { .. } => true,
            Filter::Chain { .. } | Filter::Has { .. } => false,
            Filter::Any(ways) => ways.iter().flatten().all(Filter::is_of_one_resource),
        }
    }

    /// Asks of other resources only as far as `reach` says for their type: what must hold of each, or that none may be
    /// asked about.
    pub fn narrow<E>(&mut self, reach: &mut dyn FnMut(ResourceType) -> Result<Vec<Filter>, E>) -> Result<(), E> {
        let mut other = |kind: ResourceType, its: &mut Filter| {
            its.narrow(reach)?;
            let mut all = reach(kind)?;
            if !all.is_empty() {
                all.insert(0, its.clone());
                *its = Filter::Any(vec![all]);
            }
            Ok(())
        };
        match self {
            Filter::Ids(_) | Filter::Updated(..) | Filter::Indexed { .. } | Filter::Refers { .. } => Ok(()),
            Filter::Chain { to, .. } => to.iter_mut().try_for_each(|(kind, its)| other(*kind, its)),
            Filter::Has { source, its, .. } => other(*source, its),
            Filter::Any(ways) => ways.iter_mut().flatten().try_for_each(|filter| filter.narrow(reach)),
        }
    }

    /// Whether it means something else at another time: approximately a date (`Query::asked_at`).
    pub fn moves(&self) -> bool {
        let mut moves = false;
        self.clone().each_date(&mut |prefix, _, _| moves |= prefix == Prefix::Ap);
        moves
    }

    /// Calls `change` with every list of references in it.
    pub fn each_references(&mut self, change: &mut dyn FnMut(&mut Vec<String>)) {
        match self {
            Filter::Indexed { test: Test::References(list), .. } => change(list),
            Filter::Ids(_) | Filter::Updated(..) | Filter::Indexed { .. } | Filter::Refers { .. } => {}
            Filter::Chain { to, .. } => to.iter_mut().for_each(|(_, filter)| filter.each_references(change)),
            Filter::Has { its, .. } => its.each_references(change),
            Filter::Any(ways) => ways.iter_mut().flatten().for_each(|filter| filter.each_references(change)),
        }
    }

    /// Calls `change` with every date in it: prefix, start, end.
    pub(super) fn each_date(&mut self, change: &mut dyn FnMut(Prefix, &mut i64, &mut i64)) {
        match self {
            Filter::Updated(prefix, from, to) => change(*prefix, from, to),
            Filter::Indexed { test: Test::Dates(list), .. } => {
                list.iter_mut().for_each(|(prefix, from, to)| change(*prefix, from, to));
            }
            Filter::Ids(_) | Filter::Indexed { .. } | Filter::Refers { .. } => {}
            Filter::Chain { to, .. } => to.iter_mut().for_each(|(_, filter)| filter.each_date(change)),
            Filter::Has { its, .. } => its.each_date(change),
            Filter::Any(ways) => ways.iter_mut().flatten().for_each(|filter| filter.each_date(change)),
        }
    }
}
