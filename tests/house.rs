//! The house's order: a module uses only what stands below it.

use std::path::{Path, PathBuf};

/// From the street to the cellar. Those of one storey do not know each other.
const STOREYS: [&[&str]; 6] = [
    &["cli"],
    &["config"],
    &["server"],
    &["convert"],
    &["registry", "store", "format"],
    &["oci", "panics"],
];

fn storey(module: &str) -> Option<usize> {
    STOREYS.iter().position(|storey| storey.contains(&module))
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a source names as `crate::…`.
fn uses(text: &str) -> Vec<String> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            rest.chars().take_while(|c| is_word(*c)).collect()
        })
        .collect()
}

/// What is wrong with a source of `module`.
fn violations(module: &str, text: &str) -> Vec<String> {
    let Some(own) = storey(module) else {
        return vec![format!("{module} is in no storey")];
    };
    let used = uses(text).into_iter().filter(|used| used != module);
    used.filter(|used| storey(used).is_none_or(|storey| storey <= own))
        .collect()
}

#[test]
fn a_module_uses_only_what_stands_below_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 100, "{} sources", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let below = file.strip_prefix(&root).unwrap();
        let first = below.components().next().unwrap().as_os_str();
        let module = first.to_str().unwrap().trim_end_matches(".rs");
        if matches!(module, "lib" | "main") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for used in violations(module, &text) {
            wrong.push(format!("{} uses {used}", below.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_use_of_what_stands_above_or_beside_is_found() {
    for (module, text) in [
        ("oci", "use crate::store::Store;"),
        ("store", "    crate::registry::Error::x()"),
        ("convert", "use crate::server::{self, Server};"),
        ("nowhere", ""),
    ] {
        assert_eq!(violations(module, text).len(), 1, "{module}: {text}");
    }
    for (module, text) in [
        ("server", "use crate::convert::Converter;"),
        ("store", "// crate::registry\nuse crate::oci::Digest;"),
        ("convert", "use crate::convert::plan;"),
    ] {
        assert!(violations(module, text).is_empty(), "{module}: {text}");
    }
}
