//! One image: its manifest as containerd gets it, and a read of a blob as overlaybd does it
//! (`src/overlaybd/registryfs/registryfs_v2.cpp`).

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use rustls::ClientConfig;
use serde_json::Value;
use url::Url;

use super::hosts::Registry;
use super::logins::Login;
use super::overlaybd::Overlaybd;
use super::report::Report;
use super::root::Root;
use super::snapshotter::Snapshotter;
use super::{staged, tls, wire};
use crate::convert::image::{BLOB_DIGEST, TARGET_DIGEST};
use crate::oci::reference::RegistryReference;
use crate::oci::{Digest, ImageReference, Manifest, Platform, Selector};
use crate::registry::{
    Authorization, Credentials, RegistryConfig, RetryPolicy, TlsOptions, Upstream, challenges,
};

const AREA: &str = "image";
/// What is read of a blob.
const READ: usize = 4096;

/// What is known of the node.
pub struct Node<'a> {
    pub root: &'a Root,
    pub registries: &'a [Registry],
    pub snapshotter: &'a Snapshotter,
    pub overlaybd: &'a Overlaybd,
}

pub async fn check(node: &Node<'_>, name: &str, report: &mut Report) -> anyhow::Result<()> {
    let image = match name.parse() {
        Ok(ImageReference::Registry(image)) => image,
        Ok(ImageReference::Layout(_)) => {
            return Err(crate::cli::standalone::usage(
                "--image: an image of a registry is expected",
            )
            .into());
        }
        Err(error) => {
            return Err(crate::cli::standalone::usage(&format!("--image: {error}")).into());
        }
    };
    let layers = match layers(node, &image).await {
        Ok(layers) => layers,
        Err(why) => {
            report.wrong(
                AREA,
                format!("{name}: its manifest cannot be had: {why}"),
                "see what containerd says: ctr images pull --hosts-dir /etc/containerd/certs.d IMAGE; \
                 credentials for this check: docker login",
            );
            return Ok(());
        }
    };
    let Some(layer) = layers.iter().find(|layer| layer.is_converted) else {
        report.warning(
            AREA,
            format!("{name} comes as an ordinary image: it is downloaded and unpacked whole"),
            "ask for a converted one: a tag with the suffix _obd or _turbo, or \
                Overlaybd-Format = \"auto\" in hosts.toml",
        );
        return Ok(());
    };
    report.ok(
        AREA,
        format!(
            "{name} comes converted, {}",
            crate::cli::output::count(layers.len(), "layer")
        ),
    );
    let (digest, what) = match &layer.target {
        Some(target) => (target, "source's layer"),
        None => (&layer.digest, "converted layer"),
    };
    let blob = node
        .snapshotter
        .blob(&image.host, image.repo.as_str(), digest);
    let blob = match blob {
        Ok(blob) => blob,
        Err(why) => {
            report.wrong(AREA, why, "name the image by HOST/REPO:TAG");
            return Ok(());
        }
    };
    match read(node, &blob).await {
        Ok(from) => report.ok(
            AREA,
            format!("a read of the {what} at {blob} succeeds{from}"),
        ),
        Err((why, remedy)) => report.wrong(
            AREA,
            format!("a read of the {what} as overlaybd does it fails: {why}"),
            remedy,
        ),
    }
    Ok(())
}

struct Layer {
    is_converted: bool,
    digest: String,
    /// The source's layer that data is in.
    target: Option<String>,
}

/// The layers, by the hosts that containerd asks.
async fn layers(node: &Node<'_>, image: &RegistryReference) -> Result<Vec<Layer>, String> {
    let staged = staged::hosts(node.root, node.registries, &image.host)?;
    let mut tls = TlsOptions::default();
    if !node.root.is_own() && image.scheme.is_none() {
        tls.system_roots = false;
        tls.extra_roots = staged.bundle(node.overlaybd.bundle.as_ref())?;
    }
    let config = RegistryConfig {
        scheme: image.scheme,
        tls,
        hosts_dirs: staged.directories(),
        credentials: Credentials::DockerConfig { path: None },
        retry: RetryPolicy {
            attempts: 2,
            ..RetryPolicy::default()
        },
        ..RegistryConfig::default()
    };
    let text = |error: crate::registry::Error| error.to_string();
    let upstream = Upstream::registry(&image.host, &config).map_err(text)?;
    let mut selector = image.selector();
    // An index leads to a manifest, and to no further index.
    for _ in 0..2 {
        let raw = upstream
            .manifest(&image.repo, &selector, &Authorization::Own)
            .await
            .map_err(text)?;
        let parsed = Manifest::parse(&raw.media_type, &raw.bytes);
        match parsed.map_err(|error| error.to_string())? {
            Manifest::Image(manifest) => {
                let layers = manifest.layers.into_iter().map(|layer| Layer {
                    is_converted: layer.annotations.contains_key(BLOB_DIGEST),
                    target: layer
                        .annotations
                        .get(TARGET_DIGEST)
                        .filter(|target| target.parse::<Digest>().is_ok())
                        .cloned(),
                    digest: layer.digest.to_string(),
                });
                return Ok(layers.collect());
            }
            Manifest::Index(index) => {
                let host = Platform::host();
                let found = index
                    .find(&host)
                    .ok_or(format!("it has no image for {host}"))?;
                selector = Selector::Digest(found.digest.clone());
            }
        }
    }
    Err("an index leads to another one".to_owned())
}

type Failure = (String, String);

fn failed(why: impl Into<String>, remedy: &str) -> Failure {
    (why.into(), remedy.to_owned())
}

const REACH: &str = "overlaybd asks the host in the image's name, not a mirror: it must be reached from this node, by \
                     https unless the snapshotter's mirrorRegistry says insecure, with a certificate that the \
                     system's bundle trusts";

/// A read, as of a device that is just being made; from where.
async fn read(node: &Node<'_>, blob: &Url) -> Result<String, Failure> {
    let bundle = node
        .overlaybd
        .bundle
        .as_ref()
        .map(|(_, bytes)| bytes.clone());
    let roots = tls::roots(&bundle.into_iter().collect::<Vec<_>>());
    let config = tls::trusting(roots, node.overlaybd.identity.as_ref())
        .map_err(|why| failed(why, "correct certConfig in /etc/overlaybd/overlaybd.json"))?;
    let agent = node
        .overlaybd
        .user_agent
        .as_deref()
        .unwrap_or("overlaybd/node-check");
    let agent = HeaderValue::from_str(agent).map_err(|_| {
        failed(
            "userAgent is no header's value",
            "correct userAgent in /etc/overlaybd/overlaybd.json",
        )
    })?;
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, agent);
    let mut probe = headers.clone();
    probe.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
    let answer = wire::get(blob, &config, &probe)
        .await
        .map_err(|why| failed(format!("{blob}: {why}"), REACH))?;
    if matches!(
        answer.status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
    ) {
        let value = authorization(node, blob, &answer, &config, &headers).await?;
        headers.insert(header::AUTHORIZATION, value);
    }
    let answer = wire::get(blob, &config, &headers)
        .await
        .map_err(|why| failed(format!("{blob}: {why}"), REACH))?;
    let (address, from) = match answer.status {
        StatusCode::OK => (blob.clone(), String::new()),
        status if status.is_redirection() => {
            // It goes there without credentials.
            headers.remove(header::AUTHORIZATION);
            let location = answer.header(header::LOCATION).unwrap_or_default();
            let target: Url = location.parse().map_err(|_| {
                failed(
                    format!("{blob} redirects to {location:?}, which is no whole address"),
                    "have the registry redirect to an absolute URL",
                )
            })?;
            let from = format!(", from {}", target.host_str().unwrap_or_default());
            (target, from)
        }
        StatusCode::NOT_FOUND => {
            return Err(failed(
                format!("{blob}: 404: the registry in the image's name does not have it"),
                "a native image needs serve --push, or the proxy's own name in the image's name; TurboOCI \
                 (Overlaybd-Format = \"turbo\", or the tag's suffix _turbo) reads from the source",
            ));
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(failed(
                format!(
                    "{blob}: {}: the credentials do not suffice",
                    answer.status.as_u16()
                ),
                "correct overlaybd's credentials: credentialConfig in \
                    /etc/overlaybd/overlaybd.json",
            ));
        }
        status => {
            return Err(failed(
                format!("{blob}: {}", status.as_u16()),
                "see the registry's log",
            ));
        }
    };
    let range = format!("bytes=0-{}", READ - 1);
    if let Ok(range) = HeaderValue::from_str(&range) {
        headers.insert(header::RANGE, range);
    }
    let shown = format!(
        "{}://{}{}",
        address.scheme(),
        address.authority(),
        address.path()
    );
    let answer = wire::get(&address, &config, &headers)
        .await
        .map_err(|why| failed(format!("{shown}: {why}"), REACH))?;
    match answer.status {
        StatusCode::PARTIAL_CONTENT if !answer.body.is_empty() && answer.body.len() <= READ => {
            Ok(from)
        }
        StatusCode::PARTIAL_CONTENT => Err(failed(
            format!(
                "{shown}: {} bytes come for a range of {READ}",
                answer.body.len()
            ),
            "see the registry's log",
        )),
        StatusCode::OK => Err(failed(
            format!("{shown}: the range is not heeded: all of the blob comes"),
            "overlaybd needs ranges: have the registry, or what is before it, answer them",
        )),
        status => Err(failed(
            format!("{shown}: {}", status.as_u16()),
            "see the registry's log",
        )),
    }
}

/// What overlaybd would send after a challenge.
async fn authorization(
    node: &Node<'_>,
    blob: &Url,
    answer: &wire::Answer,
    config: &Arc<ClientConfig>,
    headers: &HeaderMap,
) -> Result<HeaderValue, Failure> {
    const HELP: &str = "set credentials for overlaybd: credentialConfig in /etc/overlaybd/overlaybd.json, with \
                        cred.json, or overlaybd-proxy credentials (examples/node)";
    let source = node.overlaybd.credentials.as_ref();
    let login = match source {
        None => None,
        Some(source) => source.find(node.root, blob).await.map_err(|why| {
            failed(
                format!("{}: credentials cannot be had: {why}", source.place()),
                "systemctl enable --now overlaybd-proxy-credentials",
            )
        })?,
    };
    let challenge = challenges(&answer.headers).into_iter().next();
    let status = answer.status.as_u16();
    let Some(challenge) = challenge else {
        return Err(failed(
            format!("{blob}: {status} without a challenge that overlaybd knows"),
            HELP,
        ));
    };
    if challenge.is("basic") {
        let login = login.ok_or_else(|| {
            failed(
                format!("{blob}: {status}, and overlaybd has no credentials for it"),
                HELP,
            )
        })?;
        return basic(&login);
    }
    let parameter = |name: &str| challenge.parameter(name).filter(|value| !value.is_empty());
    let (Some(realm), Some(service), Some(scope)) =
        (parameter("realm"), parameter("service"), parameter("scope"))
    else {
        return Err(failed(
            format!("{blob}: the challenge lacks realm, service or scope, which overlaybd needs"),
            "have the registry name all three",
        ));
    };
    // As overlaybd does it: nothing is encoded.
    let address = format!("{realm}?service={service}&scope={scope}");
    let url: Url = address
        .parse()
        .map_err(|_| failed(format!("{realm:?} is no address"), HELP))?;
    if blob.scheme() == "https" && url.scheme() != "https" && login.is_some() {
        return Err(failed(
            format!("{realm} is asked in the clear: overlaybd sends the password there"),
            "have the registry name a realm with https://",
        ));
    }
    let mut asked = headers.clone();
    if let Some(login) = login.as_ref().filter(|login| !login.username.is_empty()) {
        asked.insert(header::AUTHORIZATION, basic(login)?);
    }
    let answer = wire::get(&url, config, &asked)
        .await
        .map_err(|why| failed(format!("{realm}: {why}"), REACH))?;
    if answer.status != StatusCode::OK {
        let whose = if login.is_some() {
            "these credentials"
        } else {
            "nobody's credentials, as overlaybd has none"
        };
        return Err(failed(
            format!("{realm}: {} for {whose}", answer.status.as_u16()),
            HELP,
        ));
    }
    let token = serde_json::from_slice::<Value>(&answer.body).ok();
    let token = token
        .as_ref()
        .and_then(|body| body.get("token").or(body.get("access_token"))?.as_str());
    let value = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
    value.ok_or_else(|| {
        failed(
            format!("{realm}: the answer has no token within 16 KiB, as overlaybd needs it"),
            HELP,
        )
    })
}

fn basic(login: &Login) -> Result<HeaderValue, Failure> {
    use base64::Engine as _;
    let text = format!("{}:{}", login.username, login.password.expose());
    let text = base64::engine::general_purpose::STANDARD.encode(text);
    let mut value = HeaderValue::from_str(&format!("Basic {text}"))
        .map_err(|_| failed("the password cannot be sent", "use another one"))?;
    value.set_sensitive(true);
    Ok(value)
}
