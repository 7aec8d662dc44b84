//! Partners' public keys: those registered by address are read there and kept as long as their server says.
//!
//! Promises that a set is never kept longer than that, that an unknown key makes us read again at most once a
//! minute, and that one slow server delays only its own partner. `gateway` hands in how an address is read, so that
//! nothing here knows a network; no transaction is open meanwhile. <https://www.rfc-editor.org/rfc/rfc7517>

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Mutex;

use super::App;
use super::tokens::Refused;
use crate::config::{Config, Credentials};
use crate::jwt::KeySet;
use crate::time::Timestamp;

/// How long a key set is good for when its server does not say, and the longest it may say.
const SET_KEPT: Duration = Duration::from_secs(5 * 60);
const SET_KEPT_MOST: Duration = Duration::from_secs(24 * 60 * 60);
/// A key set is read again for an unknown key at most this often.
const SET_AGAIN: Duration = Duration::from_secs(60);

/// A document that was read at a partner's address.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its text.
    pub text: String,
    /// How long it may be kept, if its server said so.
    pub keep: Option<Duration>,
}

/// How such a document is read.
pub type Fetch = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<Document, String>> + Send>> + Send + Sync>;

/// A key set that was read.
struct Kept {
    set: KeySet,
    read_at: Timestamp,
    until: Timestamp,
}

/// What was read, by partner.
pub(super) struct KeySets {
    fetch: OnceLock<Fetch>,
    each: HashMap<String, Mutex<Option<Kept>>>,
}

impl KeySets {
    pub(super) fn new(config: &Config) -> KeySets {
        let by_url = config.partners.iter().filter(|one| matches!(one.credentials, Some(Credentials::JwksUrl(_))));
        let each = by_url.map(|partner| (partner.id.clone(), Mutex::new(None))).collect();
        KeySets { fetch: OnceLock::new(), each }
    }
}

impl App {
    /// Says how documents at partners' addresses are read. Until then none can be.
    pub fn fetch_with(&self, fetch: Fetch) {
        let _ = self.tokens().key_sets.fetch.set(fetch);
    }

    /// A partner's key set, read again when it has aged or does not know a key.
    pub(super) async fn key_set(&self, partner: &str, url: &str, kid: &str) -> Result<KeySet, Refused> {
        let Some(slot) = self.tokens().key_sets.each.get(partner) else {
            return Err(Refused::client("no key set is registered"));
        };
        let mut slot = slot.lock().await;
        let now = self.now();
        if let Some(kept) = slot.as_ref().filter(|kept| now < kept.until)
            && (kept.set.has(kid) || now < kept.read_at.plus(SET_AGAIN))
        {
            return Ok(kept.set.clone());
        }
        let unread = |why: &str| Refused::client(format!("the JWK Set at the registered address can't be read: {why}"));
        let fetch = self.tokens().key_sets.fetch.get().ok_or_else(|| unread("this gateway reads no addresses"))?;
        let document = fetch(url.to_string()).await.map_err(|why| unread(&why))?;
        let set = KeySet::parse(&document.text).map_err(unread)?;
        let keep = document.keep.unwrap_or(SET_KEPT).min(SET_KEPT_MOST);
        *slot = Some(Kept { set: set.clone(), read_at: now, until: now.plus(keep) });
        Ok(set)
    }
}
