//! A stop while an answer is under way.

use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::http2::{Scene, layer};
use crate::support;
use crate::support::until::until;

#[test]
fn an_answer_that_is_under_way_comes_to_its_end() {
    let Some(scene) = Scene::new(&["--drain", "1m"]) else {
        return;
    };
    let manifest = scene.curl("/v2/team/app/manifests/1_obd", &["--http2", "-L"]);
    let blob = layer(&manifest.json());
    let whole = scene.curl(&blob, &["--http2"]).body;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("blob");
    let mut child = support::command("curl")
        .args(["-sS", "--http2", "--limit-rate", "150k", "--cacert"])
        .arg(scene.keys.path("ca.crt"))
        .arg("-o")
        .arg(&file)
        .arg(format!("{}{blob}", scene.proxy.url()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the first bytes", || {
        std::fs::metadata(&file).ok().filter(|it| it.len() > 0)
    });
    scene.proxy.signal(Signal::SIGTERM);
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}\n{}", scene.proxy.log());
    assert!(std::fs::read(&file).unwrap() == whole);
}
