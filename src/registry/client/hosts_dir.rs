//! Directories with settings by host: Docker's `certs.d` and containerd's `hosts.toml`.
//! Sources: Docker's "Verify repository client with certificates", containerd's `docs/hosts.md`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use toml::{Table, Value};
use url::Url;

use crate::oci::reference;
use crate::registry::{ClientIdentity, Error};

/// What a host may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Content by digest.
    pub(crate) pull: bool,
    /// What a tag stands for.
    pub(crate) resolve: bool,
    pub(crate) push: bool,
}

impl Capabilities {
    const ALL: Self = Self {
        pull: true,
        resolve: true,
        push: true,
    };
}

/// One host that answers for a registry.
#[derive(Debug, Clone)]
pub(crate) struct HostEntry {
    /// The API's address with its `/v2`; `None` for the registry's own host.
    pub(crate) base: Option<Url>,
    /// Whether it is the registry itself, not a mirror.
    pub(crate) is_registry: bool,
    pub(crate) can: Capabilities,
    pub(crate) roots: Vec<PathBuf>,
    pub(crate) client: Option<ClientIdentity>,
    pub(crate) skip_verify: Option<bool>,
    pub(crate) headers: HeaderMap,
    pub(crate) dial_timeout: Option<Duration>,
}

impl HostEntry {
    /// The registry as it is without a directory.
    pub(super) fn registry() -> Self {
        Self {
            base: None,
            is_registry: true,
            can: Capabilities::ALL,
            roots: Vec::new(),
            client: None,
            skip_verify: None,
            headers: HeaderMap::new(),
            dial_timeout: None,
        }
    }
}

/// The hosts of the first directory that has the registry; the registry itself comes last.
pub(super) fn find(directories: &[PathBuf], host: &str) -> Result<Option<Vec<HostEntry>>, Error> {
    let own = names(host);
    // containerd's `_default` is for hosts without a directory of their own.
    for names in [own.as_slice(), &["_default".to_owned()]] {
        for directory in directories {
            for name in names {
                let path = directory.join(name);
                if path.is_dir() {
                    return read(&path).map(Some);
                }
            }
        }
    }
    Ok(None)
}

/// The names that a host's directory may have.
fn names(host: &str) -> Vec<String> {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => {
            vec![format!("{name}_{port}_"), host.to_owned()]
        }
        _ => vec![host.to_owned()],
    }
}

fn read(directory: &Path) -> Result<Vec<HostEntry>, Error> {
    let path = directory.join("hosts.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) => parse(&path, &text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            certificate_files(directory).map(|entry| vec![entry])
        }
        Err(error) => Err(Error::io(&path, &error)),
    }
}

/// Docker's way: `*.crt` are roots, `*.cert` with `*.key` a client certificate.
fn certificate_files(directory: &Path) -> Result<HostEntry, Error> {
    let mut entry = HostEntry::registry();
    let io = |error| Error::io(directory, &error);
    let mut paths = Vec::new();
    for found in std::fs::read_dir(directory).map_err(io)? {
        paths.push(found.map_err(io)?.path());
    }
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => entry.roots.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                let place = directory.display();
                if entry.client.is_some() {
                    return Err(Error::Configuration(format!(
                        "{place}: there are several client certificates (*.cert): leave one"
                    )));
                }
                // The key may also be in the certificate's file.
                let key = if key.is_file() { key } else { path.clone() };
                entry.client = Some(ClientIdentity {
                    certificate: path,
                    key,
                });
            }
            _ => {}
        }
    }
    Ok(entry)
}

/// The hosts in the text of a `hosts.toml`, whose `path` is for relative paths and errors.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Vec<HostEntry>, Error> {
    HostsFile { path }.read(text)
}

struct HostsFile<'a> {
    path: &'a Path,
}

impl HostsFile<'_> {
    fn read(&self, text: &str) -> Result<Vec<HostEntry>, Error> {
        let mut table: Table = text
            .parse()
            .map_err(|error: toml::de::Error| self.wrong("", error.message()))?;
        let mut entries = Vec::new();
        match table.remove("host") {
            None => {}
            Some(Value::Table(hosts)) => {
                for (address, settings) in hosts {
                    let name = reference::shown_address(&address);
                    let Value::Table(settings) = settings else {
                        return Err(self.wrong(&name, "a table is expected"));
                    };
                    let entry = self.entry(&name, Some(&address), settings)?;
                    entries.push(HostEntry {
                        is_registry: false,
                        ..entry
                    });
                }
            }
            Some(_) => return Err(self.wrong("host", "tables [host.\"ADDRESS\"] are expected")),
        }
        let server = match table.remove("server") {
            None => None,
            Some(Value::String(server)) if server.is_empty() => None,
            Some(Value::String(server)) => Some(server),
            Some(_) => return Err(self.wrong("server", "a text is expected")),
        };
        entries.push(self.entry("server", server.as_deref(), table)?);
        Ok(entries)
    }

    /// `name` is for errors.
    fn entry(&self, name: &str, address: Option<&str>, table: Table) -> Result<HostEntry, Error> {
        let mut entry = HostEntry::registry();
        let mut override_path = false;
        for (key, value) in table {
            let at = format!("{name}: {key}");
            match (key.as_str(), value) {
                ("capabilities", value) => entry.can = self.capabilities(&at, &value)?,
                ("ca", value) => entry.roots = self.paths(&at, &value)?,
                ("client", value) => entry.client = self.client(&at, &value)?,
                ("skip_verify", Value::Boolean(value)) => entry.skip_verify = Some(value),
                ("override_path", Value::Boolean(value)) => override_path = value,
                ("header", Value::Table(table)) => entry.headers = self.headers(&at, &table)?,
                ("dial_timeout", Value::String(text)) => {
                    let limit = humantime::parse_duration(&text)
                        .map_err(|_| self.wrong(&at, "a duration such as 3s is expected"))?;
                    entry.dial_timeout = Some(limit);
                }
                ("skip_verify" | "override_path", _) => {
                    return Err(self.wrong(&at, "true or false is expected"));
                }
                ("header" | "dial_timeout", _) => {
                    return Err(self.wrong(&at, "it has the wrong type"));
                }
                _ => {
                    let known = "server, host, capabilities, ca, client, skip_verify, header, \
                                 override_path and dial_timeout are known";
                    return Err(self.wrong(&at, known));
                }
            }
        }
        entry.base = address
            .map(|address| self.base(name, address, override_path))
            .transpose()?;
        Ok(entry)
    }

    fn base(&self, name: &str, address: &str, override_path: bool) -> Result<Url, Error> {
        let with_scheme = if address.contains("://") {
            address.to_owned()
        } else {
            format!("https://{address}")
        };
        let mut url: Url = with_scheme
            .parse()
            .map_err(|error: url::ParseError| self.wrong(name, &error.to_string()))?;
        let is_plain = url.username().is_empty() && url.password().is_none();
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !is_plain {
            return Err(self.wrong(name, "http://HOST or https://HOST is expected"));
        }
        url.set_query(None);
        url.set_fragment(None);
        let path = url.path().trim_end_matches('/').to_owned();
        if override_path || path.ends_with("/v2") {
            url.set_path(&path);
        } else {
            url.set_path(&format!("{path}/v2"));
        }
        Ok(url)
    }

    fn capabilities(&self, at: &str, value: &Value) -> Result<Capabilities, Error> {
        let mut can = Capabilities {
            pull: false,
            resolve: false,
            push: false,
        };
        let names = self.texts(at, value)?;
        if names.is_empty() {
            return Ok(Capabilities::ALL);
        }
        for name in names {
            match name.to_ascii_lowercase().as_str() {
                "pull" => can.pull = true,
                "resolve" => can.resolve = true,
                "push" => can.push = true,
                // Lists of referrers come the same way as other content.
                "referrers" => {}
                _ => {
                    let why = format!("{name:?} is unknown: pull, resolve and push are known");
                    return Err(self.wrong(at, &why));
                }
            }
        }
        Ok(can)
    }

    /// A text, or several.
    fn texts(&self, at: &str, value: &Value) -> Result<Vec<String>, Error> {
        let wrong = || self.wrong(at, "a text or a list of texts is expected");
        match value {
            Value::String(text) => Ok(vec![text.clone()]),
            Value::Array(values) => values
                .iter()
                .map(|value| value.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect(),
            _ => Err(wrong()),
        }
    }

    fn paths(&self, at: &str, value: &Value) -> Result<Vec<PathBuf>, Error> {
        let texts = self.texts(at, value)?;
        Ok(texts.iter().map(|text| self.resolve(text)).collect())
    }

    fn resolve(&self, text: &str) -> PathBuf {
        let directory = self.path.parent().unwrap_or_else(|| Path::new("."));
        directory.join(text)
    }

    /// A file with both, or a list of such files, or of pairs of certificate and key.
    fn client(&self, at: &str, value: &Value) -> Result<Option<ClientIdentity>, Error> {
        let identity = |certificate: &str, key: &str| ClientIdentity {
            certificate: self.resolve(certificate),
            key: self.resolve(key),
        };
        let one = match value {
            Value::String(both) => return Ok(Some(identity(both, both))),
            Value::Array(values) if values.is_empty() => return Ok(None),
            Value::Array(values) => match values.as_slice() {
                [one] => one,
                _ => return Err(self.wrong(at, "there are several client certificates: leave one")),
            },
            _ => return Err(self.wrong(at, "a path or a list is expected")),
        };
        let texts = self.texts(at, one)?;
        match texts.as_slice() {
            [both] => Ok(Some(identity(both, both))),
            [certificate, key] if key.is_empty() => Ok(Some(identity(certificate, certificate))),
            [certificate, key] => Ok(Some(identity(certificate, key))),
            _ => Err(self.wrong(at, "pairs of certificate and key are expected")),
        }
    }

    fn headers(&self, at: &str, table: &Table) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        for (name, value) in table {
            let at = format!("{at}.{name}");
            let name: HeaderName = name
                .parse()
                .map_err(|_| self.wrong(&at, "this is no header's name"))?;
            for text in self.texts(&at, value)? {
                let mut value: HeaderValue = text
                    .parse()
                    .map_err(|_| self.wrong(&at, "this is no header's value"))?;
                value.set_sensitive(true);
                headers.append(name.clone(), value);
            }
        }
        Ok(headers)
    }

    fn wrong(&self, at: &str, why: &str) -> Error {
        let path = self.path.display();
        let separator = if at.is_empty() { "" } else { ": " };
        Error::Configuration(format!("{path}: {at}{separator}{why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<HostEntry>, Error> {
        let path = Path::new("/certs/docker.io/hosts.toml");
        HostsFile { path }.read(text)
    }

    #[test]
    fn mirrors_are_in_order_before_the_registry() {
        let entries = parse(
            r#"
            server = "https://registry-1.docker.io"
            [host."http://z.example:5000"]
              capabilities = ["pull"]
              dial_timeout = "3s"
            [host."a.example/hub"]
              capabilities = ["pull", "resolve"]
              ca = "a.crt"
              client = [["a.cert", "/keys/a.key"]]
              skip_verify = true
              [host."a.example/hub".header]
                x-custom = ["1", "2"]
            [host."https://b.example/api/repo"]
              override_path = true
            "#,
        )
        .unwrap();
        let bases: Vec<_> = entries
            .iter()
            .map(|entry| entry.base.as_ref().unwrap().as_str())
            .collect();
        assert_eq!(
            bases,
            [
                "http://z.example:5000/v2",
                "https://a.example/hub/v2",
                "https://b.example/api/repo",
                "https://registry-1.docker.io/v2"
            ]
        );
        assert!(!entries[0].can.resolve && entries[0].can.pull && !entries[0].is_registry);
        assert_eq!(entries[0].dial_timeout, Some(Duration::from_secs(3)));
        assert_eq!(entries[1].roots, [Path::new("/certs/docker.io/a.crt")]);
        let client = entries[1].client.as_ref().unwrap();
        assert_eq!(client.certificate, Path::new("/certs/docker.io/a.cert"));
        assert_eq!(client.key, Path::new("/keys/a.key"));
        assert_eq!(entries[1].skip_verify, Some(true));
        assert_eq!(entries[1].headers.get_all("x-custom").iter().count(), 2);
        assert!(entries[3].is_registry && entries[3].can == Capabilities::ALL);
    }

    #[test]
    fn a_file_without_server_means_the_registry_itself() {
        let entries = parse("ca = ['x.crt', '/y.crt']").unwrap();
        assert!(entries[0].base.is_none() && entries[0].roots.len() == 2);
    }

    #[test]
    fn an_invalid_file_is_an_error_that_names_the_key() {
        for (text, part) in [
            ("sever = 'x'", "sever"),
            ("server = 1", "server"),
            ("[host.'h']\ncapabilities = ['fly']", "\"fly\""),
            ("[host.'h']\nclient = [['a','b'],['c','d']]", "several"),
            ("[host.'h']\nskip_verify = 'yes'", "h: skip_verify"),
            ("[host.'ftp://h']", "ftp://h"),
            ("host = 1", "host"),
            ("server = ", "hosts.toml"),
            ("dial_timeout = 'soon'", "duration"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(
                error.contains(part) && error.contains("hosts.toml"),
                "{error}"
            );
        }
    }

    #[test]
    fn dockers_directory_is_found_by_host_and_port() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("r.io:5000");
        std::fs::create_dir(&directory).unwrap();
        for name in ["ca.crt", "client.cert", "client.key", "readme"] {
            std::fs::write(directory.join(name), "").unwrap();
        }
        let roots = [root.path().to_owned()];
        let entries = find(&roots, "r.io:5000").unwrap().unwrap();
        assert_eq!(entries[0].roots, [directory.join("ca.crt")]);
        let client = entries[0].client.as_ref().unwrap();
        assert_eq!(client.key, directory.join("client.key"));
        assert!(find(&roots, "r.io").unwrap().is_none());
        let default = root.path().join("_default");
        std::fs::create_dir(&default).unwrap();
        std::fs::write(default.join("hosts.toml"), "skip_verify = true").unwrap();
        let others = find(&roots, "r.io").unwrap().unwrap();
        assert_eq!(others[0].skip_verify, Some(true));
        let own = find(&roots, "r.io:5000").unwrap().unwrap();
        assert_eq!(own[0].skip_verify, None);
        std::fs::write(directory.join("other.cert"), "").unwrap();
        assert!(find(&roots, "r.io:5000").is_err());
    }
}
