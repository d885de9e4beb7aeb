//! A collector behind TLS.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::until::until;
use crate::support::{have, run};
use crate::traces::collector::Collector;
use crate::traces::{Upstream, traced};

/// An authority, and a server's certificate and key.
struct Keys(tempfile::TempDir);

impl Keys {
    fn new() -> Option<Self> {
        if !have(&["openssl"]) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs/make.sh");
        run(Command::new(script).arg(directory.path()));
        Some(Self(directory))
    }

    fn authority(&self) -> PathBuf {
        self.0.path().join("ca.crt")
    }
}

#[test]
fn spans_arrive_at_a_collector_whose_authority_is_known() {
    let (Some(keys), Some(upstream)) = (Keys::new(), Upstream::start()) else {
        return;
    };
    let authority = keys.authority().display().to_string();
    // One of the system's, as the variable names them; and one that is given.
    let variable = [("SSL_CERT_FILE", &*authority)];
    let option = ["--upstream-ca", &*authority];
    for (variables, more) in [(&variable[..], &[][..]), (&[], &option)] {
        let collector = Collector::start_with_tls(keys.0.path());
        let data = tempfile::tempdir().unwrap();
        let proxy = traced(&upstream, &collector, data.path(), variables, more);
        assert_eq!(proxy.get("team/app/tags/list").status, 200);
        let span = collector.wait("GET /v2/{name}/tags/list");
        assert_eq!(span.get("http.response.status_code"), "200");
        proxy.stop();
    }
}

#[test]
fn a_certificate_that_is_not_trusted_is_said_and_costs_no_request() {
    let (Some(keys), Some(upstream)) = (Keys::new(), Upstream::start()) else {
        return;
    };
    let collector = Collector::start_with_tls(keys.0.path());
    let data = tempfile::tempdir().unwrap();
    let proxy = traced(&upstream, &collector, data.path(), &[], &[]);
    assert_eq!(proxy.get("team/app/tags/list").status, 200);
    let warning = until("a warning", || {
        let log = proxy.log();
        let line = log.lines().find(|line| line.contains("spans were lost"));
        line.map(ToOwned::to_owned)
    });
    assert!(warning.contains("certificate"), "{warning}");
    assert!(warning.contains(&collector.url()), "{warning}");
    // It is another one's, and would be again: it is not tried twice.
    assert_eq!(proxy.get("team/app/tags/list").status, 200);
    assert_eq!(proxy.converted("team/app", "1")["schemaVersion"], 2);
    assert!(collector.heads().is_empty());
    proxy.stop();
}
