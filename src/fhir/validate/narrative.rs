//! What a narrative may hold: balanced XHTML of the formatting elements, and something to read (txt-1, txt-2).
//!
//! Nothing that acts: no script, form, style sheet, event attribute or `javascript:` address ever reaches a reader.
//! A scanner over the text, no tree. <https://hl7.org/fhir/R4/narrative.html#xhtml>

use crate::fhir::xhtml;

const XHTML: &str = "http://www.w3.org/1999/xhtml";
/// Chapters 7 to 11 (but for 9.4) and 15 of HTML 4, and `a` and `img` with their maps.
const ELEMENTS: &[&str] = &[
    "a",
    "abbr",
    "acronym",
    "address",
    "b",
    "bdo",
    "big",
    "blockquote",
    "br",
    "caption",
    "cite",
    "code",
    "col",
    "colgroup",
    "dd",
    "dfn",
    "div",
    "dl",
    "dt",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "i",
    "img",
    "kbd",
    "li",
    "map",
    "area",
    "ol",
    "p",
    "pre",
    "q",
    "samp",
    "small",
    "span",
    "strong",
    "sub",
    "sup",
    "table",
    "tbody",
    "td",
    "tfoot",
    "th",
    "thead",
    "tr",
    "tt",
    "ul",
    "u",
    "var",
    "center",
    "font",
    "strike",
    "s",
];
/// What those chapters give these elements, and what XHTML adds.
const ATTRIBUTES: &[&str] = &[
    "abbr",
    "accesskey",
    "align",
    "alt",
    "axis",
    "bgcolor",
    "border",
    "cellpadding",
    "cellspacing",
    "char",
    "charoff",
    "charset",
    "cite",
    "class",
    "clear",
    "color",
    "colspan",
    "compact",
    "coords",
    "dir",
    "face",
    "frame",
    "headers",
    "height",
    "href",
    "hreflang",
    "hspace",
    "id",
    "ismap",
    "lang",
    "longdesc",
    "name",
    "nohref",
    "noshade",
    "nowrap",
    "rel",
    "rev",
    "rowspan",
    "rules",
    "scope",
    "shape",
    "size",
    "span",
    "src",
    "start",
    "style",
    "summary",
    "tabindex",
    "title",
    "type",
    "usemap",
    "valign",
    "value",
    "vspace",
    "width",
    "xml:lang",
    "xml:space",
    "xmlns",
];
/// Deepest nesting of narrative elements.
const DEEPEST: usize = 200;
/// Most attributes of one element, by far.
const MOST_ATTRIBUTES: usize = 64;

/// What is wrong with this narrative.
pub(in crate::fhir) fn fault(text: &str) -> Option<&'static str> {
    let mut open: Vec<&str> = Vec::new();
    let mut readable = false;
    let mut rest = text.trim();
    let mut first = true;
    while !rest.is_empty() {
        let Some(tail) = rest.strip_prefix('<') else {
            let end = rest.find('<').unwrap_or(rest.len());
            let (words, tail) = rest.split_at(end);
            if open.is_empty() {
                return Some("A narrative is one div and nothing around it.");
            }
            if !entities_known(words) {
                return Some("An & in a narrative begins an entity; alone it is written &amp;.");
            }
            readable |= words.chars().any(|c| !c.is_whitespace());
            rest = tail;
            continue;
        };
        if let Some(tail) = tail.strip_prefix("!--") {
            let Some((_, after)) = tail.split_once("-->") else { return Some(UNBALANCED) };
            rest = after;
            continue;
        }
        if tail.starts_with(['!', '?']) {
            return Some("A narrative has no document type, CDATA or processing instruction.");
        }
        let Some(end) = end_of_tag(tail) else { return Some(UNBALANCED) };
        let (tag, after) = tail.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name.trim_end()) {
                return Some(UNBALANCED);
            }
            continue;
        }
        let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_at(tag.find(char::is_whitespace).unwrap_or(tag.len()));
        if open.is_empty() && (!first || name != "div") {
            return Some("A narrative is one div and nothing around it.");
        }
        if !ELEMENTS.contains(&name) {
            return Some("A narrative holds the formatting elements of XHTML alone (txt-1).");
        }
        if let Some(fault) = attributes_fault(attributes, first) {
            return Some(fault);
        }
        first = false;
        readable |= name == "img";
        if !closed {
            open.push(name);
            if open.len() > DEEPEST {
                return Some("This narrative is nested too deeply.");
            }
        }
    }
    if first || !open.is_empty() {
        return Some(UNBALANCED);
    }
    (!readable).then_some("A narrative has something to read (txt-2).")
}

const NAMESPACE: &str = "The div of a narrative names the namespace http://www.w3.org/1999/xhtml, and no other.";
const UNBALANCED: &str = "A narrative is well-formed XHTML: one div, every element closed.";

/// The `>` that ends this tag, outside quotes.
fn end_of_tag(text: &str) -> Option<usize> {
    let mut quote = None;
    for (place, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(place),
            (None, b'<') => return None,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
    }
    None
}

/// What is wrong with the attributes of an element; the first one names the namespace.
fn attributes_fault(mut text: &str, first: bool) -> Option<&'static str> {
    let mut seen: Vec<&str> = Vec::new();
    loop {
        let apart = text.starts_with(char::is_whitespace);
        text = text.trim_start();
        if text.is_empty() {
            return (first && !seen.contains(&"xmlns")).then_some(NAMESPACE);
        }
        if !apart {
            return Some(UNBALANCED);
        }
        let Some((name, tail)) = text.split_once('=') else { return Some(UNBALANCED) };
        let tail = tail.trim_start();
        let Some(quote) = tail.chars().next().filter(|c| matches!(c, '"' | '\'')) else { return Some(UNBALANCED) };
        let Some((value, after)) = tail.get(1..).and_then(|tail| tail.split_once(quote)) else {
            return Some(UNBALANCED);
        };
        let name = name.trim_end();
        if seen.len() >= MOST_ATTRIBUTES || seen.contains(&name) || value.contains('<') {
            return Some(UNBALANCED);
        }
        seen.push(name);
        if name.len() >= 2 && name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("on")) {
            return Some("A narrative holds nothing that acts: no event attributes (txt-1).");
        }
        if !ATTRIBUTES.contains(&name) {
            return Some("A narrative holds the attributes of formatting alone (txt-1).");
        }
        if name == "xmlns" && value != XHTML {
            return Some(NAMESPACE);
        }
        if !entities_known(value) {
            return Some("An & in a narrative begins an entity; alone it is written &amp;.");
        }
        let address = ["href", "src", "cite", "longdesc", "usemap"].contains(&name);
        if address && acts(value) {
            return Some("A narrative holds nothing that acts: no script addresses (txt-1).");
        }
        text = after;
    }
}

/// An address that runs something: any scheme but those that fetch or mail, in whatever disguise.
fn acts(address: &str) -> bool {
    let plain: String = address.chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect();
    let lower = plain.to_ascii_lowercase();
    let Some((scheme, _)) = lower.split_once(':') else { return false };
    if scheme.contains(['/', '?']) || scheme.starts_with('#') {
        return false;
    }
    // A letter written as an entity is a disguise: no scheme has one.
    !matches!(scheme, "http" | "https" | "mailto" | "tel" | "ftp" | "urn" | "cid") && !lower.starts_with("data:image/")
}

/// Whether every `&` begins an entity: a number, or one of XHTML's names.
fn entities_known(text: &str) -> bool {
    text.split('&').skip(1).all(|part| part.split_once(';').is_some_and(|(inside, _)| xhtml::is_reference(inside)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn div(inside: &str) -> String {
        format!("<div xmlns=\"{XHTML}\">{inside}</div>")
    }

    #[test]
    fn formatting_passes() {
        for inside in [
            "Text",
            "<p class='x'>a &amp; b<br/></p>",
            "<table><tr><td colspan=\"2\">a > b</td></tr></table>",
            "<img src=\"#pic\" alt=\"a\"/>",
            "<a href=\"https://e/x?a=1&amp;b=2\">x</a><!-- a -->",
            "<a href=\"Patient/1#a:b\">x</a>",
            "<table summary='s' border='1'><tr><th scope='row' nowrap='nowrap' xml:lang='en'>a</th></tr></table>",
            "<p xmlns='http://www.w3.org/1999/xhtml' style='color: red'>a</p>",
            "&nbsp;&#160;&#xa0;é &alpha; &hearts; &apos;",
        ] {
            assert_eq!(fault(&div(inside)), None, "{inside}");
        }
    }

    // G-178
    #[test]
    fn what_acts_or_is_no_xhtml_is_refused() {
        for text in [
            "Text",
            "",
            "<p>x</p>",
            "<div>x</div>",
            &div(""),
            &div(" <p/> "),
            &div("<script>x</script>"),
            &div("<p onclick=\"x\">a</p>"),
            &div("<a href=\"java\tscript:x\">a</a>"),
            &div("<a href=\" JavaScript:x\">a</a>"),
            &div("<a href=\"java&#115;cript:x\">a</a>"),
            &div("<form>x</form>"),
            &div("<p>x"),
            &div("<p>x</b>"),
            &div("<![CDATA[x]]>"),
            &div("a & b"),
            &div("a&foo;b"),
            &div("a&#xZZ;b"),
            &div("<p title=\"&foo;\">a</p>"),
            &div("<p title=\"a<b\">a</p>"),
            &div("<p class='a' class='b'>a</p>"),
            &div("<p class='a'title='b'>a</p>"),
            &div("<p class=x>a</p>"),
            &div("<p data-x='1'>a</p>"),
            &div("<p formaction='/x'>a</p>"),
            &div("<a ping='https://e' href='https://e'>a</a>"),
            &div("<p xmlns='https://e'>a</p>"),
            &div("<ins>a</ins>"),
            &format!("<div title='{XHTML}'>a</div>"),
            &format!("<!DOCTYPE x>{}", div("x")),
            &format!("{}x", div("x")),
            &format!("{0}{0}", div("x")),
            &div(&"<b>".repeat(300)),
        ] {
            assert!(fault(text).is_some(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in any::<String>(), tags in "[<>/a-z=\"'&;! ]{0,60}") {
            let _ = fault(&text);
            let _ = fault(&div(&tags));
        }
    }
}
