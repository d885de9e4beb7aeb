//! The order of the crate's modules: each uses only those of lower levels.

use std::path::{Path, PathBuf};

/// The highest level first. Modules of one level do not use each other.
const LEVELS: [&[&str]; 6] = [
    &["cli"],
    &["config", "check"],
    &["server"],
    &["convert", "lazy"],
    &["registry", "store", "format"],
    &["oci", "panics", "secret_file", "sizes", "telemetry"],
];

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&module))
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
    let Some(own) = level(module) else {
        return vec![format!("{module} is in no level")];
    };
    let used = uses(text).into_iter().filter(|used| used != module);
    used.filter(|used| level(used).is_none_or(|level| level <= own))
        .collect()
}

#[test]
fn a_module_uses_only_modules_of_lower_levels() {
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
fn a_use_of_the_same_or_a_higher_level_is_found() {
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
