//! The JSON Schema of a pipeline file, made from the table that checks files.
//!
//! Owns the translation only: what the schema refuses, the check refuses too.

use serde_json::{Map, Value, json};

use super::keys::PIPELINE;
use super::problem::Problem;
use super::shape::{Shape, Table};
use super::yaml::MAX_BYTES;

/// The schema, draft 2020-12.
pub fn json_schema() -> Value {
    let Value::Object(body) = table(&PIPELINE) else { unreachable!("a table gives an object") };
    let mut schema = Map::new();
    schema.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".into(), json!("jupyterflow pipeline"));
    schema.extend(body);
    Value::Object(schema)
}

fn table(table: &Table) -> Value {
    let properties: Map<String, Value> = table
        .keys
        .iter()
        .map(|key| {
            let mut property = shape(&key.shape);
            if let Value::Object(property) = &mut property {
                property.insert("description".into(), json!(key.doc));
            }
            (key.name.to_owned(), property)
        })
        .collect();
    let mut schema = json!({
        "type": "object", "properties": properties, "additionalProperties": false,
    });
    let required: Vec<_> =
        table.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let groups: Vec<Value> = table
        .one_of
        .iter()
        .map(|group| {
            let one = group.iter().map(|name| json!({ "required": [name] }));
            json!({ "oneOf": one.collect::<Vec<_>>() })
        })
        .collect();
    if !groups.is_empty() {
        schema["allOf"] = json!(groups);
    }
    schema
}

fn shape(of: &Shape) -> Value {
    match of {
        Shape::Text => json!({ "type": "string", "minLength": 1 }),
        Shape::Word(words) => json!({ "enum": words }),
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Integer(low, high) => json!({ "type": "integer", "minimum": low, "maximum": high }),
        Shape::Duration => json!({ "type": "string", "pattern": "^([0-9]+[smhdw])+$" }),
        Shape::Label => json!({
            "type": "string", "maxLength": 40, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        }),
        Shape::Memory => json!({
            "type": ["string", "number"],
            "pattern": "^[0-9]+([.][0-9]+)?([kMGTPE]|[KMGTPE]i)?$",
        }),
        Shape::Processors => {
            json!({ "type": ["string", "number"], "pattern": "^[0-9]+([.][0-9]+)?m?$" })
        }
        Shape::Scalar => json!({ "type": ["string", "number", "boolean"] }),
        Shape::Json => json!({}),
        Shape::Nothing => json!({ "type": ["object", "null"], "maxProperties": 0 }),
        Shape::List(item) => json!({ "type": "array", "items": shape(item) }),
        Shape::OneOrMany(item) => {
            json!({ "anyOf": [shape(item), { "type": "array", "items": shape(item) }] })
        }
        Shape::Map(value) => json!({ "type": "object", "additionalProperties": shape(value) }),
        Shape::Object(inner) => table(inner),
        Shape::Any(shapes, _) => json!({ "anyOf": shapes.iter().map(shape).collect::<Vec<_>>() }),
    }
}

/// The problem of a file that is too large to be read at all.
pub fn problem_if_huge(file: &str, bytes: u64) -> Option<Problem> {
    (bytes > MAX_BYTES as u64).then(|| {
        let message = format!(
            "the file has {bytes} bytes, more than the {MAX_BYTES} that a pipeline file may have"
        );
        Problem::of_file(file, message).hint("is this the right file?")
    })
}
