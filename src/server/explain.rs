//! What pulls of an image would get, and why, as the server decides it.

use http::header::HOST;
use http::{Request, request};
use serde::Serialize;

use crate::convert::{ConvertError, Platforms, PushTarget, Source, source_size};
use crate::oci::reference::{DOCKER_HUB, index_host};
use crate::oci::{Digest, RepoName, Selector, Tag};
use crate::registry::{self, Authorization, Upstream};
use crate::server::config::{ServerConfig, TurboFallback};
use crate::server::decision::{self, Asked, Kind, Means, NativeBlobs, Plan, Why};
use crate::server::policy::{Form, Found, ImageName, Policy, Rule};
use crate::server::upstreams::{Chosen, Upstreams};
use crate::sizes::Size;

/// A name of the proxy by which no upstream is chosen.
const PROXY: &str = "proxy.invalid";

/// What is to be explained: an image as people name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageQuestion {
    /// The host in its name, if there is one.
    pub host: Option<String>,
    /// The repository in its name.
    pub repository: RepoName,
    /// Its tag, with or without a suffix.
    pub tag: Tag,
}

/// How large the layers of an image are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownSize {
    /// It is not known.
    Unknown,
    /// So many bytes, compressed.
    Bytes(u64),
    /// The upstream is asked, with the proxy's own credentials.
    Ask,
}

/// What pulls of an image would get, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The upstream that is asked: a registry's host, or what requests choose a layout by.
    pub upstream: String,
    /// The repository, as the upstream names it.
    pub repository: RepoName,
    /// The tag, without a suffix.
    pub tag: Tag,
    /// The source's digest, if the upstream was asked.
    pub digest: Option<Digest>,
    /// Whether what the image becomes is prepared when its plain tag is pulled.
    pub is_prepared: bool,
    /// Whether a tag with a suffix that the upstream has goes before what the image becomes.
    pub prefers_upstream_tags: bool,
    /// What was taken for granted.
    pub note: Option<String>,
    /// What is decided; several where that depends on the image's size, and it is not known.
    pub cases: Vec<Case>,
}

/// What is decided under a condition.
#[derive(Debug, Clone, Serialize)]
pub struct Case {
    /// What must be so, besides what the cases before say is not.
    #[serde(rename = "if")]
    pub condition: Option<String>,
    /// The rule that matches, if one does.
    pub rule: Option<ShownRule>,
    /// The platforms that are converted where the image has several.
    pub platforms: Vec<String>,
    /// The pulls that there are.
    pub pulls: Vec<Pull>,
}

/// A rule as it is written, and its number.
#[derive(Debug, Clone, Serialize)]
pub struct ShownRule {
    /// Its number, from 1 on.
    pub number: usize,
    /// It, on one line.
    pub text: String,
}

/// One kind of pull.
#[derive(Debug, Clone, Serialize)]
pub struct Pull {
    /// The tag that is pulled.
    pub tag: Tag,
    /// The registry that the image's name leads to, where this proxy is its mirror; else the name
    /// leads to the proxy.
    pub mirror_of: Option<String>,
    /// The form that the client asks for: the value of `Overlaybd-Format`.
    pub header: Option<&'static str>,
    /// What it gets: `original`, `native`, `turbo`, or `upstream` for what the upstream has under
    /// this very tag.
    pub gets: &'static str,
    /// Why it is not what was asked for.
    pub why: Option<String>,
    /// What it gets where TurboOCI cannot carry the image: `native`, `original` or `error`.
    pub otherwise: Option<&'static str>,
    /// Where the converted image is pushed to, if it is.
    pub pushed_to: Option<String>,
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum Unexplained {
    /// No upstream is asked for it.
    #[error("no upstream is asked for this image: {0}")]
    NoUpstream(String),
    /// The upstream does not say which image it is.
    #[error(transparent)]
    Upstream(#[from] registry::Error),
    /// The upstream does not say how large the image is.
    #[error(transparent)]
    Size(#[from] ConvertError),
}

/// What is the same for all pulls of an image.
struct Place<'a> {
    config: &'a ServerConfig,
    push: Option<&'a PushTarget>,
    source: Source,
    plain: Tag,
    /// The names at which it is mirrored, and `None` for the proxy's own name.
    ways: Vec<Option<String>>,
}

/// What pulls of an image would get from a server with these settings, which pushes what it
/// converts to `push`, and converts `platforms` where no rule says otherwise.
///
/// # Errors
/// When no upstream is asked for it, or the upstream does not answer and has to.
pub async fn explain(
    config: &ServerConfig,
    push: Option<&PushTarget>,
    platforms: &Platforms,
    image: &ImageQuestion,
    size: KnownSize,
) -> Result<Explanation, Unexplained> {
    let policy = Policy::new(config.policy.clone());
    explain_by(&policy, config, push, platforms, image, size).await
}

/// As [`explain`], by a policy that is not that of the settings.
pub(in crate::server) async fn explain_by(
    policy: &Policy,
    config: &ServerConfig,
    push: Option<&PushTarget>,
    platforms: &Platforms,
    image: &ImageQuestion,
    size: KnownSize,
) -> Result<Explanation, Unexplained> {
    let upstreams = Upstreams::new(config.upstreams.clone());
    let (chosen, ways) = choose(&upstreams, image)?;
    let note = image.host.as_deref().filter(|_| chosen.is_by_path);
    let note = note.map(|host| {
        format!("{host} is taken for this proxy's own name: it is no name of an upstream")
    });
    let (plain, _) = decision::read(config, &image.tag, None);
    let place = Place {
        config,
        push,
        source: Source {
            upstream: chosen.upstream.clone(),
            repo: repository(&chosen, image)?,
            authorization: Authorization::Own,
        },
        plain,
        ways,
    };
    let source = &place.source;
    let name = ImageName {
        upstreams: upstreams.names(chosen.place),
        repository: source.repo.as_str(),
        tag: place.plain.as_str(),
    };
    let digest = match size {
        KnownSize::Unknown | KnownSize::Bytes(_) => None,
        KnownSize::Ask => {
            let selector = Selector::Tag(place.plain.clone());
            let head =
                source
                    .upstream
                    .head_manifest(&source.repo, &selector, &source.authorization);
            Some(head.await?.digest)
        }
    };
    let mut known: Vec<(usize, Option<u64>)> = Vec::new();
    let mut cases = Vec::new();
    loop {
        let size_for = |number, _: &Rule| match size {
            KnownSize::Bytes(bytes) => Some(Some(bytes)),
            KnownSize::Unknown | KnownSize::Ask => {
                let known = known.iter().find(|(of, _)| *of == number);
                known.map(|(_, size)| *size)
            }
        };
        let (condition, rule) = match policy.find(&name, size_for) {
            Found::Rule(number, rule) => (None, Some((number, rule))),
            Found::Nothing => (None, None),
            Found::SizeNeeded(number, rule) => {
                if let Some(digest) = &digest {
                    let platforms = rule.conversion.platforms.as_ref().unwrap_or(platforms);
                    known.push((number, source_size(source, digest, platforms).await?));
                    continue;
                }
                // If it is not of this size, the next case holds.
                known.push((number, None));
                (Some(condition(rule)), Some((number, rule)))
            }
        };
        let is_last = condition.is_none();
        cases.push(place.case(condition, rule, platforms));
        if is_last {
            break;
        }
    }
    let repository = source.repo.clone();
    let upstream = name.upstreams.first().cloned();
    Ok(Explanation {
        upstream: upstream.unwrap_or_else(|| "the first upstream, a layout".to_owned()),
        note,
        is_prepared: config.prepares(&repository, &place.plain),
        repository,
        digest,
        prefers_upstream_tags: config.prefer_upstream_tags,
        tag: place.plain,
        cases,
    })
}

/// The place of the upstream that requests for an image choose, and the repository there.
///
/// # Errors
/// When no upstream is asked for it.
pub(in crate::server) fn place_of(
    upstreams: &Upstreams,
    image: &ImageQuestion,
) -> Result<(usize, RepoName), Unexplained> {
    let (chosen, _) = choose(upstreams, image)?;
    if let Some(host) = image.host.as_deref().filter(|_| chosen.is_by_path) {
        return Err(Unexplained::NoUpstream(format!(
            "{host} is the name of none"
        )));
    }
    Ok((chosen.place, repository(&chosen, image)?))
}

/// The upstream that requests for an image choose, and the names by which it is pulled: through a
/// mirror of this registry, or by the proxy's own (`None`).
fn choose<'a>(
    upstreams: &'a Upstreams,
    image: &ImageQuestion,
) -> Result<(Chosen<'a>, Vec<Option<String>>), Unexplained> {
    let path = format!("/v2/{}/manifests/{}", image.repository, image.tag);
    let ask = |host: &str, namespace: Option<&str>| {
        let parts = request(&path, host, namespace)?;
        let chosen = upstreams.choose(&parts, &path);
        chosen.map_err(|error| Unexplained::NoUpstream(error.message().to_owned()))
    };
    let Some(host) = &image.host else {
        let chosen = ask(PROXY, None)?;
        let mirrored = upstreams.namespace(chosen.place).map(ToOwned::to_owned);
        let ways = [None].into_iter().chain(mirrored.map(Some)).collect();
        return Ok((chosen, ways));
    };
    let host = index_host(host);
    match ask(PROXY, Some(host)) {
        Ok(chosen) => Ok((chosen, vec![Some(host.to_owned())])),
        // By the `Host`, or by the path behind the proxy's own name.
        Err(_) => Ok((ask(host, None)?, vec![None])),
    }
}

fn request(path: &str, host: &str, namespace: Option<&str>) -> Result<request::Parts, Unexplained> {
    let query = namespace.map_or_else(String::new, |namespace| {
        let encoded: String = url::form_urlencoded::byte_serialize(namespace.as_bytes()).collect();
        format!("?ns={encoded}")
    });
    let request = Request::get(format!("{path}{query}"))
        .header(HOST, host)
        .body(())
        .map_err(|error| Unexplained::NoUpstream(error.to_string()))?;
    Ok(request.into_parts().0)
}

/// The repository as the upstream names it; Docker Hub's short names are completed.
fn repository(chosen: &Chosen<'_>, image: &ImageQuestion) -> Result<RepoName, Unexplained> {
    let end = format!("/manifests/{}", image.tag);
    let name = chosen.path.strip_prefix("/v2/");
    let name = name.and_then(|name| name.strip_suffix(end.as_str()));
    let name = name.unwrap_or(image.repository.as_str());
    let is_short = chosen.upstream.host() == DOCKER_HUB && !name.contains('/');
    let name = if is_short {
        format!("library/{name}")
    } else {
        name.to_owned()
    };
    name.parse()
        .map_err(|_| Unexplained::NoUpstream(format!("{name:?} is no repository")))
}

/// What the size of an image must be for a rule.
fn condition(rule: &Rule) -> String {
    let (least, most) = (rule.sizes.start(), rule.sizes.end());
    match (*least > 0, *most < u64::MAX) {
        (true, true) => format!("its layers have {} to {}", Size(*least), Size(*most)),
        (true, false) => format!("its layers have {} or more", Size(*least)),
        _ => format!("its layers have {} or less", Size(*most)),
    }
}

impl Place<'_> {
    fn case(
        &self,
        condition: Option<String>,
        rule: Option<(usize, &Rule)>,
        platforms: &Platforms,
    ) -> Case {
        let ruled = rule.map(|(_, rule)| rule);
        let platforms = ruled
            .and_then(|rule| rule.conversion.platforms.as_ref())
            .unwrap_or(platforms);
        let mut pulls = Vec::new();
        for way in &self.ways {
            for form in [None].into_iter().chain(Form::ALL.map(Some)) {
                pulls.push(self.pull(Asked::Plain(form), ruled, way.as_deref()));
            }
            for kind in [Kind::Native, Kind::Turbo] {
                if self.suffix(kind).is_some() {
                    pulls.push(self.pull(Asked::Suffix(kind), ruled, way.as_deref()));
                }
            }
        }
        Case {
            condition,
            rule: rule.map(|(number, rule)| ShownRule {
                number,
                text: rule.to_string(),
            }),
            platforms: match platforms {
                Platforms::All => vec!["all".to_owned()],
                Platforms::Some(some) => some.iter().map(ToString::to_string).collect(),
            },
            pulls,
        }
    }

    fn suffix(&self, kind: Kind) -> Option<&str> {
        let suffix = match kind {
            Kind::Native => Some(self.config.suffix.as_str()),
            Kind::Turbo => self
                .config
                .turbo
                .as_ref()
                .map(|turbo| turbo.suffix.as_str()),
        };
        suffix.filter(|suffix| !suffix.is_empty())
    }

    fn with_suffix(&self, kind: Kind) -> Option<Tag> {
        format!("{}{}", self.plain, self.suffix(kind)?).parse().ok()
    }

    fn pull(&self, asked: Asked, rule: Option<&Rule>, namespace: Option<&str>) -> Pull {
        let means = Means::of(self.config, self.push, &self.source, namespace);
        let is_missing = means.native == NativeBlobs::Missing;
        let tag = match asked {
            Asked::Suffix(kind) => self.with_suffix(kind),
            Asked::Plain(_) => None,
        };
        let mut pull = Pull {
            tag: tag.unwrap_or_else(|| self.plain.clone()),
            mirror_of: namespace.map(ToOwned::to_owned),
            header: match asked {
                Asked::Plain(form) => form.map(Form::name),
                Asked::Suffix(_) => None,
            },
            gets: "original",
            why: None,
            otherwise: None,
            pushed_to: None,
        };
        match decision::decide(asked, rule, means) {
            Plan::Original(why) => pull.why = Some(why.to_string()),
            Plan::Absent => {
                pull.gets = "upstream";
                pull.why = Some("the rule says never".to_owned());
            }
            Plan::Converted { kind, fallback, .. } => {
                pull.gets = match kind {
                    Kind::Native => "native",
                    Kind::Turbo => "turbo",
                };
                pull.otherwise = (kind == Kind::Turbo).then_some(match fallback {
                    TurboFallback::Native => "native",
                    TurboFallback::Original => "original",
                    TurboFallback::Error => "error",
                });
                pull.pushed_to = self.pushed_to(kind);
                // With a suffix it is asked for all the same.
                if kind == Kind::Native && is_missing {
                    pull.why = Some(format!("it cannot start: {}", Why::Missing));
                }
            }
        }
        pull
    }

    fn pushed_to(&self, kind: Kind) -> Option<String> {
        let (upstream, repo) = self.push?.place(&self.source);
        let host = match upstream {
            Upstream::Registry(_) => upstream.host(),
            Upstream::Layout(_) => "the layout",
        };
        let tag = self.with_suffix(kind);
        Some(match tag {
            Some(tag) => format!("{host}/{repo}:{tag}"),
            None => format!("{host}/{repo}"),
        })
    }
}
