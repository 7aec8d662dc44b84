//! One mail to a subscriber, handed to the operator's mail server (`[email]`). Which server that is says the
//! configuration, so the egress guard does not apply; what it answers is told by its code alone.
//!
//! [`Failure::status`] is the SMTP code: with one, the trouble is about this mail; without, about the server.

use std::time::Duration;

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment, Mailbox, MultiPart, SinglePart};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use crate::app::NotifyPlan;
use crate::config::{Config, Email};

use super::client::Failure;

pub(super) async fn send(config: &Config, plan: &NotifyPlan) -> Result<(), Failure> {
    let limit = plan.timeout;
    let Some(email) = &config.email else {
        return Err(Failure::new("there is no [email] in the configuration any more"));
    };
    let text = plan.body.as_deref().unwrap_or_default();
    let message = message(email, &config.gateway.name, &plan.endpoint, text, plan.attached.as_ref())
        .ok_or_else(|| Failure::new("the mail could not be written"))?;
    let server = server(email, limit).ok_or_else(|| Failure::new("email.smtp is no mail server's address"))?;
    let answer = tokio::time::timeout(limit, server.send(message)).await;
    match answer {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(match error.status().map(u16::from) {
            Some(code) => Failure { status: Some(code), ..Failure::new(format!("the mail server answered {code}")) },
            None => Failure::new("no word with the mail server"),
        }),
        Err(_) => Err(Failure::new("no answer in time")),
    }
}

fn server(email: &Email, limit: Duration) -> Option<AsyncSmtpTransport<Tokio1Executor>> {
    let server = AsyncSmtpTransport::<Tokio1Executor>::from_url(email.smtp.expose()).ok()?;
    Some(server.timeout(Some(limit)).build())
}

fn message(
    email: &Email,
    house: &str,
    endpoint: &str,
    text: &str,
    attached: Option<&(String, String)>,
) -> Option<Message> {
    let to = endpoint.strip_prefix("mailto:")?.parse().ok()?;
    let from: lettre::Address = email.from.parse().ok()?;
    let id = format!("<{}@{}>", crate::id::new(), from.domain());
    let message = Message::builder()
        .from(Mailbox::new(None, from))
        .to(Mailbox::new(None, to))
        .subject(format!("News at {house}"))
        .message_id(Some(id));
    let message = match attached {
        None => message.header(ContentType::TEXT_PLAIN).body(text.to_string()),
        Some((media, bundle)) => {
            let name = if media.ends_with("xml") { "notification.xml" } else { "notification.json" };
            let bundle = Attachment::new(name.to_string()).body(bundle.clone(), ContentType::parse(media).ok()?);
            message.multipart(MultiPart::mixed().singlepart(SinglePart::plain(text.to_string())).singlepart(bundle))
        }
    };
    let mut message = message.ok()?;
    // No out-of-office note may come back (RFC 3834).
    let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
    message.headers_mut().insert_raw(HeaderValue::new(automatic, "auto-generated".to_string()));
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn email(smtp: &str) -> Email {
        let text = format!(
            "[gateway.organization]\nid = \"hub\"\nname = \"Hub\"\n[store]\nurl = \"sqlite:x\"\n[email]\nsmtp = \"{smtp}\"\nfrom = \"a@x.org\"\n"
        );
        Config::parse(&text, std::path::Path::new("")).unwrap().email.unwrap()
    }

    #[tokio::test]
    async fn the_configured_servers_can_be_spoken_to_with_tls_and_without() {
        let limit = Duration::from_secs(1);
        for smtp in ["smtp://127.0.0.1:25", "smtp://relay", "smtps://user:pa%20ss@mail.example"] {
            assert!(server(&email(smtp), limit).is_some(), "{smtp}");
        }
        assert!(server(&email("smtp://relay:port"), limit).is_none());
    }

    // A house's name is the operator's own text: it makes no header of its own.
    #[test]
    fn a_name_makes_no_header() {
        let mail = message(&email("smtp://relay"), "Hub\r\nBcc: b@x.org", "mailto:c@x.org", "text\n.\n", None).unwrap();
        let text = String::from_utf8(mail.formatted()).unwrap();
        assert!(!text.contains("\nBcc:") && text.contains("To: c@x.org\r\n"), "{text}");
    }
}
