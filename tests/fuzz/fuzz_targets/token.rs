//! The token endpoint's form: parameters, scopes, the signed assertion, and our own access tokens.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loopgate_fuzz::fhir::query;
use loopgate_fuzz::fhir::scope::Scopes;
use loopgate_fuzz::jwt::{self, Assertion, KeySet, Secret};

fuzz_target!(|text: &str| {
    let Ok(pairs) = query::pairs(Some(text)) else { return };
    let given = |name| query::once(&pairs, name).ok().flatten().unwrap_or_default();
    let scopes = Scopes::parse(given("scope").split_ascii_whitespace(), "https://hub.test/fhir");
    assert_eq!(Scopes::all().grant(&scopes).is_empty(), scopes.is_empty());
    let (token, keys) = (given("client_assertion"), KeySet::parse(given("jwks")).ok());
    if let Ok(assertion) = Assertion::read(token) {
        let _ = (assertion.issuer(), keys.map(|keys| assertion.verify(&keys).is_ok()));
    }
    assert!(Secret::new("k", "a secret of ours that nobody knows").verify(token).is_none());
    let _ = jwt::key_of(token);
});
