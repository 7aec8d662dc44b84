//! The OAuth addresses: SMART discovery, token, introspection, revocation, our own public keys, and the identity
//! provider's back-channel logout.
//!
//! These speak OAuth's JSON, not FHIR's: errors are `{error, error_description}`. Nothing is cached on the way, and no
//! parameter may come twice. Whether a token is given is [`crate::app`]'s to say.
//! <https://hl7.org/fhir/smart-app-launch/backend-services.html>, RFC 6749, 7009, 7662

use axum::extract::Request;
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::Response;
use serde_json::{Value, json};

use super::rates::Allowances;
use super::{auth, extract, negotiate, query, respond};
use crate::app::people::Visit;
use crate::app::{App, Refused, TokenRequest};
use crate::error::{Error, Kind};
use crate::jwt;

/// Largest form: an assertion and some words.
const LARGEST: usize = 64 * 1024;
const JSON: &str = "application/json";

/// `/fhir/.well-known/smart-configuration` (A-001…A-003). The address never depends on what the caller accepts.
pub(super) fn configuration(app: &App) -> Response {
    let at = |path: &str| format!("{}{path}", app.config().server.public_url);
    let body = json!({
        "token_endpoint": app.token_url(),
        "introspection_endpoint": at("/auth/introspect"),
        "revocation_endpoint": at("/auth/revoke"),
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": jwt::ALGORITHMS,
        "scopes_supported": ["system/*.cruds", "system/*.rs", "system/*.read", "system/*.write"],
        // No user signs in here, but the standard wants the field to be right where it stands.
        "code_challenge_methods_supported": ["S256"],
        "capabilities": ["client-confidential-asymmetric", "permission-v1", "permission-v2"],
    });
    let mut response = respond::text(200, JSON, body.to_string());
    // anyone's page may read where tokens are to be had.
    respond::set(&mut response, ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    response
}

/// `/auth/jwks`: our public keys, for the servers we sign in at.
pub(super) fn keys(app: &App) -> Response {
    let mut response = respond::text(200, JSON, app.public_keys().to_string());
    respond::set(&mut response, CACHE_CONTROL, "public, max-age=3600");
    response
}

/// `POST /auth/token`
pub(super) async fn token(app: &App, request: Request) -> Result<Response, Error> {
    let certificate = auth::certificate(request.extensions());
    let form = match form(request).await? {
        Ok(form) => form,
        Err(refused) => return Ok(refusal(&refused)),
    };
    let value = |name: &str| form.iter().find(|(its, _)| its == name).map(|(_, value)| value.clone());
    let asked = TokenRequest {
        grant_type: value("grant_type"),
        scope: value("scope"),
        client_assertion_type: value("client_assertion_type"),
        client_assertion: value("client_assertion"),
        certificate,
    };
    Ok(match app.grant_token(&asked).await {
        Ok(issued) => secret(
            200,
            &json!({"access_token": issued.token, "token_type": "bearer", "expires_in": issued.expires_in,
                "scope": issued.scope}),
        ),
        Err(refused) => refusal(&refused),
    })
}

/// `POST /auth/introspect`: whoever asks shows a token of its own.
pub(super) async fn introspect(app: &App, rates: &Allowances, request: Request) -> Result<Response, Error> {
    let (asking, form) = match asked_with_token(app, rates, request).await? {
        Ok(asked) => asked,
        Err(response) => return Ok(response),
    };
    let body = match app.introspect(&asking, &form).await? {
        None => json!({"active": false}),
        Some(active) => {
            let mut body = json!({"active": true, "scope": active.scope, "client_id": active.client,
                "sub": active.client, "iss": app.config().server.public_url, "token_type": "bearer"});
            if let Some((exp, iat)) = active.times {
                body["exp"] = exp.into();
                body["iat"] = iat.into();
            }
            body
        }
    };
    Ok(secret(200, &body))
}

/// `POST /auth/revoke`: always 200 for a caller that is known, whatever became of the token.
pub(super) async fn revoke(app: &App, rates: &Allowances, request: Request) -> Result<Response, Error> {
    let (asking, token) = match asked_with_token(app, rates, request).await? {
        Ok(asked) => asked,
        Err(response) => return Ok(response),
    };
    app.revoke(&asking, &token).await?;
    Ok(secret(200, &json!({})))
}

/// `POST /sign-out/back-channel`: the identity provider ends sessions. What it is told of a refusal shows nothing of the
/// token.
pub(super) async fn back_channel_logout(app: &App, request: Request, visit: &Visit) -> Result<Response, Error> {
    let form = match form(request).await? {
        Ok(form) => form,
        Err(refused) => return Ok(refusal(&refused)),
    };
    let token = form.into_iter().find(|(name, _)| name == "logout_token").map(|(_, token)| token);
    let invalid = |description: String| refusal(&Refused { code: "invalid_request", description });
    let Some(token) = token else { return Ok(invalid("logout_token is missing".into())) };
    match app.back_channel_logout(&token, visit).await {
        Ok(ended) => {
            tracing::info!(ended, "the identity provider ended sessions");
            Ok(secret(200, &json!({})))
        }
        Err(error) if error.kind == Kind::Malformed => Ok(invalid(error.text().to_string())),
        Err(error) => Err(error),
    }
}

/// Who asks, and about which token.
async fn asked_with_token(
    app: &App,
    rates: &Allowances,
    request: Request,
) -> Result<Result<(crate::app::Identity, String), Response>, Error> {
    let asking = match auth::authenticate(app, request.headers(), request.extensions()).await {
        Ok(asking) => asking,
        Err(error) if error.kind == Kind::Unauthenticated => {
            let refused = Refused { code: "invalid_client", description: error.text().to_string() };
            let mut response = refusal(&refused);
            *response.status_mut() = axum::http::StatusCode::UNAUTHORIZED;
            respond::set(&mut response, WWW_AUTHENTICATE, "Bearer");
            return Ok(Err(response));
        }
        Err(error) => return Err(error),
    };
    rates.spend(&asking.partner)?;
    let form = match form(request).await? {
        Ok(form) => form,
        Err(refused) => return Ok(Err(refusal(&refused))),
    };
    Ok(match form.into_iter().find(|(name, _)| name == "token") {
        Some((_, token)) => Ok((asking, token)),
        None => Err(refusal(&Refused { code: "invalid_request", description: "token is missing".into() })),
    })
}

/// The pairs of a form; none twice (RFC 6749 §3.2).
pub(super) async fn form(request: Request) -> Result<Result<Vec<(String, String)>, Refused>, Error> {
    let (parts, body) = request.into_parts();
    let invalid =
        |description: &str| Ok(Err(Refused { code: "invalid_request", description: description.to_string() }));
    if negotiate::form(&parts.headers).is_err() {
        return invalid("send a form: Content-Type application/x-www-form-urlencoded");
    }
    let bytes = extract::body(body, &parts.headers, LARGEST).await?;
    let Ok(text) = std::str::from_utf8(&bytes) else { return invalid("the form is not UTF-8") };
    let Ok(pairs) = query::pairs(Some(text.trim())) else { return invalid("the form is not percent-encoded UTF-8") };
    let twice = |index: usize, name: &str| pairs.iter().take(index).any(|(earlier, _)| earlier == name);
    if pairs.iter().enumerate().any(|(index, (name, _))| twice(index, name)) {
        return invalid("a parameter stands twice");
    }
    Ok(Ok(pairs))
}

fn refusal(refused: &Refused) -> Response {
    let status = if refused.code == "temporarily_unavailable" { 503 } else { 400 };
    tracing::info!(error = refused.code, why = refused.description, "refused");
    secret(status, &json!({"error": refused.code, "error_description": refused.description}))
}

/// Too many requests (429): when to come back.
pub(super) fn later(error: &Error) -> Response {
    let body = json!({"error": "temporarily_unavailable", "error_description": error.text()});
    let mut response = secret(error.kind.status(), &body);
    respond::set(&mut response, RETRY_AFTER, &error.retry_after.unwrap_or(1).to_string());
    response
}

/// An answer nobody on the way may keep.
fn secret(status: u16, body: &Value) -> Response {
    let mut response = respond::text(status, JSON, body.to_string());
    respond::set(&mut response, CACHE_CONTROL, "no-store");
    respond::set(&mut response, PRAGMA, "no-cache");
    response
}
