//! Registries behind an egress proxy: Debian's squid, which alone knows their names.

mod squid;

mod client;
mod convert;
mod refusals;
mod serve;

use crate::{registry_support, support};
use std::path::Path;
use std::process::Command;

use registry_support::DockerRegistry;
use squid::{Settings, Squid};
use support::image::{Image, Sealed};
use support::registry::Registry;
use support::tar::Tar;
use support::{have, run};

/// The registry's name, which no resolver but squid's knows (RFC 6761 § 6.2).
const NAME: &str = "registry.corp.test";
/// Another name of the same place.
const OTHER: &str = "other.corp.test";

/// The program, without what this machine says of egress proxies.
fn program() -> Command {
    let mut command = support::proxy::program();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUEST_METHOD"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
}

fn image() -> Sealed {
    let tar = Tar::new().dir("srv").file("srv/app", "an application");
    Image::gzip(&[tar.finish()]).seal()
}

/// A registry with `app:1` by plain HTTP, and a squid before it.
struct Place {
    squid: Squid,
    registry: Registry,
    image: Sealed,
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Option<Self> {
        Self::with(&Settings::default())
    }

    /// With more settings of squid, which knows both names in any case.
    fn with(settings: &Settings) -> Option<Self> {
        let squid = Squid::start(&Settings {
            names: &[NAME, OTHER],
            ..*settings
        })?;
        let registry = Registry::start()?;
        let image = image();
        registry.push("app", "1", &image);
        Some(Self {
            squid,
            registry,
            image,
            directory: tempfile::tempdir().unwrap(),
        })
    }

    /// `NAME:PORT`, as squid knows the registry.
    fn host(&self) -> String {
        let (_, port) = self.registry.address().rsplit_once(':').unwrap();
        format!("{NAME}:{port}")
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

/// The same registry's content behind TLS, with a certificate for [`NAME`].
struct Secure {
    place: Place,
    registry: DockerRegistry,
    ca: String,
}

impl Secure {
    fn new() -> Option<Self> {
        Self::with(&Settings::default(), false)
    }

    /// With a squid that speaks TLS too, with a certificate of the same authority, if `both`.
    fn with(settings: &Settings, both: bool) -> Option<Self> {
        if !have(&["openssl", "docker-registry", "squid"]) {
            return None;
        }
        let pki = tempfile::tempdir().unwrap();
        run(Command::new("certs/make.sh").arg(pki.path()).arg(NAME));
        let place = Place::with(&Settings {
            tls: both.then_some(pki.path()),
            ..*settings
        })?;
        run(Command::new("cp")
            .arg("-a")
            .arg(pki.path())
            .arg(place.path("pki")));
        let of = |name: &str| {
            Path::new(&place.path("pki"))
                .join(name)
                .display()
                .to_string()
        };
        let (crt, key) = (of("server.crt"), of("server.key"));
        let storage = place.registry.storage();
        let registry = DockerRegistry::start_with(|directory| {
            run(Command::new("cp").arg("-a").arg(storage).arg(directory));
            registry_support::Settings {
                http: format!("  tls:\n    certificate: {crt}\n    key: {key}\n"),
                ..registry_support::Settings::default()
            }
        })?;
        let ca = of("ca.crt");
        Some(Self {
            place,
            registry,
            ca,
        })
    }

    fn port(&self) -> &str {
        self.registry.host.rsplit_once(':').unwrap().1
    }
}

/// What a run of the program came to: whether it went well, and all that it printed.
fn finish(mut command: Command) -> (bool, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.success(), text)
}
