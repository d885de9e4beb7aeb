//! `convert` between layouts and archives; the converted images are verified in `tests/check`.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::Stdio;

use serde_json::Value;

use super::support::gate::Gate;
use super::support::registry::Registry;
use super::{Demo, bad, finish, good, program, ran};

fn events(out: &str) -> Vec<Value> {
    out.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn progress_is_printed_as_lines_or_as_json() {
    let demo = Demo::new(&["1"]);
    let out = format!("oci:{}:1_obd", demo.path("out"));
    let run = ran(&["convert", &demo.source("1"), &out]);
    assert_eq!(run.code, 0, "{run:?}");
    for part in ["2 layers", "layer 1/2", "layer 2/2", "2 converted"] {
        assert!(run.err.contains(part), "{part} in {}", run.err);
    }
    let digest = run.out.trim();
    let events = events(&good(&["convert", "--json", &demo.source("1"), &out]));
    assert_eq!(events[0]["event"], "planned");
    assert_eq!(events[0]["layers"].as_array().unwrap().len(), 2);
    let done = events.last().unwrap();
    assert_eq!(done["event"], "done");
    assert_eq!(done["digest"], digest);
    // The result is the same and there: nothing is written again.
    assert_eq!(done["uploaded"], 0);
    let quiet = ran(&["convert", "--quiet", &demo.source("1"), &out]);
    assert_eq!((quiet.out.trim(), quiet.err.as_str()), (digest, ""));
}

#[test]
fn layers_in_a_data_directory_are_not_converted_again() {
    let demo = Demo::new(&["1"]);
    let (data, archive) = (
        demo.path("data"),
        format!("oci-archive:{}:x", demo.path("out.tar")),
    );
    let run = || {
        let out = good(&[
            "convert",
            "--json",
            "--data-dir",
            &data,
            &demo.source("1"),
            &archive,
        ]);
        events(&out).pop().unwrap()
    };
    let (first, second) = (run(), run());
    assert_eq!(
        (&first["converted"], &first["found"]),
        (&2.into(), &0.into())
    );
    assert_eq!(
        (&second["converted"], &second["found"]),
        (&0.into(), &2.into())
    );
    assert_eq!(first["digest"], second["digest"]);
}

/// The files of a directory and those below, with their inodes and permissions.
fn files(directory: &std::path::Path) -> Vec<std::fs::Metadata> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(metadata);
        }
    }
    found
}

#[test]
fn a_layout_is_all_that_a_conversion_into_it_leaves() {
    let demo = Demo::new(&["1"]);
    let out = format!("oci:{}:x", demo.path("out"));
    // No other directory is needed.
    let nowhere = demo.path("nowhere");
    let mut convert = program(&["convert", "-q", &demo.source("1"), &out]);
    convert.env("TMPDIR", &nowhere);
    let made = finish(convert);
    assert_eq!(made.code, 0, "{made:?}");
    let out = std::path::PathBuf::from(demo.path("out"));
    let names: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let index = out.join("index.json").metadata().unwrap();
    for file in files(&out) {
        assert_eq!((file.nlink(), file.mode()), (1, index.mode()), "{file:?}");
    }
}

#[test]
fn a_data_directory_shares_no_file_with_a_layout() {
    let demo = Demo::new(&["1"]);
    let (data, out) = (demo.path("data"), format!("oci:{}:x", demo.path("out")));
    good(&[
        "convert",
        "-q",
        "--data-dir",
        &data,
        &demo.source("1"),
        &out,
    ]);
    let blobs = std::path::PathBuf::from(data).join("blobs");
    let blobs = files(&blobs);
    assert!(blobs.len() >= 4);
    for file in blobs {
        assert_eq!((file.nlink(), file.mode() & 0o777), (1, 0o600), "{file:?}");
    }
}

#[test]
fn options_take_effect_in_the_converted_image() {
    let demo = Demo::new(&["1"]);
    let out = format!("oci:{}:1_obd", demo.path("out"));
    good(&[
        "convert",
        "-q",
        "--algorithm",
        "zstd",
        "--bs",
        "16",
        "--vsize",
        "1",
        "--fstype",
        "ext4;noload;-b 4096",
        "--referrer",
        &demo.source("1"),
        &out,
    ]);
    let image: Value = serde_json::from_str(&good(&["inspect", "--json", &out])).unwrap();
    let source: Value =
        serde_json::from_str(&good(&["inspect", "--json", &demo.source("1")])).unwrap();
    let layer = &image["layers"][0];
    assert_eq!(layer["blob"]["zfile"]["algorithm"], "zstd");
    assert_eq!(layer["blob"]["zfile"]["block_size"], 16_384);
    assert_eq!(layer["blob"]["lsmt"]["virtual_size"], 1 << 30);
    let fs_type = &layer["annotations"]["containerd.io/snapshot/overlaybd/blob-fs-type"];
    assert_eq!(fs_type, "ext4;noload");
    assert_eq!(image["subject"], source["digest"]);
}

#[test]
fn dump_options_write_the_manifests_and_no_upload_uploads_nothing() {
    let demo = Demo::new(&["1"]);
    let dump = demo.path("dump");
    let arguments = ["convert", "--no-upload", "--dump-manifest", "--dir", &dump];
    let out = good(&[&arguments[..], &[&demo.source("1")]].concat());
    let manifest = std::fs::read(format!("{dump}/manifest.json")).unwrap();
    assert_eq!(super::support::sha256(&manifest), out.trim());
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let config = std::fs::read(format!("{dump}/config.json")).unwrap();
    assert_eq!(
        manifest["config"]["digest"],
        super::support::sha256(&config)
    );
    // The temporary data was in there too, and is gone.
    assert_eq!(std::fs::read_dir(&dump).unwrap().count(), 2);
}

#[test]
fn invalid_arguments_of_convert_are_errors_before_any_work() {
    let demo = Demo::new(&["1"]);
    let (source, out) = (demo.source("1"), format!("oci:{}", demo.path("out")));
    let by_digest = format!("r.io/x@sha256:{}", "0".repeat(64));
    for (arguments, named) in [
        (vec!["convert", "UPPER/case", &out], "UPPER/case"),
        (vec!["convert", &source, &by_digest], "name a tag instead"),
        (vec!["convert", &source, &out, "--fstype", "erofs"], "erofs"),
        (vec!["convert", &source, &out, "--bs", "5"], "--bs"),
        (
            vec!["convert", &source, &out, "--dbstr", "nonsense"],
            "--dbstr",
        ),
        (
            vec!["convert", &source, &out, "--src-user", "a:b"],
            "wants no credentials",
        ),
        (
            vec!["convert", &source, &out, "--client-cert", "x"],
            "CERT:KEY",
        ),
        (
            vec!["convert", &source, &out, "--db-type", "redis"],
            "redis",
        ),
        (
            vec!["convert", &source, &out, "--turboOCI", "x"],
            "--repository",
        ),
        (vec!["convert", "-r", "r.io/x"], "--input-tag"),
        (vec!["convert", "-r", "r.io/x", "-i", "1"], "--output-tag"),
    ] {
        let error = bad(2, &arguments);
        assert!(error.contains(named), "{arguments:?}: {named} in {error}");
        assert!(!std::path::Path::new(&demo.path("out")).exists());
    }
    let error = bad(4, &["convert", &demo.source("2"), &out]);
    assert!(error.contains(":2"), "{error}");
    let error = bad(3, &["convert", &source, &out, "--max-layer-size", "1KiB"]);
    assert!(
        error.contains("inflates to over 1.00 KiB: raise --max-layer-size"),
        "{error}"
    );
}

#[test]
fn a_password_may_come_by_standard_input() {
    let demo = Demo::new(&["1"]);
    let mut command = program(&[
        "inspect",
        "--user",
        "me",
        "--password-stdin",
        &demo.source("1"),
    ]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"hunter2\n").unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    let mut command = program(&["inspect", "--password-stdin", &demo.source("1")]);
    command.stdin(Stdio::null());
    let ran = finish(command);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("--password-stdin needs --user NAME"),
        "{ran:?}"
    );
}

#[test]
fn a_registry_s_requests_are_dumped_without_secrets_and_the_standalone_form_works() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let demo = Demo::new(&["1"]);
    let name = format!("{}/team/app", registry.address());
    let (plain, converted) = (format!("{name}:1"), format!("{name}:1_obd"));
    let layout = format!("oci:{}:1", demo.path("source"));
    // An image that is there already is brought to its destination as it is.
    good(&["convert", "-q", &layout, &converted]);
    let direct: Value = serde_json::from_str(&good(&["inspect", "--json", &converted])).unwrap();
    super::support::skopeo::copied(
        &format!("oci:{}:1", demo.path("source")),
        &format!("docker://{plain}"),
        &["--dest-tls-verify=false"],
    );
    let run = ran(&[
        "convert",
        "--http-dump",
        "--http-trace",
        "-u",
        "me:hunter2",
        "-r",
        &name,
        "-i",
        "1",
        "-o",
        "2_obd",
    ]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(!run.err.contains("hunter2"), "{}", run.err);
    for part in [
        "> HEAD http://",
        "< 200 OK",
        "docker-content-digest: sha256:",
        "http_trace",
    ] {
        assert!(run.err.contains(part), "{part} in {}", run.err);
    }
    let second: Value =
        serde_json::from_str(&good(&["inspect", "--json", &format!("{name}:2_obd")])).unwrap();
    assert_eq!(direct["layers"], second["layers"]);
    // Nothing of the like without being asked.
    let run = ran(&["convert", "-q", &plain, &converted]);
    assert_eq!(run.err, "");
}

#[test]
fn a_layout_behind_symbolic_links_is_read() {
    let demo = Demo::new(&["1"]);
    let (source, linked) = (demo.path("source"), demo.path("linked"));
    // As Bazel lays a layout out: every file is a link into its cache.
    let made = std::process::Command::new("cp")
        .args(["--recursive", "--symbolic-link", &source, &linked])
        .status();
    assert!(made.unwrap().success());
    let expected = good(&["convert", "--quiet", "--no-upload", &demo.source("1")]);
    let found = good(&[
        "convert",
        "--quiet",
        "--no-upload",
        &format!("oci:{linked}:1"),
    ]);
    assert_eq!(found, expected);
    // A proxy's layout is what others may fill.
    let data = demo.path("data");
    let upstream = format!("oci:{linked}");
    let serve = ["serve", "--upstream", &upstream, "--listen", "127.0.0.1:0"];
    let refused = bad(2, &[&serve[..], &["--data-dir", &data]].concat());
    assert!(refused.contains("leads out of the layout"), "{refused}");
}

#[test]
fn the_only_image_of_a_layout_needs_no_name() {
    let expected = {
        let demo = Demo::new(&["1"]);
        good(&["convert", "--quiet", "--no-upload", &demo.source("1")])
    };
    for annotation in [
        r#""org.opencontainers.image.ref.name":"1""#,
        r#""io.containerd.image.name":"docker.io/library/demo:3""#,
        r#""unknown":"""#,
    ] {
        let demo = Demo::new(&["1"]);
        let index = demo.directory.path().join("source/index.json");
        let text = std::fs::read_to_string(&index).unwrap();
        let named = r#""org.opencontainers.image.ref.name":"1""#;
        assert!(text.contains(named), "{text}");
        std::fs::write(&index, text.replace(named, annotation)).unwrap();
        let source = format!("oci:{}", demo.path("source"));
        let found = good(&["convert", "--quiet", "--no-upload", &source]);
        assert_eq!(found, expected, "{annotation}");
    }
    let demo = Demo::new(&["1"]);
    let layout = super::support::layout::Layout::open(&demo.directory.path().join("source"));
    layout.add("other", &super::support::image::Image::gzip(&[]).seal());
    let source = format!("oci:{}", demo.path("source"));
    bad(4, &["convert", "--no-upload", &source]);
}

#[test]
fn invalid_destinations_are_errors_before_any_work() {
    let demo = Demo::new(&["1"]);
    for (destination, part) in [
        ("out", "oci:out is a directory"),
        ("dir:/tmp/x", "oci-archive:FILE"),
        ("docker-archive:/tmp/x.tar", "oci-archive:FILE"),
        ("docker-daemon:x:1", "oci-archive:FILE"),
        ("containers-storage:x", "oci-archive:FILE"),
    ] {
        let error = bad(2, &["convert", &demo.source("1"), destination]);
        assert!(error.contains(part), "{destination}: {error}");
    }
    // A registry is asked before the first layer is read.
    let data = demo.path("data");
    let arguments = [
        "convert",
        "--plain-http",
        "--data-dir",
        &data,
        "--attempts",
        "1",
    ];
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let destination = format!("{address}/never:1");
    let error = bad(
        4,
        &[&arguments[..], &[&demo.source("1"), &destination]].concat(),
    );
    assert!(error.contains("cannot be reached"), "{error}");
    assert!(!error.contains("layers, "), "{error}");
    let never = format!("oci:{}:1", demo.path("never"));
    let error = bad(4, &["convert", &demo.source("2"), &never]);
    assert!(error.contains("no such tag; there is 1"), "{error}");
}

#[test]
fn a_layout_that_cannot_be_written_is_called_the_destination() {
    let demo = Demo::new(&["1"]);
    for destination in ["oci:/proc/x:1", "oci-archive:/nowhere/x.tar:1"] {
        let error = bad(1, &["convert", "-q", &demo.source("1"), destination]);
        let named = format!("the destination {destination}");
        assert!(error.contains(&named), "{error}");
    }
}

#[test]
fn a_destination_that_cannot_be_written_is_an_error_before_any_work() {
    let demo = Demo::new(&["1"]);
    let source = demo.source("1");
    // What a layout that is there lacks is the place for blobs.
    let layout = super::support::layout::Layout::create(&demo.directory.path().join("out"));
    let blobs = layout.path().join("blobs");
    std::fs::remove_dir_all(&blobs).unwrap();
    std::fs::write(&blobs, "no directory").unwrap();
    let out = format!("oci:{}:1_obd", demo.path("out"));
    let refused = ran(&["convert", &source, &out]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let blobs = blobs.display().to_string();
    assert!(refused.err.contains(&blobs), "{refused:?}");
    assert!(!refused.err.contains("2 layers"), "{refused:?}");

    let Some(registry) = Registry::start() else {
        return;
    };
    let gate = Gate::before(registry.address());
    let destination = format!("{}/team/app:1_obd", gate.url());
    // Pulls are allowed, pushes are not.
    gate.fail_where("/blobs/uploads/", Some(http::StatusCode::FORBIDDEN));
    let refused = ran(&["convert", &source, &destination]);
    assert_eq!(refused.code, 4, "{refused:?}");
    let part = "error: the destination\n";
    assert!(refused.err.contains(part), "{refused:?}");
    assert!(!refused.err.contains("2 layers"), "{refused:?}");
    gate.fail_where("", None);
    good(&["convert", "-q", &source, &destination]);
    // What was begun for the question was cancelled.
    assert!(
        gate.count("DELETE", "/blobs/uploads/") > 0,
        "{:?}",
        gate.seen()
    );
}

#[test]
fn a_missing_tag_of_a_layout_is_an_error_that_lists_some_of_those_there() {
    let tags: Vec<String> = (10..40).map(|number| number.to_string()).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let demo = Demo::new(&tags);
    let error = bad(4, &["convert", "--no-upload", &demo.source("7")]);
    assert!(error.contains("no such tag; there are 10, 11, "), "{error}");
    assert!(error.contains(", 29 and 10 more"), "{error}");
    assert!(!error.contains("30"), "{error}");
}
