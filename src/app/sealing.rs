//! Sealing what subscribers entrust to us: the headers of their Subscriptions, often a token (S-111).
//!
//! AES-256-GCM under the configured `subscriptions.key`, bound to the Subscription it belongs to. Without one, under a
//! key of the gateway's own that lies in the database: then whoever has the database has the headers, and the start says
//! so. What was sealed under the own key can still be opened after a key was configured.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{SHA256, digest};

use super::{App, Context};
use crate::error::Error;

/// Length of a key.
const KEY: usize = 32;

/// The keys: the first seals, all open.
pub(super) struct Seal(Vec<(String, RandomizedNonceKey)>);

impl std::fmt::Debug for Seal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Seal(..)")
    }
}

impl Seal {
    /// Keys as 64 hexadecimal digits.
    pub(super) fn new(keys: &[&str]) -> Result<Seal, Error> {
        let key = |text: &&str| {
            let bytes = bytes(text).filter(|bytes| bytes.len() == KEY).ok_or_else(|| Error::internal("no key"))?;
            let name = hex(digest(&SHA256, &bytes).as_ref().get(..4).unwrap_or_default());
            Ok((name, RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(Error::internal)?))
        };
        keys.iter().map(key).collect::<Result<_, _>>().map(Seal)
    }

    /// Seals a text for one place.
    pub(super) fn seal(&self, place: &str, text: &str) -> Result<String, Error> {
        let (name, key) = self.0.first().ok_or_else(|| Error::internal("no key"))?;
        let mut sealed = text.as_bytes().to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(place), &mut sealed).map_err(Error::internal)?;
        Ok(format!("{name}:{}{}", hex(nonce.as_ref()), hex(&sealed)))
    }

    /// Opens what was sealed for this place.
    pub(super) fn open(&self, place: &str, sealed: &str) -> Result<String, Error> {
        let fault = || Error::internal("sealed under a key that is not here; is subscriptions.key another one?");
        let (name, rest) = sealed.split_once(':').ok_or_else(fault)?;
        let (_, key) = self.0.iter().find(|(known, _)| known == name).ok_or_else(fault)?;
        let mut bytes = bytes(rest).filter(|bytes| bytes.len() > NONCE_LEN).ok_or_else(fault)?;
        let mut text = bytes.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&bytes).map_err(Error::internal)?;
        let open = key.open_in_place(nonce, Aad::from(place), &mut text).map_err(|_| fault())?;
        String::from_utf8(open.to_vec()).map_err(Error::internal)
    }
}

impl App {
    /// The rest of a search whose parameters came in a body, for its next link: links are fetched by GET, and URLs
    /// stand in logs. Bound to who asked.
    pub fn sealed_search(&self, context: &Context, query: &str) -> Result<String, Error> {
        self.0.seal.seal(&format!("search of {}", context.partner.id), query)
    }

    /// What [`App::sealed_search`] sealed for the same partner.
    pub fn unsealed_search(&self, context: &Context, sealed: &str) -> Result<String, Error> {
        let opened = self.0.seal.open(&format!("search of {}", context.partner.id), sealed);
        opened.map_err(|_| Error::malformed("_page is not one of your links.").code("value"))
    }
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A text's SHA-256 in hexadecimal: what is kept of a secret that has to be known again.
pub(super) fn sha256(text: &str) -> String {
    hex(digest(&SHA256, text.as_bytes()).as_ref())
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let pair = |index| u8::from_str_radix(text.get(index..index + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // S-111: sealed for one place, opened there alone, and with the right key alone.
    #[test]
    fn what_is_sealed_opens_in_its_place_with_its_key() {
        let (one, other) = ("ab".repeat(KEY), "cd".repeat(KEY));
        let seal = Seal::new(&[&one]).unwrap();
        let sealed = seal.seal("s1", "Authorization: Bearer hush").unwrap();
        assert!(!sealed.contains("hush") && sealed != seal.seal("s1", "Authorization: Bearer hush").unwrap());
        assert_eq!(seal.open("s1", &sealed).unwrap(), "Authorization: Bearer hush");
        assert!(seal.open("s2", &sealed).is_err(), "another Subscription's");
        assert!(Seal::new(&[&other]).unwrap().open("s1", &sealed).is_err());
        assert_eq!(Seal::new(&[&other, &one]).unwrap().open("s1", &sealed).unwrap(), "Authorization: Bearer hush");
        let mut broken = sealed.clone();
        broken.replace_range(broken.len() - 1.., if sealed.ends_with('0') { "1" } else { "0" });
        for bad in [broken.as_str(), "", "x:", "x:zz", &sealed[..20]] {
            assert!(seal.open("s1", bad).is_err(), "{bad}");
        }
        assert!(Seal::new(&["ab"]).is_err());
    }
}
