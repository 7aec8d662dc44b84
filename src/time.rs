//! Time: the only clock of the gateway, instants as microseconds UTC, and the spans that FHIR's partial dates mean.
//!
//! A [`Clock`] is handed in, never global; tests hold a manual one and move it. Calendar arithmetic is jiff's.
//! FHIR date types: <https://hl7.org/fhir/R4/datatypes.html#dateTime>.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp as Moment};

/// An instant, in microseconds since 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Reads an RFC 3339 instant with a time zone.
    pub fn parse(text: &str) -> Option<Self> {
        let moment: Moment = text.parse().ok()?;
        Some(Timestamp(moment.as_microsecond()))
    }

    /// Whole seconds since 1970, as tokens have them.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// From whole seconds since 1970.
    pub fn from_seconds(seconds: i64) -> Self {
        Timestamp(seconds.saturating_mul(1_000_000))
    }

    /// This instant and a while.
    pub fn plus(self, duration: Duration) -> Self {
        Timestamp(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This instant less a while.
    pub fn minus(self, duration: Duration) -> Self {
        Timestamp(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long ago an earlier instant was; nothing if it was later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Reads the form of the HTTP `Date` header.
    pub fn parse_http_date(text: &str) -> Option<Self> {
        let moment = jiff::civil::DateTime::strptime("%a, %d %b %Y %H:%M:%S GMT", text).ok()?;
        Some(Timestamp(moment.to_zoned(TimeZone::UTC).ok()?.timestamp().as_microsecond()))
    }

    /// The form of the HTTP `Last-Modified` and `Date` headers.
    pub fn http_date(self) -> String {
        self.moment().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }

    fn moment(self) -> Moment {
        Moment::from_microsecond(self.0).unwrap_or(Moment::UNIX_EPOCH)
    }
}

/// RFC 3339 in UTC, with as many fraction digits as the instant has, or as many as are asked for (`{:.6}`): reading it
/// back gives the same instant.
impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.moment().fmt(out)
    }
}

/// The span `[start, end)` that a FHIR `date`, `dateTime` or `instant` means at its own precision; a dateTime
/// without a zone is taken as UTC. `None` for anything else.
pub fn span_of(text: &str) -> Option<(Timestamp, Timestamp)> {
    let micro = Span::new().microseconds(1);
    if let Some((_, clock)) = text.split_once('T') {
        // The parser knows more forms than FHIR: an hour alone, no colons, a zone's name behind.
        let fhir = clock.as_bytes().get(2) == Some(&b':')
            && clock.bytes().all(|byte| byte.is_ascii_digit() || b":.+-Z".contains(&byte));
        if !fhir {
            return None;
        }
        let zoned = clock.ends_with('Z') || clock.contains(['+', '-']);
        let start = if zoned { Timestamp::parse(text)? } else { Timestamp::parse(&format!("{text}Z"))? };
        let width = if clock.contains('.') {
            micro
        } else if clock.split(['Z', '+', '-']).next()?.len() > 5 {
            Span::new().seconds(1)
        } else {
            Span::new().minutes(1)
        };
        let end = start.moment().checked_add(width).map_or(i64::MAX, Moment::as_microsecond);
        return Some((start, Timestamp(end)));
    }
    let (first, width) = match text.len() {
        4 => (format!("{text}-01-01"), Span::new().years(1)),
        7 => (format!("{text}-01"), Span::new().months(1)),
        10 => (text.to_string(), Span::new().days(1)),
        _ => return None,
    };
    let date: Date = first.parse().ok()?;
    // By days, for the last of the calendar's lie beyond its instants.
    let micros = |date: Date| i64::try_from(date.duration_since(Date::constant(1970, 1, 1)).as_micros()).ok();
    // What ends with the calendar (9999-12-31 is how many write "for ever") has no end.
    let end = date.checked_add(width).ok().and_then(micros).unwrap_or(i64::MAX);
    Some((Timestamp(micros(date)?), Timestamp(end)))
}

/// Where the time comes from: the system, or a hand that moves it.
#[derive(Debug, Clone)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Clock(None)
    }

    /// A clock that stands still until it is moved; for tests.
    pub fn manual(start: Timestamp) -> Self {
        Clock(Some(Arc::new(AtomicI64::new(start.0))))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            None => Timestamp(Moment::now().as_microsecond()),
            Some(hand) => Timestamp(hand.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock forward; the machine's clock is not ours to move.
    pub fn advance(&self, duration: Duration) {
        if let Some(hand) = &self.0 {
            hand.fetch_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }

    /// Moves a manual clock back, as a correction does.
    pub fn turn_back(&self, duration: Duration) {
        if let Some(hand) = &self.0 {
            hand.fetch_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_reads_back_as_written() {
        for text in ["2026-11-21T10:00:00Z", "2026-11-21T10:00:00.123456Z"] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Timestamp::parse("2026-11-21T10:00:00+02:00"), Timestamp::parse("2026-11-21T08:00:00Z"));
        assert_eq!(Timestamp::parse("yesterday"), None);
    }

    #[test]
    fn partial_dates_are_spans_of_their_precision() {
        let width = |text| span_of(text).map(|(start, end)| (end.0 - start.0) / 1_000_000);
        assert_eq!(width("2024"), Some(366 * 86_400));
        assert_eq!(width("2026-02"), Some(28 * 86_400));
        assert_eq!(width("2026-02-03"), Some(86_400));
        assert_eq!(width("2026-02-03T10:00Z"), Some(60));
        assert_eq!(width("2026-02-03T10:00:00-05:00"), Some(1));
        assert_eq!(width("2026-02-03T10:00:00"), Some(1));
        assert_eq!(span_of("9999-12-31").unwrap().1, Timestamp(i64::MAX));
        assert_eq!(span_of("1970").unwrap().0, Timestamp(0));
        assert_eq!(width("2026-13-45"), None);
        assert_eq!(width("soon"), None);
        for other in
            ["2026-02-03T10Z", "2026-02-03T1000Z", "2026-02-03T10:00:00Z[UTC]", "2026-02-03T", "2026-02-03T24:00Z"]
        {
            assert_eq!(width(other), None, "{other}");
        }
    }

    #[test]
    fn http_dates_are_in_the_form_of_rfc_9110() {
        let noon = Timestamp::parse("1994-11-06T08:49:37Z");
        assert_eq!(Timestamp::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), noon);
        assert_eq!(Timestamp::parse("1994-11-06T08:49:37Z").unwrap().http_date(), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
