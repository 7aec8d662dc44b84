//! Steps in time: a date so many days, months or hours later.
//!
//! <https://hl7.org/fhirpath/N1/#datetime-arithmetic>

use super::date::{DAY, HOUR, MINUTE, Moment, Precision, Shape, days_in};

/// A step in time: FHIRPath's calendar words and the UCUM units that mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// year
    Year,
    /// month
    Month,
    /// week, `wk`
    Week,
    /// day, `d`
    Day,
    /// hour, `h`
    Hour,
    /// minute, `min`
    Minute,
    /// second, `s`
    Second,
    /// millisecond, `ms`
    Millisecond,
}

/// The Gregorian date of a number of days since 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

impl Moment {
    /// This much later, or earlier if negative; a step finer than what is known is taken as whole units of that (24 months
    /// are two years). None beyond the years 1 to 9999.
    pub fn plus(self, amount: i64, step: Step) -> Option<Self> {
        let (amount, step) = match step {
            Step::Week => (amount.checked_mul(7)?, Step::Day),
            step => (amount, step),
        };
        if self.shape() == Shape::Time {
            return self.turned(amount, step);
        }
        match (self.precision, step) {
            (Precision::Year, Step::Month) => self.months(amount / 12 * 12),
            (_, Step::Year) => self.months(amount.checked_mul(12)?),
            (_, Step::Month) => self.months(amount),
            (Precision::Year, _) => {
                self.months(span(amount, step)?.checked_div(365 * DAY).and_then(|n| i64::try_from(n).ok())? * 12)
            }
            (Precision::Month, _) => self.months(i64::try_from(span(amount, step)? / (30 * DAY)).ok()?),
            (Precision::Day, _) => self.nanos(span(amount, step)? / DAY * DAY),
            (Precision::Hour, _) => self.nanos(span(amount, step)? / HOUR * HOUR),
            (Precision::Minute, _) => self.nanos(span(amount, step)? / MINUTE * MINUTE),
            (Precision::Second, _) => self.nanos(span(amount, step)?),
        }
    }

    fn months(mut self, months: i64) -> Option<Self> {
        let total = (self.year * 12 + self.month - 1).checked_add(months)?;
        self.year = total.div_euclid(12);
        self.month = total.rem_euclid(12) + 1;
        self.day = self.day.min(days_in(self.year, self.month));
        (1..=9999).contains(&self.year).then_some(self)
    }

    fn nanos(mut self, nanos: i128) -> Option<Self> {
        let total = self.local().checked_add(nanos)?;
        (self.year, self.month, self.day) = civil(i64::try_from(total.div_euclid(DAY)).ok()?);
        self.set_clock(total.rem_euclid(DAY))?;
        (1..=9999).contains(&self.year).then_some(self)
    }

    /// A time of day goes round the clock.
    fn turned(mut self, amount: i64, step: Step) -> Option<Self> {
        let total = self.local().checked_add(span(amount, step)?)?;
        self.set_clock(total.rem_euclid(DAY))?;
        Some(self)
    }

    fn set_clock(&mut self, of_day: i128) -> Option<()> {
        self.hour = i64::try_from(of_day / HOUR).ok()?;
        self.minute = i64::try_from(of_day % HOUR / MINUTE).ok()?;
        self.second = i64::try_from(of_day % MINUTE / 1_000_000_000).ok()?;
        self.nanos = i64::try_from(of_day % 1_000_000_000).ok()?;
        if self.precision == Precision::Second && self.nanos > 0 {
            self.fraction = self.fraction.max(3);
        }
        Some(())
    }
}

/// So many steps in nanoseconds; months and years have no fixed length but that of 30 and 365 days.
fn span(amount: i64, step: Step) -> Option<i128> {
    let one = match step {
        Step::Year => 365 * DAY,
        Step::Month => 30 * DAY,
        Step::Week => 7 * DAY,
        Step::Day => DAY,
        Step::Hour => HOUR,
        Step::Minute => MINUTE,
        Step::Second => 1_000_000_000,
        Step::Millisecond => 1_000_000,
    };
    i128::from(amount).checked_mul(one)
}

#[cfg(test)]
mod tests {
    use super::super::date::days;
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Moment {
        Moment::date_time(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn time_is_added_as_calendars_do() {
        for (start, amount, step, end) in [
            ("2024-02-29", 1, Step::Year, "2025-02-28"),
            ("2026-01-31", 1, Step::Month, "2026-02-28"),
            ("2026-12-31", 1, Step::Day, "2027-01-01"),
            ("2026", 25, Step::Month, "2028"),
            ("2026-03", -2, Step::Week, "2026-03"),
            ("2026-11-26T23:30:00Z", 45, Step::Minute, "2026-11-27T00:15:00Z"),
            ("2026-11-26", 23, Step::Hour, "2026-11-26"),
            ("2026-11-26", -49, Step::Hour, "2026-11-24"),
        ] {
            assert_eq!(at(start).plus(amount, step).unwrap().to_string(), end, "{start} + {amount} {step:?}");
        }
        assert!(at("9999-12-31").plus(1, Step::Day).is_none());
        assert_eq!(Moment::time("23:30").unwrap().plus(1, Step::Hour).unwrap().to_string(), "00:30");
    }

    proptest! {
        #[test]
        fn any_step_from_any_moment_is_a_moment_or_none(text in "[0-9TZ:+.-]{0,32}") {
            if let Some(moment) = Moment::date_time(&text) {
                let _ = (moment.plus(i64::MAX, Step::Year), moment.plus(i64::MIN, Step::Day), moment.plus(7, Step::Month));
            }
        }

        #[test]
        fn days_and_dates_agree(day in -700_000_i64..2_900_000) {
            let (year, month, of_month) = civil(day);
            prop_assert_eq!(days(year, month, of_month), day);
            prop_assert!((1..=12).contains(&month) && (1..=days_in(year, month)).contains(&of_month));
        }
    }
}
