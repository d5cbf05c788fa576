//! The house keeps its floors: each room knows only those below it.

use std::{fs, path::Path};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(ROOT).unwrap().display().to_string();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

fn below(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    sources(&Path::new(ROOT).join(folder), &mut found);
    found
}

/// What a room may not know.
fn forbids(folder: &str, words: &[&str]) {
    for (name, text) in below(folder) {
        for word in words {
            let used =
                text.lines().filter(|line| !line.trim_start().starts_with("//")).find(|line| line.contains(word));
            assert!(used.is_none(), "{name} must not know `{word}`: {}", used.unwrap_or_default().trim());
        }
    }
}

#[test]
fn every_room_knows_only_those_below_it() {
    // Every crate below `connectors`: no engine, no database, and no vendor but itself.
    let folders: Vec<String> = fs::read_dir(Path::new(ROOT).join("connectors"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let shared = ["contract", "sandbox"];
    assert!(folders.len() > shared.len(), "{folders:?}");
    for folder in &folders {
        let others = folders.iter().filter(|other| *other != folder && !shared.contains(&other.as_str()));
        let others: Vec<String> = others.map(|other| format!("tandem_{other}")).collect();
        let words: Vec<&str> = others.iter().map(String::as_str).chain(["tandem::", "sqlx"]).collect();
        forbids(&format!("connectors/{folder}/src"), &words);
    }
    forbids("src/sales", &["crate::sync", "crate::store", "crate::api", "sqlx", "async ", "Clock"]);
    forbids("src/visits", &["crate::sync", "crate::store", "crate::api", "sqlx", "async ", "Clock"]);
    forbids(
        "src/model",
        &["sqlx", "tokio", "async ", "crate::sync", "crate::api", "tandem_hubspot", "tandem_pipedrive"],
    );
    forbids("src/store", &["crate::sync", "crate::api", "crate::command", "tandem_hubspot", "tandem_pipedrive"]);
    forbids("src/sync", &["sqlx", "crate::api", "crate::command", "axum", "tandem_hubspot", "tandem_pipedrive"]);
    forbids("src/api", &["sqlx::", "crate::command", "tandem_hubspot", "tandem_pipedrive"]);
}

#[test]
fn the_core_sees_no_clock_and_does_no_io() {
    for file in ["plan.rs", "lens.rs", "position.rs", "presence.rs", "mapping.rs", "change.rs"] {
        let text = fs::read_to_string(Path::new(ROOT).join("src/sync").join(file)).unwrap();
        for word in ["async ", "SyncStore", "dyn Clock", "std::fs"] {
            assert!(!text.contains(word), "src/sync/{file} must not know `{word}`");
        }
    }
}

#[test]
fn both_databases_have_the_same_migrations() {
    let names = |folder: &str| {
        let mut names: Vec<String> = fs::read_dir(Path::new(ROOT).join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("migrations/sqlite"), names("migrations/postgres"));
}

/// The texts in quotes that follow any of these words in our sources.
fn words_after(folder: &str, heads: &[&str]) -> std::collections::BTreeSet<String> {
    let mut found = std::collections::BTreeSet::new();
    for (_, text) in below(folder) {
        for head in heads {
            for rest in text.split(head).skip(1) {
                // The first quoted word of one statement.
                let statement = rest.split(';').next().unwrap_or_default();
                let word = statement.split('"').nth(1).unwrap_or_default();
                let is_code = !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
                found.extend(is_code.then(|| word.to_owned()));
            }
        }
    }
    found
}

#[test]
fn every_code_that_people_can_meet_is_documented() {
    let guide = fs::read_to_string(Path::new(ROOT).join("docs/errors.md")).unwrap();
    let mut codes = words_after("src/api", &["Problem::new(", "Self::new(StatusCode"]);
    codes.extend(words_after("src/sync", &["Unfit::Park("]));
    codes.extend(words_after("connectors/contract/src", &["(_) =>", "{ .. } =>"]));
    assert!(codes.len() > 20, "{codes:?}");
    let missing: Vec<&String> = codes.iter().filter(|code| !guide.contains(&format!("`{code}`"))).collect();
    assert!(missing.is_empty(), "docs/errors.md does not tell of {missing:?}");
}
