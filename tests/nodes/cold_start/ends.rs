//! How commands in an image end, and what they find in it.

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cold_start::images::{Converted, can_run, small, support_text};
use crate::support::proxy::program;
use crate::support::until::until;

fn written(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_command_runs_as_the_image_says_and_its_status_is_passed_on() {
    if !can_run() {
        return;
    }
    let image = Converted::new(&small(), &[]);

    let output = image.start(&[], &["sh", "-c", "echo $GREETING from $PWD; exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{}", support_text(&output));
    assert!(written(&output).contains("good morning from /srv"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("exit status 7"), "{said}");

    let output = image.start(&[], &["sh", "-c", "kill -9 $$"]);
    assert_eq!(output.status.code(), Some(137), "{}", support_text(&output));

    let output = image.start(&[], &[]);
    assert!(
        written(&output).contains("the first"),
        "the image's own command"
    );

    let output = image.start(&[], &["sh", "-c", "echo x > /srv/first"]);
    assert!(!output.status.success(), "the image is read-only");
    let output = image.start(&[], &["sh", "-c", "echo x > /tmp/x && cat /tmp/x"]);
    assert!(output.status.success(), "{}", support_text(&output));

    let output = image.start(&[], &["no-such-program"]);
    assert!(!output.status.success());
    assert!(
        written(&output).contains("no-such-program"),
        "{}",
        support_text(&output)
    );
}

#[test]
fn a_server_ends_when_its_time_is_over_or_it_says_that_it_is_ready() {
    if !can_run() {
        return;
    }
    let image = Converted::new(&small(), &[]);
    let server = "echo starting; cat second; echo ready now; sleep 600; cat never";
    let server = ["sh", "-c", server];

    let report = image.report(&["--until", "ready now"], &server);
    assert_eq!(report["ended"], "text");
    let names = |report: &serde_json::Value| -> Vec<String> {
        let files = report["account"]["files"].as_array().unwrap();
        files
            .iter()
            .map(|file| file["path"].as_str().unwrap().to_owned())
            .collect()
    };
    assert!(names(&report).contains(&"/srv/second".to_owned()));
    assert!(!names(&report).contains(&"/srv/never".to_owned()));

    let report = image.report(&["--for", "1s"], &server);
    assert_eq!(report["ended"], "time");
    assert!(names(&report).contains(&"/srv/second".to_owned()));

    let output = image.start(&["--timeout", "1s"], &server);
    assert_eq!(output.status.code(), Some(1), "{}", support_text(&output));
    assert!(written(&output).contains("--timeout"));
    let output = image.start(&["--until", "never said"], &["echo", "something"]);
    assert_eq!(output.status.code(), Some(1), "{}", support_text(&output));
}

/// Lines of a file of `/proc` with a text.
fn lines(path: &str, text: &str) -> usize {
    let all = std::fs::read_to_string(path).unwrap_or_default();
    all.lines().filter(|line| line.contains(text)).count()
}

#[test]
fn an_interrupted_start_leaves_no_mount_and_no_process() {
    if !can_run() {
        return;
    }
    let image = Converted::new(&small(), &[]);
    let scratch = tempfile::tempdir().unwrap();
    let mark = format!("{}", 600_000 + std::process::id());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut child = program()
            .args(["cold-start", &image.name(), "--", "sleep", &mark])
            .env("TMPDIR", scratch.path())
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let place = scratch.path().to_str().unwrap();
        until("the mount", || {
            (lines("/proc/self/mounts", place) > 0 && sleeps(&mark) > 0).then_some(())
        });
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(128 + signal as i32));
        assert_eq!(lines("/proc/self/mounts", place), 0);
        until("the end of the command", || {
            (sleeps(&mark) == 0).then_some(())
        });
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}

/// How many processes have a word in their command line.
fn sleeps(word: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let is_it = |path: std::path::PathBuf| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next().is_some_and(|name| name.ends_with(b"sleep"))
            && words.next() == Some(word.as_bytes())
    };
    processes.filter(|entry| is_it(entry.path())).count()
}

#[test]
fn every_start_is_cold_and_reading_as_a_node_takes_whole_pieces() {
    if !can_run() {
        return;
    }
    let image = Converted::new(&small(), &[]);
    let options = ["--refill", "64KiB"];
    let first = image.report(&options, &["cat", "first", "second"]);
    let second = image.report(&options, &["cat", "first", "second"]);
    assert_eq!(first["requests"], second["requests"]);
    assert_eq!(first["bytes"], second["bytes"]);
    let ranges = first["account"]["ranges"].as_array().unwrap();
    assert_eq!(Some(ranges.len() as u64), first["requests"].as_u64());
    let mut sum = 0;
    for range in ranges {
        let length = range["length"].as_u64().unwrap();
        assert!(range["offset"].as_u64().unwrap().is_multiple_of(64 << 10));
        assert!((1..=64 << 10).contains(&length));
        sum += length;
    }
    assert_eq!(Some(sum), first["bytes"].as_u64());
    assert!(
        sum < first["image_bytes"].as_u64().unwrap(),
        "what is not read is not fetched"
    );
    assert_eq!(first["probes"]["of_one_byte"], 6);
    assert_eq!(first["probes"]["without_range"], 2);
    let needed = first["account"]["needed_bytes"].as_u64().unwrap();
    assert!((1..sum).contains(&needed));

    let slow = image.report(
        &["--refill", "64KiB", "--latency", "50ms"],
        &["cat", "first"],
    );
    // Some requests wait for others: the indexes for the trailers, files for directories.
    assert!(slow["seconds"].as_f64().unwrap() > 0.2, "{slow}");
}

#[test]
fn files_are_recorded_in_the_order_in_which_they_were_read_each_by_one_name() {
    if !can_run() {
        return;
    }
    let image = Converted::new(&small(), &[]);
    let list = image.directory().join("list");
    let record = ["--record", list.to_str().unwrap()];
    let command = ["sh", "-c", "cat second; cat first; cat zweite"];
    let output = image.start(&record, &command);
    assert!(output.status.success(), "{}", support_text(&output));
    let text = std::fs::read_to_string(&list).unwrap();
    let of_srv: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("/srv"))
        .collect();
    assert_eq!(of_srv, ["/srv/second", "/srv/first"]);
    let place = |name: &str| text.lines().position(|line| line == name).unwrap();
    assert!(place("/bin/sh") < place("/bin/cat"));
    assert!(place("/bin/cat") < place("/srv/second"));

    // It is a list as `convert` wants it.
    let ordered = Converted::new(&small(), &["--prefetch-list", list.to_str().unwrap()]);
    let output = ordered.start(&[], &command);
    assert!(output.status.success(), "{}", support_text(&output));
}
