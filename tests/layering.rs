//! Which modules use which, inside `src/format`, `src/server`, `src/registry` and `src/check`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Modules of `crate::format`, the lowest layer first. Those of one layer do not use each
/// other.
const FORMAT: &[&[&str]] = &[
    &["assert_layout", "block", "crc"],
    &["ext4", "gzip_index", "lsmt", "prefetch", "tar", "zfile"],
    &["blob"],
];

/// Their modules, the lowest first, and a layer each.
const MODULES: [(&str, &[&str]); 5] = [
    (
        "ext4",
        &[
            "types",
            "error",
            "layout",
            "bitmap",
            "hash",
            "acl",
            "checksum",
            "geometry",
            "superblock",
            "group",
            "system_zone",
            "cache",
            "cursors",
            "volume",
            "blocks",
            "inodes",
            "inode",
            "inode_table",
            "run",
            "indirect",
            "extent_node",
            "extents",
            "mapping",
            "dirblock",
            "directory_blocks",
            "linear",
            "htree",
            "directory",
            "subdirectories",
            "xattr",
            "filesystem",
            "mkfs",
        ],
    ),
    (
        "gzip_index",
        &[
            "raw",
            "layout",
            "error",
            "member",
            "resume",
            "inflater",
            "trial",
            "sparse",
            "writer",
            "point_thread",
            "points",
            "index",
            "target",
            "indexer",
        ],
    ),
    (
        "lsmt",
        &["raw", "layout", "refusal", "warp", "segments", "layer"],
    ),
    (
        "zfile",
        &[
            "codec",
            "raw",
            "layout",
            "error",
            "refusal",
            "offsets",
            "pool",
            "reader",
            "write_behind",
            "writer",
        ],
    ),
    (
        "blob",
        &[
            "tar_header",
            "acceleration",
            "wrapping",
            "layer",
            "stack",
            "places",
            "export",
            "spool",
            "lsmt_writer",
            "writer",
            "turbo_writer",
            "turbo",
        ],
    ),
];

/// A type of which another module may have an `impl` too: the module above it that makes one.
const CONSTRUCTED_ABOVE: (&str, &str) = ("mkfs", "Filesystem");

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// A source without its comments and its tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths that a use tree or an expression begins with: `a::{b, c::d}` is `a::b` and
/// `a::c::d`. Returns what follows, too.
fn paths(text: &str) -> (Vec<Vec<String>>, &str) {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        let (mut all, mut rest) = (Vec::new(), group);
        loop {
            let (some, behind) = paths(rest);
            all.extend(some);
            let behind = behind.trim_start();
            match behind.strip_prefix(',') {
                Some(next) => rest = next,
                None => return (all, behind.strip_prefix('}').unwrap_or(behind)),
            }
        }
    }
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    if word.is_empty() {
        return (Vec::new(), rest);
    }
    let Some(tail) = rest.strip_prefix("::") else {
        return (vec![vec![word.to_owned()]], rest);
    };
    let (tails, behind) = paths(tail);
    if tails.is_empty() {
        return (vec![vec![word.to_owned()]], behind);
    }
    let prefixed = tails.into_iter().map(|tail| {
        let mut path = vec![word.to_owned()];
        path.extend(tail);
        path
    });
    (prefixed.collect(), behind)
}

/// All paths of a source that begin with `super` or `crate`, as paths from `crate`. `place` is
/// the source's own module.
fn uses(text: &str, place: &[&str]) -> Vec<Vec<String>> {
    let code = code(text);
    let mut all = Vec::new();
    for root in ["super::", "crate::"] {
        for (at, _) in code.match_indices(root) {
            let before = &code[..at];
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
            if before.ends_with(is_word) {
                continue;
            }
            for path in paths(&code[at..]).0 {
                let ups = path.iter().take_while(|part| *part == "super").count();
                let mut full: Vec<String> = match ups {
                    0 => Vec::new(),
                    _ => place[..place.len() - ups]
                        .iter()
                        .map(|part| (*part).to_owned())
                        .collect(),
                };
                let rest = path
                    .iter()
                    .skip_while(|part| *part == "crate" || *part == "super");
                full.extend(rest.cloned());
                all.push(full);
            }
        }
    }
    all
}

/// The module of a source below `src`: `["format", "ext4", "layout"]`.
fn place(path: &Path) -> Vec<&str> {
    let mut parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap()).collect();
    let file = parts.pop().unwrap().trim_end_matches(".rs");
    if file != "mod" {
        parts.push(file);
    }
    parts
}

fn layer(layers: &[&[&str]], module: &str) -> Option<usize> {
    layers.iter().position(|layer| layer.contains(&module))
}

/// What is wrong with the uses of a source, by the layers inside `parent`.
fn violations(text: &str, place: &[&str], parent: &[&str], layers: &[&[&str]]) -> Vec<String> {
    let Some(own) = place
        .strip_prefix(parent)
        .and_then(|rest| rest.first())
        .copied()
    else {
        return Vec::new();
    };
    let Some(level) = layer(layers, own) else {
        return vec![format!("{} is in no layer", place.join("::"))];
    };
    let mut wrong = Vec::new();
    for path in uses(text, place) {
        let inside = path.len() > parent.len() && path.iter().zip(parent).all(|(a, b)| a == b);
        let Some(used) = path.get(parent.len()).filter(|_| inside) else {
            continue;
        };
        // What begins with a capital is an item of `parent` itself.
        let is_module = used.starts_with(|c: char| c.is_ascii_lowercase());
        if is_module && used != own && layer(layers, used).is_none_or(|used| used >= level) {
            wrong.push(format!("{} uses {used}", place.join("::")));
        }
    }
    wrong
}

/// Types of which a source has an inherent `impl`, and types that it defines.
fn types(text: &str) -> (HashSet<String>, HashSet<String>) {
    let (mut implemented, mut defined) = (HashSet::new(), HashSet::new());
    let word = |text: &str| -> String {
        let is_word = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
        text.chars().take_while(is_word).collect()
    };
    for line in code(text).lines() {
        if let Some(rest) = line.strip_prefix("impl")
            && !line.contains(" for ")
        {
            let rest = match rest.strip_prefix('<') {
                Some(generics) => generics.split_once("> ").map_or("", |(_, rest)| rest),
                None => rest.trim_start(),
            };
            implemented.insert(word(rest));
        }
        for keyword in ["struct ", "enum ", "trait "] {
            if let Some((before, rest)) = line.split_once(keyword)
                && (before.is_empty() || before.starts_with("pub"))
            {
                defined.insert(word(rest));
            }
        }
    }
    (implemented, defined)
}

fn files() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&root.join("format"));
    assert!(files.len() > 60, "{} sources", files.len());
    let relative = files.into_iter().map(|path| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.strip_prefix(&root).unwrap().to_owned(), text)
    });
    relative.collect()
}

#[test]
fn a_format_uses_only_those_below_it() {
    let mut wrong = Vec::new();
    for (path, text) in files() {
        wrong.extend(violations(&text, &place(&path), &["format"], FORMAT));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_module_of_a_format_uses_only_those_below_it() {
    let mut wrong = Vec::new();
    for (path, text) in files() {
        for (module, modules) in MODULES {
            let layers: Vec<&[&str]> = modules.iter().map(std::slice::from_ref).collect();
            let parent = ["format", module];
            wrong.extend(violations(&text, &place(&path), &parent, &layers));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_type_has_its_methods_in_the_module_that_defines_it() {
    let mut wrong = Vec::new();
    for (module, modules) in MODULES {
        for own in modules {
            let of_module = |path: &Path| place(path).starts_with(&["format", module, own]);
            let texts: Vec<String> = files()
                .into_iter()
                .filter(|(path, _)| of_module(path))
                .map(|(_, text)| text)
                .collect();
            assert!(!texts.is_empty(), "{module} has no {own}");
            let (implemented, defined) = types(&texts.join("\n").replace("#[cfg(test)]", ""));
            for name in implemented.difference(&defined) {
                if (*own, name.as_str()) != CONSTRUCTED_ABOVE {
                    wrong.push(format!("{module}::{own} has methods of {name}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_use_of_what_is_above_or_beside_is_found() {
    let layers: &[&[&str]] = &[&["error"], &["cache"], &["volume"], &["filesystem"]];
    let parent = ["format", "ext4"];
    let cache = ["format", "ext4", "cache"];
    for text in [
        "use super::volume::Volume;",
        "use super::{error::Result, volume};",
        "use crate::format::ext4::filesystem::Filesystem;",
        "use crate::format::{block, ext4::{error, volume}};",
        "    let x = super::volume::open()?;",
        "use super::nowhere::Thing;",
    ] {
        assert_eq!(violations(text, &cache, &parent, layers).len(), 1, "{text}");
    }
    for text in [
        "use super::error::{Error, Result};",
        "use crate::format::ext4::{Error, error};",
        "// use super::volume::Volume;",
        "use crate::format::lsmt::layer;",
        "#[cfg(test)]\nmod tests { use super::volume; }",
    ] {
        assert!(
            violations(text, &cache, &parent, layers).is_empty(),
            "{text}"
        );
    }
    let inner = ["format", "ext4", "cache", "pack"];
    for (text, count) in [
        ("use super::volume;", 0),
        ("use super::super::volume;", 1),
        ("use super::super::error;", 0),
    ] {
        assert_eq!(
            violations(text, &inner, &parent, layers).len(),
            count,
            "{text}"
        );
    }
    let beside = violations("use crate::format::lsmt;", &parent, &["format"], FORMAT);
    assert_eq!(beside.len(), 1, "{beside:?}");
}

#[test]
fn methods_of_a_type_of_another_module_are_found() {
    let text = "pub(super) struct Here<T>(T);\nimpl<T> Here<T> {\n}\nimpl<D: Device> There<D> {\n}\n\
                impl Default for There {\n}\n";
    let (implemented, defined) = types(text);
    let foreign: Vec<&String> = implemented.difference(&defined).collect();
    assert_eq!(foreign, ["There"]);
}

/// The modules of `crate::PARENT` by their paths, and which of them each names.
fn imports(parent: &[&str]) -> Vec<(String, Vec<String>)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let directory = src.join(parent.join("/"));
    let files = sources(&directory).into_iter().map(|file| {
        let text = std::fs::read_to_string(&file).unwrap();
        (file.strip_prefix(&src).unwrap().to_owned(), text)
    });
    let files: Vec<(PathBuf, String)> = files.collect();
    let names: HashSet<Vec<&str>> = files.iter().map(|(path, _)| place(path)).collect();
    let is_inner = |path: &&(PathBuf, String)| place(&path.0) != parent;
    let found = files.iter().filter(is_inner).map(|(path, text)| {
        let own = place(path);
        let used = uses(text, &own).into_iter().filter_map(|used| {
            let mut used: Vec<&str> = used.iter().map(String::as_str).collect();
            // The longest part that is a module.
            while used.len() > parent.len() && !names.contains(&used) {
                used.pop();
            }
            let is_inner = used.len() > parent.len() && used.starts_with(parent);
            (is_inner && used != own).then(|| used.join("::"))
        });
        (own.join("::"), used.collect())
    });
    found.collect()
}

/// Modules that are left when those that name no other one are taken away, again and again.
fn in_circles(mut modules: Vec<(String, Vec<String>)>) -> Vec<String> {
    loop {
        let before = modules.len();
        let left: HashSet<String> = modules.iter().map(|(name, _)| name.clone()).collect();
        modules.retain(|(_, used)| used.iter().any(|used| left.contains(used)));
        if modules.len() == before {
            return modules.into_iter().map(|(name, _)| name).collect();
        }
    }
}

#[test]
fn modules_import_each_other_without_circles() {
    for (parent, least) in [
        (&["server"][..], 40),
        (&["check"], 15),
        (&["format", "tar"], 5),
        (&["registry", "client"], 20),
        (&["lazy", "nbd"], 7),
    ] {
        let modules = imports(parent);
        let count = modules.len();
        assert!(count > least, "{parent:?}: {count} modules");
        let imports: usize = modules.iter().map(|(_, used)| used.len()).sum();
        assert!(imports > count, "{parent:?}: {imports} imports");
        assert_eq!(in_circles(modules), Vec::<String>::new(), "{parent:?}");
    }
}

/// All that `crate::check`, which verifies the converter, uses of the rest of the program: no
/// code of the conversion, and of the formats only the readers of blobs, gzip indexes and traces.
const USED_BY_CHECK: [&str; 2] = ["oci", "registry"];
const FORMAT_USED_BY_CHECK: [&str; 11] = [
    "format::blob::AccelerationError",
    "format::blob::BlobError",
    "format::blob::LayerBlob",
    "format::blob::Stack",
    "format::blob::StackError",
    "format::blob::unpack_trace",
    "format::block::BlockDevice",
    "format::block::FileDevice",
    "format::gzip_index::Entry",
    "format::gzip_index::GzipIndex",
    "format::prefetch::Trace",
];

#[test]
fn check_uses_nothing_of_the_conversion() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut unseen: HashSet<&str> = FORMAT_USED_BY_CHECK.into();
    for file in sources(&src.join("check")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for used in uses(&text, &place(file.strip_prefix(&src).unwrap())) {
            let path = used.join("::");
            let is_allowed = used[0] == "check"
                || USED_BY_CHECK.contains(&used[0].as_str())
                || FORMAT_USED_BY_CHECK.contains(&path.as_str());
            assert!(is_allowed, "{} uses {path}", file.display());
            unseen.remove(path.as_str());
        }
    }
    assert!(unseen.is_empty(), "not used: {unseen:?}");
}

#[test]
fn a_circle_of_imports_is_found() {
    let module = |name: &str, used: &[&str]| {
        let used = used.iter().map(|used| (*used).to_owned());
        (name.to_owned(), used.collect::<Vec<_>>())
    };
    let modules = vec![
        module("top", &["a"]),
        module("a", &["b", "bottom"]),
        module("b", &["a"]),
        module("bottom", &[]),
    ];
    assert_eq!(in_circles(modules), ["top", "a", "b"]);
}
