//! Docker's `config.json`: which entry is for a repository.
//!
//! Docker has an entry a host. Podman, crane and the kubelet also have entries for a part of one,
//! `HOST/PATH`, the longest of which is meant (containers-auth.json(5)).

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::login::Login;
use crate::oci::reference;
use crate::registry::Secret;

/// Docker Hub's key, by convention.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// The names of Docker Hub.
const HUB: [&str; 3] = ["index.docker.io", "docker.io", "registry-1.docker.io"];

/// The file, as far as it is about credentials.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct DockerConfig {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

impl std::fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DockerConfig(***)")
    }
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// The entry for a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Login(Login),
    /// The helper `docker-credential-PROGRAM` has the credentials for `server`.
    Helper {
        program: String,
        server: String,
    },
}

impl DockerConfig {
    /// Parses the file. Errors do not quote it.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| {
            format!(
                "line {}, column {}: this is no config.json of Docker",
                error.line(),
                error.column()
            )
        })
    }

    /// The most specific entry for a repository of a host; without a repository, that of the host.
    pub(super) fn find(&self, host: &str, repo: Option<&str>) -> Result<Found, String> {
        let is_hub = reference::is_docker_hub(host);
        let host = host.to_ascii_lowercase();
        let names: Vec<&str> = if is_hub { HUB.to_vec() } else { vec![&host] };
        let mut path = repo.unwrap_or_default();
        while !path.is_empty() {
            for name in &names {
                let key = format!("{name}/{path}");
                if let Some(found) = self.exactly(&key, &key, &key)? {
                    return Ok(found);
                }
            }
            path = path.rsplit_once('/').map_or("", |(before, _)| before);
        }
        let server = if is_hub { HUB_KEY } else { &host };
        for name in &names {
            if let Some(found) = self.exactly(server, name, server)? {
                return Ok(found);
            }
        }
        // Docker accepts a URL for its host.
        for (key, entry) in self.auths.iter().flatten() {
            let of_address = key.split_once("://").map(|(_, rest)| rest);
            let key_host = of_address.and_then(|rest| rest.split('/').next());
            let is_it = key_host.is_some_and(|key| names.contains(&key));
            if is_it && let Some(login) = entry.as_ref().and_then(|e| login(key, e).transpose()) {
                return login.map(Found::Login);
            }
        }
        let store = self.creds_store.as_ref().filter(|name| !name.is_empty());
        Ok(match store {
            Some(program) => Found::Helper {
                program: program.clone(),
                server: server.to_owned(),
            },
            None => Found::Login(Login::Anonymous),
        })
    }

    /// Whether the entry of a host, or of a part of it that has the repository, has a bearer token
    /// for the registry, which is used for nothing here.
    pub(super) fn has_registry_token(&self, host: &str, repo: Option<&str>) -> bool {
        let host = host.to_ascii_lowercase();
        let is_hub = reference::is_docker_hub(&host);
        let repo = repo.unwrap_or_default();
        self.auths.iter().flatten().any(|(key, entry)| {
            let key = normal(key);
            let (of, path) = key.split_once('/').unwrap_or((&key, ""));
            let is_host = of == host || (is_hub && HUB.contains(&of));
            let rest = repo.strip_prefix(path);
            let is_part =
                path.is_empty() || rest.is_some_and(|r| r.is_empty() || r.starts_with('/'));
            let token = entry
                .as_ref()
                .and_then(|entry| entry.registrytoken.as_ref());
            is_host && is_part && token.is_some_and(|token| !token.is_empty())
        })
    }

    /// The hosts that are named, at most so many.
    pub(super) fn hosts(&self, most: usize) -> Vec<String> {
        let keys = self.auths.iter().flatten().map(|(key, _)| key);
        let keys = keys.chain(self.cred_helpers.iter().flatten().map(|(key, _)| key));
        let hosts = keys.map(|key| {
            let key = normal(key);
            key.split('/').next().unwrap_or_default().to_owned()
        });
        let hosts: BTreeSet<String> = hosts.filter(|host| reference::is_host(host)).collect();
        hosts.into_iter().take(most).collect()
    }

    /// The entry under `raw`, or under a key that means `wanted`.
    fn exactly(&self, raw: &str, wanted: &str, server: &str) -> Result<Option<Found>, String> {
        let helpers = self.cred_helpers.iter().flatten();
        for (key, program) in helpers {
            if (key == raw || normal(key) == wanted) && !program.is_empty() {
                return Ok(Some(Found::Helper {
                    program: program.clone(),
                    server: server.to_owned(),
                }));
            }
        }
        let mut entries: Vec<_> = self.auths.iter().flatten().collect();
        // As it is written before what means the same.
        entries.sort_by_key(|(key, _)| *key != raw);
        for (key, entry) in entries {
            if (key == raw || normal(key) == wanted)
                && let Some(entry) = entry
                && let Some(login) = login(key, entry)?
            {
                return Ok(Some(Found::Login(login)));
            }
        }
        Ok(None)
    }
}

/// A key without what does not count: the scheme, the API's version, a slash at the end.
fn normal(key: &str) -> String {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key)
        .trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let host = host.to_ascii_lowercase();
    match path {
        "" | "v1" | "v2" => host,
        path => format!("{host}/{path}"),
    }
}

/// The credentials of an entry, if it has any: a helper's has none.
fn login(key: &str, entry: &Entry) -> Result<Option<Login>, String> {
    let is_there = |text: &&String| !text.is_empty();
    if let Some(token) = entry.identitytoken.as_ref().filter(is_there) {
        return Ok(Some(Login::Identity(Secret::new(token))));
    }
    if let Some(auth) = entry.auth.as_ref().filter(is_there) {
        return decode(auth)
            .map(Some)
            .ok_or_else(|| format!("\"auth\" of {key:?} is not USER:PASSWORD in base64"));
    }
    match (&entry.username, &entry.password) {
        (Some(username), Some(password)) => Ok(Some(Login::Basic {
            username: username.clone(),
            password: Secret::new(password.as_str()),
        })),
        _ => Ok(None),
    }
}

fn decode(auth: &str) -> Option<Login> {
    let any_padding =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    // `base64` breaks lines, and what it writes is pasted.
    let text: String = auth.split_ascii_whitespace().collect();
    let decoded = GeneralPurpose::new(&STANDARD, any_padding)
        .decode(text)
        .ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some(Login::Basic {
        username: username.to_owned(),
        // Docker pads what it writes with NULs; `echo` ends it with a newline.
        password: Secret::new(password.trim_end_matches(['\0', '\n', '\r'])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> DockerConfig {
        DockerConfig::parse(text.as_bytes()).unwrap()
    }

    fn user(config: &DockerConfig, host: &str, repo: &str) -> String {
        match config.find(host, Some(repo)) {
            Ok(Found::Login(Login::Basic { username, .. })) => username,
            Ok(Found::Login(Login::Anonymous)) => "nobody".to_owned(),
            Ok(Found::Login(Login::Identity(_))) => "a token".to_owned(),
            Ok(Found::Helper { program, server }) => format!("{program} {server}"),
            Err(error) => error,
        }
    }

    #[test]
    fn the_longest_key_of_a_repository_wins() {
        let config = config(
            r#"{"auths": {
                "registry.example": {"username": "host", "password": "x"},
                "registry.example/team": {"username": "team", "password": "x"},
                "registry.example/team/app": {"username": "app", "password": "x"},
                "other.example/v2/deep": {"username": "deep", "password": "x"},
                "https://other.example/v2/": {"username": "other", "password": "x"},
                "docker.io/library": {"username": "library", "password": "x"},
                "https://index.docker.io/v1/": {"username": "hub", "password": "x"},
                "https://old.example/some/where": {"username": "old", "password": "x"},
                "empty.example": {}
            }, "credHelpers": {"helped.example": "a", "helped.example/deep": "b"},
               "credsStore": "store"}"#,
        );
        for (host, repo, wanted) in [
            ("registry.example", "team/app", "app"),
            ("registry.example", "team/app/part", "app"),
            ("registry.example", "team/apple", "team"),
            ("registry.example", "team", "team"),
            ("registry.example", "teams/app", "host"),
            ("REGISTRY.example", "x", "host"),
            ("other.example", "x", "other"),
            ("other.example", "v2/deep/x", "deep"),
            ("docker.io", "library/redis", "library"),
            ("docker.io", "me/redis", "hub"),
            ("registry-1.docker.io", "me/redis", "hub"),
            ("old.example", "x", "old"),
            ("helped.example", "x", "a helped.example"),
            ("helped.example", "deep/x", "b helped.example/deep"),
            ("empty.example", "x", "store empty.example"),
            ("none.example", "x", "store none.example"),
        ] {
            assert_eq!(user(&config, host, repo), wanted, "{host}/{repo}");
        }
    }

    #[test]
    fn a_user_and_password_are_read_with_any_base64_padding() {
        for auth in [
            "bWU6cGFzcw==",
            "bWU6cGFzcw",
            "bWU6\\ncGFzcw==\\n",
            " bWU6cGFzcw== ",
            "bWU6cGFzcwo=",
            "bWU6cGFzcwAA",
        ] {
            let config = config(&format!(r#"{{"auths":{{"a":{{"auth":"{auth}"}}}}}}"#));
            let found = config.find("a", None).unwrap();
            let wanted = Login::Basic {
                username: "me".to_owned(),
                password: Secret::new("pass"),
            };
            assert_eq!(found, Found::Login(wanted), "{auth}");
        }
    }

    #[test]
    fn registry_tokens_and_hosts_are_listed() {
        let config = config(
            r#"{"auths": {
                "a.example": {"registrytoken": "t"},
                "b.example/team": {"registrytoken": "t"},
                "https://index.docker.io/v1/": {"registrytoken": "t"},
                "none.example": {"registrytoken": ""}, "null.example": null
            }, "credHelpers": {"c.example:5000": "x", "no host": "x"}}"#,
        );
        for (host, repo, wanted) in [
            ("a.example", "x", true),
            ("b.example", "team/app", true),
            ("b.example", "teams/app", false),
            ("docker.io", "library/redis", true),
            ("registry-1.docker.io", "library/redis", true),
            ("none.example", "x", false),
        ] {
            let found = config.has_registry_token(host, Some(repo));
            assert_eq!(found, wanted, "{host}/{repo}");
        }
        let hosts = config.hosts(64);
        let wanted = [
            "a.example",
            "b.example",
            "c.example:5000",
            "index.docker.io",
        ];
        assert_eq!(hosts[..4], wanted);
        assert_eq!((hosts.len(), config.hosts(2).len()), (6, 2));
    }

    #[test]
    fn errors_do_not_contain_secrets() {
        let error = DockerConfig::parse(br#"{"auths": "s3cret"}"#)
            .err()
            .unwrap();
        assert!(
            !error.contains("s3cret") && error.contains("line 1"),
            "{error}"
        );
        let config = config(r#"{"auths":{"a":{"auth":"s3cret!"}}}"#);
        let error = config.find("a", None).unwrap_err();
        assert!(
            !error.contains("s3cret") && error.contains("\"a\""),
            "{error}"
        );
    }
}
