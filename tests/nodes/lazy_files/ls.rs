//! `ls`, judged by coreutils on the kernel's mount of the same disk.

use super::{Demo, bad, good, printed, ran};

#[test]
fn ls_lists_the_names_that_the_mounted_disk_has() {
    let demo = Demo::odd();
    let Some(mount) = demo.mounted() else { return };
    let image = demo.image();
    for (ours, theirs) in [
        (&["/"][..], &["-1", "."][..]),
        (&["-a", "etc"], &["-1A", "-q", "etc"]),
        (&["etc"], &["-1", "-q", "etc"]),
        (&["lib/"], &["-1", "usr/lib"]),
        (&["-d", "usr"], &["-1d", "usr"]),
    ] {
        let all = ran(&[&["ls", &image], ours].concat());
        assert_eq!(all.code, 0, "{all:?}");
        let names = String::from_utf8_lossy(&all.out).replace('\n', "|");
        let expected = printed(mount.path(), "ls", theirs).replace('\n', "|");
        // A name with a line break and one that is no text come as they are.
        let expected = expected.replace("line?break", "line|break");
        let names = names.replace('\u{fffd}', "?");
        let names: std::collections::BTreeSet<_> = names.split('|').collect();
        let expected: std::collections::BTreeSet<_> = expected.split('|').collect();
        assert_eq!(names, expected, "{ours:?}");
    }
}

#[test]
fn long_lists_are_those_of_coreutils() {
    let demo = Demo::odd();
    let Some(mount) = demo.mounted() else { return };
    for directory in [".", "dev", "usr/lib", "tmp"] {
        let ours = good(&["ls", "-l", &demo.image(), directory]);
        let format = "--time-style=+%Y-%m-%d %H:%M:%S";
        let arguments = ["-ln", format, directory];
        let theirs = printed(mount.path(), "ls", &arguments);
        let words = |text: &str| -> Vec<Vec<String>> {
            let lines = text.lines().filter(|line| !line.starts_with("total "));
            lines
                .map(|line| line.split_whitespace().map(str::to_owned).collect())
                .collect()
        };
        assert_eq!(words(&ours), words(&theirs), "{directory}");
    }
}

#[test]
fn json_and_null_keep_every_name_apart() {
    let demo = Demo::odd();
    let image = demo.image();
    let lines = good(&["ls", "-R", "-a", "--json", &image, "/"]);
    let files: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let file = |path: &str| {
        let found = files.iter().find(|file| file["path"] == path);
        found.unwrap_or_else(|| panic!("no {path} in {lines}"))
    };
    let secret = file("/etc/secret");
    assert_eq!(secret["mode"], "4750");
    assert_eq!(
        (&secret["uid"], &secret["gid"]),
        (&1000.into(), &2000.into())
    );
    assert_eq!(file("/dev/disk")["device"], serde_json::json!([8, 17]));
    assert_eq!(file("/lib")["target"], "usr/lib");
    assert_eq!(file("/etc/old")["mtime"], "2020-09-13T12:26:40.123456789Z");
    assert_eq!(file("/usr/lib/data")["links"], 2);
    assert_eq!(
        file("/usr/lib/data")["inode"],
        file("/usr/lib/again")["inode"]
    );
    let odd = files.iter().find(|file| file.get("path_base64").is_some());
    assert_eq!(odd.unwrap()["path_base64"], "L2V0Yy///g==");
    let names = ran(&["ls", "-0", "-a", &image, "/etc"]).out;
    let names: Vec<&[u8]> = names.split(|byte| *byte == 0).collect();
    assert!(names.contains(&&b"line\nbreak"[..]), "{names:?}");
    assert!(names.contains(&&b"\xff\xfe"[..]), "{names:?}");
}

#[test]
fn what_is_not_there_is_said_and_the_rest_is_listed() {
    let demo = Demo::odd();
    let image = demo.image();
    let ran = ran(&[
        "ls",
        &image,
        "/no\x1b[2J",
        "/etc/name",
        "circle/",
        "etc/name/x",
    ]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(ran.out, b"/etc/name\n");
    assert!(!ran.err.contains('\x1b'), "{}", ran.err);
    for part in ["/no\\u{1b}[2J", "40 symbolic links", "no directory"] {
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
    let unconverted = format!("oci:{}:1", demo.path("source").display());
    let error = bad(3, &["ls", &unconverted]);
    assert!(error.contains("convert it first"), "{error}");
}
