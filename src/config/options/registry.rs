//! How registries are spoken to.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{existing_file, list, optional, required, switch};
use crate::config::defaults::defaults;
use crate::config::{ConfigErrors, Text, bytes, duration, number};
use crate::oci::reference::{Scheme, is_host};
use crate::registry::config::MAX_MANIFEST;
use crate::registry::{
    ClientIdentity, Credentials, DialOptions, Egress, RegistryConfig, RetryPolicy, Secret,
    Timeouts, TlsOptions, UploadMode,
};

/// How registries are spoken to.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Registries")]
pub struct RegistryOptions {
    /// The proxy's own credentials for the registry: NAME:PASSWORD, or NAME with
    /// --password-file or --password-stdin [default: Docker's config.json]
    #[arg(short, long, value_name = "NAME[:PASSWORD]", alias = "username")]
    pub user: Option<Text>,
    /// File whose first line is the password of --user
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<Text>,
    /// Refresh token (identity token) for the registry's authorization server
    #[arg(long, value_name = "TOKEN")]
    pub refresh: Option<Text>,
    /// Docker's config.json with credentials and helpers, or none [default:
    /// $DOCKER_CONFIG/config.json or ~/.docker/config.json]
    #[arg(long, value_name = "FILE")]
    pub docker_config: Option<Text>,
    /// Speak plain HTTP to addresses without https:// or http://; loopback addresses without
    /// TLS settings get it unasked
    #[arg(long, value_name = "BOOL", alias = "plain")]
    pub plain_http: Option<Text>,
    /// Take any certificate
    #[arg(short = 'k', long, value_name = "BOOL", alias = "insecure")]
    pub skip_verify: Option<Text>,
    /// PEM files with roots that are trusted besides the system's
    #[arg(
        long,
        value_name = "FILE",
        value_delimiter = ',',
        visible_alias = "tlscacert",
        alias = "root-ca"
    )]
    pub upstream_ca: Vec<Text>,
    /// Certificate that is shown to registries, PEM
    #[arg(long, value_name = "FILE", visible_alias = "tlscert")]
    pub upstream_cert: Option<Text>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", visible_alias = "tlskey")]
    pub upstream_key: Option<Text>,
    /// Directories whose *.crt are roots, and *.cert with *.key the certificate to show
    #[arg(long, value_name = "DIR", value_delimiter = ',')]
    pub cert_dir: Vec<Text>,
    /// Whether the system's roots are trusted
    #[arg(long, value_name = "BOOL")]
    pub system_roots: Option<Text>,
    /// Directories with a folder of certificates or a hosts.toml for each host, such as
    /// /etc/containerd/certs.d; mirrors named there are asked first, so on a node they must
    /// not name this proxy
    #[arg(long, value_name = "DIR", value_delimiter = ',')]
    pub hosts_dir: Vec<Text>,
    /// Hosts that redirects and token realms may lead to, whatever their address: HOST or
    /// *.DOMAIN
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub allow_host: Vec<Text>,
    /// Let a redirect lead from https to plain http
    #[arg(long, value_name = "BOOL")]
    pub allow_downgrade: Option<Text>,
    /// HTTP proxy through which registries are reached, such as http://proxy.example:3128; none
    /// ignores the environment's [default: HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the
    /// environment]
    ///
    /// HTTP proxy through which registries, their token servers and what they redirect to are
    /// reached: http://proxy.example:3128, https://proxy.example if TLS is spoken with it, with
    /// USER:PASSWORD@ before its host if it asks for them. https:// registries are reached by
    /// CONNECT, http:// ones by passing requests on. It takes the place of HTTPS_PROXY and
    /// HTTP_PROXY; what NO_PROXY names is reached directly all the same. none ignores all three.
    /// An upstream may have its own: --upstream quay.io,egress-proxy=http://proxy.example:3128
    #[arg(long, value_name = "URL")]
    pub egress_proxy: Option<Text>,
    /// Offer HTTP/2 to registries and token servers with TLS, for all but blobs and what is passed on,
    /// which have connections of their own in any case. false where a registry speaks it badly; of
    /// one upstream: --upstream ghcr.io,http2=false
    #[arg(long, value_name = "BOOL")]
    pub upstream_http2: Option<Text>,
    /// How long a connection may take, TLS included
    #[arg(long, value_name = "TIME")]
    pub connect_timeout: Option<Text>,
    /// How long a registry's answer may take to begin
    #[arg(long, value_name = "TIME")]
    pub response_timeout: Option<Text>,
    /// How often a failed request is tried in all
    #[arg(long, value_name = "N")]
    pub attempts: Option<Text>,
    /// Upload blobs in chunks of this size [default: whole]
    #[arg(long, value_name = "SIZE")]
    pub upload_chunk: Option<Text>,
    /// Most bytes of a manifest that is taken from a registry
    #[arg(long, value_name = "SIZE")]
    pub max_manifest_size: Option<Text>,
}

impl RegistryOptions {
    /// The same without what must be sent to one registry only.
    #[must_use]
    pub fn without_credentials(&self) -> Self {
        Self {
            user: None,
            password_file: None,
            refresh: None,
            ..self.clone()
        }
    }

    /// Whether there are credentials for one registry.
    pub fn has_credentials(&self) -> bool {
        self.user.is_some() || self.refresh.is_some()
    }

    /// Completes `--user NAME` with a password that came another way.
    pub fn set_password(&mut self, password: &str, errors: &mut ConfigErrors) {
        match self.user.take() {
            Some(user) if !user.as_str().contains(':') => {
                self.user = Some(format!("{}:{password}", user.as_str()).into());
            }
            Some(_) => errors.add(
                "user",
                "has a password already; leave it or --password-stdin out",
            ),
            None => errors.add("user", "--password-stdin needs --user NAME"),
        }
    }

    /// The client's settings.
    pub fn config(&self, errors: &mut ConfigErrors) -> Option<RegistryConfig> {
        let plain_http = switch(errors, "plain-http", self.plain_http.as_ref());
        let tls = self.tls(errors);
        // The default need not be there.
        let default = defaults().get("hosts-dir").and_then(toml::Value::as_array);
        let is_default = |text: &Text| {
            let mut defaults = default.into_iter().flatten();
            defaults.any(|default| default.as_str() == Some(text.as_str()))
        };
        let named = self.hosts_dir.iter();
        for text in named.filter(|text| !text.as_str().is_empty() && !is_default(text)) {
            let text = text.as_str();
            match std::fs::metadata(text) {
                Ok(found) if found.is_dir() => {}
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    errors.add("hosts-dir", format!("{text} cannot be read: {error}"));
                }
                _ => errors.add("hosts-dir", format!("{text} is no directory")),
            }
        }
        let hosts_dirs = self.hosts_dir.iter().map(|text| text.as_str().into());
        let credentials = self.credentials(errors);
        let mut time = |name, value: &Option<Text>| {
            required(errors, name, value.as_ref(), |text| match duration(text)? {
                time if time.is_zero() => Err("a time over 0 is needed".to_owned()),
                time => Ok(time),
            })
        };
        let connect = time("connect-timeout", &self.connect_timeout);
        let response = time("response-timeout", &self.response_timeout);
        let attempts = required(errors, "attempts", self.attempts.as_ref(), |text| {
            number(text, 1..=100)
        });
        let dial = DialOptions {
            allow_hosts: list(errors, "allow-host", &self.allow_host, allowed_host),
            allow_downgrade: switch(errors, "allow-downgrade", self.allow_downgrade.as_ref()),
        };
        let egress = self.egress_proxy.as_ref();
        let egress = egress.filter(|text| !text.as_str().trim().is_empty());
        let egress = match optional(errors, "egress-proxy", egress, egress_of) {
            Some(egress) => egress,
            None if egress.is_none() => Egress::Environment,
            None => return None,
        };
        let http2 = self.upstream_http2.as_ref();
        let http2 = optional(errors, "upstream-http2", http2, crate::config::boolean);
        let chunk = self.upload_chunk.as_ref();
        let upload = optional(errors, "upload-chunk", chunk, |text| match bytes(text)? {
            size @ 65_536.. => Ok(UploadMode::Chunked(size)),
            _ => Err("chunks of at least 64KiB are expected".to_owned()),
        });
        let manifest = self.max_manifest_size.as_ref();
        let manifest_limit =
            required(
                errors,
                "max-manifest-size",
                manifest,
                |text| match usize::try_from(bytes(text)?) {
                    Ok(size @ 65_536..=MAX_MANIFEST) => Ok(size),
                    _ => Err(format!("64KiB to {}MiB is expected", MAX_MANIFEST >> 20)),
                },
            );
        Some(RegistryConfig {
            scheme: plain_http.then_some(Scheme::Http),
            tls,
            hosts_dirs: hosts_dirs.collect(),
            credentials: credentials?,
            timeouts: Timeouts {
                connect: connect?,
                response: response?,
                ..Timeouts::default()
            },
            retry: RetryPolicy {
                attempts: attempts?,
                ..RetryPolicy::default()
            },
            dial,
            egress,
            manifest_limit: manifest_limit?,
            upload: upload.unwrap_or(UploadMode::Monolithic),
            http2: http2.unwrap_or(true),
        })
    }

    fn tls(&self, errors: &mut ConfigErrors) -> TlsOptions {
        let mut extra_roots = list(errors, "upstream-ca", &self.upstream_ca, existing_file);
        let certificate = self.upstream_cert.as_ref();
        let certificate = optional(errors, "upstream-cert", certificate, existing_file);
        let key = optional(
            errors,
            "upstream-key",
            self.upstream_key.as_ref(),
            existing_file,
        );
        match (&self.upstream_cert, &self.upstream_key) {
            (Some(_), None) => errors.add("upstream-key", "the key of --upstream-cert is needed"),
            (None, Some(_)) => {
                errors.add(
                    "upstream-cert",
                    "the certificate of --upstream-key is needed",
                );
            }
            _ => {}
        }
        let mut client = certificate
            .zip(key)
            .map(|(certificate, key)| ClientIdentity { certificate, key });
        for directory in &self.cert_dir {
            match certificates_of(Path::new(directory.as_str())) {
                Ok((roots, identity)) => {
                    extra_roots.extend(roots);
                    client = client.or(identity);
                }
                Err(error) => errors.add("cert-dir", error),
            }
        }
        let roots = self.system_roots.as_ref();
        let system_roots = optional(errors, "system-roots", roots, crate::config::boolean);
        TlsOptions {
            extra_roots,
            system_roots: system_roots.unwrap_or(true),
            skip_verify: switch(errors, "skip-verify", self.skip_verify.as_ref()),
            client,
        }
    }

    fn credentials(&self, errors: &mut ConfigErrors) -> Option<Credentials> {
        if let Some(token) = &self.refresh {
            if self.user.is_some() {
                errors.add("refresh", "is used instead of --user: leave one out");
                return None;
            }
            return Some(Credentials::RefreshToken(Secret::new(token.as_str())));
        }
        if let Some(user) = &self.user {
            return self.user_and_password(user.as_str(), errors);
        }
        if self.password_file.is_some() {
            errors.add(
                "password-file",
                "is the password of --user, which is missing",
            );
            return None;
        }
        match self.docker_config.as_ref().map(Text::as_str) {
            Some("none") => Some(Credentials::Anonymous),
            Some(path) => Some(Credentials::DockerConfig {
                path: Some(errors.take("docker-config", existing_file(path))?),
            }),
            None => Some(Credentials::DockerConfig { path: None }),
        }
    }

    fn user_and_password(&self, user: &str, errors: &mut ConfigErrors) -> Option<Credentials> {
        let (username, password) = match (user.split_once(':'), &self.password_file) {
            (Some((name, password)), None) => (name, password.to_owned()),
            (None, Some(path)) => {
                let read = std::fs::read_to_string(path.as_str())
                    .map_err(|error| format!("{} cannot be read: {error}", path.as_str()));
                let text = errors.take("password-file", read)?;
                (user, text.lines().next().unwrap_or_default().to_owned())
            }
            (Some(_), Some(_)) => {
                errors.add(
                    "user",
                    "has a password, and --password-file another: drop one",
                );
                return None;
            }
            (None, None) => {
                errors.add(
                    "user",
                    "the password is missing: use NAME:PASSWORD, --password-file or \
                     --password-stdin",
                );
                return None;
            }
        };
        if username.is_empty() || password.is_empty() {
            errors.add("user", "a name and a password are needed");
            return None;
        }
        Some(Credentials::Basic {
            username: username.to_owned(),
            password: Secret::new(password),
        })
    }
}

fn egress_of(text: &str) -> Result<Egress, String> {
    match text {
        "none" | "off" => Ok(Egress::Direct),
        text => text.parse().map(Egress::Proxy),
    }
}

fn allowed_host(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    if is_host(name) && (!name.contains(':') || name.ends_with(']')) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is neither HOST nor *.DOMAIN, without a port"
        ))
    }
}

/// Docker's convention for a directory of certificates.
fn certificates_of(directory: &Path) -> Result<(Vec<PathBuf>, Option<ClientIdentity>), String> {
    let wrong = |error: std::io::Error| format!("{} cannot be read: {error}", directory.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(wrong)? {
        files.push(entry.map_err(wrong)?.path());
    }
    // One directory, one choice, whatever order the system lists it in.
    files.sort();
    let with = |extension: &str, path: &&PathBuf| path.extension().is_some_and(|e| e == extension);
    let roots = files.iter().filter(|path| with("crt", path)).cloned();
    let identity = files
        .iter()
        .find(|path| with("cert", path))
        .map(|certificate| ClientIdentity {
            key: certificate.with_extension("key"),
            certificate: certificate.clone(),
        });
    match identity {
        Some(identity) if !identity.key.is_file() => Err(format!(
            "{} has no key {}",
            identity.certificate.display(),
            identity.key.display()
        )),
        identity => Ok((roots.collect(), identity)),
    }
}
