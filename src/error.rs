//! The one error of the gateway, sorted by what the caller can do about it.
//!
//! An [`Error`] carries one or more public [`Issue`]s (which element, what is wrong, what to do) and, apart from
//! them, an internal cause for the log. Public texts name elements and never repeat values (design D17). It becomes
//! HTTP once, at the edge ([`Kind::status`] is that table), and tells our own worker whether a retry makes sense.
//! Status and issue codes: <https://hl7.org/fhir/R4/http.html>, <https://hl7.org/fhir/R4/valueset-issue-type.html>.

use std::fmt;

/// What the caller can do about an error; decides the HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The bytes are no resource: bad JSON, wrong JSON type, unknown element, bad search syntax.
    Malformed,
    /// A readable resource that breaks a rule of the standard or of a profile.
    Invalid,
    /// Valid, but not allowed now: an illegal step, missing consent, a missing reason.
    Refused,
    /// No token, or one we don't know.
    Unauthenticated,
    /// Known, but not allowed to do this at all.
    Forbidden,
    /// Not here, or not yours to know.
    NotFound,
    /// It was here and has been deleted.
    Gone,
    /// A duplicate, or somebody else was faster.
    Conflict,
    /// `If-Match` names a version that is no longer current.
    VersionConflict,
    /// A request we don't offer (400).
    NotSupported,
    /// An interaction this type does not offer (405).
    MethodNotAllowed,
    /// A format we don't write (406).
    NotAcceptable,
    /// A format we don't read (415).
    UnsupportedMediaType,
    /// Larger than a configured limit.
    TooLarge,
    /// A body that did not arrive in time.
    Slow,
    /// Too many requests; carries seconds to wait.
    Throttled,
    /// The gateway can't do it at the moment; trying again makes sense.
    Unavailable,
    /// A fault of ours.
    Internal,
}

impl Kind {
    /// The HTTP status of this kind.
    pub fn status(self) -> u16 {
        match self {
            Kind::Malformed | Kind::NotSupported => 400,
            Kind::Unauthenticated => 401,
            Kind::Forbidden => 403,
            Kind::NotFound => 404,
            Kind::MethodNotAllowed => 405,
            Kind::NotAcceptable => 406,
            Kind::Slow => 408,
            Kind::Conflict => 409,
            Kind::Gone => 410,
            Kind::VersionConflict => 412,
            Kind::TooLarge => 413,
            Kind::UnsupportedMediaType => 415,
            Kind::Invalid | Kind::Refused => 422,
            Kind::Throttled => 429,
            Kind::Internal => 500,
            Kind::Unavailable => 503,
        }
    }

    /// The issue code used when nothing more precise is known.
    fn code(self) -> &'static str {
        match self {
            Kind::Malformed => "structure",
            Kind::Invalid => "invalid",
            Kind::Refused => "business-rule",
            Kind::Unauthenticated => "login",
            Kind::Forbidden => "forbidden",
            Kind::NotFound => "not-found",
            Kind::Gone => "deleted",
            Kind::Conflict | Kind::VersionConflict => "conflict",
            Kind::NotSupported | Kind::MethodNotAllowed | Kind::NotAcceptable | Kind::UnsupportedMediaType => {
                "not-supported"
            }
            Kind::TooLarge => "too-long",
            Kind::Slow => "timeout",
            Kind::Throttled => "throttled",
            Kind::Unavailable => "transient",
            Kind::Internal => "exception",
        }
    }
}

/// One thing that is wrong, as an OperationOutcome issue will say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// A code of <https://hl7.org/fhir/R4/valueset-issue-type.html>.
    pub code: &'static str,
    /// What is wrong and what to do. Never a value from the resource.
    pub text: String,
    /// FHIRPath of the element, where there is one.
    pub expression: Option<String>,
}

/// Everything that went wrong with one request.
#[derive(Debug, Clone)]
pub struct Error {
    /// What the caller can do.
    pub kind: Kind,
    /// At least one.
    pub issues: Vec<Issue>,
    /// For the log alone.
    pub cause: Option<String>,
    /// Seconds to wait before the next try (429, 503).
    pub retry_after: Option<u64>,
}

impl Error {
    /// An error with one issue.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        let issue = Issue { code: kind.code(), text: text.into(), expression: None };
        Error { kind, issues: vec![issue], cause: None, retry_after: None }
    }

    /// An error with many issues; `None` when there are none.
    pub fn from_issues(kind: Kind, issues: Vec<Issue>) -> Option<Self> {
        (!issues.is_empty()).then_some(Error { kind, issues, cause: None, retry_after: None })
    }

    /// 400: not a resource.
    pub fn malformed(text: impl Into<String>) -> Self {
        Error::new(Kind::Malformed, text)
    }
    /// 422: breaks a rule, at this element.
    pub fn invalid(expression: impl Into<String>, text: impl Into<String>) -> Self {
        Error::new(Kind::Invalid, text).at(expression)
    }
    /// 422: not allowed now.
    pub fn refused(expression: impl Into<String>, text: impl Into<String>) -> Self {
        Error::new(Kind::Refused, text).at(expression)
    }
    /// 404: there is none, or not for you.
    pub fn not_found(kind: &str, id: &str) -> Self {
        Error::new(Kind::NotFound, format!("There is no {kind}/{id} that you may see."))
    }
    /// 403.
    pub fn forbidden(text: impl Into<String>) -> Self {
        Error::new(Kind::Forbidden, text)
    }
    /// 409.
    pub fn conflict(text: impl Into<String>) -> Self {
        Error::new(Kind::Conflict, text)
    }
    /// 500, with a cause that only the log sees.
    pub fn internal(cause: impl fmt::Display) -> Self {
        let mut error = Error::new(Kind::Internal, "Something went wrong at the gateway; nothing was changed.");
        error.cause = Some(cause.to_string());
        error
    }
    /// 503, with a cause that only the log sees.
    pub fn unavailable(cause: impl fmt::Display) -> Self {
        let mut error = Error::new(Kind::Unavailable, "The gateway can't do this at the moment. Please try again.");
        error.cause = Some(cause.to_string());
        error.retry_after = Some(1);
        error
    }

    /// Names the element of the first issue.
    #[must_use]
    pub fn at(mut self, expression: impl Into<String>) -> Self {
        if let Some(issue) = self.issues.first_mut() {
            issue.expression = Some(expression.into());
        }
        self
    }

    /// Gives the first issue a more precise code.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        if let Some(issue) = self.issues.first_mut() {
            issue.code = code;
        }
        self
    }

    /// The first issue's text.
    pub fn text(&self) -> &str {
        self.issues.first().map_or("", |issue| issue.text.as_str())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, issue) in self.issues.iter().enumerate() {
            if index > 0 {
                out.write_str(" ")?;
            }
            if let Some(expression) = &issue.expression {
                write!(out, "{expression}: ")?;
            }
            out.write_str(&issue.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
