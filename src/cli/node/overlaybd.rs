//! overlaybd's own configuration (overlaybd `src/config.h`, `src/image_service.cpp`).

use serde_json::Value;
use url::Url;

use super::logins;
use super::report::Report;
use super::root::Root;
use super::tls::{self, Identity};

pub const AREA: &str = "overlaybd";
pub const FILE: &str = "/etc/overlaybd/overlaybd.json";
/// Of these overlaybd takes the first that is there, and no other.
const BUNDLES: [&str; 2] = [
    "/etc/ssl/certs/ca-bundle.crt",
    "/etc/ssl/certs/ca-certificates.crt",
];

/// What the other checks need to know.
#[derive(Debug, Default)]
pub struct Overlaybd {
    /// What it calls itself, if that is set.
    pub user_agent: Option<String>,
    /// Its client certificate.
    pub identity: Option<Identity>,
    /// Where its credentials come from.
    pub credentials: Option<logins::Source>,
    /// What it reads data through.
    pub p2p: Option<Url>,
    /// The authorities that it trusts, PEM.
    pub bundle: Option<(&'static str, Vec<u8>)>,
}

/// The types that overlaybd expects: it does not look, and ends on others.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Bool,
    Number,
}

const SETTINGS: [(&str, Kind); 33] = [
    ("/registryCacheDir", Kind::Text),
    ("/credentialFilePath", Kind::Text),
    ("/credentialConfig/mode", Kind::Text),
    ("/credentialConfig/path", Kind::Text),
    ("/credentialConfig/timeout", Kind::Number),
    ("/credentialConfig/client_cert_path", Kind::Text),
    ("/credentialConfig/client_key_path", Kind::Text),
    ("/credentialConfig/server_ca_path", Kind::Text),
    ("/registryCacheSizeGB", Kind::Number),
    ("/ioEngine", Kind::Number),
    ("/cacheType", Kind::Text),
    ("/logLevel", Kind::Number),
    ("/logPath", Kind::Text),
    ("/download/enable", Kind::Bool),
    ("/download/delay", Kind::Number),
    ("/enableAudit", Kind::Bool),
    ("/enableThread", Kind::Bool),
    ("/p2pConfig/enable", Kind::Bool),
    ("/p2pConfig/address", Kind::Text),
    ("/exporterConfig/enable", Kind::Bool),
    ("/auditPath", Kind::Text),
    ("/registryFsVersion", Kind::Text),
    ("/cacheConfig/cacheType", Kind::Text),
    ("/cacheConfig/cacheDir", Kind::Text),
    ("/cacheConfig/cacheSizeGB", Kind::Number),
    ("/cacheConfig/refillSize", Kind::Number),
    ("/gzipCacheConfig/enable", Kind::Bool),
    ("/logConfig/logLevel", Kind::Number),
    ("/logConfig/logPath", Kind::Text),
    ("/certConfig/certFile", Kind::Text),
    ("/certConfig/keyFile", Kind::Text),
    ("/userAgent", Kind::Text),
    ("/serviceConfig/enable", Kind::Bool),
];

pub fn check(root: &Root, report: &mut Report) -> Overlaybd {
    let mut found = Overlaybd::default();
    check_bundle(root, &mut found, report);
    let text = match root.text(FILE) {
        Ok(Some(text)) => text,
        Ok(None) => {
            report.wrong(
                AREA,
                format!("{FILE}: there is no such file: overlaybd-tcmu does not start"),
                "install overlaybd, and copy examples/node/overlaybd/overlaybd.json",
            );
            return found;
        }
        Err(error) => {
            report.wrong(AREA, format!("{FILE}: {error}"), "make it readable");
            return found;
        }
    };
    let config: Value = match serde_json::from_str(&text) {
        Ok(config @ Value::Object(_)) => config,
        Ok(_) => {
            report.wrong(
                AREA,
                format!("{FILE}: it is no JSON object"),
                "begin it with {",
            );
            return found;
        }
        Err(error) => {
            report.wrong(
                AREA,
                format!("{FILE}: {error}"),
                "overlaybd-tcmu does not start with it: correct the line",
            );
            return found;
        }
    };
    if !have_types(&config, report) {
        return found;
    }
    let text = |pointer: &str| {
        let value = config.pointer(pointer).and_then(Value::as_str);
        value.unwrap_or_default()
    };
    let is_on = |pointer: &str| config.pointer(pointer).and_then(Value::as_bool) == Some(true);
    report.ok(AREA, format!("{FILE}: is understood"));
    found.user_agent = Some(text("/userAgent"))
        .filter(|agent| !agent.is_empty())
        .map(str::to_owned);
    if !matches!(text("/registryFsVersion"), "" | "v2") {
        report.warning(
            AREA,
            format!("{FILE}: the old registry client is set"),
            "\"registryFsVersion\": \"v2\"",
        );
    }
    let cache = match text("/cacheConfig/cacheType") {
        "" => text("/cacheType"),
        kind => kind,
    };
    if !matches!(cache, "" | "file" | "ocf" | "download") {
        report.wrong(
            AREA,
            format!("{FILE}: the cache type {cache:?} is unknown: overlaybd-tcmu does not start"),
            "\"cacheConfig\": {\"cacheType\": \"file\"}",
        );
    }
    if !is_on("/gzipCacheConfig/enable") {
        report.warning(
            AREA,
            format!("{FILE}: TurboOCI images are inflated again for each read"),
            "\"gzipCacheConfig\": {\"enable\": true}",
        );
    }
    check_certificate(
        root,
        text("/certConfig/certFile"),
        text("/certConfig/keyFile"),
        &mut found,
        report,
    );
    if is_on("/p2pConfig/enable") {
        found.p2p = check_p2p(text("/p2pConfig/address"), report);
    }
    let number = |pointer: &str| config.pointer(pointer).and_then(Value::as_u64);
    found.credentials = logins::source(
        root,
        text("/credentialConfig/mode"),
        text("/credentialConfig/path"),
        match text("/credentialFilePath") {
            "" => "/opt/overlaybd/cred.json",
            path => path,
        },
        number("/credentialConfig/timeout").unwrap_or(1),
        report,
    );
    found
}

fn check_bundle(root: &Root, found: &mut Overlaybd, report: &mut Report) {
    for path in BUNDLES {
        match root.read(path) {
            Ok(None) => {}
            Ok(Some(bytes)) => {
                report.ok(
                    AREA,
                    format!("{path}: the authorities that overlaybd trusts"),
                );
                found.bundle = Some((path, bytes));
                return;
            }
            Err(error) => {
                report.wrong(
                    AREA,
                    format!("{path}: {error}"),
                    "run update-ca-certificates",
                );
                return;
            }
        }
    }
    report.wrong(
        AREA,
        format!(
            "neither {} nor {} is there: overlaybd-tcmu does not start",
            BUNDLES[0], BUNDLES[1]
        ),
        "install ca-certificates",
    );
}

fn have_types(config: &Value, report: &mut Report) -> bool {
    let mut all = true;
    for (pointer, kind) in SETTINGS {
        let Some(value) = config.pointer(pointer) else {
            continue;
        };
        let (fits, wanted) = match kind {
            Kind::Text => (value.is_string(), "a text"),
            Kind::Bool => (value.is_boolean(), "true or false"),
            Kind::Number => (value.is_u64(), "a number without quotes"),
        };
        if !fits {
            all = false;
            let name = pointer.trim_start_matches('/').replace('/', ".");
            report.wrong(
                AREA,
                format!("{FILE}: {name} must be {wanted}: overlaybd-tcmu ends on anything else"),
                format!("correct {name} in {FILE}"),
            );
        }
    }
    all
}

fn check_certificate(
    root: &Root,
    certificate: &str,
    key: &str,
    found: &mut Overlaybd,
    report: &mut Report,
) {
    if certificate.is_empty() && key.is_empty() {
        return;
    }
    let read = |path: &str| match root.read(path) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(format!("{path:?}: there is no such file")),
        Err(error) => Err(format!("{path:?}: {error}")),
    };
    let pair = read(certificate).and_then(|certificate| Ok((certificate, read(key)?)));
    let identity = pair.and_then(|(certificate, key)| tls::identity(&certificate, &key));
    match identity {
        Ok(identity) => {
            report.ok(
                AREA,
                format!("{FILE}: shows the client certificate {certificate}"),
            );
            found.identity = Some(identity);
        }
        Err(why) => report.wrong(
            AREA,
            format!("{FILE}: certConfig cannot be used: {why}"),
            "name a certificate and its key, both PEM, in certFile and keyFile",
        ),
    }
}

/// overlaybd resolves no name here: it takes the host for an address (`check_accelerate_url`).
fn check_p2p(address: &str, report: &mut Report) -> Option<Url> {
    let remedy = "\"p2pConfig\": {\"enable\": true, \"address\": \
        \"http://192.0.2.10:8480/p2p\"}, with the proxy's address";
    let url = match address.parse::<Url>() {
        Ok(url) if url.has_host() && matches!(url.scheme(), "http" | "https") => url,
        _ => {
            report.wrong(
                AREA,
                format!("{FILE}: p2pConfig.address {address:?} is no http:// address"),
                remedy,
            );
            return None;
        }
    };
    let is_name = matches!(url.host(), Some(url::Host::Domain(name)) if name != "localhost");
    if is_name {
        report.wrong(
            AREA,
            format!(
                "{FILE}: p2pConfig.address {address:?} has a name: overlaybd resolves none \
                here, and reads from the origin"
            ),
            remedy,
        );
        return None;
    }
    if url.path() == "/p2p" {
        report.ok(AREA, format!("{FILE}: data is read through {address}"));
    } else {
        report.warning(
            AREA,
            format!(
                "{FILE}: p2pConfig.address {address:?}: this proxy answers below /p2p, without a \
                 slash behind it"
            ),
            remedy,
        );
    }
    Some(url)
}

impl Overlaybd {
    /// Asks the server of credentials, where there is one, whether it answers.
    pub async fn ask_for_credentials(&self, root: &Root, proxy: Option<&Url>, report: &mut Report) {
        let Some(source @ (logins::Source::Http(_) | logins::Source::Socket(_))) =
            &self.credentials
        else {
            return;
        };
        let digest = format!("sha256:{}", "0".repeat(64));
        let host = proxy
            .and_then(Url::host_str)
            .unwrap_or("registry-1.docker.io");
        let Ok(blob) = format!("https://{host}/v2/library/redis/blobs/{digest}").parse() else {
            return;
        };
        match source.find(root, &blob).await {
            Ok(_) => report.ok(
                AREA,
                format!("{}: answers questions for credentials", source.place()),
            ),
            Err(why) => report.wrong(
                AREA,
                format!("{}: overlaybd gets no credentials: {why}", source.place()),
                "systemctl enable --now overlaybd-proxy-credentials, or correct \
                    credentialConfig.path",
            ),
        }
    }
}
