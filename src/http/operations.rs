//! The operations: `$relay` and `$loop-status` on Task, `$status` and `$events` on Subscription, `$poll` and `$following`
//! on Organization, and those of [`super::terminology`].
//!
//! Inputs come in the query (GET) or as Parameters (POST), and mean the same. Unknown inputs are ignored.
//! <https://hl7.org/fhir/R4/operations.html>, <http://hl7.org/fhir/uv/subscriptions-backport>

use axum::response::Response;
use serde_json::Value;

use super::extract::{Asked, Sent};
use super::respond;
use super::routes::Operation;
use super::terminology;
use crate::app::{App, Context, Range};
use crate::error::Error;
use crate::fhir::subscription::Content;
use crate::fhir::{ResourceType, outcome};
use crate::time::Timestamp;

/// Answers an operation of the table.
pub(super) async fn answer(
    app: &App,
    context: &Context,
    known: &Operation,
    kind: ResourceType,
    id: Option<&str>,
    mut asked: Asked,
) -> Result<Response, Error> {
    match (known.name, id) {
        ("relay", Some(task)) => {
            let targets = targets(&asked.parameters()?)?;
            Ok(respond::fhir(200, app.relay(context, task, &targets).await?))
        }
        ("loop-status", Some(task)) => Ok(respond::made(&app.loop_status(context, task).await?)),
        ("status", id) => {
            let parameters = asked.parameters()?;
            let inputs = inputs(&asked.pairs, &parameters);
            let bundle = app.subscription_status(context, id, &inputs.all("id"), &inputs.all("status")).await?;
            Ok(respond::made(&bundle))
        }
        ("events", Some(id)) => {
            let parameters = asked.parameters()?;
            let inputs = inputs(&asked.pairs, &parameters);
            let range = (inputs.number("eventsSinceNumber")?, inputs.number("eventsUntilNumber")?);
            // A hint: what is no level asks for nothing (S-131).
            let content = inputs.all("content").first().and_then(|code| Content::parse(code));
            Ok(respond::made(&app.subscription_events(context, id, range, content).await?))
        }
        ("resend", Some(id)) => {
            let parameters = asked.parameters()?;
            let inputs = inputs(&asked.pairs, &parameters);
            let range = Range {
                numbers: (inputs.number("eventsSinceNumber")?, inputs.number("eventsUntilNumber")?),
                instants: (inputs.instant("eventsSinceInstant")?, inputs.instant("eventsUntilInstant")?),
            };
            let count = app.resend(context, id, range).await?;
            Ok(respond::made(&outcome::fine(&format!("{count} events are sent again."))))
        }
        ("pause" | "resume", Some(id)) => {
            let held = known.name == "pause";
            app.hold_subscription(context, id, held).await?;
            Ok(respond::made(&outcome::fine(match held {
                true => "Nothing is sent to it until $resume; what happens is counted and kept.",
                false => "It is sent to again: what waited first, in order.",
            })))
        }
        ("get-ws-binding-token", id) => {
            let parameters = asked.parameters()?;
            let inputs = inputs(&asked.pairs, &parameters);
            Ok(respond::made(&app.binding_token(context, id, &inputs.all("id")).await?))
        }
        ("deliveries", id) => Ok(respond::made(&app.subscription_deliveries(context, id).await?)),
        ("conflicts", None) => Ok(respond::made(&app.conflicts(context).await?)),
        ("settle", Some(task)) => {
            let count = app.settle_conflicts(context, task).await?;
            Ok(respond::made(&outcome::fine(&format!("{count} conflicts are settled."))))
        }
        ("poll", Some(organization)) => {
            app.poll_of(context, organization).await?;
            Ok(respond::made(&outcome::fine("Its server is asked now.")))
        }
        ("following", Some(organization)) => Ok(respond::made(&app.following_of(context, organization).await?)),
        ("validate", id) => validate(app, context, kind, id, asked).await,
        (name, id) => match terminology::answer(known.kind, name, id, &mut asked, app.now()) {
            Some(found) => Ok(respond::made(&found?)),
            None => Err(respond::no_such_path()),
        },
    }
}

/// `$validate`: the body, or the `resource` of Parameters; on an instance without one, what is stored.
/// <https://hl7.org/fhir/R4/resource-operation-validate.html>
async fn validate(
    app: &App,
    context: &Context,
    kind: ResourceType,
    id: Option<&str>,
    mut asked: Asked,
) -> Result<Response, Error> {
    let body = if matches!(asked.body, Sent::Nothing) { None } else { Some(asked.json()?) };
    let is_parameters = |body: &&Value| body.get("resourceType").is_some_and(|kind| kind == "Parameters");
    let parameters = body.as_ref().filter(is_parameters).map(|body| body.get("parameter").and_then(Value::as_array));
    let named = |name: &str| {
        let mut all = parameters.flatten().into_iter().flatten();
        all.find(|one| one.get("name").is_some_and(|its| its == name))
    };
    let from_body = named("profile").and_then(|one| one.get("valueUri").or_else(|| one.get("valueCanonical")));
    let from_query = asked.pairs.iter().find(|(name, _)| name == "profile").map(|(_, value)| value.as_str());
    let profile = from_body.and_then(Value::as_str).or(from_query);
    let sent = match parameters {
        Some(_) => named("resource").and_then(|one| one.get("resource")),
        None => body.as_ref(),
    };
    Ok(respond::made(&app.validate(context, kind, id, sent, profile).await?))
}

/// The targets of a `$relay`.
fn targets(parameters: &[Value]) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for (index, parameter) in parameters.iter().enumerate() {
        if parameter.get("name").and_then(Value::as_str) != Some("target") {
            continue;
        }
        let reference =
            parameter.get("valueReference").and_then(|value| value.get("reference")).and_then(Value::as_str);
        let Some(reference) = reference.filter(|text| !text.is_empty()) else {
            let expression = format!("Parameters.parameter[{index}].value");
            return Err(Error::invalid(
                expression,
                "A target is a valueReference to an Organization or HealthcareService.",
            )
            .code("required"));
        };
        if !found.iter().any(|known| known == reference) {
            found.push(reference.to_string());
        }
    }
    if found.is_empty() {
        return Err(Error::invalid("Parameters.parameter", "$relay needs at least one target.").code("required"));
    }
    Ok(found)
}

/// Primitive inputs by name.
pub(super) struct Inputs(Vec<(String, String)>);

pub(super) fn inputs(pairs: &[(String, String)], parameters: &[Value]) -> Inputs {
    let mut found = pairs.to_vec();
    for parameter in parameters {
        let Some(name) = parameter.get("name").and_then(Value::as_str) else { continue };
        let value = parameter.as_object().and_then(|parts| parts.iter().find(|(key, _)| key.starts_with("value")));
        let text = match value {
            Some((_, Value::String(text))) => text.clone(),
            Some((_, Value::Number(number))) => number.to_string(),
            Some((_, Value::Bool(flag))) => flag.to_string(),
            _ => continue,
        };
        found.push((name.to_string(), text));
    }
    Inputs(found)
}

impl Inputs {
    fn all(&self, name: &str) -> Vec<&str> {
        let named = self.0.iter().filter(|(known, _)| known == name);
        named.flat_map(|(_, value)| value.split(',')).filter(|value| !value.is_empty()).collect()
    }

    /// The first value of this name.
    pub(super) fn one(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.clone())
    }

    fn instant(&self, name: &str) -> Result<Option<Timestamp>, Error> {
        let Some(text) = self.all(name).first().copied() else { return Ok(None) };
        let fault = || Error::malformed(format!("{name} is an instant, such as 2027-12-31T00:00:00Z.")).code("value");
        Timestamp::parse(text).map(Some).ok_or_else(fault)
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, Error> {
        let Some((_, text)) = self.0.iter().find(|(known, value)| known == name && !value.is_empty()) else {
            return Ok(None);
        };
        let number = text.parse::<i64>().ok().filter(|number| *number >= 0);
        number.map(Some).ok_or_else(|| Error::malformed(format!("{name} is a whole number.")).code("value"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use serde_json::json;

    #[test]
    fn a_relay_has_targets() {
        let target = |reference: &str| json!({"name":"target","valueReference":{"reference":reference}});
        let found = targets(&[
            target("Organization/a"),
            json!({"name":"note"}),
            target("Organization/a"),
            target("HealthcareService/b"),
        ]);
        assert_eq!(found.unwrap(), ["Organization/a", "HealthcareService/b"]);
        assert_eq!(targets(&[]).unwrap_err().kind, Kind::Invalid);
        let error = targets(&[target("Organization/a"), json!({"name":"target","valueString":"x"})]).unwrap_err();
        assert_eq!(error.issues[0].expression.as_deref(), Some("Parameters.parameter[1].value"));
    }

    #[test]
    fn numbers_are_whole() {
        let inputs = Inputs(vec![
            ("a".into(), "7".into()),
            ("b".into(), "x".into()),
            ("c".into(), "-1".into()),
            ("d".into(), String::new()),
        ]);
        assert_eq!(inputs.number("a").unwrap(), Some(7));
        assert!(inputs.number("b").is_err() && inputs.number("c").is_err());
        assert_eq!((inputs.number("d").unwrap(), inputs.number("e").unwrap()), (None, None));
    }
}
