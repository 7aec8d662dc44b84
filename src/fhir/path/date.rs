//! Dates, dateTimes and times as far as they are known: a year, a month, a day, a moment.
//!
//! Two of them are compared by the spans they cover: apart, the order is known; overlapping and not written to the same
//! precision, it is not (FHIRPath's empty). One without a time zone may lie anywhere on Earth when it meets one that has
//! its zone. Leaves out calendars but the Gregorian. <https://hl7.org/fhirpath/N1/#date>

use std::cmp::Ordering;
use std::fmt;

use crate::time::Timestamp;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A date.
    Date,
    /// A date with a time, or as much of one as is known.
    DateTime,
    /// A time of day.
    Time,
}

/// To what it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Precision {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    /// Fractions belong to the second.
    Second,
}

/// A date, dateTime or time. Two are `==` when they are written the same; [`Moment::compare`] asks about time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    shape: Shape,
    pub(super) precision: Precision,
    pub(super) year: i64,
    pub(super) month: i64,
    pub(super) day: i64,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
    pub(super) nanos: i64,
    /// Digits of the fraction as written, at most nine of them kept.
    pub(super) fraction: usize,
    /// Minutes east of UTC.
    zone: Option<i64>,
}

pub(super) const MINUTE: i128 = 60_000_000_000;
pub(super) const HOUR: i128 = 60 * MINUTE;
pub(super) const DAY: i128 = 24 * HOUR;
/// The farthest zones from UTC.
const WIDEST_ZONE: i128 = 14 * HOUR;

fn number(text: &str, width: usize, least: i64, most: i64) -> Option<i64> {
    let right = text.len() == width && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if right { text.parse().ok()? } else { return None };
    (least..=most).contains(&number).then_some(number)
}

fn leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

pub(super) fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a Gregorian date.
pub(super) fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

impl Moment {
    fn empty(shape: Shape) -> Self {
        Moment {
            shape,
            precision: Precision::Year,
            year: 1970,
            month: 1,
            day: 1,
            hour: 0,
            minute: 0,
            second: 0,
            nanos: 0,
            fraction: 0,
            zone: None,
        }
    }

    /// `2026`, `2026-11` or `2026-11-26`.
    pub fn date(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut moment = Moment::empty(Shape::Date);
        moment.year = number(parts.next()?, 4, 1, 9999)?;
        if let Some(month) = parts.next() {
            moment.month = number(month, 2, 1, 12)?;
            moment.precision = Precision::Month;
        }
        if let Some(day) = parts.next() {
            moment.day = number(day, 2, 1, days_in(moment.year, moment.month))?;
            moment.precision = Precision::Day;
        }
        parts.next().is_none().then_some(moment)
    }

    /// A date, or a day with a time behind `T`, with or without a zone.
    pub fn date_time(text: &str) -> Option<Self> {
        let (date, clock) = text.split_once('T').unwrap_or((text, ""));
        let mut moment = Moment::date(date)?;
        moment.shape = Shape::DateTime;
        if clock.is_empty() {
            return Some(moment);
        }
        let (clock, zone) = match clock.find(['Z', '+', '-']) {
            Some(at) => clock.split_at(at),
            None => (clock, ""),
        };
        moment.zone = match zone {
            "" => None,
            "Z" => Some(0),
            zone => {
                let (hours, minutes) = zone.get(1..)?.split_once(':')?;
                let minutes = number(hours, 2, 0, 14)? * 60 + number(minutes, 2, 0, 59)?;
                Some(if zone.starts_with('-') { -minutes } else { minutes })
            }
        };
        (moment.precision == Precision::Day).then_some(())?;
        moment.clock(clock)
    }

    /// `10`, `10:30`, `10:30:00` or `10:30:00.000`.
    pub fn time(text: &str) -> Option<Self> {
        Moment::empty(Shape::Time).clock(text)
    }

    fn clock(mut self, text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
        let mut parts = whole.split(':');
        self.hour = number(parts.next()?, 2, 0, 23)?;
        self.precision = Precision::Hour;
        if let Some(minute) = parts.next() {
            self.minute = number(minute, 2, 0, 59)?;
            self.precision = Precision::Minute;
        }
        if let Some(second) = parts.next() {
            self.second = number(second, 2, 0, 60)?;
            self.precision = Precision::Second;
        }
        if let Some(fraction) = fraction {
            let known = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
            (known && self.precision == Precision::Second).then_some(())?;
            self.fraction = fraction.len().min(9);
            self.nanos = format!("{:0<9}", fraction.get(..self.fraction)?).parse().ok()?;
        }
        parts.next().is_none().then_some(self)
    }

    /// The instant as a dateTime in UTC.
    pub fn of(instant: Timestamp) -> Option<Self> {
        Moment::date_time(&instant.to_string())
    }

    /// What was written.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Its date alone.
    pub fn to_date(self) -> Self {
        let precision = self.precision.min(Precision::Day);
        let (year, month, day) = (self.year, self.month, self.day);
        Moment { precision, year, month, day, ..Moment::empty(Shape::Date) }
    }

    /// The same as a dateTime.
    pub fn to_date_time(self) -> Self {
        Moment { shape: Shape::DateTime, ..self }
    }

    /// Its time of day alone.
    pub fn to_time(self) -> Self {
        let day = Moment::empty(Shape::Time);
        Moment { shape: Shape::Time, zone: None, year: day.year, month: day.month, day: day.day, ..self }
    }

    /// Nanoseconds since 1970 by its own clock.
    pub(super) fn local(&self) -> i128 {
        let days = i128::from(days(self.year, self.month, self.day));
        let seconds = i128::from(self.hour * 3600 + self.minute * 60 + self.second);
        days * DAY + seconds * 1_000_000_000 + i128::from(self.nanos)
    }

    /// The first and the last nanosecond it may mean, in UTC if its zone is known.
    fn span(&self) -> (i128, i128) {
        let start = self.local() - self.zone.map_or(0, |zone| i128::from(zone) * MINUTE);
        let width = match self.precision {
            Precision::Year => i128::from(if leap(self.year) { 366 } else { 365 }) * DAY,
            Precision::Month => i128::from(days_in(self.year, self.month)) * DAY,
            Precision::Day => DAY,
            Precision::Hour => HOUR,
            Precision::Minute => MINUTE,
            // Seconds and their fractions are one precision: a point.
            Precision::Second => 1,
        };
        (start, start + width - 1)
    }

    /// Their order; none when it is not known.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        if (self.shape == Shape::Time) != (other.shape == Shape::Time) {
            return None;
        }
        let widened = |one: &Self, two: &Self| {
            let (start, end) = one.span();
            if one.zone.is_none() && two.zone.is_some() {
                (start - WIDEST_ZONE, end + WIDEST_ZONE)
            } else {
                (start, end)
            }
        };
        let (mine, theirs) = (widened(self, other), widened(other, self));
        if mine.1 < theirs.0 {
            return Some(Ordering::Less);
        }
        if mine.0 > theirs.1 {
            return Some(Ordering::Greater);
        }
        let same = self.precision == other.precision && self.zone.is_some() == other.zone.is_some();
        (same && mine == theirs).then_some(Ordering::Equal)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shows = |precision| self.precision >= precision;
        if self.shape != Shape::Time {
            write!(out, "{:04}", self.year)?;
            if shows(Precision::Month) {
                write!(out, "-{:02}", self.month)?;
            }
            if shows(Precision::Day) {
                write!(out, "-{:02}", self.day)?;
            }
            if self.shape == Shape::Date || !shows(Precision::Hour) {
                return Ok(());
            }
            out.write_str("T")?;
        }
        write!(out, "{:02}", self.hour)?;
        if shows(Precision::Minute) {
            write!(out, ":{:02}", self.minute)?;
        }
        if shows(Precision::Second) {
            write!(out, ":{:02}", self.second)?;
        }
        if self.fraction > 0 {
            let nanos = format!("{:09}", self.nanos);
            write!(out, ".{}", nanos.get(..self.fraction).unwrap_or(""))?;
        }
        match self.zone {
            None => Ok(()),
            Some(0) => out.write_str("Z"),
            Some(zone) => {
                let sign = if zone < 0 { '-' } else { '+' };
                write!(out, "{sign}{:02}:{:02}", zone.abs() / 60, zone.abs() % 60)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Moment {
        Moment::date_time(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in [
            "2026",
            "2026-11",
            "2024-02-29",
            "2026-11-26T10",
            "2026-11-26T10:30",
            "2026-11-26T10:30:00.123-05:00",
            "2026-11-26T10:30:59Z",
        ] {
            assert_eq!(at(text).to_string(), text);
        }
        for text in ["10", "10:30", "10:30:00", "10:30:00.5"] {
            assert_eq!(Moment::time(text).unwrap().to_string(), text);
        }
        for bad in [
            "",
            "26",
            "2026-13",
            "2026-02-29",
            "2026-1-1",
            "2026T10",
            "2026-11-26T25",
            "2026-11-26T10:30:00.",
            "2026-11-26T10:30+2",
            "yesterday",
            "2026-11-26-01",
        ] {
            assert!(Moment::date_time(bad).is_none(), "{bad}");
        }
        assert!(Moment::time("24:00").is_none());
        assert!(Moment::date("2026-11-26T10").is_none());
    }

    #[test]
    fn order_is_told_as_far_as_it_is_known() {
        use Ordering::{Equal, Greater, Less};
        for (left, right, expected) in [
            ("2026", "2027-01", Some(Less)),
            ("2026", "2026-05", None),
            ("2026", "2026", Some(Equal)),
            ("2026-11-26", "2026-11-26T10:00:00Z", None),
            ("2026-11-26", "2026-11-28T00:00:00Z", Some(Less)),
            // Somewhere it is already the 26th.
            ("2026-11-26", "2026-11-25T20:00:00Z", None),
            ("2026-11-26T10:00:00+02:00", "2026-11-26T08:00:00Z", Some(Equal)),
            ("2026-11-26T10:00:00.0Z", "2026-11-26T10:00:00Z", Some(Equal)),
            ("2026-11-26T10:00:00.001Z", "2026-11-26T10:00:00Z", Some(Greater)),
            ("2026-11-26T10:00", "2026-11-26T10:00:30", None),
            ("2026-11-26T15:00:00Z", "2026-11-26T10:00:00", None),
            ("2026-11-26T23:59:59", "2026-11-26T10:00:00", Some(Greater)),
        ] {
            assert_eq!(at(left).compare(&at(right)), expected, "{left} {right}");
            assert_eq!(at(right).compare(&at(left)), expected.map(Ordering::reverse), "{right} {left}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_moment_or_none(text in "[0-9TZ:+.-]{0,32}") {
            if let Some(moment) = Moment::date_time(&text) {
                prop_assert_eq!(moment.compare(&moment), Some(Ordering::Equal));
            }
        }
    }
}
