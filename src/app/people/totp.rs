//! One-time codes: six digits that change every thirty seconds, and recovery codes for whoever lost the device.
//!
//! A code is good for its own step and one either side, for clocks that differ; that it counts once is the store's to
//! see to. <https://www.rfc-editor.org/rfc/rfc6238>, <https://www.rfc-editor.org/rfc/rfc4226>

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key};

use crate::id;
use crate::time::Timestamp;

/// Seconds of a step, and how many steps a clock may be ahead or behind.
const STEP: i64 = 30;
const SKEW: i64 = 1;
/// Bytes of a secret: what RFC 4226 recommends.
const LENGTH: usize = 20;
/// How many recovery codes there are, and the letters of one: 80 bits.
const RECOVERY: usize = 10;
const LETTERS: usize = 16;
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A new secret, in base32 as authenticators take it.
pub(super) fn secret() -> String {
    base32(&random::<LENGTH>())
}

/// New recovery codes.
pub(super) fn recovery_codes() -> Vec<String> {
    let code = |_| {
        let letters = base32(&random::<10>());
        let groups: Vec<&str> = (0..LETTERS).step_by(4).filter_map(|at| letters.get(at..at + 4)).collect();
        groups.join("-")
    };
    (0..RECOVERY).map(code).collect()
}

/// What is kept of a recovery code; however it was typed.
pub(super) fn recovery_hash(code: &str) -> String {
    let typed: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
    super::sha256(&typed.to_ascii_uppercase())
}

/// The step whose code this is, around now.
pub(super) fn step_of(secret: &str, code: &str, now: Timestamp) -> Option<i64> {
    let (key, code) = (bytes(secret)?, code.split_whitespace().collect::<String>());
    let current = now.seconds().div_euclid(STEP);
    let fits = |step: &i64| verify_slices_are_equal(code_at(&key, *step, 6).as_bytes(), code.as_bytes()).is_ok();
    (current - SKEW..=current + SKEW).rfind(fits)
}

fn code_at(key: &[u8], step: i64, digits: u32) -> String {
    let tag = hmac::sign(&Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, key), &step.to_be_bytes());
    let tag = tag.as_ref();
    let offset = usize::from(tag.last().unwrap_or(&0) & 0x0f);
    let four = tag.get(offset..offset + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_be_bytes);
    let width = usize::try_from(digits).unwrap_or(6);
    format!("{:0width$}", (four & 0x7fff_ffff) % 10_u32.pow(digits))
}

fn random<const N: usize>() -> [u8; N] {
    // Of the 256 bits of a secret, as many as are wanted.
    let drawn = digest(&SHA256, id::secret().as_bytes());
    std::array::from_fn(|index| drawn.as_ref().get(index).copied().unwrap_or(0))
}

fn base32(bytes: &[u8]) -> String {
    let bit = |at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
    let letter = |at: usize| (0..5).fold(0, |sum, next| sum * 2 + usize::from(bit(at + next)));
    (0..bytes.len() * 8).step_by(5).filter_map(|at| ALPHABET.get(letter(at)).map(|byte| char::from(*byte))).collect()
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let value = |letter: u8| ALPHABET.iter().position(|known| *known == letter);
    let values: Vec<usize> = text.bytes().map(value).collect::<Option<_>>()?;
    let bit = |at: usize| values.get(at / 5).is_some_and(|value| value >> (4 - at % 5) & 1 == 1);
    Some(
        (0..values.len() * 5 / 8)
            .map(|byte| (0..8).fold(0, |sum, next| sum << 1 | u8::from(bit(byte * 8 + next))))
            .collect(),
    )
}

/// The code of now, for tests.
#[doc(hidden)]
pub fn code_now(secret: &str, now: Timestamp) -> String {
    code_at(&bytes(secret).unwrap_or_default(), now.seconds().div_euclid(STEP), 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 6238, appendix B, SHA-1.
    #[test]
    fn codes_are_the_standards() {
        let key = b"12345678901234567890";
        for (seconds, code) in [
            (59, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ] {
            assert_eq!(code_at(key, seconds / STEP, 8), code);
            let now = Timestamp::from_seconds(seconds);
            assert_eq!(step_of(&base32(key), &code[2..], now), Some(seconds / STEP));
        }
    }

    #[test]
    fn a_code_is_good_for_its_step_and_one_either_side() {
        let secret = secret();
        let at = |seconds: i64| Timestamp::from_seconds(1_800_000_000 + seconds);
        let code = code_now(&secret, at(0));
        for (seconds, good) in [(-31, false), (-30, true), (0, true), (29, true), (59, true), (60, false)] {
            assert_eq!(step_of(&secret, &code, at(seconds)).is_some(), good, "{seconds}");
        }
        assert_eq!(step_of(&secret, &format!(" {} {}", &code[..3], &code[3..]), at(0)), Some(60_000_000));
        for bad in ["", "12345", &code[..5], "x"] {
            assert_eq!(step_of(&secret, bad, at(0)), None, "{bad}");
        }
    }

    // RFC 4648 §10
    #[test]
    fn base32_is_the_standards() {
        for (plain, text) in [("", ""), ("f", "MY"), ("fo", "MZXQ"), ("foob", "MZXW6YQ"), ("foobar", "MZXW6YTBOI")] {
            assert_eq!((base32(plain.as_bytes()).as_str(), bytes(text).unwrap()), (text, plain.as_bytes().to_vec()));
        }
        assert_eq!((secret().len(), bytes("a1")), (32, None));
    }

    #[test]
    fn recovery_codes_are_many_and_forgiving() {
        let codes = recovery_codes();
        let code = &codes[0];
        assert_eq!((codes.len(), code.len(), code.matches('-').count()), (10, 19, 3));
        assert_eq!(recovery_hash(code), recovery_hash(&code.replace('-', " ").to_lowercase()));
        assert_ne!(recovery_hash(code), recovery_hash(&codes[1]));
    }
}
