//! The status page, as a browser shows it: to the eye, to the keyboard, without scripts.

mod browser;
mod live;
mod looks;
mod requests;
mod text;

use crate::support;
use std::fs;
use std::path::Path;
use std::thread::JoinHandle;

use nix::sys::signal::Signal;
use serde_json::json;

use support::gate::{Gate, Hold};
use support::http;
use support::image::{Image, Sealed};
use support::noise;
use support::proxy::{Proxy, program};
use support::registry::Registry;
use support::tar::Tar;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// In an image's configuration, and so in the error that it leads to.
const MARKUP: &str =
    "<script>window.attacked = 1</script>\"><img src=x onerror='window.attacked=1'>";
const RULES: &str = "[[policy]]\nrepository = 'secret/*'\nwhen = 'never'\n\
    [[policy]]\nrepository = 'sized'\nmax-size = '1MiB'\nformat = 'original'\n";

fn image(seed: u64, layers: u64) -> Image {
    let layer = |number| {
        let content = noise(100 * seed + number, 200_000);
        Tar::new().file(&format!("file-{number}"), content).finish()
    };
    let tars: Vec<_> = (0..layers).map(layer).collect();
    Image::gzip(&tars)
}

/// A registry with `app:1`, of two layers, `broken:1`, which cannot be converted, and
/// `secret/app:1`, which must not be, before which answers can be halted; and a proxy.
struct Started {
    proxy: Proxy,
    gate: Gate,
    app: Sealed,
    has_token: bool,
    registry: Registry,
    scratch: tempfile::TempDir,
}

/// A proxy whose files are in a directory.
fn serve(scratch: &Path, gate: &Gate, has_token: bool) -> Proxy {
    let path = |name: &str| scratch.join(name);
    let mut command = program();
    command.arg("--config").arg(path("rules.toml"));
    let token = path("token").display().to_string();
    let mut options = vec!["--platform", "linux/amd64", "--failure-ttl", "1h"];
    if has_token {
        options.extend(["--admin-token-file", &token]);
    }
    Proxy::start_as(command, &gate.url(), &path("data"), &options)
}

impl Started {
    fn new(has_token: bool) -> Option<Self> {
        let registry = Registry::start()?;
        let app = image(1, 2).seal();
        registry.push("app", "1", &app);
        registry.push("secret/app", "1", &app);
        let mut broken = image(2, 1);
        broken.config["rootfs"]["diff_ids"] = json!([MARKUP]);
        registry.push("broken", "1", &broken.seal());
        let gate = Gate::before(registry.address());
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        fs::write(path("token"), format!("{TOKEN}\n")).unwrap();
        fs::write(path("rules.toml"), RULES).unwrap();
        let proxy = serve(scratch.path(), &gate, has_token);
        Some(Self {
            proxy,
            gate,
            app,
            has_token,
            registry,
            scratch,
        })
    }

    /// Ends the proxy, and starts another in its data directory.
    fn restart(&mut self) {
        self.proxy.signal(Signal::SIGTERM);
        self.proxy = serve(self.scratch.path(), &self.gate, self.has_token);
    }

    /// The page's address.
    fn page(&self) -> String {
        format!("{}/", self.proxy.admin())
    }

    /// Pulls the converted image, in the background.
    fn pull(&self, name: &str) -> JoinHandle<http::Answer> {
        let url = format!("{}/v2/{name}/manifests/1_obd", self.proxy.url());
        std::thread::spawn(move || http::get(&url))
    }

    /// Pulls `app:1`, whose upper layer does not come to its end, in the background.
    fn pull_held(&self) -> (Hold, JoinHandle<http::Answer>) {
        let hold = self.gate.halt(&self.app.blobs[2].digest(), 1000);
        let pull = self.pull("app");
        hold.wait();
        (hold, pull)
    }

    /// Pulls the image that cannot be converted.
    fn fail(&self) {
        let answer = self.pull("broken").join().unwrap();
        assert_eq!(answer.status, 400, "{answer:?}");
    }
}
