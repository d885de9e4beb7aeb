//! The way to the proxy: names, connections, certificates.

use std::collections::BTreeSet;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::time::timeout;
use url::Url;

use super::hosts::{Registry, Way, same_origin};
use super::overlaybd::Overlaybd;
use super::report::Report;
use super::root::Root;
use super::tls::{self, Distrust, Shown};
use super::wire;
use crate::oci::reference::api_host;

const NAMES: &str = "names";
const PROXY: &str = "proxy";
/// Most registries whose names are looked up.
const MAX_NAMES: usize = 32;
/// Most ways to the proxy that are tried.
const MAX_WAYS: usize = 8;

pub async fn check(
    root: &Root,
    registries: &[Registry],
    proxy: Option<&Url>,
    overlaybd: &Overlaybd,
    report: &mut Report,
) {
    for registry in registries
        .iter()
        .filter_map(|registry| registry.host.as_deref())
        .take(MAX_NAMES)
    {
        let Ok(url) = format!("https://{}", api_host(registry)).parse() else {
            continue;
        };
        if let Err(why) = resolves(&url).await {
            report.warning(
                NAMES,
                format!("{}: {why}", api_host(registry)),
                "overlaybd reads images of this registry there: correct /etc/resolv.conf or \
                    /etc/hosts",
            );
        }
    }
    let mut ways: Vec<Way> = Vec::new();
    let named = proxy.map(|base| Way {
        base: base.clone(),
        roots: Vec::new(),
        skips_verification: false,
    });
    let all = registries
        .iter()
        .flat_map(|registry| registry.ways.iter().cloned());
    for way in all.chain(named) {
        // hosts.toml files come first: they say what containerd trusts.
        if !ways.iter().any(|known| same_origin(&known.base, &way.base)) {
            ways.push(way);
        }
    }
    for way in ways.iter().take(MAX_WAYS) {
        let is_named = proxy.is_some_and(|proxy| same_origin(proxy, &way.base));
        check_way(root, way, is_named, overlaybd, report).await;
    }
    if let Some(p2p) = &overlaybd.p2p
        && let Err(why) = reach_plainly(p2p).await
    {
        report.warning(
            PROXY,
            format!("{p2p}: {why}: overlaybd reads from the origin instead"),
            "start the proxy, or correct p2pConfig.address in /etc/overlaybd/overlaybd.json",
        );
    }
}

async fn resolves(url: &Url) -> Result<usize, String> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(443);
    match timeout(wire::LIMIT, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => match found.collect::<BTreeSet<_>>().len() {
            0 => Err("the name has no address".to_owned()),
            some => Ok(some),
        },
        Ok(Err(error)) => Err(format!("the name cannot be resolved: {error}")),
        Err(_) => Err(format!("the name is not resolved within {:?}", wire::LIMIT)),
    }
}

/// overlaybd tries no TLS there.
async fn reach_plainly(url: &Url) -> Result<(), String> {
    let mut plain = url.clone();
    let port = url.port_or_known_default();
    let is_set = plain.set_scheme("http").is_ok() && plain.set_port(port).is_ok();
    if !is_set {
        return Err("this is no address".to_owned());
    }
    let (config, _) = tls::any_server(None)?;
    wire::connect(&plain, &config).await.map(drop)
}

async fn check_way(
    root: &Root,
    way: &Way,
    is_named: bool,
    overlaybd: &Overlaybd,
    report: &mut Report,
) {
    let base = &way.base;
    if let Err(why) = resolves(base).await {
        report.wrong(
            NAMES,
            format!("{}: {why}", base.host_str().unwrap_or_default()),
            "correct the proxy's name in hosts.toml, or /etc/resolv.conf, or add it to /etc/hosts",
        );
        return;
    }
    let (config, shown) = match tls::any_server(overlaybd.identity.as_ref()) {
        Ok(made) => made,
        Err(why) => {
            report.wrong(
                PROXY,
                format!("{base}: {why}"),
                "correct certConfig in /etc/overlaybd/overlaybd.json",
            );
            return;
        }
    };
    let mut ping = base.clone();
    ping.set_path(&format!("{}/", base.path().trim_end_matches('/')));
    let answer = wire::get(&ping, &config, &HeaderMap::new()).await;
    if base.scheme() == "https" {
        let shown = std::mem::take(&mut *shown.lock());
        if !shown.is_nothing() {
            check_certificate(root, way, is_named, &shown, overlaybd, report);
        }
    }
    match answer {
        Ok(answer) if matches!(answer.status, StatusCode::OK | StatusCode::UNAUTHORIZED) => {
            report.ok(PROXY, format!("{ping} answers {}", answer.status.as_u16()));
        }
        Ok(answer) => report.wrong(
            PROXY,
            format!(
                "{ping} answers {}: this is no registry",
                answer.status.as_u16()
            ),
            "correct the address in hosts.toml, or see the proxy's log",
        ),
        Err(why) => report.wrong(
            PROXY,
            format!("{ping} gives no answer: {why}"),
            "start the proxy (overlaybd-proxy serve), open its port, or correct the address; \
             where it wants client certificates (--tls-client-ca), set certConfig",
        ),
    }
}

fn check_certificate(
    root: &Root,
    way: &Way,
    is_named: bool,
    shown: &Shown,
    overlaybd: &Overlaybd,
    report: &mut Report,
) {
    let base = &way.base;
    let Ok(name) = wire::server_name(base) else {
        return;
    };
    let (path, bundle) = match &overlaybd.bundle {
        Some((path, bundle)) => (*path, vec![bundle.clone()]),
        None => ("the bundle", Vec::new()),
    };
    let mut texts = bundle.clone();
    let extra = way
        .roots
        .iter()
        .map(|path| root.read(&path.display().to_string()));
    texts.extend(extra.filter_map(|read| read.ok().flatten()));
    let for_containerd = shown.verify(&tls::roots(&texts), &name, Duration::ZERO);
    match &for_containerd {
        Err((Distrust::Issuer, why)) if !way.skips_verification => report.wrong(
            PROXY,
            format!("{base}: containerd does not trust its certificate: {why}"),
            "copy the authority's certificate to /usr/local/share/ca-certificates/proxy.crt and run \
             update-ca-certificates; for containerd alone: ca = \"FILE\" in hosts.toml",
        ),
        Err((Distrust::Name, why)) => report.wrong(
            PROXY,
            format!("{base}: its certificate is for other names: {why}"),
            "make a certificate for this name (certs/make.sh DIRECTORY NAME), or use one of \
                its names",
        ),
        Err((Distrust::Expired, why)) => report.wrong(
            PROXY,
            format!("{base}: its certificate has expired: {why}"),
            "make a new one: the proxy reads --tls-cert and --tls-key again when they change",
        ),
        Err((Distrust::NotYet, why)) => report.wrong(
            PROXY,
            format!("{base}: its certificate is not valid yet: {why}"),
            "set this machine's clock",
        ),
        Err((Distrust::Other, why)) => report.wrong(
            PROXY,
            format!("{base}: its certificate cannot be used: {why}"),
            "make another one (certs/make.sh)",
        ),
        Ok(()) | Err((Distrust::Issuer, _)) => {
            let later = shown.verify(&tls::roots(&texts), &name, tls::SOON);
            if let Err((Distrust::Expired, why)) = later {
                report.warning(
                    PROXY,
                    format!("{base}: its certificate ends within 14 days: {why}"),
                    "make a new one: the proxy reads --tls-cert and --tls-key again when they \
                        change",
                );
            }
        }
    }
    let for_overlaybd = shown.verify(&tls::roots(&bundle), &name, Duration::ZERO);
    match for_overlaybd {
        Ok(()) => report.ok(
            PROXY,
            format!("{base}: its certificate is trusted by {path}"),
        ),
        Err((Distrust::Issuer, why)) => {
            let what = format!(
                "{base}: overlaybd, which trusts {path} alone, does not trust its certificate: \
                    {why}"
            );
            let remedy = "copy the authority's certificate to /usr/local/share/ca-certificates/proxy.crt, \
                          run update-ca-certificates, and restart overlaybd-tcmu";
            if is_named {
                report.wrong(PROXY, what, remedy);
            } else {
                report.warning(
                    PROXY,
                    what,
                    format!("for images with the proxy's own name {remedy}"),
                );
            }
        }
        // It is said already.
        Err(_) => {}
    }
}
