//! What is to be converted, from where, to where, and how: of the arguments, the environment and the
//! configuration file.

use anyhow::Context as _;

use super::ConvertArgs;
use crate::cli::context::Context;
use crate::cli::image;
use crate::cli::platforms;
use crate::cli::progress::Terminal;
use crate::cli::push::Destination;
use crate::cli::standalone::usage;
use crate::cli::temporary::Temporary;
use crate::config::options::{Registries, UpstreamOptions};
use crate::config::{ConfigErrors, Origin, Text};
use crate::convert::ConverterConfig;
use crate::convert::layer::Format;
use crate::oci::reference::index_host;
use crate::oci::{ImageReference, Platform, Selector};
use crate::registry::config::{DUMP_TARGET, TRACE_TARGET};
use crate::registry::{RegistryConfig, Upstream};
use crate::store::StoreConfig;
use crate::telemetry::TelemetryConfig;

/// A conversion that can begin.
pub(super) struct Plan {
    pub(super) source: ImageReference,
    pub(super) upstream: Upstream,
    pub(super) results: Vec<Wanted>,
    pub(super) converter: ConverterConfig,
    /// The platforms that must be there: those that somebody named.
    pub(super) asked_for: Vec<Platform>,
    pub(super) store: StoreConfig,
    /// Where the directory of the store was named.
    pub(super) data_origin: Origin,
    /// Holds the store, if it is not to outlive the command.
    pub(super) temporary: Option<Temporary>,
    /// Where spans go, if there are traces, and what is not used of the standard variables.
    pub(super) traces: (Option<TelemetryConfig>, Vec<String>),
}

/// A result that is wanted.
pub(super) struct Wanted {
    pub(super) format: Format,
    pub(super) destination: Option<Destination>,
}

/// Composes it; all mistakes are told at once.
pub(super) fn plan(
    args: &ConvertArgs,
    context: &Context,
    terminal: &Terminal,
) -> anyhow::Result<Plan> {
    let mut named = Vec::new();
    for is_turbo in args.standalone.forms(args.turbo) {
        let (source, destination) = images(args, is_turbo)?;
        named.push((is_turbo, source, destination));
    }
    // All results are tags of one repository.
    let (_, source, destination) = named.first().cloned().context("nothing is asked for")?;
    let (mut sources, mut found) = context.personal();
    let errors = &mut found;
    let mut registry = sources.effective(&args.registry, errors);
    args.password.apply(&mut registry, errors)?;
    if let Some(pair) = &args.client_cert {
        match pair.split_once(':') {
            Some((certificate, key)) => {
                errors.call("upstream-cert", "--client-cert");
                errors.call("upstream-key", "--client-cert");
                registry.upstream_cert = Some(certificate.into());
                registry.upstream_key = Some(key.into());
            }
            None => errors.add("client-cert", format!("{pair:?} is not CERT:KEY")),
        }
    }
    let conversion = sources.effective(&args.conversion, errors);
    let store = sources.effective(&args.store, errors);
    let traces = sources.effective(&args.traces, errors).config(errors);
    let upstreams = sources.effective(&UpstreamOptions::default(), errors);
    let (dump, trace) = (
        format!("{DUMP_TARGET}=trace"),
        format!("{TRACE_TARGET}=trace"),
    );
    let mut extra = Vec::new();
    if args.http_dump {
        extra.push(dump.as_str());
    }
    if args.http_trace {
        extra.push(trace.as_str());
    }
    if args.standalone.is_verbose() {
        extra.push("overlaybd_proxy=debug");
    }
    context.start_log(&mut sources, errors, terminal, &extra);
    args.standalone.check(errors);
    let is_temporary = *sources.origin("data-dir") == Origin::Default;
    let store = store.config(errors);
    let is_elsewhere = destination
        .as_ref()
        .is_some_and(|destination| !is_same_repository(&source, destination));
    let turbo = conversion.turbo(errors);
    let converter = conversion.config(None, is_elsewhere, errors);
    let hosts = hosts_of_user(&source, destination.as_ref());
    let registries = Registries::new(registry, hosts).with_upstreams(&upstreams, errors);
    let src_user = args.src_user.as_ref().map(|user| ("src-user", user));
    let dst_user = args.dst_user.as_ref().map(|user| ("dst-user", user));
    let config = config_for(&registries, &source, src_user, errors);
    let destination_config = destination
        .as_ref()
        .and_then(|image| config_for(&registries, image, dst_user, errors));
    let all = (|| Some((store?, converter?, config?, turbo?)))();
    let (mut store, converter, config, turbo) = found.none_or(all)?;
    let upstream =
        Upstream::source(&source, &config).with_context(|| format!("the source {source}"))?;
    let destination = match destination.zip(destination_config) {
        Some((image, config)) => Some(Destination {
            upstream: Upstream::destination(&image, &config)
                .with_context(|| format!("the destination {image}"))?,
            repo: image.repo().clone(),
            selector: image.selector(),
        }),
        None => None,
    };
    let temporary = if is_temporary {
        let is_kept = args.standalone.keeps_temporary_data();
        let beside = destination.as_ref().filter(|_| !is_kept);
        let beside = beside.map(|destination| &destination.upstream);
        let made = Temporary::create(args.dir.as_deref(), beside)?;
        made.path().clone_into(&mut store.data_dir);
        made.kept_if(is_kept, terminal)
    } else {
        None
    };
    let asked_for = platforms::asked_for(&converter.platforms, sources.origin("platform"));
    let converter = ConverterConfig {
        push: destination.as_ref().and_then(Destination::target),
        ..converter
    };
    let results = named.into_iter().map(|(is_turbo, _, image)| Wanted {
        format: if is_turbo {
            Format::Turbo(turbo)
        } else {
            Format::Native
        },
        destination: destination
            .clone()
            .zip(image)
            .map(|(destination, image)| Destination {
                selector: image.selector(),
                ..destination
            }),
    });
    Ok(Plan {
        source,
        upstream,
        results: results.collect(),
        converter,
        asked_for,
        store,
        data_origin: sources.origin("data-dir").clone(),
        temporary,
        traces,
    })
}

fn images(
    args: &ConvertArgs,
    is_turbo: bool,
) -> anyhow::Result<(ImageReference, Option<ImageReference>)> {
    let (source, destination) = match args.standalone.images(is_turbo)? {
        Some(named) => named,
        None => (
            args.source.clone().unwrap_or_default(),
            args.destination.clone(),
        ),
    };
    let source = image::parse(&source).context("the source")?;
    let destination = destination
        .filter(|_| !args.no_upload)
        .map(|text| {
            // A short name is one of Docker Hub's own, to which nobody pushes.
            if !text.contains(['/', ':', '.']) {
                return Err(usage(&format!(
                    "{text} would be docker.io/library/{text}: oci:{text} is a directory, and \
                     docker.io/NAME/{text} an image of your own"
                ))
                .into());
            }
            image::parse(&text).context("the destination")
        })
        .transpose()?;
    if destination.is_none() && !args.no_upload {
        return Err(usage("--output-tag is needed, or --no-upload").into());
    }
    if let Some(Selector::Digest(digest)) = destination.as_ref().map(ImageReference::selector) {
        let text = format!("the result has a digest of its own: name a tag instead of {digest}");
        return Err(usage(&text).into());
    }
    Ok((source, destination))
}

fn is_same_repository(one: &ImageReference, other: &ImageReference) -> bool {
    match (one, other) {
        (ImageReference::Registry(one), ImageReference::Registry(other)) => {
            index_host(&one.host) == index_host(&other.host) && one.repo == other.repo
        }
        (ImageReference::Layout(one), ImageReference::Layout(other)) => one.path == other.path,
        _ => false,
    }
}

/// The registries that `--user` is for: never one that it was not typed for.
fn hosts_of_user<'a>(
    source: &'a ImageReference,
    destination: Option<&'a ImageReference>,
) -> Vec<&'a str> {
    let host = |image: &'a ImageReference| match image {
        ImageReference::Registry(reference) => Some(reference.host.as_str()),
        ImageReference::Layout(_) => None,
    };
    let to = destination.and_then(host);
    match (host(source), to) {
        (Some(from), None) => vec![from],
        (_, Some(to)) => vec![to],
        (None, None) => Vec::new(),
    }
}

fn config_for(
    registries: &Registries,
    image: &ImageReference,
    user: Option<(&'static str, &Text)>,
    errors: &mut ConfigErrors,
) -> Option<RegistryConfig> {
    match image {
        ImageReference::Registry(reference) => {
            registries.config((reference.scheme, &reference.host), user, errors)
        }
        ImageReference::Layout(_) => {
            if let Some((name, _)) = user {
                errors.add(
                    name,
                    format!("{image} is no registry and wants no credentials"),
                );
            }
            Some(RegistryConfig::default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_used_for_its_own_registry_only() {
        let image = |text: &str| text.parse::<ImageReference>().unwrap();
        for (source, destination, hosts) in [
            ("redis", Some("r.io/x"), vec!["r.io"]),
            ("r.io/x", Some("r.io/y"), vec!["r.io"]),
            ("r.io/x", Some("oci:y"), vec!["r.io"]),
            ("oci:x", Some("r.io/y"), vec!["r.io"]),
            ("r.io/x", None, vec!["r.io"]),
            ("oci:x", Some("oci:y"), vec![]),
        ] {
            let (source, destination) = (image(source), destination.map(image));
            assert_eq!(hosts_of_user(&source, destination.as_ref()), hosts);
        }
    }
}
