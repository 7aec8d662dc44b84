//! Who asks: a bearer token names a partner, and a certificate that is bound to one must be the same partner's; or a
//! session names a person.
//!
//! Promises that the token is neither logged nor kept, and that no header speaks for a certificate. Knowing a token is
//! the app's; how often somebody may ask is [`super::rates`]'s.
//! <https://www.rfc-editor.org/rfc/rfc6750>

use axum::http::header::AUTHORIZATION;
use axum::http::{Extensions, HeaderMap};

use super::{ClientCertificate, people};
use crate::app::{App, Identity};
use crate::config::{Certified, Partner, Role};
use crate::error::{Error, Kind};

/// The partner whose token is shown, or the person whose session it is; 401 without one, or with one we don't know.
pub(super) async fn authenticate(app: &App, headers: &HeaderMap, shown: &Extensions) -> Result<Identity, Error> {
    let Some(token) = bearer(headers) else {
        // A header that is no token is no token, whatever else is shown.
        let session = if headers.contains_key(AUTHORIZATION) { None } else { people::identity(app, headers).await? };
        if let Some(identity) = session {
            return Ok(identity);
        }
        return Err(Error::new(Kind::Unauthenticated, "Send your token: Authorization: Bearer …"));
    };
    let known = Identity::known(app.authenticate(token).await?)?;
    app.check_certificate(&known.partner, &certificate(shown))?;
    Ok(known)
}

/// What the certificate that the other end of the connection has shown is known by.
pub(super) fn certificate(extensions: &Extensions) -> Vec<Certified> {
    extensions.get::<ClientCertificate>().map(|shown| shown.0.clone()).unwrap_or_default()
}

/// 403 for anyone but operators.
pub(super) fn operator(partner: &Partner) -> Result<(), Error> {
    if partner.roles.contains(&Role::Operator) { Ok(()) } else { Err(Error::forbidden("This is for operators.")) }
}

/// The token of the one `Authorization: Bearer` header; two of them name nobody.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).into_iter();
    let (first, None) = (all.next()?, all.next()) else { return None };
    let (scheme, token) = first.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_bearer_token_counts() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            headers
        };
        assert_eq!(bearer(&with("Bearer abc")), Some("abc"));
        assert_eq!(bearer(&with("bearer  abc ")), Some("abc"));
        for bad in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            assert_eq!(bearer(&with(bad)), None, "{bad}");
        }
        let mut two = with("Bearer abc");
        two.append(AUTHORIZATION, "Bearer def".parse().unwrap());
        assert_eq!(bearer(&two), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
