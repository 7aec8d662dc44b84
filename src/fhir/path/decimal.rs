//! Exact decimals: a whole number of digits and where the point stands. No binary fractions, so 0.1 + 0.2 is 0.3.
//!
//! Bounded at the 38 digits that 128 bits hold; what goes beyond is none, which FHIRPath calls an overflow and answers
//! with empty. Leaves out roots and logarithms. <https://hl7.org/fhirpath/N1/#decimal>

use std::cmp::Ordering;
use std::fmt;

/// Most digits behind the point.
const MOST_PLACES: u32 = 38;
/// Digits behind the point that a division works out, where they fit.
const DIVISION_PLACES: u32 = 20;

/// A decimal as it was written: `1.00` keeps its zeros.
#[derive(Debug, Clone, Copy)]
pub struct Decimal {
    digits: i128,
    places: u32,
}

fn power(places: u32) -> Option<i128> {
    10_i128.checked_pow(places)
}

impl Decimal {
    /// Reads JSON's number or FHIRPath's literal.
    pub fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let bare = whole.strip_prefix(['-', '+']).unwrap_or(whole);
        if bare.is_empty() || !bare.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let places = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
        match u32::try_from(places) {
            Ok(places) if places <= MOST_PLACES => Some(Decimal { digits, places }),
            Ok(_) => None,
            Err(_) => Some(Decimal { digits: digits.checked_mul(power(places.unsigned_abs())?)?, places: 0 }),
        }
    }

    /// The same value without zeros at the end.
    #[must_use]
    pub fn trimmed(mut self) -> Self {
        while self.places > 0 && self.digits % 10 == 0 {
            self.digits /= 10;
            self.places -= 1;
        }
        self
    }

    /// Its digits without zeros at the end, and how many of them stand behind the point: equal for equal values.
    pub fn key(self) -> (i128, u32) {
        let bare = self.trimmed();
        (bare.digits, bare.places)
    }

    /// How many digits stand behind the point.
    pub fn places(self) -> u32 {
        self.places
    }

    /// The whole number it is, if it is one that fits.
    pub fn to_integer(self) -> Option<i64> {
        let bare = self.trimmed();
        (bare.places == 0).then(|| i64::try_from(bare.digits).ok()).flatten()
    }

    fn aligned(self, other: Self) -> Option<(i128, i128, u32)> {
        let (one, two) = if self.places == other.places { (self, other) } else { (self.trimmed(), other.trimmed()) };
        let places = one.places.max(two.places);
        let left = one.digits.checked_mul(power(places - one.places)?)?;
        let right = two.digits.checked_mul(power(places - two.places)?)?;
        Some((left, right, places))
    }

    /// The sum.
    pub fn plus(self, other: Self) -> Option<Self> {
        let (left, right, places) = self.aligned(other)?;
        Some(Decimal { digits: left.checked_add(right)?, places })
    }

    /// The difference.
    pub fn minus(self, other: Self) -> Option<Self> {
        self.plus(other.negated()?)
    }

    /// The product.
    pub fn times(self, other: Self) -> Option<Self> {
        let (one, two) = (self.trimmed(), other.trimmed());
        let places = one.places + two.places;
        let product = Decimal { digits: one.digits.checked_mul(two.digits)?, places }.trimmed();
        (product.places <= MOST_PLACES).then_some(product)
    }

    /// The quotient; none when divided by nothing.
    pub fn over(self, other: Self) -> Option<Self> {
        let (one, two) = (self.trimmed(), other.trimmed());
        if two.digits == 0 {
            return None;
        }
        (0..=DIVISION_PLACES).rev().find_map(|places| {
            let shift = i64::from(places) + i64::from(two.places) - i64::from(one.places);
            let by = power(u32::try_from(shift.unsigned_abs()).ok()?)?;
            let (over, under) = if shift >= 0 {
                (one.digits.checked_mul(by)?, two.digits)
            } else {
                (one.digits, two.digits.checked_mul(by)?)
            };
            Some(Decimal { digits: nearest(over, under)?, places }.trimmed())
        })
    }

    /// How often the other goes into it, as a whole number; none when divided by nothing.
    pub fn whole_over(self, other: Self) -> Option<Self> {
        let (left, right, _) = self.aligned(other)?;
        Some(Decimal { digits: left.checked_div(right)?, places: 0 })
    }

    /// What is left then.
    pub fn remainder(self, other: Self) -> Option<Self> {
        let (left, right, places) = self.aligned(other)?;
        Some(Decimal { digits: left.checked_rem(right)?, places }.trimmed())
    }

    /// The same with the other sign.
    pub fn negated(self) -> Option<Self> {
        Some(Decimal { digits: self.digits.checked_neg()?, ..self })
    }

    /// Without its sign.
    pub fn absolute(self) -> Option<Self> {
        Some(Decimal { digits: self.digits.checked_abs()?, ..self })
    }

    /// Rounded to so many places, halves away from zero.
    pub fn rounded(self, places: u32) -> Option<Self> {
        if places >= self.places {
            return Some(self);
        }
        Some(Decimal { digits: nearest(self.digits, power(self.places - places)?)?, places })
    }

    /// The whole number towards zero.
    pub fn truncated(self) -> Option<Self> {
        Some(Decimal { digits: self.digits / power(self.places)?, places: 0 })
    }

    /// The next whole number below.
    pub fn floor(self) -> Option<Self> {
        Some(Decimal { digits: self.digits.div_euclid(power(self.places)?), places: 0 })
    }

    /// The next whole number above.
    pub fn ceiling(self) -> Option<Self> {
        self.negated()?.floor()?.negated()
    }
}

/// The quotient rounded to a whole number, halves away from zero.
fn nearest(over: i128, under: i128) -> Option<i128> {
    let (quotient, rest) = (over.checked_div(under)?, over.checked_rem(under)?);
    let up = rest.unsigned_abs() >= under.unsigned_abs() - rest.unsigned_abs();
    if rest == 0 || !up {
        return Some(quotient);
    }
    quotient.checked_add(if (over < 0) == (under < 0) { 1 } else { -1 })
}

impl From<i64> for Decimal {
    fn from(number: i64) -> Self {
        Decimal { digits: i128::from(number), places: 0 }
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Decimal {}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        if let Some((left, right, _)) = self.aligned(*other) {
            return left.cmp(&right);
        }
        // Too far apart for one scale: then their whole parts, or else their signs, tell them apart.
        let whole = |one: &Decimal| one.truncated().map_or(0, |one| one.digits);
        whole(self).cmp(&whole(other)).then_with(|| self.digits.signum().cmp(&other.digits.signum())).then_with(|| {
            // Same whole part and sign, so both lie below 10: the one with more places is the smaller in amount.
            let smaller = other.trimmed().places.cmp(&self.trimmed().places);
            if self.digits < 0 { smaller.reverse() } else { smaller }
        })
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.places as usize;
        let mut text = format!("{:0width$}", self.digits.unsigned_abs(), width = places + 1);
        if places > 0 {
            text.insert(text.len() - places, '.');
        }
        if self.digits < 0 {
            text.insert(0, '-');
        }
        out.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn decimals_are_exact_and_keep_what_was_written() {
        for text in ["0", "1.00", "-0.5", "0.010000000000000000000000001", "123456789012345678901234567890.12345678"] {
            assert_eq!(read(text).to_string(), text);
        }
        assert_eq!(read("0.1").plus(read("0.2")).unwrap(), read("0.3"));
        assert_eq!(read("1.5e3"), read("1500"));
        assert_eq!(read("15e-1"), read("1.50"));
        assert_eq!(read("1.2").times(read("1.8")).unwrap(), read("2.16"));
        assert_eq!(read("2").over(read("3")).unwrap().rounded(4).unwrap(), read("0.6667"));
        assert_eq!(read("1").over(read("0.125")).unwrap(), read("8"));
        assert_eq!(read("5").whole_over(read("-2")).unwrap(), read("-2"));
        assert_eq!(read("5.5").remainder(read("0.7")).unwrap(), read("0.6"));
        assert!(read("1").over(read("0.0")).is_none());
        assert!(read("1").whole_over(read("0")).is_none());
    }

    #[test]
    fn rounding_goes_as_the_words_say() {
        for (text, floor, ceiling, truncated, rounded) in [
            ("1.5", "1", "2", "1", "2"),
            ("-1.5", "-2", "-1", "-1", "-2"),
            ("-1.1", "-2", "-1", "-1", "-1"),
            ("3", "3", "3", "3", "3"),
        ] {
            let one = read(text);
            assert_eq!(
                [one.floor(), one.ceiling(), one.truncated(), one.rounded(0)].map(|one| one.unwrap().to_string()),
                [floor, ceiling, truncated, rounded],
                "{text}"
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_none_and_still_has_its_order() {
        assert!(Decimal::parse(&"9".repeat(40)).is_none());
        assert!(Decimal::parse("1e40").is_none());
        assert!(Decimal::parse("1e-40").is_none());
        let big = read(&"9".repeat(38));
        assert!(big.times(big).is_none());
        for bad in ["", ".", "1.2.3", "--1", "1e", "x", "+", "1 "] {
            assert!(Decimal::parse(bad).is_none(), "{bad}");
        }
        assert!(big > read("0.00000000000000000000000000000000000001"));
        assert!(read("12345678901234567890123456789012345678") > read("1.5"));
        assert!(read("-1.5") > read("-12345678901234567890123456789012345678"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_decimal_or_none(text in "[-+0-9.eE]{0,60}") {
            if let Some(one) = Decimal::parse(&text) {
                prop_assert_eq!(Decimal::parse(&one.to_string()), Some(one));
                prop_assert_eq!(one.cmp(&one), Ordering::Equal);
                let _ = (one.floor(), one.ceiling(), one.rounded(2), one.over(one), one.times(one), one.remainder(one));
            }
        }

        #[test]
        fn small_sums_and_products_agree_with_whole_numbers(left in -1_000_000_i64..1_000_000, right in -1_000_000_i64..1_000_000) {
            let scaled = |number: i64| Decimal { digits: i128::from(number), places: 3 };
            prop_assert_eq!(scaled(left).plus(scaled(right)).unwrap(), scaled(left + right));
            prop_assert_eq!(scaled(left).times(scaled(right)).unwrap(), Decimal { digits: i128::from(left) * i128::from(right), places: 6 });
            prop_assert_eq!(scaled(left).cmp(&scaled(right)), left.cmp(&right));
        }
    }
}
