//! `find`, judged by findutils on the kernel's mount of the same disk.

use super::{Demo, bad, good, printed, ran};

#[test]
fn find_finds_what_findutils_finds() {
    let demo = Demo::odd();
    let Some(mount) = demo.mounted() else { return };
    let image = demo.image();
    for words in [
        &["."][..],
        &["-type", "f"],
        &["usr", "-type", "f,l", "-name", "*a*"],
        &["-name", "[!a-m]*", "!", "-type", "d"],
        &["-iname", "DATA"],
        &["-size", "+100k"],
        &["-size", "-2"],
        &["-perm", "/6000"],
        &["-perm", "-1000"],
        &["-perm", "644", "-uid", "0"],
        &["-uid", "1000", "-gid", "+1999"],
        &["-links", "2", "-type", "f"],
        &["-type", "c,b,p"],
        &["-empty"],
        &["-maxdepth", "1", "-mindepth", "1"],
        &["usr", "-path", "*lib/a*"],
    ] {
        let begins_with_path = !words[0].starts_with('-');
        let start: &[&str] = if begins_with_path { &[] } else { &["."] };
        let theirs = [start, words, &["-print0"]].concat();
        let theirs = super::support::run(
            super::support::command("find")
                .args(&theirs)
                .current_dir(mount.path()),
        );
        let absolute = |path: &[u8]| -> Vec<u8> {
            let path = path.strip_prefix(b".").unwrap_or(path);
            let path = path.strip_prefix(b"/").unwrap_or(path);
            [b"/", path].concat()
        };
        let split = |bytes: &[u8]| -> Vec<Vec<u8>> {
            let names = bytes
                .split(|byte| *byte == 0)
                .filter(|name| !name.is_empty());
            let mut names: Vec<_> = names.map(absolute).collect();
            names.sort();
            names
        };
        let ours = ran(&[&["find", &image], words, &["-print0"]].concat());
        assert_eq!(ours.code, 0, "{ours:?}");
        let (ours, theirs) = (split(&ours.out), split(&theirs.stdout));
        assert!(!theirs.is_empty(), "{words:?}");
        let text = |names: &[Vec<u8>]| -> Vec<String> {
            names
                .iter()
                .map(|name| name.escape_ascii().to_string())
                .collect()
        };
        assert_eq!(text(&ours), text(&theirs), "{words:?}");
    }
    let owners = printed(
        mount.path(),
        "find",
        &["etc/secret", "-printf", "%m %U %G %s"],
    );
    assert_eq!(owners, "4750 1000 2000 1");
}

#[test]
fn find_prints_json_and_long_lines_and_refuses_other_words() {
    let demo = Demo::odd();
    let image = demo.image();
    let json = good(&["find", &image, "/etc", "-name", "secret", "--json"]);
    let same = good(&["find", "--json", &image, "etc", "-name", "secret"]);
    assert_eq!(json, same);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["path"], &json["size"]),
        (&"/etc/secret".into(), &1.into())
    );
    let long = good(&["find", &image, "-name", "null", "-ls"]);
    assert!(
        long.starts_with("crw-rw-rw-") && long.contains("1, 3"),
        "{long}"
    );
    for words in [&["-nane", "x"][..], &["-type", "x"], &["-name"]] {
        bad(2, &[&["find", &image], words].concat());
    }
    let error = bad(1, &["find", &image, "/not/there", "-type", "f"]);
    assert!(error.contains("/not"), "{error}");
}
