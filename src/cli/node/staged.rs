//! A node's `hosts.toml` for the registry client: the files that it names are read within the
//! node's root first.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::hosts::Registry;
use super::root::Root;

/// A copy that lives as long as this.
pub struct Staged {
    directory: tempfile::TempDir,
    has_hosts: bool,
}

impl Staged {
    /// For the registry client; none if the node has no file for this registry.
    pub fn directories(&self) -> Vec<PathBuf> {
        let one = self.has_hosts.then(|| self.directory.path().join("hosts"));
        one.into_iter().collect()
    }

    /// A file with the authorities that the node trusts.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn bundle(&self, bundle: Option<&(&str, Vec<u8>)>) -> Result<Vec<PathBuf>, String> {
        let Some((_, bytes)) = bundle else {
            return Ok(Vec::new());
        };
        let path = self.directory.path().join("bundle.crt");
        std::fs::write(&path, bytes).map_err(|error| error.to_string())?;
        Ok(vec![path])
    }
}

/// The file for a registry, or that for all others.
///
/// # Errors
/// What cannot be read or copied.
pub fn hosts(root: &Root, registries: &[Registry], host: &str) -> Result<Staged, String> {
    let text = |error: std::io::Error| error.to_string();
    let directory = tempfile::tempdir().map_err(text)?;
    let own = registries
        .iter()
        .find(|registry| registry.host.as_deref() == Some(host));
    let found = own.or_else(|| registries.iter().find(|registry| registry.host.is_none()));
    let has_hosts = found.is_some();
    if let Some(registry) = found {
        let place = directory.path().join("hosts/_default");
        std::fs::create_dir_all(&place).map_err(text)?;
        let read = root.text(&registry.file).map_err(text)?.unwrap_or_default();
        let mut table: Table = read
            .parse()
            .map_err(|_| format!("{}: it changed", registry.file))?;
        let beside = registry
            .file
            .rsplit_once('/')
            .map_or("", |(before, _)| before);
        let mut copies = Copies {
            root,
            place: &place,
            beside,
            count: 0,
        };
        copies.all(&mut table)?;
        if let Some(Value::Table(hosts)) = table.get_mut("host") {
            for (_, settings) in hosts {
                if let Value::Table(settings) = settings {
                    copies.all(settings)?;
                }
            }
        }
        std::fs::write(place.join("hosts.toml"), table.to_string()).map_err(text)?;
    }
    Ok(Staged {
        directory,
        has_hosts,
    })
}

struct Copies<'a> {
    root: &'a Root,
    place: &'a Path,
    beside: &'a str,
    count: usize,
}

/// Most files that are copied.
const MAX_COPIES: usize = 64;

impl Copies<'_> {
    fn all(&mut self, settings: &mut Table) -> Result<(), String> {
        for key in ["ca", "client"] {
            if let Some(value) = settings.get_mut(key) {
                self.within(value, 0)?;
            }
        }
        Ok(())
    }

    /// A path, a list of paths, or a list of pairs.
    fn within(&mut self, value: &mut Value, depth: usize) -> Result<(), String> {
        match value {
            Value::String(path) if !path.is_empty() => *path = self.copy(path)?,
            Value::Array(values) if depth < 2 => {
                for value in values {
                    self.within(value, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn copy(&mut self, path: &str) -> Result<String, String> {
        self.count += 1;
        if self.count > MAX_COPIES {
            return Err(format!("more than {MAX_COPIES} certificates are named"));
        }
        let whole = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("{}/{path}", self.beside)
        };
        let bytes = self
            .root
            .read(&whole)
            .map_err(|error| format!("{whole}: {error}"))?;
        let bytes = bytes.ok_or_else(|| format!("{whole}: there is no such file"))?;
        let copy = self.place.join(format!("{}.pem", self.count));
        std::fs::write(&copy, bytes).map_err(|error| error.to_string())?;
        Ok(copy.display().to_string())
    }
}
