//! The schema, the examples and the code agree.

use std::collections::BTreeSet;

use serde_json::Value;

use super::examples;
use crate::config::schema;

/// Follows references and alternatives to every object schema that a value at this place may have.
fn objects<'a>(root: &'a Value, at: &'a Value) -> Vec<&'a Value> {
    if let Some(reference) = at["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').expect("a local reference");
        return objects(root, root.pointer(pointer).expect("it leads somewhere"));
    }
    let mut found: Vec<&Value> = ["anyOf", "oneOf", "allOf"]
        .iter()
        .filter_map(|kind| at[*kind].as_array())
        .flatten()
        .flat_map(|choice| objects(root, choice))
        .collect();
    if at.get("properties").is_some() || at.get("items").is_some() {
        found.push(at);
    }
    found
}

/// Every key of the value is a property of the schema.
fn check(root: &Value, at: &Value, value: &Value, path: &str) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = format!("{path}.{key}");
                let choices = objects(root, at);
                let property = choices
                    .iter()
                    .find_map(|schema| schema["properties"].get(key))
                    .unwrap_or_else(|| panic!("{path} is not in the schema"));
                check(root, property, value, &path);
            }
        }
        Value::Array(list) => {
            let choices = objects(root, at);
            let items = choices.iter().find_map(|schema| schema.get("items"));
            for value in list {
                check(
                    root,
                    items.unwrap_or_else(|| panic!("{path} is no list")),
                    value,
                    path,
                );
            }
        }
        _ => {}
    }
}

#[test]
fn every_key_of_every_example_is_in_the_schema() {
    let schema = schema();
    for (path, text) in examples() {
        // JSON has no null as a key; that the word is meant only our own types know.
        let text = text.replace("- null:", "- \"null\":");
        let value: Value = serde_yaml::from_str(&text).expect("YAML");
        check(&schema, &schema, &value, &path.display().to_string());
    }
}

/// All property names anywhere in the schema, each with its description.
fn properties(at: &Value, found: &mut BTreeSet<String>) {
    match at {
        Value::Object(map) => {
            if let Some(Value::Object(properties)) = map.get("properties") {
                assert_eq!(map["additionalProperties"], Value::Bool(false), "{map:?}");
                for (name, property) in properties {
                    let described =
                        property.get("description").is_some() || property.get("$ref").is_some();
                    assert!(described, "`{name}` has no description");
                    found.insert(name.clone());
                }
            }
            map.values().for_each(|value| properties(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| properties(value, found)),
        _ => {}
    }
}

#[test]
fn every_key_of_the_schema_is_shown_in_an_example() {
    let mut names = BTreeSet::new();
    properties(&schema(), &mut names);
    assert!(names.len() > 30, "{names:?}");
    let texts: String = examples().into_iter().map(|(_, text)| text).collect();
    for name in names {
        assert!(
            texts.contains(&format!("{name}: ")) || texts.contains(&format!("{name}:\n")),
            "{name}"
        );
    }
}

#[test]
fn the_schema_says_which_keys_must_be_there() {
    let schema = schema();
    let required = |name: &str| schema["$defs"][name]["required"].to_string();
    assert_eq!(required("MallocBdev"), r#"["name","size"]"#);
    assert_eq!(required("FileBdev"), r#"["name","path"]"#);
    assert_eq!(required("Subsystem"), r#"["nqn","hosts","namespaces"]"#);
}
