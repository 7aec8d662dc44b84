//! FHIRPath's words: names, literals, signs. White space and comments are left out.
//!
//! <https://hl7.org/fhirpath/N1/#lexical-elements>

use super::Fault;
use super::date::Moment;
use super::decimal::Decimal;

/// One word.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word {
    /// A name; keywords are names too.
    Name(String),
    /// A name in backticks, which is never a keyword.
    Quoted(String),
    /// `$this` and its like, without the sign.
    Special(String),
    /// `%resource` and its like, without the sign.
    Variable(String),
    /// A string.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number with a point.
    Decimal(Decimal),
    /// `@2026`, `@2026T`, `@T10:00`
    Moment(Moment),
    /// An operator or a bracket.
    Sign(&'static str),
    /// The end of the expression.
    End,
}

/// Longest first, so that `<=` is not read as `<`.
const SIGNS: &[&str] =
    &["<=", ">=", "!=", "!~", "(", ")", "[", "]", "{", "}", ".", ",", "+", "-", "*", "/", "&", "|", "=", "~", "<", ">"];

/// Reads all words, each with the place of its first byte.
pub(super) fn words(text: &str) -> Result<Vec<(usize, Word)>, Fault> {
    let mut reader = Reader { text, at: 0 };
    let mut words = Vec::new();
    loop {
        reader.skip()?;
        let start = reader.at;
        let word = reader.word()?;
        let last = word == Word::End;
        words.push((start, word));
        if last {
            return Ok(words);
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn fault(&self, why: &str) -> Fault {
        Fault::syntax(self.at, why)
    }

    fn take_while(&mut self, fits: impl Fn(char) -> bool) -> String {
        let taken: String = self.rest().chars().take_while(|c| fits(*c)).collect();
        self.at += taken.len();
        taken
    }

    fn skip(&mut self) -> Result<(), Fault> {
        loop {
            self.take_while(char::is_whitespace);
            if self.rest().starts_with("//") {
                self.take_while(|c| c != '\n' && c != '\r');
            } else if self.rest().starts_with("/*") {
                let end = self.rest().find("*/").ok_or_else(|| self.fault("A comment has no end."))?;
                self.at += end + 2;
            } else {
                return Ok(());
            }
        }
    }

    fn word(&mut self) -> Result<Word, Fault> {
        let Some(first) = self.rest().chars().next() else { return Ok(Word::End) };
        match first {
            'a'..='z' | 'A'..='Z' | '_' => Ok(Word::Name(self.name())),
            '0'..='9' => self.number(),
            '\'' => Ok(Word::Text(self.quoted('\'')?)),
            '`' => Ok(Word::Quoted(self.quoted('`')?)),
            // Names in double quotes are of FHIRPath's first draft.
            '"' => Err(self.fault("A string stands in single quotes.")),
            '@' => self.moment(),
            '$' => {
                self.at += 1;
                Ok(Word::Special(self.name()))
            }
            '%' => {
                self.at += 1;
                let name = match self.rest().chars().next() {
                    Some(quote @ ('`' | '\'')) => self.quoted(quote)?,
                    _ => self.name(),
                };
                if name.is_empty() { Err(self.fault("A variable has a name.")) } else { Ok(Word::Variable(name)) }
            }
            _ => {
                let sign = SIGNS.iter().find(|sign| self.rest().starts_with(**sign));
                let sign = sign.ok_or_else(|| self.fault("This character does not belong here."))?;
                self.at += sign.len();
                Ok(Word::Sign(sign))
            }
        }
    }

    fn name(&mut self) -> String {
        self.take_while(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    fn number(&mut self) -> Result<Word, Fault> {
        let whole = self.take_while(|c| c.is_ascii_digit());
        let mut behind = self.rest().chars();
        if behind.next() == Some('.') && behind.next().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
            let fraction = self.take_while(|c| c.is_ascii_digit());
            let number = Decimal::parse(&format!("{whole}.{fraction}"));
            return number.map(Word::Decimal).ok_or_else(|| self.fault("This number has too many digits."));
        }
        whole.parse().map(Word::Integer).map_err(|_| self.fault("This number is too large."))
    }

    fn moment(&mut self) -> Result<Word, Fault> {
        self.at += 1;
        let start = self.at;
        let clock = |c: char| c.is_ascii_digit() || c == ':';
        let moment = if self.rest().starts_with('T') {
            self.at += 1;
            let mut text = self.take_while(clock);
            text.push_str(&self.fraction());
            Moment::time(&text)
        } else {
            let mut text = self.take_while(|c| c.is_ascii_digit() || c == '-');
            if self.rest().starts_with('T') {
                self.at += 1;
                text.push('T');
                text.push_str(&self.take_while(clock));
                text.push_str(&self.fraction());
                let zone: String = match self.rest().chars().next() {
                    Some('Z') => "Z".into(),
                    // `@2026-11-26T10:00-1 day` is no zone but a difference; a zone has its colon.
                    Some('+' | '-') if self.rest().as_bytes().get(3) == Some(&b':') => {
                        self.rest().chars().take(6).collect()
                    }
                    _ => String::new(),
                };
                self.at += zone.len();
                text.push_str(&zone);
                Moment::date_time(&text)
            } else {
                Moment::date(&text)
            }
        };
        moment.map(Word::Moment).ok_or_else(|| Fault::syntax(start, "This is no date, dateTime or time."))
    }

    /// The point of a time belongs to it only with digits behind.
    fn fraction(&mut self) -> String {
        let mut behind = self.rest().chars();
        if behind.next() != Some('.') || !behind.next().is_some_and(|c| c.is_ascii_digit()) {
            return String::new();
        }
        self.at += 1;
        format!(".{}", self.take_while(|c| c.is_ascii_digit()))
    }

    fn quoted(&mut self, quote: char) -> Result<String, Fault> {
        let start = self.at;
        let mut text = String::new();
        let mut rest = self.rest().char_indices().skip(1);
        while let Some((at, c)) = rest.next() {
            if c == quote {
                self.at += at + quote.len_utf8();
                return Ok(text);
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            match rest.next().map(|(_, c)| c) {
                Some(c @ ('\'' | '"' | '`' | '\\' | '/')) => text.push(c),
                Some('n') => text.push('\n'),
                Some('r') => text.push('\r'),
                Some('t') => text.push('\t'),
                Some('f') => text.push('\u{c}'),
                Some('u') => {
                    let digits: String = rest.by_ref().take(4).map(|(_, c)| c).collect();
                    let known = if digits.len() == 4 { u32::from_str_radix(&digits, 16).ok() } else { None };
                    let known = known.and_then(char::from_u32);
                    text.push(known.ok_or_else(|| Fault::syntax(start, "\\u has four hexadecimal digits behind it."))?);
                }
                _ => return Err(Fault::syntax(start, "A string holds an escape that FHIRPath does not have.")),
            }
        }
        Err(Fault::syntax(start, "A quote has no end."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Word> {
        words(text).unwrap().into_iter().map(|(_, word)| word).collect()
    }

    #[test]
    fn words_are_told_apart() {
        let name = |text: &str| Word::Name(text.into());
        assert_eq!(
            read("a.`b c`/* x */ >= 1.5 // end"),
            [
                name("a"),
                Word::Sign("."),
                Word::Quoted("b c".into()),
                Word::Sign(">="),
                Word::Decimal(Decimal::parse("1.5").unwrap()),
                Word::End
            ]
        );
        assert_eq!(read("1.a"), [Word::Integer(1), Word::Sign("."), name("a"), Word::End]);
        assert_eq!(read("$this%`x-1`"), [Word::Special("this".into()), Word::Variable("x-1".into()), Word::End]);
        assert_eq!(read(r"'a\'\\\u0041'"), [Word::Text(r"a'\A".into()), Word::End]);
        for text in ["@2026", "@2026-11T", "@2026-11-26T10:00:00.5+02:00", "@T10:00"] {
            assert!(matches!(read(text).as_slice(), [Word::Moment(_), Word::End]), "{text}");
        }
        assert_eq!(read("@2026-11-26T10:00.x").len(), 4);
    }

    #[test]
    fn what_is_no_word_names_its_place() {
        for (text, place) in [("a ^", 2), ("'abc", 0), (r"'\d'", 0), ("/* x", 0), ("@20", 1), ("a \"b\"", 2), ("% ", 1)]
        {
            match words(text) {
                Err(Fault::Syntax { at, .. }) => assert_eq!(at, place, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
