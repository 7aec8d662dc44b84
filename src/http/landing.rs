//! `/`: a plain page for a person who opened the gateway in a browser. The console for people comes in a later version.

use axum::http::HeaderName;
use axum::response::Response;

use super::respond;

/// The page.
pub(super) fn page(name: &str, own: &str) -> Response {
    let (name, own) = (escaped(name), escaped(own));
    let body = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}</title></head><body>\n\
         <h1>{name}</h1>\n<p>This is Loopgate, a FHIR R4 gateway for closed-loop social-care referrals.</p>\n\
         <p>FHIR base: <code>{own}</code></p>\n<p>What it can do: <a href=\"{own}/metadata\">{own}/metadata</a></p>\n\
         <p>A console for people comes in a later version.</p>\n</body></html>\n"
    );
    let mut response = respond::text(200, "text/html; charset=utf-8", body);
    let policy = "default-src 'none'; frame-ancestors 'none'";
    respond::set(&mut response, HeaderName::from_static("content-security-policy"), policy);
    response
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_text_and_no_markup() {
        assert_eq!(escaped("A & <b>\"B\""), "A &amp; &lt;b&gt;&quot;B&quot;");
        assert_eq!(page("Hub", "https://hub/fhir").status(), 200);
    }
}
