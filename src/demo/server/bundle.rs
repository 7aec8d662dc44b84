//! Batch and transaction at the simulated server.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Answer, FhirServer, header, ok, refusal, right_type, text};

impl FhirServer {
    /// A Bundle POSTed to the base.
    pub(super) fn bundle(&mut self, bundle: &Value) -> Result<Answer, Answer> {
        right_type(bundle, "Bundle")?;
        let entries = bundle["entry"].as_array().map_or(&[][..], Vec::as_slice);
        match text(bundle, "type") {
            "batch" if self.batch => {
                let answers = entries.iter().map(|entry| {
                    let (headers, method, local) = self.call(entry);
                    let body = entry.get("resource").cloned();
                    self.interaction(method, &local, &headers, body).unwrap_or_else(|refused| refused)
                });
                Ok(ok(response_bundle("batch-response", answers.collect())))
            }
            "transaction" => {
                let before = self.store.clone();
                self.transaction(entries).inspect_err(|_| self.store = before)
            }
            _ => Err(refusal(405, "not-supported", "this server does not offer that kind of Bundle")),
        }
    }

    /// POST before PUT before GET. POST entries get their ids first, so that references to them can be rewritten.
    fn transaction(&mut self, entries: &[Value]) -> Result<Answer, Answer> {
        let mut addresses = BTreeMap::new();
        let mut calls = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let (headers, method, local) = self.call(entry);
            let local = local.split("/_history/").next().unwrap_or(&local).trim_matches('/').to_owned();
            let mut resource = entry.get("resource").cloned().unwrap_or_default();
            let (order, method, local) = match method {
                "POST" => {
                    right_type(&resource, &local)?;
                    let existing = self.existing(&local, header(&headers, "If-None-Exist"))?;
                    let method = if existing.is_some() { "GET" } else { "PUT" };
                    let id = existing.unwrap_or_else(|| self.store.next_id(&local));
                    resource["id"] = json!(id);
                    (0, method, format!("{local}/{id}"))
                }
                "PUT" => (1, method, local),
                _ => (2, method, local),
            };
            if order < 2 && text(entry, "fullUrl").starts_with("urn:uuid:") {
                addresses.insert(text(entry, "fullUrl").to_owned(), local.clone());
            }
            calls.push((order, index, method, local, headers, resource));
        }
        calls.sort_by_key(|call| (call.0, call.1));
        let mut answers = Vec::new();
        for (_, index, method, local, headers, mut resource) in calls {
            rewrite(&mut resource, &addresses);
            answers.push((index, self.interaction(method, &local, &headers, Some(resource))?));
        }
        answers.sort_by_key(|(index, _)| *index);
        Ok(ok(response_bundle("transaction-response", answers.into_iter().map(|(_, answer)| answer).collect())))
    }

    /// An entry's request: its headers, its method, and its address below the base.
    fn call<'a>(&self, entry: &'a Value) -> (Vec<(String, String)>, &'a str, String) {
        let request = &entry["request"];
        let conditions = [("ifMatch", "If-Match"), ("ifNoneExist", "If-None-Exist")].into_iter();
        let given =
            conditions.filter_map(|(element, name)| Some((name.to_owned(), request[element].as_str()?.to_owned())));
        let url = text(request, "url");
        (given.collect(), text(request, "method"), self.below_base(url).unwrap_or(url).to_owned())
    }
}

fn response_bundle(type_: &str, answers: Vec<Answer>) -> Value {
    let entry = answers.into_iter().map(|Answer { status, headers, body }| {
        let mut response = json!({ "status": status.to_string() });
        for (name, element) in [("Location", "location"), ("ETag", "etag")] {
            if let Some(value) = header(&headers, name) {
                response[element] = json!(value);
            }
        }
        if status < 400 {
            return json!({ "resource": body, "response": response });
        }
        response["outcome"] = json!(body);
        json!({ "response": response })
    });
    json!({ "resourceType": "Bundle", "type": type_, "entry": entry.collect::<Vec<_>>() })
}

fn rewrite(value: &mut Value, addresses: &BTreeMap<String, String>) {
    match value {
        Value::String(text) => {
            if let Some(address) = addresses.get(text) {
                address.clone_into(text);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rewrite(item, addresses)),
        Value::Object(elements) => elements.values_mut().for_each(|element| rewrite(element, addresses)),
        _ => {}
    }
}
