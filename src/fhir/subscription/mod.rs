//! Subscriptions Backport 1.1.0 on R4: what can be subscribed to (`topic`), what a subscriber asks for (`asked`),
//! which way it takes (`channel`), by what it is narrowed (`filter`), and the Bundles (`notification`), mails (`mail`)
//! or text messages (`sms`) it gets.
//!
//! Pure: who may subscribe, who is told and when is the app's. <http://hl7.org/fhir/uv/subscriptions-backport>

mod asked;
mod channel;
mod filter;
mod mail;
mod notification;
mod sms;
mod topic;

pub use asked::{Asked, BACKPORT, Content, SHORTEST_HEARTBEAT, Subject, criteria_code, parse};
pub use channel::{Channel, Format, websocket_url};
pub(in crate::fhir) use filter::conditions;
pub use filter::{answers_to, terms};
pub use mail::mail;
pub use notification::{Bundle, Event, Notice, Shown, Standing, notification, status_set};
pub use sms::sms;
pub use topic::{Change, News, TASK_TOPIC, TOPICS, Topic, topic, topics_of};
