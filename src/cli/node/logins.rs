//! Where overlaybd has its credentials from: a file, or a server that it asks
//! (`src/image_service.cpp`: `reload_auth`, `parse_auths`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use serde_json::{Map, Value};
use url::Url;

use super::overlaybd::{AREA, FILE};
use super::report::Report;
use super::root::Root;
use super::wire;
use crate::registry::Secret;

/// Where credentials come from.
#[derive(Debug)]
pub enum Source {
    /// The `auths` of a file.
    File(Map<String, Value>),
    /// A server, asked over HTTP.
    Http(Url),
    /// A server, asked through a socket.
    Socket(String),
}

/// A user with a password.
#[derive(Debug, Clone)]
pub struct Login {
    pub username: String,
    pub password: Secret,
}

/// What is set, looked at.
pub fn source(
    root: &Root,
    mode: &str,
    path: &str,
    legacy: &str,
    timeout: u64,
    report: &mut Report,
) -> Option<Source> {
    if !mode.is_empty() && path.is_empty() {
        report.wrong(
            AREA,
            format!("{FILE}: credentialConfig.path is missing"),
            "name the file, the address or the socket in credentialConfig.path",
        );
        return None;
    }
    if timeout == 0 {
        report.wrong(
            AREA,
            format!("{FILE}: credentialConfig.timeout is 0 seconds"),
            "\"timeout\": 1",
        );
    }
    match mode {
        "" => file(root, legacy, report),
        "file" => file(root, path, report),
        "uds" => Some(Source::Socket(path.to_owned())),
        // curl takes an address without a scheme for http.
        "http" => {
            let address = if path.contains("://") {
                path.to_owned()
            } else {
                format!("http://{path}")
            };
            match address.parse() {
                Ok(url) => Some(Source::Http(url)),
                Err(error) => {
                    report.wrong(
                        AREA,
                        format!("{FILE}: credentialConfig.path {path:?}: {error}"),
                        "\"path\": \"http://127.0.0.1:19876/auth\"",
                    );
                    None
                }
            }
        }
        "https" => {
            report.skipped(
                AREA,
                format!("{FILE}: credentials are asked for at {path}: not tried"),
            );
            None
        }
        other => {
            report.wrong(
                AREA,
                format!(
                    "{FILE}: credentialConfig.mode {other:?} is none of file, http, https \
                    and uds"
                ),
                "\"credentialConfig\": {\"mode\": \"uds\", \"path\": \
                    \"/run/overlaybd-proxy/credentials.sock\"}",
            );
            None
        }
    }
}

fn file(root: &Root, path: &str, report: &mut Report) -> Option<Source> {
    let text = match root.text(path) {
        Ok(Some(text)) => text,
        Ok(None) => {
            report.warning(
                AREA,
                format!("{path}: there is no such file: overlaybd has no credentials"),
                "for private registries copy examples/node/overlaybd/cred.json there, or run \
                    overlaybd-proxy credentials",
            );
            return None;
        }
        Err(error) => {
            report.wrong(AREA, format!("{path}: {error}"), "make it readable");
            return None;
        }
    };
    // Errors do not quote it.
    let auths = match serde_json::from_str::<Value>(&text) {
        Ok(value) => value.get("auths").and_then(Value::as_object).cloned(),
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            report.wrong(
                AREA,
                format!("{path}: line {line}, column {column}: it is no JSON"),
                "correct the line",
            );
            return None;
        }
    };
    let Some(auths) = auths else {
        report.wrong(
            AREA,
            format!("{path}: \"auths\" is missing: overlaybd-tcmu ends when it looks for it"),
            "{\"auths\": {}}",
        );
        return None;
    };
    let before = report.wrongs();
    for (key, entry) in &auths {
        check_entry(path, key, entry, report);
    }
    if root.mode(path).is_some_and(|mode| mode & 0o077 != 0) {
        report.warning(
            AREA,
            format!("{path}: others than its owner may read the passwords"),
            format!("chmod 600 {path}"),
        );
    }
    if report.wrongs() == before {
        report.ok(
            AREA,
            format!(
                "{path}: credentials for {}",
                crate::cli::output::count(auths.len(), "place")
            ),
        );
    }
    Some(Source::File(auths))
}

fn check_entry(path: &str, key: &str, entry: &Value, report: &mut Report) {
    let host = key.split('/').next().unwrap_or_default();
    if key.contains("://") || key.ends_with('/') || host.is_empty() {
        let bare = key.split("://").last().unwrap_or_default();
        let bare = match bare.trim_end_matches('/') {
            "index.docker.io/v1" => "registry-1.docker.io",
            bare => bare,
        };
        report.wrong(
            AREA,
            format!(
                "{path}: overlaybd compares {key:?} letter by letter with HOST or \
                HOST/PART, so it is for nothing"
            ),
            format!("name it {bare:?}"),
        );
    } else if matches!(host, "docker.io" | "index.docker.io") {
        report.wrong(
            AREA,
            format!("{path}: {key:?}: overlaybd knows Docker Hub as registry-1.docker.io only"),
            format!(
                "name it {:?}",
                key.replacen(host, "registry-1.docker.io", 1)
            ),
        );
    } else if login_of(entry).is_none() {
        let has_token = ["identitytoken", "registrytoken"]
            .iter()
            .any(|name| entry.get(name).is_some());
        let why = if has_token {
            "a token, which overlaybd cannot use"
        } else {
            "neither \"auth\" (base64 of USER:PASSWORD) nor \"username\" and \"password\""
        };
        report.wrong(
            AREA,
            format!("{path}: {key:?} has {why}"),
            "write \"username\" and \"password\"; helpers and tokens: run overlaybd-proxy \
                credentials",
        );
    }
}

/// A user with a password, as overlaybd reads an entry.
fn login_of(entry: &Value) -> Option<Login> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    if let Some(auth) = entry.get("auth") {
        let decoded = STANDARD.decode(auth.as_str()?).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (username, password) = decoded.split_once(':')?;
        return Some(Login {
            username: username.to_owned(),
            password: Secret::new(password),
        });
    }
    Some(Login {
        username: text("username")?.to_owned(),
        password: Secret::new(text("password")?),
    })
}

impl Source {
    /// The credentials for a blob, or that there are none.
    ///
    /// # Errors
    /// Where the server does not answer as overlaybd expects it.
    pub async fn find(&self, root: &Root, blob: &Url) -> Result<Option<Login>, String> {
        match self {
            Self::File(auths) => Ok(among(auths, blob)),
            Self::Http(server) => {
                let mut asked = server.clone();
                asked.set_query(Some(&format!("remote_url={blob}")));
                let (tls, _) = super::tls::any_server(None)?;
                let answer = wire::get(&asked, &tls, &HeaderMap::new()).await?;
                understood(&answer, blob)
            }
            Self::Socket(path) => {
                let stream = root
                    .connect(path)
                    .await
                    .map_err(|error| error.to_string())?;
                let target = format!("/auth?remote_url={blob}");
                let answer =
                    wire::get_over(stream, &target, "localhost", &HeaderMap::new()).await?;
                understood(&answer, blob)
            }
        }
    }

    /// For people.
    pub fn place(&self) -> String {
        match self {
            Self::File(_) => "the file".to_owned(),
            Self::Http(server) => server.to_string(),
            Self::Socket(path) => path.clone(),
        }
    }
}

fn understood(answer: &wire::Answer, blob: &Url) -> Result<Option<Login>, String> {
    if answer.status != http::StatusCode::OK {
        return Err(format!("it answers {}", answer.status));
    }
    let body: Value =
        serde_json::from_slice(&answer.body).map_err(|_| "its answer is no JSON".to_owned())?;
    match body.get("success").and_then(Value::as_bool) {
        Some(true) => {}
        Some(false) => return Ok(None),
        None => return Err("its answer has no \"success\"".to_owned()),
    }
    let auths = body.pointer("/data/auths").and_then(Value::as_object);
    let auths = auths.ok_or("its answer has no \"data\" with \"auths\"")?;
    Ok(among(auths, blob))
}

/// The first entry whose name is the host, or the host with a part of the path.
fn among(auths: &Map<String, Value>, blob: &Url) -> Option<Login> {
    let host = blob.host_str()?;
    let host = match blob.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let path = blob.path().strip_prefix("/v2/")?;
    let mut names = vec![host.clone()];
    let mut name = host;
    // The digest is none of them.
    let parts: Vec<&str> = path.split('/').collect();
    for part in parts.iter().take(parts.len().saturating_sub(1)) {
        name = format!("{name}/{part}");
        names.push(name.clone());
    }
    let mut entries = auths.iter().filter(|(key, _)| names.contains(key));
    entries.find_map(|(_, entry)| login_of(entry))
}
