//! One text message, as a request to the operator's HTTP gateway (`[sms]`): `{"id", "to", "text"}` as JSON, behind the
//! egress guard like everything that is sent. Any 2xx says that it is taken. A repeated message has its id again.

use serde_json::json;

use crate::app::{NotifyPlan, Said};
use crate::config::Config;

use super::client::Request;

/// The request; none where messages are not configured any more.
pub(super) fn request(config: &Config, subscription: &str, plan: &NotifyPlan) -> Option<Request> {
    let sms = config.sms.as_ref()?;
    let what = match plan.said {
        Said::Handshake(count) => format!("handshake-{count}"),
        Said::Heartbeat => "heartbeat".to_string(),
        Said::Events(last) => format!("event-{last}"),
        Said::Again(last) => format!("again-{last}"),
    };
    let body = json!({"id": format!("{subscription}-{what}"), "to": plan.endpoint, "text": plan.body});
    let mut headers = vec![("content-type".to_string(), "application/json".to_string())];
    headers.extend(sms.authorization.as_ref().map(|value| ("authorization".to_string(), value.expose().to_string())));
    Some(Request { method: "POST", url: sms.url.clone(), headers, body: Some(body.to_string()) })
}
