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

/// What is wanted of an address: the document there or, where a form is given, the answer to that.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Where.
    pub url: String,
    /// What is posted there, percent-encoded.
    pub form: Option<String>,
    /// The value of the Authorization header.
    pub authorization: Option<String>,
}

/// A document that was read at a partner's address, or at the identity provider's.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its text.
    pub text: String,
    /// How long it may be kept, if its server said so.
    pub keep: Option<Duration>,
}

/// How such a document is read.
pub type Fetch = Arc<dyn Fn(Wanted) -> Pin<Box<dyn Future<Output = Result<Document, String>> + Send>> + Send + Sync>;

/// A key set that was read.
pub(super) struct Kept {
    set: KeySet,
    read_at: Timestamp,
    until: Timestamp,
}

/// What was read, by partner.
pub(super) struct KeySets {
    fetch: OnceLock<Fetch>,
    each: HashMap<String, Mutex<Option<Kept>>>,
    /// The identity provider's.
    pub(super) provider: Mutex<Option<Kept>>,
}

impl KeySets {
    pub(super) fn new(config: &Config) -> KeySets {
        let by_url = config.partners.iter().filter(|one| matches!(one.credentials, Some(Credentials::JwksUrl(_))));
        let each = by_url.map(|partner| (partner.id.clone(), Mutex::new(None))).collect();
        KeySets { fetch: OnceLock::new(), each, provider: Mutex::default() }
    }
}

impl App {
    /// Says how documents at partners' addresses are read. Until then none can be.
    pub fn fetch_with(&self, fetch: Fetch) {
        let _ = self.tokens().key_sets.fetch.set(fetch);
    }

    /// Asks an address of others.
    pub(super) async fn fetch(&self, wanted: Wanted) -> Result<Document, String> {
        let fetch = self.tokens().key_sets.fetch.get().ok_or("this gateway reads no addresses")?;
        fetch(wanted).await
    }

    /// How long a document may be kept.
    pub(super) fn kept_till(&self, document: &Document) -> Timestamp {
        self.now().plus(document.keep.unwrap_or(SET_KEPT).min(SET_KEPT_MOST))
    }

    /// A partner's key set, read again when it has aged or does not know a key.
    pub(super) async fn key_set(&self, partner: &str, url: &str, kid: &str) -> Result<KeySet, Refused> {
        let Some(slot) = self.tokens().key_sets.each.get(partner) else {
            return Err(Refused::client("no key set is registered"));
        };
        let unread =
            |why: String| Refused::client(format!("the JWK Set at the registered address can't be read: {why}"));
        self.read_key_set(slot, url, kid, KeySet::parse).await.map_err(unread)
    }

    /// The key set of an address, whose place this is.
    pub(super) async fn read_key_set(
        &self,
        slot: &Mutex<Option<Kept>>,
        url: &str,
        kid: &str,
        parse: fn(&str) -> Result<KeySet, &'static str>,
    ) -> Result<KeySet, String> {
        let mut slot = slot.lock().await;
        let now = self.now();
        if let Some(kept) = slot.as_ref().filter(|kept| now < kept.until)
            && (kept.set.has(kid) || now < kept.read_at.plus(SET_AGAIN))
        {
            return Ok(kept.set.clone());
        }
        let document = self.fetch(Wanted { url: url.to_string(), ..Wanted::default() }).await?;
        let set = parse(&document.text)?;
        *slot = Some(Kept { set: set.clone(), read_at: now, until: self.kept_till(&document) });
        Ok(set)
    }
}
