//! Lists as settings.

use serde_json::Value;

use super::support::proxy::program;
use super::support::tar::Tar;
use super::support::{noise, sha256};
use super::{Workshop, inspect};

#[test]
fn a_list_is_part_of_what_decides_a_layer() {
    let workshop = Workshop::new();
    let tar = Tar::new()
        .file("a", noise(1, 9000))
        .file("b", noise(2, 9000))
        .finish();
    workshop.image("1", &[tar.clone(), Tar::new().file("c", "c").finish()]);
    let data = workshop.path("data").display().to_string();
    let data = ["--data-dir", &data];
    let (one, other) = (workshop.list("one", "/a\n"), workshop.list("other", "/b\n"));
    let same = workshop.list("same", "\n/a\n/a");
    let convert = |more: &[&str]| workshop.convert("1", &[&data[..], more].concat()).digest;
    let layers = || {
        let out = format!("oci:{}:1", workshop.path("out").display());
        let made_by = |layer: &Value| layer["blob"]["made_by"]["prefetch_list"].clone();
        inspect(&out).iter().map(made_by).collect::<Vec<_>>()
    };

    let plain = convert(&[]);
    assert_eq!(layers(), [Value::Null, Value::Null]);
    let first = convert(&["--prefetch-list", &one]);
    assert_eq!(layers(), [sha256(b"/a\n"), sha256(b"/a\n")]);
    let second = convert(&["--prefetch-list", &other]);
    assert_ne!(first, second);
    assert_ne!(first, plain);
    // Neither is taken for another that was made before, with the same store.
    assert_eq!(convert(&[]), plain);
    assert_eq!(convert(&["--prefetch-list", &one]), first);
    assert_eq!(convert(&["--prefetch-list", &same]), first);
    // TurboOCI layers hold no file data that could be put in order.
    let turbo = convert(&["--turbo"]);
    assert_eq!(convert(&["--turbo", "--prefetch-list", &one]), turbo);
}

#[test]
fn a_file_that_is_no_list_is_a_mistake_in_the_configuration() {
    let workshop = Workshop::new();
    workshop.image("1", &[Tar::new().finish()]);
    let source = format!("oci:{}:1", workshop.source.path().display());
    for (text, said) in [
        ("", "names no path"),
        ("\n \n", "names no path"),
        ("/a\nb\n", "line 2"),
        ("/a/../b\n", "line 1"),
        (&"/a\n".repeat(30_000), "65536 bytes"),
    ] {
        let list = workshop.list("list", text);
        let mut command = program();
        command.args(["convert", "--no-upload", "--prefetch-list", &list, &source]);
        let ran = command.output().unwrap();
        let err = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(2), "{err}");
        for part in ["--prefetch-list", said, &list] {
            assert!(err.contains(part), "{part} in {err}");
        }
    }
    let gone = workshop.path("gone").display().to_string();
    let mut command = program();
    command.args(["convert", "--no-upload", "--prefetch-list", &gone, &source]);
    let ran = command.output().unwrap();
    assert_eq!(ran.status.code(), Some(2));
    assert!(String::from_utf8(ran.stderr).unwrap().contains(&gone));
}
