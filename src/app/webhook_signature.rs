//! The signature of a notification, for whoever wants to know that it is ours and as we sent it (A-083): HMAC-SHA256 over
//! its id, its time and its body, in the headers of Standard Webhooks, beside the Subscription's own.
//!
//! A try that is repeated keeps its id, so that a subscriber may pass over what it has; its time is the try's.
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Said;
use crate::config::Secret;
use crate::time::Timestamp;

/// What the notification of a subscription is called.
pub(super) fn id_of(subscription: &str, said: Said, at: Timestamp) -> String {
    match said {
        Said::Handshake(events) => format!("{subscription}-handshake-{events}"),
        Said::Heartbeat => format!("{subscription}-heartbeat-{}", at.seconds()),
        Said::Events(last) => format!("{subscription}-{last}"),
        Said::Again(last) => format!("{subscription}-again-{last}"),
    }
}

/// The headers that sign this.
pub(super) fn headers(secret: &Secret, id: &str, at: Timestamp, body: &str) -> Vec<(String, String)> {
    let bytes = secret.expose().strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
    // A secret that is none signs nothing; the configuration has refused it.
    let Some(bytes) = bytes else { return Vec::new() };
    let time = at.seconds().to_string();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), format!("{id}.{time}.{body}").as_bytes());
    let signature = format!("v1,{}", STANDARD.encode(tag.as_ref()));
    [("webhook-id", id.to_string()), ("webhook-timestamp", time), ("webhook-signature", signature)]
        .map(|(name, value)| (name.to_string(), value))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    // A-083: the specification's own example.
    #[test]
    fn a_signature_is_the_standards() {
        let config = crate::config::Config::parse(
            "[gateway]\norganization = { id = \"hub\", name = \"Hub\" }\n[store]\nurl = \"sqlite://x\"\n[[partner]]\nid = \"a\"\n\
             name = \"A\"\nroles = [\"source\"]\nwebhook_secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n",
            std::path::Path::new("."),
        )
        .unwrap();
        let secret = config.partners[0].webhook_secret.as_ref().unwrap();
        let (id, at) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", Timestamp::from_seconds(1_614_265_330));
        let signed = headers(secret, id, at, r#"{"test": 2432232314}"#);
        let said = |name: &str| signed.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        assert_eq!(said("webhook-id"), Some(id));
        assert_eq!(said("webhook-timestamp"), Some("1614265330"));
        assert_eq!(said("webhook-signature"), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }
}
