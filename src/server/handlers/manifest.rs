//! Manifests: which are intercepted, and the answer.

use std::sync::Arc;

use http::header::{HeaderValue, VARY};
use http::{HeaderMap, Response, StatusCode};

use crate::convert::{Converter, Overrides, Requester, Source};
use crate::oci::{Digest, RepoName, Selector, Tag};
use crate::registry::header_names::CONTENT_DIGEST;
use crate::server::cache::responses::CachedContent;
use crate::server::context::RequestContext;
use crate::server::context::lookup::Belongs;
use crate::server::decision::{self, Asked, Kind, Means, NativeBlobs, Plan, Why};
use crate::server::error::ApiError;
use crate::server::handlers::converted::{self, Got, Image, Wanted, with_outcome};
use crate::server::handlers::merged::{self, Merged};
use crate::server::handlers::{derived, forward, referrers, source};
use crate::server::http::body::ResponseBody;
use crate::server::http::header_names::FORMAT;
use crate::server::learn::Repository;
use crate::server::policy::{Form, ImageName, Policy};
use crate::server::state::AppState;

/// `GET` or `HEAD` of a manifest by tag.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn by_tag(
    context: RequestContext<'_>,
    repo: &RepoName,
    tag: Tag,
) -> Result<Response<ResponseBody>, ApiError> {
    let (plain, asked) = decision::read(&context.state.config, &tag, context.stated);
    if let Asked::Suffix(_) = asked {
        return by_suffix(context, repo, tag, plain, asked).await;
    }
    if let Some(plain) = decision::without(&tag, &context.state.config.merged_suffix) {
        return by_merged_suffix(context, repo, tag, plain).await;
    }
    match referrers::by_tag(&context, repo, &tag).await {
        Ok(Some(list)) => return Ok(list),
        Ok(None) => {}
        Err(failure) => {
            tracing::warn!(%repo, %tag, reason = failure.message(),
                "a list of referrers is answered without the converted forms");
        }
    }
    let (may_ever, may_now) = {
        let policy = &context.policy.policy;
        let image = named(context.state, context.chosen.place, repo, &tag);
        let is_said = context.stated.is_some();
        (
            policy.may_convert_plain(&image, true),
            policy.may_convert_plain(&image, is_said),
        )
    };
    let mut answer = if may_now {
        Box::pin(by_plain_tag(context, repo, tag, asked)).await
    } else {
        pass_tag(context, repo, &tag).await
    };
    // Also for those that get the original: others may not.
    if may_ever {
        vary(match &mut answer {
            Ok(response) => response.headers_mut(),
            Err(failure) => failure.headers_mut(),
        });
    }
    answer
}

/// Says that an answer depends on the form that nodes ask for (RFC 9110 § 12.5.5).
pub(in crate::server) fn vary(headers: &mut HeaderMap) {
    headers.append(VARY, HeaderValue::from(FORMAT));
}

/// The name by which rules know an image.
fn named<'a>(state: &'a AppState, place: usize, repo: &'a RepoName, tag: &'a Tag) -> ImageName<'a> {
    ImageName {
        upstreams: state.upstreams.names(place),
        repository: repo.as_str(),
        tag: tag.as_str(),
    }
}

/// What is answered to `asked` of an image, and the number of the rule that says so, if one does.
async fn plan(
    context: &RequestContext<'_>,
    asked: Asked,
    image: &Image,
) -> Result<(Plan, Option<usize>), ApiError> {
    let state = context.state;
    let name = named(state, context.chosen.place, &image.source.repo, &image.tag);
    let rule = state
        .converted
        .rule(&context.policy.policy, &name, &image.source, &image.digest);
    let held = context.hold.question(Box::pin(rule));
    let rule = context.aside(held).await?;
    let rule = rule.map_err(|_| ApiError::silent_upstream(context.hold.time()))?;
    let rule = rule.map_err(|error| ApiError::conversion(&error, state.is_own()))?;
    let push = state.converted.converter.push_target_of(&image.source);
    let namespace = context.chosen.mount.namespace.as_deref();
    let means = Means::of(&state.config, push, &image.source, namespace);
    let plan = decision::decide(asked, rule.map(|(_, rule)| rule), means);
    let place = context.chosen.place;
    let asked_by = context.asked_by(Some(&image.tag));
    let learned = context.aside(Box::pin(learned(state, place, (image, asked_by), plan)));
    Ok((learned.await?, rule.map(|(number, _)| number)))
}

/// The plan with the list that was learned for the repository, if there is one and nothing else names
/// one. An image that was made without it is served until the one with it is there.
async fn learned(
    state: &AppState,
    place: usize,
    (image, asked_by): (&Image, Requester),
    plan: Plan,
) -> Plan {
    let Plan::Converted {
        kind,
        fallback,
        overrides,
    } = &plan
    else {
        return plan;
    };
    let Some(listed) = with_learned(state, &image.source, overrides).await else {
        return plan;
    };
    let of = |overrides: &Overrides| state.converted.converter_of(*kind, overrides);
    let (Some(with), Some(without)) = (of(&listed), of(overrides)) else {
        return plan;
    };
    if !is_there(&with, image).await && is_there(&without, image).await {
        let (source, digest) = (image.source.clone(), image.digest.clone());
        let prepared = state
            .prepare
            .begin(place, source, &image.tag, digest, async move {
                Some(with.asked_by(asked_by))
            });
        prepared.await;
        return plan;
    }
    Plan::Converted {
        kind: *kind,
        fallback: *fallback,
        overrides: listed,
    }
}

/// Whether a converter is known to have made an image.
async fn is_there(converter: &Converter, image: &Image) -> bool {
    let known = converter.lookup(&image.source, &image.digest);
    matches!(known.await, Ok(Some(_)))
}

/// What is made of an image with the list that was learned for its repository, if there is one and
/// nothing else names one.
async fn with_learned(
    state: &AppState,
    source: &Source,
    overrides: &Overrides,
) -> Option<Overrides> {
    if overrides.prefetch.is_some() || state.converted.converter.has_prefetch_list() {
        return None;
    }
    let repository = Repository {
        upstream: source.upstream.clone(),
        repo: source.repo.clone(),
    };
    let offered = state.learner.offered(&repository).await?;
    Some(Overrides {
        prefetch: Some(offered),
        ..overrides.clone()
    })
}

/// A tag with a suffix. Under it is, in this order: what the upstream has there, where that is
/// preferred; what the plain tag's image becomes; what the upstream has there.
async fn by_suffix(
    context: RequestContext<'_>,
    repo: &RepoName,
    tag: Tag,
    plain: Tag,
    asked: Asked,
) -> Result<Response<ResponseBody>, ApiError> {
    let state = context.state;
    if state.config.prefer_upstream_tags {
        match context.ask(repo, &Selector::Tag(tag.clone())).await {
            Ok(_) => return as_it_is(context).await,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(ApiError::upstream(&error, state.is_own())),
        }
    }
    // This resolves the tag, and is the permission to have what it became.
    let (head, until) = match context.ask(repo, &Selector::Tag(plain.clone())).await {
        Ok(answer) => answer,
        Err(error) if error.is_not_found() => return as_it_is(context).await,
        Err(_) if context.hold.is_over() => {
            return converted::too_long(context, repo, None).await;
        }
        Err(error) => return Err(ApiError::upstream(&error, state.is_own())),
    };
    let image = Image {
        source: context.source(repo),
        tag: plain,
        digest: head.digest,
    };
    let (plan, number) = plan(&context, asked, &image).await?;
    let Plan::Converted {
        kind,
        fallback,
        overrides,
    } = plan
    else {
        let answer = as_it_is(context).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Err(ApiError::never(&tag, number.unwrap_or_default()));
        }
        return Ok(answer);
    };
    let wanted = Wanted {
        image,
        kind,
        fallback,
        overrides,
    };
    match converted::get(&context, &wanted).await {
        Got::Document(document, outcome, instead) => {
            // What is kept has no reason with it.
            if instead.is_none() {
                context.keep(CachedContent::Document(Arc::clone(&document)), until);
            }
            let instead = instead.as_deref();
            Ok(converted::answer(&context, &document, outcome, instead))
        }
        Got::Original(reason) => converted::original(context, &wanted.image, &reason).await,
        Got::TooLong => converted::too_long(context, repo, Some(&wanted.image.digest)).await,
        Got::NoImage(failure) | Got::Refused(failure) | Got::Failed(failure) => Err(failure),
    }
}

/// A tag with the suffix of indexes that have the original and its converted forms.
async fn by_merged_suffix(
    context: RequestContext<'_>,
    repo: &RepoName,
    tag: Tag,
    plain: Tag,
) -> Result<Response<ResponseBody>, ApiError> {
    let state = context.state;
    if state.config.prefer_upstream_tags {
        match context.ask(repo, &Selector::Tag(tag.clone())).await {
            Ok(_) => return as_it_is(context).await,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(ApiError::upstream(&error, state.is_own())),
        }
    }
    let (head, until) = match context.ask(repo, &Selector::Tag(plain.clone())).await {
        Ok(answer) => answer,
        Err(error) if error.is_not_found() => return as_it_is(context).await,
        Err(_) if context.hold.is_over() => {
            return converted::too_long(context, repo, None).await;
        }
        Err(error) => return Err(ApiError::upstream(&error, state.is_own())),
    };
    let image = Image {
        source: context.source(repo),
        tag: plain,
        digest: head.digest,
    };
    let mut converters = Vec::new();
    for kind in [Kind::Native, Kind::Turbo] {
        match plan(&context, Asked::Suffix(kind), &image).await? {
            (
                Plan::Converted {
                    kind, overrides, ..
                },
                _,
            ) => {
                let converter = state.converted.converter_of(kind, &overrides);
                let asked_by = context.asked_by(Some(&image.tag));
                converters.extend(converter.map(|converter| converter.asked_by(asked_by)));
            }
            (Plan::Original(_) | Plan::Absent, number) => {
                let answer = as_it_is(context).await?;
                if answer.status() == StatusCode::NOT_FOUND {
                    return Err(ApiError::never(&tag, number.unwrap_or_default()));
                }
                return Ok(answer);
            }
        }
    }
    let source = &image.digest;
    match merged::answer(&context, repo, source, until, &converters).await? {
        Merged::Answer(response) => Ok(*response),
        Merged::TooLong => converted::too_long(context, repo, Some(source)).await,
    }
}

/// A plain tag that may be answered with a converted image. Whatever stands in the way of that, the
/// original is there.
async fn by_plain_tag(
    context: RequestContext<'_>,
    repo: &RepoName,
    tag: Tag,
    asked: Asked,
) -> Result<Response<ResponseBody>, ApiError> {
    let (head, until) = match context.ask(repo, &Selector::Tag(tag.clone())).await {
        Ok(answer) => answer,
        Err(_) if context.hold.is_over() => {
            return converted::too_long(context, repo, None).await;
        }
        // The upstream's own answer is the one that clients understand.
        Err(_) => return forward::pass(context).await,
    };
    let image = Image {
        source: context.source(repo),
        tag,
        digest: head.digest,
    };
    let (kind, fallback, overrides) = match plan(&context, asked, &image).await {
        Ok((
            Plan::Converted {
                kind,
                fallback,
                overrides,
            },
            _,
        )) => (kind, fallback, overrides),
        Ok((Plan::Original(why), _)) if why.is_lack() => {
            return converted::original(context, &image, &why.to_string()).await;
        }
        Ok((Plan::Original(_) | Plan::Absent, _)) => {
            return pass_tag(context, repo, &image.tag).await;
        }
        Err(failure) => return converted::original(context, &image, failure.message()).await,
    };
    let wanted = Wanted {
        image,
        kind,
        fallback,
        overrides,
    };
    if let Some(reason) = wanted.no_image(&context).await {
        return converted::original(context, &wanted.image, &reason).await;
    }
    let reason = match converted::get(&context, &wanted).await {
        Got::Document(..) if is_out_of_reach(&context, &wanted) => Why::Missing.to_string(),
        Got::Document(document, outcome, instead) => {
            if instead.is_none() {
                context.keep(CachedContent::PlainTag(Arc::clone(&document)), until);
            }
            let instead = instead.as_deref();
            return Ok(converted::answer(&context, &document, outcome, instead));
        }
        Got::TooLong => {
            return converted::too_long(context, repo, Some(&wanted.image.digest)).await;
        }
        Got::Refused(failure) => return Err(failure),
        Got::Original(reason) => reason.to_string(),
        Got::NoImage(failure) => {
            let reason = failure.message();
            wanted.remember_no_image(&context, reason).await;
            reason.to_owned()
        }
        Got::Failed(failure) => {
            let reason = failure.message();
            tracing::warn!(%repo, tag = %wanted.image.tag, source = %wanted.image.digest, reason,
                "a plain tag is answered with the original: the image was not converted");
            reason.to_owned()
        }
    };
    converted::original(context, &wanted.image, &reason).await
}

/// Whether a native image that was to be pushed turned out not to be where nodes read it.
fn is_out_of_reach(context: &RequestContext<'_>, wanted: &Wanted) -> bool {
    let (state, source) = (context.state, &wanted.image.source);
    let converter = &state.converted.converter;
    if wanted.kind != Kind::Native || !converter.is_push_refused(source) {
        return false;
    }
    let namespace = context.chosen.mount.namespace.as_deref();
    let push = converter.push_target_of(source);
    Means::of(&state.config, push, source, namespace).native == NativeBlobs::Missing
}

/// What the upstream has under the tag that was asked for, of whatever kind it is.
async fn as_it_is(context: RequestContext<'_>) -> Result<Response<ResponseBody>, ApiError> {
    Ok(with_outcome(forward::pass(context).await?, "upstream"))
}

/// A plain tag, passed through; what it becomes is prepared if that is wanted.
async fn pass_tag(
    context: RequestContext<'_>,
    repo: &RepoName,
    tag: &Tag,
) -> Result<Response<ResponseBody>, ApiError> {
    let state = context.state;
    if !state.config.prepares(repo, tag) {
        return source::by_tag(context, repo, tag).await;
    }
    let (place, policy) = (context.chosen.place, Arc::clone(&context.policy));
    let asked_by = context.asked_by(Some(tag));
    let from = context.source(repo);
    let response = source::by_tag(context, repo, tag).await?;
    if response.status() == StatusCode::OK {
        let digest = response
            .headers()
            .get(CONTENT_DIGEST)
            .and_then(|digest| digest.to_str().ok()?.parse().ok());
        if let Some(digest) = digest {
            let image = Image {
                source: from.clone(),
                tag: tag.clone(),
                digest,
            };
            let (shared, to_prepare) = (Arc::clone(state), image.clone());
            let converter = async move {
                let converter = preparing(&shared, &policy.policy, place, &to_prepare).await;
                converter.map(|converter| converter.asked_by(asked_by))
            };
            let begun = state
                .prepare
                .begin(place, from, tag, image.digest, converter);
            begun.await;
        }
    }
    Ok(response)
}

/// What prepares an image, unless its rule says that it is never converted.
pub(in crate::server) async fn preparing(
    state: &AppState,
    policy: &Policy,
    place: usize,
    image: &Image,
) -> Option<Converter> {
    let name = named(state, place, &image.source.repo, &image.tag);
    let rule = state
        .converted
        .rule(policy, &name, &image.source, &image.digest);
    let rule = match Box::pin(rule).await {
        Ok(rule) => rule.map(|(_, rule)| rule),
        Err(error) => {
            tracing::warn!(repo = %image.source.repo, source = %image.digest, %error,
                "an image is not prepared: a rule asks for its size, and that is not known");
            return None;
        }
    };
    let kind = match rule.map(|rule| rule.form) {
        Some(Form::Turbo) => Kind::Turbo,
        _ => Kind::Native,
    };
    let push = state.converted.converter.push_target_of(&image.source);
    let means = Means::of(&state.config, push, &image.source, None);
    match decision::decide(Asked::Suffix(kind), rule, means) {
        Plan::Converted {
            kind, overrides, ..
        } => {
            let listed = with_learned(state, &image.source, &overrides).await;
            let overrides = listed.unwrap_or(overrides);
            state.converted.converter_of(kind, &overrides)
        }
        Plan::Original(_) | Plan::Absent => None,
    }
}

/// `GET` or `HEAD` of a manifest by digest.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn by_digest(
    context: RequestContext<'_>,
    repo: &RepoName,
    digest: &Digest,
) -> Result<Response<ResponseBody>, ApiError> {
    match context.belongs(repo, digest).await? {
        Belongs::Here { source, until } => {
            let document = derived::document(&context, repo, digest, &source).await?;
            context.keep(CachedContent::Document(Arc::clone(&document)), until);
            Ok(document.answer(&context.parts.headers, context.is_head()))
        }
        Belongs::Upstream => source::by_digest(context, repo, digest).await,
        Belongs::Undecided(failure) => pass_undecided(context, failure).await,
    }
}

/// Passes a request through of which it is not known whether it is ours to answer: the
/// upstream's "not found" then means nothing.
///
/// # Errors
/// `failure`, where the upstream has nothing.
pub(in crate::server) async fn pass_undecided(
    context: RequestContext<'_>,
    failure: ApiError,
) -> Result<Response<ResponseBody>, ApiError> {
    let response = forward::pass(context).await?;
    if response.status() == StatusCode::NOT_FOUND {
        return Err(failure);
    }
    Ok(response)
}
