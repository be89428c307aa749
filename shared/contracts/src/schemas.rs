//! Owns the check that an event changes only so that everybody still understands it. Refuses to
//! write a schema over one that it would break.

use std::fs;
use std::path::PathBuf;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::{inventory, order, payment, shipping};

/// The schema of a body, without references.
pub(crate) fn of<T: JsonSchema>(title: &str) -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    schema.to_value()
}

/// What of `old` is no longer so in `new`: whoever reads by one must understand what was written
/// by the other. A field may be added that need not be there; nothing else may change.
fn broken(at: &str, old: &Value, new: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    let none = Map::new();
    let fields = |schema: &Value| schema["properties"].as_object().cloned();
    let (old_fields, new_fields) = (fields(old).unwrap_or_default(), fields(new));
    for (name, old) in &old_fields {
        let at = format!("{at}.{name}");
        match new_fields.as_ref().unwrap_or(&none).get(name) {
            None => broken.push(format!("{at} is gone")),
            Some(new) => broken.extend(self::broken(&at, old, new)),
        }
    }
    if !old["items"].is_null() {
        broken.extend(self::broken(&format!("{at}[]"), &old["items"], &new["items"]));
    }
    if required(old) != required(new) {
        broken.push(format!("{at} requires other fields than before"));
    }
    for word in ["type", "format", "pattern", "enum", "minimum", "maximum"] {
        if old[word] != new[word] {
            broken.push(format!("{at} has another {word}"));
        }
    }
    broken
}

fn required(schema: &Value) -> Vec<&str> {
    let mut names: Vec<_> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn events_change_only_so_that_everybody_still_understands_them() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let schemas =
        [order::schemas(), inventory::schemas(), payment::schemas(), shipping::schemas()].concat();
    for (name, schema) in &schemas {
        let path = folder.join(format!("{name}.v1.json"));
        let old = fs::read_to_string(&path).ok();
        if let Some(old) = &old {
            let old = serde_json::from_str(old).expect("a schema is JSON");
            let broken = broken(name, &old, schema);
            assert!(broken.is_empty(), "an incompatible change needs a new version: {broken:?}");
        }
        let new = serde_json::to_string_pretty(schema).expect("a schema is JSON") + "\n";
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            fs::write(&path, &new).expect("the schema can be written");
        } else {
            assert!(old == Some(new), "{name}: run this test once with UPDATE_SCHEMAS=1");
        }
    }
    let files = fs::read_dir(&folder).expect("the schemas are checked in").count();
    assert_eq!(files, schemas.len(), "a schema never goes, even if nobody says its event any more");
}

#[test]
fn a_field_that_goes_changes_or_is_suddenly_required_breaks_an_event() {
    let old = of::<order::Placed>("OrderPlaced");
    let change = |pointer: &str, to: Value| {
        let mut new = old.clone();
        *new.pointer_mut(pointer).expect("the schema has it") = to;
        broken("OrderPlaced", &old, &new)
    };
    assert!(broken("OrderPlaced", &old, &old).is_empty());
    assert_eq!(change("/properties/total/properties/currency/type", "integer".into()).len(), 1);
    assert_eq!(change("/properties/lines/items/required", Value::Array(vec![])).len(), 1);
    assert_eq!(change("/properties/ship_to/properties", Value::Object(Map::new())).len(), 5);

    let mut added = old.clone();
    added["properties"]["note"] = serde_json::json!({"type": ["string", "null"]});
    assert!(broken("OrderPlaced", &old, &added).is_empty());
    added["required"].as_array_mut().expect("it is a list").push("note".into());
    assert_eq!(broken("OrderPlaced", &old, &added).len(), 1);
}
