//! `convert`: one image, now.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Context as _;
use serde_json::json;

use super::context::{Context, PasswordFlag};
use super::data;
use super::exit::{self, ExitStatus};
use super::image;
use super::output::{self, size};
use super::platforms::{self, LacksPlatform};
use super::progress::{Detail, ImageProgress, ProgressOptions, Terminal};
use super::push::Destination;
use super::signals;
use super::standalone::{StandaloneOptions, usage};
use super::temporary::Temporary;
use crate::config::options::{
    ConversionOptions, Registries, RegistryOptions, StoreOptions, UpstreamOptions,
};
use crate::config::{ConfigErrors, Origin, Text};
use crate::convert::layer::Format;
use crate::convert::push::Parts;
use crate::convert::{ConvertedImage, Converter, ConverterConfig, Source};
use crate::oci::reference::index_host;
use crate::oci::{Digest, ImageReference, ManifestKind, Platform, Selector};
use crate::registry::config::{DUMP_TARGET, TRACE_TARGET};
use crate::registry::{Authorization, RegistryConfig, Sharing, Upstream};
use crate::store::{Store, StoreConfig};

const EXAMPLES: &str = "\
Examples:
  From Docker Hub into a layout directory:
    overlaybd-proxy convert redis:7 oci:out:7_obd

  Between two registries, layers that were converted before found in the database:
    overlaybd-proxy convert docker.io/library/redis:7 registry.example.com/redis:7_obd \\
        --user robot --password-file secret --dbstr 'obd:secret@tcp(db:3306)/obd'

  All platforms, LZ4 in blocks of 4 KiB as the reference's tools choose, without a registry:
    overlaybd-proxy convert --platform all --algorithm lz4 --bs 4 \\
        oci-archive:redis.tar:7 oci-archive:redis_obd.tar:7

  With the files that redis reads when it starts next to each other:
    overlaybd-proxy convert --prefetch-list redis.list redis:7 oci:out:7_obd

  In TurboOCI form: small layers that point into the original ones:
    overlaybd-proxy convert --turbo registry.example.com/redis:7 registry.example.com/redis:7_turbo

  As the reference's standalone converter is called:
    overlaybd-proxy convert -r registry.example.com/redis -i 7 -o 7_obd

Images are [HOST/]REPO[:TAG], oci:DIR[:TAG] or oci-archive:FILE[:TAG]; https:// or http:// before
HOST chooses TLS or plain HTTP. --user is for the registry of DST, and for that of SRC where both
are one or DST is none; --src-user and --dst-user say it for each. What was converted is kept in
--data-dir if that is given, and else only as long as the command runs. The configuration file is
read when --config names one.";

/// Convert one image and put it where it is wanted
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ConvertArgs {
    /// The image to convert
    #[arg(value_name = "SRC", required_unless_present = "repository")]
    source: Option<String>,
    /// Where the converted image goes
    #[arg(value_name = "DST", required_unless_present_any = ["repository", "no_upload"])]
    destination: Option<String>,
    /// Convert, but put the result nowhere
    #[arg(long)]
    no_upload: bool,
    /// Write manifest.json, config.json and index.json into --dir
    #[arg(long)]
    dump_manifest: bool,
    /// Make a TurboOCI image: small layers that point into those of SRC, which is copied along
    /// where DST is in another repository
    #[arg(long)]
    turbo: bool,
    /// Directory for temporary data and dumped manifests [default: in an oci: DST or
    /// beside an oci-archive: one, else the system's; and here]
    #[arg(short, long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Credentials for the registry of SRC: NAME:PASSWORD
    #[arg(long, value_name = "NAME:PASSWORD", help_heading = "Registries")]
    #[arg(env = "OVERLAYBD_PROXY_SRC_USER", hide_env_values = true)]
    src_user: Option<Text>,
    /// Credentials for the registry of DST: NAME:PASSWORD
    #[arg(long, value_name = "NAME:PASSWORD", help_heading = "Registries")]
    #[arg(env = "OVERLAYBD_PROXY_DST_USER", hide_env_values = true)]
    dst_user: Option<Text>,
    /// Certificate and key that are shown to registries: CERT:KEY
    #[arg(long, value_name = "CERT:KEY", help_heading = "Registries")]
    #[arg(conflicts_with_all = ["upstream_cert", "upstream_key"])]
    client_cert: Option<String>,
    /// Log the heads of all requests and responses, without credentials
    #[arg(long, help_heading = "Log")]
    http_dump: bool,
    /// Log how connections are made and used
    #[arg(long, help_heading = "Log")]
    http_trace: bool,
    #[command(flatten)]
    standalone: StandaloneOptions,
    #[command(flatten)]
    progress: ProgressOptions,
    #[command(flatten)]
    conversion: ConversionOptions,
    #[command(flatten)]
    store: StoreOptions,
    #[command(flatten)]
    registry: RegistryOptions,
    #[command(flatten)]
    password: PasswordFlag,
}

/// A conversion that can begin.
struct Plan {
    source: ImageReference,
    upstream: Upstream,
    results: Vec<Wanted>,
    converter: ConverterConfig,
    /// The platforms that must be there: those that somebody named.
    asked_for: Vec<Platform>,
    store: StoreConfig,
    /// Where the directory of the store was named.
    data_origin: Origin,
    /// Holds the store, if it is not to outlive the command.
    temporary: Option<Temporary>,
}

/// A result that is wanted.
struct Wanted {
    format: Format,
    destination: Option<Destination>,
}

pub async fn run(args: ConvertArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let terminal = Terminal::choose(args.progress);
    let shutdown = signals::shutdown().context("signals cannot be received")?;
    let store = OnceLock::new();
    let work = async {
        let plan = plan(&args, &context, &terminal)?;
        convert_all(&args, plan, &store, &terminal).await
    };
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => done,
        signal = shutdown => {
            // Before the directory of temporary data goes, which nothing is to be put into then.
            if let Some(store) = store.get() {
                store.give_up().await;
            }
            output::note(format_args!(
                "{signal}: given up; what was finished in --data-dir stays"
            ));
            Ok(ExitStatus::Interrupted)
        }
    }
}

fn plan(args: &ConvertArgs, context: &Context, terminal: &Terminal) -> anyhow::Result<Plan> {
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
    let upstream = Upstream::source(&source, &config).with_context(|| source.to_string())?;
    let destination = match destination.zip(destination_config) {
        Some((image, config)) => Some(Destination {
            upstream: Upstream::destination(&image, &config).with_context(|| image.to_string())?,
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

/// Converts the source to all formats that are wanted, in a store that is put into `shared`. One that
/// fails leaves the others.
async fn convert_all(
    args: &ConvertArgs,
    plan: Plan,
    shared: &OnceLock<Store>,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let store = match &plan.temporary {
        Some(temporary) => Store::open(plan.store).await.with_context(|| {
            let place = temporary.path().display();
            format!("temporary data in {place}: --dir names another place")
        })?,
        None => data::open(plan.store, &plan.data_origin).await?,
    };
    let store = shared.get_or_init(|| store);
    let converter = Converter::new(store.clone(), plan.converter)?;
    let source = Source {
        upstream: plan.upstream,
        repo: plan.source.repo().clone(),
        authorization: Authorization::Own,
    };
    let name = plan.source.to_string();
    let digest = match plan.source.selector() {
        Selector::Digest(digest) => digest,
        tag @ Selector::Tag(_) => {
            let head = source
                .upstream
                .head_manifest(&source.repo, &tag, &source.authorization)
                .await
                .with_context(|| format!("image {name}"))?;
            head.digest
        }
    };
    let there = platforms::of_source(&source, &digest, platforms::Read::Config)
        .await
        .with_context(|| format!("image {name}"))?;
    if let Some(lacking) = platforms::lacking(&plan.asked_for, &there) {
        let there = platforms::joined(&there.iter().collect::<Vec<_>>());
        anyhow::bail!(LacksPlatform(format!(
            "image {name} is not there for {lacking}, which --platform asks for; it is for {there}"
        )));
    }
    if let Some(destination) = plan.results.iter().find_map(|one| one.destination.as_ref()) {
        let tried = destination.try_out().await;
        tried.context("the place where the converted image belongs")?;
    }
    let sharing = match plan.temporary {
        Some(_) => Sharing::Inode,
        None => Sharing::Blocks,
    };
    let converter = match plan.results.len() {
        1 => converter,
        _ => converter.sharing_tars(),
    };
    let image = SourceImage {
        source,
        digest,
        name,
        there,
        sharing,
    };
    let mut failed = None;
    for wanted in &plan.results {
        let converter = converter.in_format(wanted.format);
        let destination = wanted.destination.as_ref();
        let converted = convert(args, &image, &converter, destination, terminal).await;
        if let Err(error) = converted
            && let Some(earlier) = failed.replace(error)
        {
            output::note(exit::describe(&earlier));
        }
    }
    drop(plan.temporary);
    failed.map_or(Ok(ExitStatus::Ok), Err)
}

/// The image that is converted.
struct SourceImage {
    source: Source,
    digest: Digest,
    name: String,
    /// The platforms that it is there for.
    there: Vec<Platform>,
    /// How a layout may share what is in the store.
    sharing: Sharing,
}

/// Converts the image to one format, and puts the result where it belongs.
async fn convert(
    args: &ConvertArgs,
    image: &SourceImage,
    converter: &Converter,
    destination: Option<&Destination>,
    terminal: &Terminal,
) -> anyhow::Result<()> {
    let SourceImage {
        source,
        digest,
        name,
        there,
        sharing,
    } = image;
    let store = converter.store();
    let progress = ImageProgress::new(terminal, name.clone(), Detail::Layers);
    let converted = converter
        .convert(source, digest, Some(progress.observer()))
        .await;
    progress.clear();
    let converted = converted.with_context(|| format!("image {name}"))?;
    if args.dump_manifest {
        let directory = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
        dump(store, &converted, &directory)
            .with_context(|| format!("manifests in {} (--dir)", directory.display()))?;
    }
    let mut pushed = None;
    if let Some(destination) = destination {
        let parts = Parts {
            store,
            sharing: *sharing,
        };
        let summary = destination.take(parts, &converted, source).await;
        pushed = Some(summary.context("putting the converted image where it belongs")?);
    }
    let tally = progress.tally();
    let layers: usize = converted
        .manifests
        .iter()
        .map(|made| made.layers.len())
        .sum();
    // Of an image that is known as a whole, no layer is looked at.
    let found = (layers as u64).saturating_sub(tally.converted);
    terminal.event(&json!({
        "event": "done",
        "image": name,
        "format": match converter.format() {
            Format::Native => "native",
            Format::Turbo(_) => "turbo",
        },
        "source": digest.as_str(),
        "digest": converted.root.digest.as_str(),
        "media_type": converted.root.media_type,
        "manifests": converted.manifests.len(),
        "layers": layers,
        "converted": tally.converted,
        "found": found,
        "blob_bytes": tally.blob_bytes,
        "uploaded": pushed.map(|summary| summary.uploaded),
        "uploaded_bytes": pushed.map(|summary| summary.uploaded_bytes),
        "present": pushed.map(|summary| summary.present),
    }));
    if !terminal.is_json() {
        output::line(&converted.root.digest)?;
        if converted.root.digest == *digest {
            terminal.tell("it is in overlaybd format already");
        } else {
            terminal.tell(format_args!(
                "{}: {} converted ({}), {found} found",
                output::count(layers, "layer"),
                tally.converted,
                size(tally.blob_bytes),
            ));
        }
        if let Some(summary) = platforms::summary(&converted, there) {
            terminal.tell(summary);
        }
    }
    Ok(())
}

/// Writes the documents of a converted image into a directory.
fn dump(store: &Store, image: &ConvertedImage, directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    let kind = ManifestKind::from_media_type(&image.root.media_type);
    let is_index = kind.is_some_and(ManifestKind::is_index);
    if is_index {
        std::fs::write(directory.join("index.json"), &image.root.bytes)?;
    } else if image.manifests.is_empty() {
        std::fs::write(directory.join("manifest.json"), &image.root.bytes)?;
    }
    for made in &image.manifests {
        let platform = made.platform.as_ref().filter(|_| is_index);
        let suffix =
            platform.map(|platform| format!("-{}", platform.to_string().replace('/', "-")));
        let suffix = suffix.unwrap_or_default();
        let manifest = directory.join(format!("manifest{suffix}.json"));
        std::fs::write(manifest, &made.manifest.bytes)?;
        let digest = &made.config.digest;
        let config = store
            .blobs()
            .open(digest)?
            .with_context(|| format!("config {digest} is not in the store any more"))?;
        let mut file = std::fs::File::create(directory.join(format!("config{suffix}.json")))?;
        let mut from = config.file();
        std::io::copy(&mut from, &mut file)?;
    }
    Ok(())
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
