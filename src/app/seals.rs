//! The audit rows are sealed: nobody changes, removes, adds or reorders one unseen.
//!
//! Once a second the rows that no open transaction can still add to become a block. Its seal is the hash of the seal
//! before, of the block's bounds and of every row in it, so that the blocks of all gateways on one database are one
//! chain, though no request ever waits for a seal and no gateway for another. With `audit.key` the hash is an HMAC:
//! whoever has the database alone can't make a seal. The price is that the rows of the last second (with PostgreSQL, of
//! the last ten) are not sealed yet; [`verify`] says how many. An end that was cut off whole is seen by comparing with a
//! seal that was written down elsewhere: each is logged, and `verify` prints the last.

use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::hmac;

use super::App;
use super::sealing::{hex, sha256};
use crate::config::Config;
use crate::error::{Error, Kind};
use crate::id;
use crate::store::{Entry, Seal, Store};
use crate::time::Timestamp;

/// Most rows of a block.
const BLOCK: i64 = 1_000;
/// Seals looked at together.
const SEALS: i64 = 500;
/// Most faults that are told one by one.
const FAULTS: usize = 100;

/// What hashes are made with.
#[derive(Debug)]
struct Sealer(Option<(String, hmac::Key)>);

impl Sealer {
    fn new(config: &Config) -> Sealer {
        Sealer(config.audit.key.as_ref().map(|key| {
            let key = key.expose().to_ascii_lowercase();
            let name = sha256(&key).chars().take(8).collect();
            (name, hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()))
        }))
    }

    /// Which key this is; empty: none.
    fn name(&self) -> &str {
        self.0.as_ref().map_or("", |(name, _)| name)
    }

    /// The hash of a block.
    fn hash(&self, before: &Seal, number: i64, till: &str, rows: &[Entry]) -> String {
        let mut all = digest::Context::new(&SHA256);
        all.update(format!("{} {number} {till} {}\n", before.hash, rows.len()).as_bytes());
        rows.iter().for_each(|row| all.update(digest::digest(&SHA256, &row.bytes()).as_ref()));
        let all = all.finish();
        match &self.0 {
            Some((_, key)) => hex(hmac::sign(key, all.as_ref()).as_ref()),
            None => hex(all.as_ref()),
        }
    }
}

/// What the first seal comes after.
fn beginning() -> Seal {
    Seal { number: 0, till: String::new(), held: 0, hash: String::new(), signed: String::new() }
}

impl App {
    /// Seals what can be sealed; how many rows that was. For a task of its own, once a second, and at the end.
    pub async fn seal_audit(&self) -> Result<i64, Error> {
        let sealer = Sealer::new(self.config());
        let edge = id::from(self.store().horizon().0 + 1);
        let mut sealed = 0;
        loop {
            let mut reader = self.store().read().await?;
            let before = reader.last_seal().await?.unwrap_or_else(beginning);
            // One more than fits tells where the next block begins.
            let mut rows = reader.entries(&before.till, &edge, BLOCK + 1).await?;
            drop(reader);
            let next = if rows.len() > usize::try_from(BLOCK).unwrap_or(usize::MAX) { rows.pop() } else { None };
            if rows.is_empty() {
                return Ok(sealed);
            }
            let till = next.as_ref().map_or(&edge, |next| &next.id).clone();
            let number = before.number + 1;
            let hash = sealer.hash(&before, number, &till, &rows);
            let held = i64::try_from(rows.len()).unwrap_or(i64::MAX);
            let seal = Seal { number, till, held, hash, signed: sealer.name().to_string() };
            let mut tx = self.store().begin().await?;
            let put = match tx.put_seal(&seal).await {
                Ok(()) => tx.commit().await,
                Err(error) => Err(error),
            };
            match put {
                Ok(()) => tracing::info!(seal = format!("{number}:{}", seal.hash), rows = held, "audit sealed"),
                // Another gateway has sealed it.
                Err(error) if error.kind == Kind::Conflict => return Ok(sealed),
                Err(error) => return Err(error),
            }
            sealed += held;
            if next.is_none() {
                return Ok(sealed);
            }
        }
    }
}

/// What was found out about the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How many seals there are.
    pub seals: i64,
    /// How many rows they hold.
    pub rows: i64,
    /// How many rows are not sealed yet.
    pub unsealed: i64,
    /// The last seal: `number:hash`.
    pub last: Option<String>,
    /// What is wrong.
    pub faults: Vec<String>,
}

/// Checks every seal against its rows, and that the chain leads through a seal that was written down (`number:hash`).
pub async fn verify(store: &Store, config: &Config, written_down: Option<&str>) -> Result<Verified, Error> {
    let sealer = Sealer::new(config);
    let mut reader = store.read().await?;
    let mut found = Verified { seals: 0, rows: 0, unsealed: 0, last: None, faults: Vec::new() };
    let (mut before, mut met, mut keyed) = (beginning(), false, false);
    loop {
        let seals = reader.seals_after(before.number, SEALS).await?;
        if seals.is_empty() {
            break;
        }
        for seal in seals {
            keyed |= !seal.signed.is_empty();
            if seal.number != before.number + 1 {
                found.fault(format!("Between seals {} and {} some are missing.", before.number, seal.number));
            }
            let rows = reader.entries(&before.till, &seal.till, seal.held.saturating_add(1)).await?;
            found.check(&sealer, &before, &seal, &rows, keyed);
            found.seals += 1;
            found.rows += seal.held;
            let last = format!("{}:{}", seal.number, seal.hash);
            met |= written_down == Some(last.as_str());
            found.last = Some(last);
            before = seal;
        }
    }
    if written_down.is_some() && !met {
        found.fault("The seal that was written down is not in the chain: it was cut off or made anew.".into());
    }
    found.unsealed = reader.entries_from(&before.till).await?;
    Ok(found)
}

impl Verified {
    fn fault(&mut self, text: String) {
        if self.faults.len() < FAULTS {
            self.faults.push(text);
        }
    }

    fn check(&mut self, sealer: &Sealer, before: &Seal, seal: &Seal, rows: &[Entry], keyed: bool) {
        let (from, to) = (ends(before), ends(seal));
        let place = format!("Seal {} ({from} to {to})", seal.number);
        let held = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        if seal.till <= before.till {
            self.fault(format!("{place} ends before it begins."));
        }
        let sealer = match (seal.signed.as_str(), sealer) {
            ("", _) if keyed => return self.fault(format!("{place} was made without the key that earlier ones have.")),
            ("", _) => &Sealer(None),
            (name, sealer) if name == sealer.name() => sealer,
            (name, _) => {
                return self.fault(format!("{place} was made with the key {name}; give that one as audit.key."));
            }
        };
        if held > seal.held {
            self.fault(format!("{place} holds more rows than the {} that were sealed: some were added.", seal.held));
        } else if held < seal.held {
            self.fault(format!("{place} holds {held} rows where {} were sealed: some were removed.", seal.held));
        } else if sealer.hash(before, seal.number, &seal.till, rows) != seal.hash {
            self.fault(format!("{place}: its rows, or the seal before, are not what was sealed."));
        }
    }
}

/// When a block ends.
fn ends(seal: &Seal) -> String {
    id::time_of(&seal.till).map_or_else(|| "the beginning".into(), |time| Timestamp(time).to_string())
}
