//! The pages themselves: HTML made here, one stylesheet, no script. Everything that is not ours is escaped.
//!
//! Readable at 360 pixels and by a screen reader: one heading, labels, and what went wrong said first.
//! <https://www.w3.org/TR/WCAG22/>

use crate::app::people::Session;
use crate::config::PersonRole;
use crate::fhir::query;

/// What every page shows.
pub(super) struct Site<'a> {
    /// The gateway's name.
    pub(super) name: &'a str,
    /// The path of the public URL.
    pub(super) prefix: &'a str,
}

pub(super) const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --line: #6b7480; --act: #0b5cad; --bad: #a4161a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --paper: #16191d; --line: #8d96a2; --act: #8ec2f5; --bad: #ff9a9a; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1.0625rem/1.5 system-ui, sans-serif; }
main { max-width: 28rem; margin: 0 auto; padding: 2rem 1rem; }
.site { margin: 0; color: var(--line); }
h1 { margin: 0 0 1rem; font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
p, dd { overflow-wrap: anywhere; }
label { display: block; margin: 1rem 0 .25rem; font-weight: 600; }
.hint { margin: .25rem 0 0; font-size: .9375rem; }
input { width: 100%; padding: .625rem; border: 1px solid var(--line); border-radius: .25rem; background: var(--paper); color: inherit; font: inherit; }
button, .button { display: inline-block; margin-top: 1.5rem; padding: .625rem 1.25rem; border: 1px solid var(--act); border-radius: .25rem; background: var(--act); color: var(--paper); font: inherit; font-weight: 600; text-decoration: none; cursor: pointer; }
a { color: var(--act); }
a.button { color: var(--paper); }
:focus-visible { outline: 3px solid var(--act); outline-offset: 2px; }
.bad { padding: .75rem; border-left: .25rem solid var(--bad); color: var(--bad); }
dl { margin: 0; }
dt { margin-top: .75rem; font-weight: 600; }
dd { margin: 0; }
";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

fn page(site: &Site<'_>, heading: &str, body: &str) -> String {
    let (name, prefix, heading) = (escaped(site.name), site.prefix, escaped(heading));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{heading} - {name}</title>\n\
         <link rel=\"stylesheet\" href=\"{prefix}/people.css\">\n</head>\n<body>\n<main>\n<p class=\"site\">{name}</p>\n\
         <h1>{heading}</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// For whoever opened the gateway in a browser.
pub(super) fn landing(site: &Site<'_>, own: &str, open: bool) -> String {
    let (own, prefix) = (escaped(own), site.prefix);
    let sign_in = format!("<p><a class=\"button\" href=\"{prefix}/sign-in\">Sign in</a></p>\n");
    let sign_in = if open { sign_in } else { String::new() };
    let body = format!(
        "<p>This is Loopgate, a FHIR R4 gateway for closed-loop social-care referrals.</p>\n\
         <p>FHIR base: <code>{own}</code><br>What it can do: <a href=\"{own}/metadata\">{own}/metadata</a></p>\n{sign_in}"
    );
    page(site, "Welcome", &body)
}

/// Who one is, and how to sign out.
pub(super) fn home(site: &Site<'_>, session: &Session) -> String {
    let role = match &session.person.role {
        PersonRole::Coordinator => "Coordinator".to_string(),
        PersonRole::Staff(_) => format!("Staff of {}", session.identity.partner.name),
        PersonRole::Administrator => "Administrator".to_string(),
        PersonRole::Auditor => "Auditor".to_string(),
    };
    let (name, role, token) = (escaped(&session.person.name), escaped(&role), &session.form_token);
    let prefix = site.prefix;
    let body = format!(
        "<dl>\n<dt>Name</dt><dd>{name}</dd>\n<dt>Role</dt><dd>{role}</dd>\n</dl>\n\
         <form method=\"post\" action=\"{prefix}/sign-out\">\n<input type=\"hidden\" name=\"token\" value=\"{token}\">\n\
         <button>Sign out</button>\n</form>\n\
         <p class=\"hint\">The console comes in a later version.</p>\n"
    );
    page(site, "You are signed in", &body)
}

/// The form of an account of ours.
pub(super) fn sign_in(site: &Site<'_>, return_to: &str, in_vain: bool) -> String {
    let (return_to, prefix) = (escaped(return_to), site.prefix);
    let said = if in_vain {
        "<p class=\"bad\" role=\"alert\">You are not signed in: the name, the password or the code is not right. After \
         several tries in vain, wait a few minutes before the next.</p>\n"
    } else {
        ""
    };
    let body = format!(
        "{said}<form method=\"post\" action=\"{prefix}/sign-in\">\n\
         <input type=\"hidden\" name=\"return_to\" value=\"{return_to}\">\n\
         <label for=\"name\">Name</label>\n\
         <input id=\"name\" name=\"name\" autocomplete=\"username\" autocapitalize=\"none\" spellcheck=\"false\" required>\n\
         <label for=\"password\">Password</label>\n\
         <input id=\"password\" name=\"password\" type=\"password\" autocomplete=\"current-password\" required>\n\
         <label for=\"code\">One-time code</label>\n\
         <input id=\"code\" name=\"code\" autocomplete=\"one-time-code\" autocapitalize=\"none\" spellcheck=\"false\" \
         aria-describedby=\"code-hint\" required>\n\
         <p class=\"hint\" id=\"code-hint\">Six digits from your authenticator, or one of your recovery codes.</p>\n\
         <button>Sign in</button>\n</form>\n"
    );
    page(site, "Sign in", &body)
}

/// The way to the identity provider: a link, for a form may lead nowhere but to this site.
pub(super) fn at_provider(site: &Site<'_>, return_to: &str) -> String {
    let asked = query::link("/sign-in/provider", [("return_to", return_to)]);
    let (asked, prefix) = (escaped(&asked), site.prefix);
    let body = format!(
        "<p>You sign in with the account that your organization gave you.</p>\n\
         <p><a class=\"button\" href=\"{prefix}{asked}\">Continue to your organization</a></p>\n"
    );
    page(site, "Sign in", &body)
}

/// Afterwards; `elsewhere`: where one may sign out of the identity provider, too.
pub(super) fn signed_out(site: &Site<'_>, elsewhere: Option<&str>) -> String {
    let prefix = site.prefix;
    let elsewhere = elsewhere.map(|address| {
        let address = escaped(address);
        format!(
            "<p>Your organization's account is still signed in. <a href=\"{address}\">Sign out there, too</a></p>\n"
        )
    });
    let body = format!("{}<p><a href=\"{prefix}/sign-in\">Sign in again</a></p>\n", elsewhere.unwrap_or_default());
    page(site, "You are signed out", &body)
}

/// What went wrong.
pub(super) fn fault(site: &Site<'_>, text: &str) -> String {
    let (text, prefix) = (escaped(text), site.prefix);
    let body =
        format!("<p class=\"bad\" role=\"alert\">{text}</p>\n<p><a href=\"{prefix}/\">Go to the first page</a></p>\n");
    page(site, "That did not work", &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_text_and_no_markup() {
        let site = Site { name: "A & <b>\"B\"</b>", prefix: "/x" };
        for page in
            [landing(&site, "https://hub/fhir", true), sign_in(&site, "/\"><script>", true), fault(&site, "<i>'")]
        {
            assert!(
                page.contains("A &amp; &lt;b&gt;&quot;B&quot;") && !page.contains("<script") && !page.contains("<i>")
            );
            assert!(page.contains("lang=\"en\"") && page.matches("<h1>").count() == 1, "{page}");
        }
        assert!(sign_in(&site, "/\">", false).contains("value=\"/&quot;&gt;\""));
    }

    /// WCAG 2.2, 1.4.3: text has a contrast of at least 4.5 with what is behind it, in light and in dark.
    #[test]
    fn colours_can_be_told_apart() {
        let luminance = |colour: &str| {
            let part = |at: usize| f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            let linear = |part: f64| if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) };
            0.2126 * linear(part(0)) + 0.7152 * linear(part(2)) + 0.0722 * linear(part(4))
        };
        let colours = |name: &str| -> Vec<f64> {
            let mark = format!("--{name}: #");
            let found = STYLE.match_indices(&mark).map(|(at, text)| &STYLE[at + text.len()..][..6]);
            found.map(luminance).collect()
        };
        let paper = colours("paper");
        assert_eq!(paper.len(), 2);
        for name in ["ink", "line", "act", "bad"] {
            for (one, two) in colours(name).into_iter().zip(&paper) {
                let contrast = (one.max(*two) + 0.05) / (one.min(*two) + 0.05);
                assert!(contrast >= 4.5, "{name}: {contrast}");
            }
        }
    }
}
