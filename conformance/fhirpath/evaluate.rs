//! Evaluates FHIRPath as the gateway does, for comparison with another evaluator (compare.mjs beside this file).
//!
//! Reads lines of JSON from standard input, `{"resource": …, "expressions": […]}`; writes one line each, a list with
//! `{"found": […]}` or `{"fault": …}` for every expression. For test material only: it prints what it finds.

use std::io::{BufRead, Write};

use loopgate::fhir::path::{Context, Expression, Item};
use serde_json::{Value, json};

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let asked: Value = serde_json::from_str(&line?)?;
        let resource = &asked["resource"];
        let answers = asked["expressions"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let answers: Vec<Value> = answers.map(|text| answer(text, resource)).collect();
        writeln!(out, "{}", Value::Array(answers))?;
        // The other side waits for each line.
        out.flush()?;
    }
    Ok(())
}

fn answer(text: &str, resource: &Value) -> Value {
    let expression = match Expression::parse(text) {
        Ok(expression) => expression,
        Err(fault) => return json!({"fault": fault.to_string()}),
    };
    match expression.evaluate(&Context::new(resource), Item::resource(resource)) {
        Ok(items) => json!({"found": items.iter().map(shown).collect::<Vec<_>>()}),
        Err(fault) => json!({"fault": fault.to_string()}),
    }
}

fn shown(item: &Item<'_>) -> Value {
    match item {
        Item::Node(node) => node.value.cloned().unwrap_or(Value::Null),
        Item::Elsewhere(def) => json!({"elsewhere": def.name}),
        Item::Boolean(flag) => json!(flag),
        Item::Integer(number) => json!(number),
        Item::Decimal(number) => number.to_string().parse().map(Value::Number).unwrap_or_default(),
        Item::Text(text) => json!(text),
        Item::Moment(moment) => json!(moment.to_string()),
        Item::Quantity(quantity) => json!(format!("{} {:?}", quantity.value, quantity.unit)),
    }
}
