//! Rust as far as the rules need it: words, texts and marks; which of them are tests; and the paths that code names.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An identifier, a keyword or a number.
    Word,
    /// What a string literal holds.
    Text,
    /// Punctuation; `::` is one mark.
    Mark,
}

#[derive(Debug)]
pub struct Token {
    pub kind: Kind,
    pub text: String,
    pub line: usize,
}

impl Token {
    /// The punctuation this is, or nothing.
    pub fn mark(&self) -> &str {
        if self.kind == Kind::Mark { &self.text } else { "" }
    }

    pub fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text == word
    }
}

/// Rust text without comments, characters and lifetimes.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut reader = Reader { characters: text.chars().collect(), position: 0, line: 1 };
    let mut found = Vec::new();
    while let Some(character) = reader.peek(0) {
        let line = reader.line;
        let mut add = |kind, text| found.push(Token { kind, text, line });
        if character.is_whitespace() {
            reader.take();
        } else if reader.at("//") {
            reader.take_while(|character| character != '\n');
        } else if reader.at("/*") {
            reader.block_comment();
        } else if character == '"' {
            add(Kind::Text, reader.string());
        } else if character == '\'' {
            reader.character_or_lifetime();
        } else if character.is_alphanumeric() || character == '_' {
            let word = reader.take_while(|c| c.is_alphanumeric() || c == '_');
            let is_prefix = ["r", "b", "br", "c", "cr"].contains(&word.as_str());
            let is_raw = word.ends_with('r');
            let mut hashes = 0;
            while is_raw && is_prefix && reader.peek(hashes) == Some('#') {
                hashes += 1;
            }
            if is_prefix && reader.peek(hashes) == Some('"') {
                let text = if is_raw { reader.raw_string(hashes) } else { reader.string() };
                add(Kind::Text, text);
            } else if word == "b" && reader.peek(0) == Some('\'') {
                reader.character_or_lifetime();
            } else if word == "r" && hashes == 1 {
                // A raw identifier is never a keyword; the mark keeps the two apart.
                reader.take();
                let name = reader.take_while(|c| c.is_alphanumeric() || c == '_');
                add(Kind::Word, format!("r#{name}"));
            } else {
                add(Kind::Word, word);
            }
        } else if reader.at("::") {
            reader.take();
            reader.take();
            add(Kind::Mark, String::from("::"));
        } else {
            reader.take();
            add(Kind::Mark, character.to_string());
        }
    }
    found
}

struct Reader {
    characters: Vec<char>,
    position: usize,
    pub line: usize,
}

impl Reader {
    fn peek(&self, offset: usize) -> Option<char> {
        self.characters.get(self.position + offset).copied()
    }

    fn at(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(offset, character)| self.peek(offset) == Some(character))
    }

    fn take(&mut self) -> Option<char> {
        let character = self.peek(0)?;
        self.position += 1;
        if character == '\n' {
            self.line += 1;
        }
        Some(character)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let mut text = String::new();
        while let Some(character) = self.peek(0).filter(|character| wanted(*character)) {
            text.push(character);
            self.take();
        }
        text
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        loop {
            let step = if self.at("/*") {
                1
            } else if self.at("*/") {
                -1
            } else {
                0
            };
            depth += step;
            if step != 0 {
                self.take();
            }
            if self.take().is_none() || depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) -> String {
        self.take();
        let mut text = String::new();
        while let Some(character) = self.take() {
            match character {
                '"' => break,
                '\\' => text.extend(self.take().filter(|next| *next == '\n').map(|_| ' ')),
                _ => text.push(character),
            }
        }
        text
    }

    fn raw_string(&mut self, hashes: usize) -> String {
        let end: String = format!("\"{}", "#".repeat(hashes));
        for _ in 0..=hashes {
            self.take();
        }
        let mut text = String::new();
        while !self.at(&end) {
            match self.take() {
                Some(character) => text.push(character),
                None => return text,
            }
        }
        for _ in 0..=hashes {
            self.take();
        }
        text
    }

    fn character_or_lifetime(&mut self) {
        self.take();
        if self.peek(0) == Some('\\') {
            self.take();
            self.take();
            self.take_while(|character| character != '\'');
            self.take();
        } else if self.peek(1) == Some('\'') {
            self.take();
            self.take();
        } else {
            self.take_while(|character| character.is_alphanumeric() || character == '_');
        }
    }
}

/// For each token, whether it belongs to a `#[cfg(test)]` item.
pub fn mark_tests(path: &str, tokens: &[Token]) -> Vec<bool> {
    let mut marks = vec![path.ends_with("/tests.rs") || path.contains("/tests/"); tokens.len()];
    let mark = |index: usize| tokens.get(index).map_or("", Token::mark);
    let word = |index: usize, word: &str| tokens.get(index).is_some_and(|token| token.is_word(word));
    for start in 0..tokens.len() {
        let whole_file = mark(start + 1) == "!";
        let bracket = start + 1 + usize::from(whole_file);
        let is_attribute = mark(start) == "#" && mark(bracket) == "[" && word(bracket + 1, "cfg");
        let is_test = word(bracket + 3, "test") || (word(bracket + 3, "all") && word(bracket + 5, "test"));
        if !(is_attribute && is_test) {
            continue;
        }
        let end = if whole_file { tokens.len() } else { item_end(tokens, start) };
        for inside in marks.iter_mut().take(end).skip(start) {
            *inside = true;
        }
    }
    marks
}

/// Behind the item whose first attribute begins at `start`: behind its `;` or its closing brace.
fn item_end(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(start) {
        match token.mark() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return index + 1;
                }
            }
            ";" if depth == 0 => return index + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// One path as the code names it, groups spelled out: `use a::{b, c::d}` is `a::b` and `a::c::d`.
pub struct NamedPath {
    pub names: Vec<String>,
    /// Where it stands: the file's module and the inline modules around it.
    module: Vec<String>,
    /// Behind `use` or `extern crate`.
    pub is_import: bool,
    pub line: usize,
    pub index: usize,
}

pub fn paths(file_module: &[String], tokens: &[Token]) -> Vec<NamedPath> {
    let mut found = Vec::new();
    let mut depth = 0_usize;
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        let before = index.checked_sub(1).and_then(|before| tokens.get(before));
        match (token.kind, token.text.as_str()) {
            (Kind::Mark, "{") => depth += 1,
            (Kind::Mark, "}") => {
                depth = depth.saturating_sub(1);
                inline.retain(|(_, opened_at)| *opened_at <= depth);
            }
            (Kind::Word, "mod") => {
                let name = tokens.get(index + 1).filter(|name| name.kind == Kind::Word);
                if let Some(name) = name
                    && tokens.get(index + 2).map(Token::mark) == Some("{")
                {
                    inline.push((name.text.clone(), depth + 1));
                }
            }
            (Kind::Word, _) if before.is_none_or(|before| before.mark() != ".") => {
                let mut ends = Vec::new();
                let next = spell_out(tokens, index, &[], &mut ends);
                let mut module = file_module.to_vec();
                module.extend(inline.iter().map(|(name, _)| name.clone()));
                let is_import = before.is_some_and(|before| before.is_word("use") || before.is_word("crate"));
                found.extend(ends.into_iter().map(|(names, index, line)| NamedPath {
                    names,
                    module: module.clone(),
                    is_import,
                    line,
                    index,
                }));
                index = next;
                continue;
            }
            _ => {}
        }
        index += 1;
    }
    found
}

type PathEnd = (Vec<String>, usize, usize);

/// Follows a path from the word at `index`; returns the index behind it.
fn spell_out(tokens: &[Token], index: usize, prefix: &[String], ends: &mut Vec<PathEnd>) -> usize {
    let Some(token) = tokens.get(index) else {
        return index + 1;
    };
    let mut names = prefix.to_vec();
    names.push(token.text.clone());
    let is = |at: usize, mark: &str| tokens.get(at).is_some_and(|token| token.mark() == mark);
    let is_step = |at: usize| tokens.get(at).is_some_and(|token| token.kind == Kind::Word || token.mark() == "*");
    if !is(index + 1, "::") {
        ends.push((names, index, token.line));
        return index + 1;
    }
    if is_step(index + 2) {
        return spell_out(tokens, index + 2, &names, ends);
    }
    if !is(index + 2, "{") {
        ends.push((names, index, token.line));
        return index + 2;
    }
    let mut at = index + 3;
    while at < tokens.len() && !is(at, "}") {
        if is_step(at) {
            at = spell_out(tokens, at, &names, ends);
            if tokens.get(at).is_some_and(|token| token.is_word("as")) {
                at += 2;
            }
        } else {
            at += 1;
        }
    }
    at + 1
}

/// The top-level module of ours that a path names, if it names one.
pub fn target_in_crate(path: &NamedPath) -> Option<String> {
    let mut absolute = path.module.clone();
    let mut names = path.names.iter().map(String::as_str).peekable();
    match names.next()? {
        "crate" => absolute.clear(),
        "self" => {}
        "super" => {
            absolute.pop();
        }
        _ => return None,
    }
    while names.next_if_eq(&"super").is_some() {
        absolute.pop();
    }
    absolute.extend(names.map(String::from));
    absolute.into_iter().next()
}
