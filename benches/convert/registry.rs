//! Debian's docker-registry on loopback.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::Failure;
use crate::client::Client;
use crate::data::Image;
use crate::process::{Server, command};

/// What is said where the program is missing.
pub const MISSING: &str = "docker-registry is not installed (tests/setup.sh installs it)";

/// A running registry with a storage of its own; both end when this is dropped.
pub struct Registry {
    /// `127.0.0.1:PORT`.
    pub host: String,
    directory: PathBuf,
    server: Option<Server>,
}

/// Where the program is.
pub fn program() -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places = path.split(':').chain(["/usr/bin", "/usr/sbin"]);
    places.find_map(|place| {
        let path = Path::new(place).join("docker-registry");
        path.is_file().then_some(path)
    })
}

impl Registry {
    /// An empty registry in `directory`, which must not exist.
    pub fn start(program: &Path, directory: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(directory)?;
        let mut failure = None;
        // Between our letting go of a port and the registry's taking it another may come.
        for _ in 0..5 {
            match start(program, directory) {
                Ok((server, host)) => {
                    return Ok(Self {
                        host,
                        directory: directory.to_owned(),
                        server: Some(server),
                    });
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| "docker-registry does not start".into()))
    }

    /// Pushes an image of a layout as `repo:latest`.
    pub fn push(&self, image: &Image, repo: &str) -> Result<(), Failure> {
        let mut client = Client::connect(&self.host)?;
        let path = |hex: &str| image.layout.join("blobs/sha256").join(hex);
        for digest in image
            .layers
            .iter()
            .map(|layer| &layer.digest)
            .chain([&image.config])
        {
            let mut file = File::open(path(digest.hex()))?;
            let size = file.metadata()?.len();
            client.push_blob(repo, digest.as_str(), size, &mut file)?;
        }
        let manifest = fs::read(path(image.manifest.hex()))?;
        let media_type = crate::layout::media_type(&manifest)?;
        client.push_manifest(repo, "latest", &media_type, &manifest)?;
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.server.take());
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn start(program: &Path, directory: &Path) -> Result<(Server, String), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let host = listener.local_addr()?.to_string();
    drop(listener);
    let config = directory.join("config.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {host}}}\n",
        directory.join("storage").display()
    );
    fs::write(&config, text)?;
    let mut command = command(program, directory);
    command.arg("serve").arg(&config);
    let mut server = Server::start(command, &directory.join("log"))?;
    server.wait_for(|_| Client::connect(&host).ok()?.get("/v2/").ok())?;
    Ok((server, host))
}
