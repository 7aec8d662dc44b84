//! Code systems that are not ours to ship (SNOMED CT, LOINC, ICD-10-CM, CPT and their like): what a code of theirs looks
//! like, and no more.
//!
//! Promises to call a code wrong only where no release of its system could hold it. Leaves whether it exists open.
//! <https://hl7.org/fhir/R4/terminologies-systems.html>

/// How a code looks beside the rules of its system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// It may exist; we can't tell.
    Fits,
    /// The shape is right, and the check digit is not.
    WrongCheckDigit,
    /// No code of this system looks like this.
    Wrong,
}

/// The look of a code; `None` for a system whose rules we don't know.
pub fn form(system: &str, code: &str) -> Option<Form> {
    let bytes = code.as_bytes();
    let fits = |yes: bool| Some(if yes { Form::Fits } else { Form::Wrong });
    match system {
        "http://snomed.info/sct" => Some(snomed(bytes)),
        "http://loinc.org" => Some(loinc(code)),
        "http://hl7.org/fhir/sid/icd-10-cm" | "http://hl7.org/fhir/sid/icd-10" => {
            let (head, tail) = code.split_once('.').map_or((code, None), |(head, tail)| (head, Some(tail)));
            let [letter, digit, last] = head.as_bytes() else { return Some(Form::Wrong) };
            let tail_fits = tail.is_none_or(|tail| (1..=4).contains(&tail.len()) && alphanumeric(tail.as_bytes()));
            fits(letter.is_ascii_uppercase() && digit.is_ascii_digit() && alphanumeric(&[*last]) && tail_fits)
        }
        "http://www.ama-assn.org/go/cpt" => {
            let [digits @ .., last] = bytes else { return Some(Form::Wrong) };
            fits(bytes.len() == 5 && digits_only(digits) && alphanumeric(&[*last]))
        }
        "https://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets"
        | "http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets" => {
            let [letter, digits @ ..] = bytes else { return Some(Form::Wrong) };
            fits(bytes.len() == 5 && letter.is_ascii_uppercase() && digits_only(digits))
        }
        "http://www.cms.gov/Medicare/Coding/ICD10" => fits(bytes.len() == 7 && alphanumeric(bytes)),
        "http://www.ada.org/cdt" => {
            let [letter, digits @ ..] = bytes else { return Some(Form::Wrong) };
            fits(bytes.len() == 5 && *letter == b'D' && digits_only(digits))
        }
        "http://nucc.org/provider-taxonomy" => {
            let [body @ .., last] = bytes else { return Some(Form::Wrong) };
            fits(bytes.len() == 10 && alphanumeric(body) && *last == b'X')
        }
        _ => None,
    }
}

fn digits_only(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_digit)
}

fn alphanumeric(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
}

/// SCTID: 6 to 18 digits, the last by Verhoeff's scheme. <http://snomed.org/sctid>
fn snomed(bytes: &[u8]) -> Form {
    /// The dihedral group D5.
    const TIMES: [[u8; 10]; 10] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
        [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
        [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
        [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
        [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
        [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
        [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
        [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
        [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    ];
    /// Where each digit goes, by its place modulo eight.
    const TURNED: [[u8; 10]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
        [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
        [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
        [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
        [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
        [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
        [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
    ];
    if !(6..=18).contains(&bytes.len()) || !digits_only(bytes) || bytes.first() == Some(&b'0') {
        return Form::Wrong;
    }
    let at = |table: &[[u8; 10]], row: usize, column: u8| {
        table.get(row).and_then(|row| row.get(usize::from(column))).copied().unwrap_or(0)
    };
    let check = bytes
        .iter()
        .rev()
        .enumerate()
        .fold(0, |sum, (place, byte)| at(&TIMES, usize::from(sum), at(&TURNED, place % TURNED.len(), byte - b'0')));
    if check == 0 { Form::Fits } else { Form::WrongCheckDigit }
}

/// `12345-6` with a modulus 10 check digit; parts, answers and lists (`LA12-3`) follow another rule, which is not checked.
fn loinc(code: &str) -> Form {
    let bare = ["LP", "LA", "LL", "LG"].iter().find_map(|letters| code.strip_prefix(letters));
    let Some((number, check)) = bare.unwrap_or(code).split_once('-') else { return Form::Wrong };
    let (number, check) = (number.as_bytes(), check.as_bytes());
    if !(1..=7).contains(&number.len()) || !digits_only(number) || check.len() != 1 || !digits_only(check) {
        return Form::Wrong;
    }
    if bare.is_some() {
        return Form::Fits;
    }
    let sum: u32 = number
        .iter()
        .rev()
        .enumerate()
        .map(|(place, byte)| {
            let digit = u32::from(byte - b'0') * if place % 2 == 0 { 2 } else { 1 };
            digit / 10 + digit % 10
        })
        .sum();
    let wanted = (10 - sum % 10) % 10;
    if check.first().is_some_and(|byte| u32::from(byte - b'0') == wanted) { Form::Fits } else { Form::WrongCheckDigit }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes of the guide's own examples.
    #[test]
    fn codes_that_exist_fit() {
        let snomed =
            ["467771000124109", "710925007", "733423003", "1078229009", "410606002", "138875005", "481021000124104"];
        let loinc = ["88124-3", "71802-3", "93031-3", "76506-5", "LA19952-3", "LA30126-9", "LP7839-6", "LL2-1"];
        let diagnoses = ["Z59.41", "Z59.4", "Z59", "S72.001A", "C4A.9"];
        for (system, codes) in [
            ("http://snomed.info/sct", &snomed[..]),
            ("http://loinc.org", &loinc),
            ("http://hl7.org/fhir/sid/icd-10-cm", &diagnoses),
            ("http://www.ama-assn.org/go/cpt", &["96160", "0591T"]),
            ("https://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets", &["G0136"]),
            ("http://www.ada.org/cdt", &["D0120"]),
            ("http://www.cms.gov/Medicare/Coding/ICD10", &["GZ56ZZZ"]),
            ("http://nucc.org/provider-taxonomy", &["208D00000X"]),
        ] {
            for code in codes {
                assert_eq!(form(system, code), Some(Form::Fits), "{system} {code}");
            }
        }
    }

    #[test]
    fn what_no_release_can_hold_is_told() {
        for (system, code, expected) in [
            ("http://snomed.info/sct", "467771000124108", Form::WrongCheckDigit),
            ("http://snomed.info/sct", "food", Form::Wrong),
            ("http://snomed.info/sct", "12345", Form::Wrong),
            ("http://snomed.info/sct", "", Form::Wrong),
            ("http://loinc.org", "88124-4", Form::WrongCheckDigit),
            ("http://loinc.org", "88124", Form::Wrong),
            ("http://loinc.org", "LX1-1", Form::Wrong),
            ("http://hl7.org/fhir/sid/icd-10-cm", "Z59.", Form::Wrong),
            ("http://hl7.org/fhir/sid/icd-10-cm", "z59.4", Form::Wrong),
            ("http://www.ama-assn.org/go/cpt", "9616", Form::Wrong),
            ("http://www.ama-assn.org/go/cpt", "", Form::Wrong),
        ] {
            assert_eq!(form(system, code), Some(expected), "{system} {code}");
        }
        assert_eq!(form("http://example.org/own", "x"), None);
    }
}
