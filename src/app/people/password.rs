//! Passwords: Argon2id as OWASP has it, in the string form that others read too, and few at a time.
//!
//! Promises that a flood of sign-ins takes no more memory than [`AT_ONCE`] hashes do, and that a password nobody has
//! costs what anybody's costs. Leaves out who may try how often ([`super::lockout`]).
//! <https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html>, RFC 9106

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokio::sync::Semaphore;

use crate::error::{Error, Kind};
use crate::id;

/// Memory in KiB, passes, lanes.
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);
/// Bytes of a hash, and of its salt.
const LENGTH: usize = 32;
const SALT: usize = 16;
/// Most hashes that are made at a time, and most that wait for their turn.
const AT_ONCE: usize = 2;
const WAITING: usize = 64;
/// A password's length, in bytes.
const SHORTEST: usize = 12;
const LONGEST: usize = 1024;
/// What is compared for an account that is not there. No password is known that it is the hash of.
const NOBODYS: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5J3Mgc2FsdC4uLg$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Makes hashes, few at a time.
#[derive(Debug)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Passwords {
    pub(in crate::app) fn new() -> Passwords {
        Passwords { turns: Arc::new(Semaphore::new(AT_ONCE)), places: Arc::new(Semaphore::new(WAITING)) }
    }

    /// Whether this is the password of this hash. 429 when too many wait.
    pub(super) async fn verify(&self, password: &str, hash: &str) -> Result<bool, Error> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Error { retry_after: Some(10), ..busy() })?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(Error::unavailable)?;
        let (password, hash) = (password.to_string(), hash.to_string());
        let verified = tokio::task::spawn_blocking(move || {
            // Held to the end of the work, also when nobody waits for it any more.
            let _held = (place, turn);
            fits(&password, &hash)
        });
        verified.await.map_err(Error::internal)
    }
}

fn busy() -> Error {
    Error::new(Kind::Throttled, "Too many people sign in at this moment. Please try again in a few seconds.")
}

/// The hash of nobody's password.
pub(super) fn nobodys() -> String {
    NOBODYS.to_string()
}

/// Whether a new password is long enough, and is not the account's name.
pub(super) fn check(name: &str, password: &str) -> Result<(), Error> {
    let named = password.to_lowercase().contains(name);
    if password.len() < SHORTEST || password.len() > LONGEST || named {
        let text = format!("A password has {SHORTEST} to {LONGEST} bytes and does not contain the account's name.");
        return Err(Error::invalid("password", text));
    }
    Ok(())
}

/// The hash of a new password.
pub(super) fn hash(password: &str) -> Result<String, Error> {
    let random = id::secret();
    let salt = random.as_bytes().get(..SALT).unwrap_or_default();
    let (memory, passes, lanes) = COST;
    let hash = derive(password, salt, COST).ok_or_else(|| Error::internal("a password could not be hashed"))?;
    let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
    Ok(format!("$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${hash}"))
}

fn derive(password: &str, salt: &[u8], (memory, passes, lanes): (u32, u32, u32)) -> Option<[u8; LENGTH]> {
    let params = Params::new(memory, passes, lanes, Some(LENGTH)).ok()?;
    let mut out = [0; LENGTH];
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into(password.as_bytes(), salt, &mut out).ok().map(|()| out)
}

fn fits(password: &str, stored: &str) -> bool {
    let read = || {
        let ["", "argon2id", "v=19", cost, salt, hash] = stored.split('$').collect::<Vec<_>>()[..] else { return None };
        let cost: Vec<u32> = cost
            .split(',')
            .zip(["m=", "t=", "p="])
            .map_while(|(part, name)| part.strip_prefix(name)?.parse().ok())
            .collect();
        let [memory, passes, lanes] = cost[..] else { return None };
        let (salt, hash) = (STANDARD_NO_PAD.decode(salt).ok()?, STANDARD_NO_PAD.decode(hash).ok()?);
        let shown = derive(password, &salt, (memory, passes, lanes))?;
        verify_slices_are_equal(&shown, &hash).ok()
    };
    password.len() <= LONGEST && read().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_fits_its_own_hash_alone() {
        let hash = hash("correct horse battery").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(fits("correct horse battery", &hash));
        for (password, hash) in [
            ("correct horse batterz", hash.as_str()),
            ("", &hash),
            ("correct horse battery", &hash.replace("t=2", "t=3")),
            ("correct horse battery", &hash.replace("argon2id", "argon2i")),
            ("correct horse battery", ""),
            ("correct horse battery", NOBODYS),
        ] {
            assert!(!fits(password, hash), "{password} {hash}");
        }
        assert_ne!(hash, super::hash("correct horse battery").unwrap(), "salted");
    }

    // As the reference implementation has it: echo -n password | argon2 somesalt -id -t 2 -k 65536 -p 1 -l 32
    #[test]
    fn the_hash_is_the_standards() {
        let theirs = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(fits("password", theirs));
    }

    #[test]
    fn nobodys_password_costs_what_anybodys_costs() {
        let cost = |hash: &str| hash.split('$').nth(3).map(str::to_string);
        let lengths = |hash: &str| hash.split('$').map(str::len).collect::<Vec<_>>();
        let own = hash("correct horse battery").unwrap();
        assert_eq!((cost(&own), lengths(&own)), (cost(NOBODYS), lengths(NOBODYS)));
    }

    #[test]
    fn short_and_named_passwords_are_refused() {
        for bad in ["short", "it is Ana's own", &"x".repeat(2_000)] {
            assert!(check("ana", bad).is_err(), "{bad}");
        }
        assert!(check("ana", "correct horse").is_ok());
    }

    #[tokio::test]
    async fn a_flood_is_turned_away() {
        let passwords = Passwords::new();
        let all = Arc::clone(&passwords.places).acquire_many_owned(u32::try_from(WAITING).unwrap()).await.unwrap();
        let error = passwords.verify("x", NOBODYS).await.unwrap_err();
        assert_eq!((error.kind, error.retry_after), (Kind::Throttled, Some(10)));
        drop(all);
        assert!(!passwords.verify("x", NOBODYS).await.unwrap());
    }
}
