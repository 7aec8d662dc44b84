//! The parameters of the definitions that we publish (conformance resources and terminology).

use super::{Parameter, text, token, uri};

const URL: Parameter = uri("url", &["url"]);
const VERSION: Parameter = token("version", &["version"]);
const NAME: Parameter = text("name", &["name"]);
const TITLE: Parameter = text("title", &["title"]);
const STATUS: Parameter = super::status("http://hl7.org/fhir/publication-status");

pub(super) fn parameters(kind: &str) -> Option<&'static [Parameter]> {
    Some(match kind {
        "CodeSystem" => {
            const { &[URL, VERSION, NAME, TITLE, STATUS, token("code", &["concept.code"]), uri("system", &["url"])] }
        }
        "ValueSet" => const { &[URL, VERSION, NAME, TITLE, STATUS, uri("reference", &["compose.include.system"])] },
        "ConceptMap" => {
            const {
                &[
                    URL,
                    VERSION,
                    NAME,
                    TITLE,
                    STATUS,
                    uri("source-system", &["group.source"]),
                    uri("target-system", &["group.target"]),
                    token("source-code", &["group.element.code"]),
                ]
            }
        }
        "StructureDefinition" => {
            const {
                &[
                    URL,
                    VERSION,
                    NAME,
                    TITLE,
                    STATUS,
                    uri("type", &["type"]),
                    token("kind", &["kind"]),
                    token("derivation", &["derivation"]),
                ]
            }
        }
        "SearchParameter" | "OperationDefinition" => {
            const { &[URL, VERSION, NAME, STATUS, token("code", &["code"]), token("base", &["base", "resource"])] }
        }
        _ => return None,
    })
}
