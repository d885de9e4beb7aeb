//! What is made of an image that is asked for: what the policy, the settings and a learned list come to.

use crate::convert::{Converter, Overrides, Requester, Source};
use crate::oci::{RepoName, Tag};
use crate::server::context::RequestContext;
use crate::server::decision::{self, Asked, Kind, Means, Plan};
use crate::server::error::ApiError;
use crate::server::handlers::converted::Image;
use crate::server::learn::Repository;
use crate::server::policy::{Form, ImageName, Policy};
use crate::server::state::AppState;

/// The name by which rules know an image.
pub(super) fn named<'a>(
    state: &'a AppState,
    place: usize,
    repo: &'a RepoName,
    tag: &'a Tag,
) -> ImageName<'a> {
    ImageName {
        upstreams: state.upstreams.names(place),
        repository: repo.as_str(),
        tag: tag.as_str(),
    }
}

/// What is answered to `asked` of an image, and the number of the rule that says so, if one does.
pub(super) async fn plan(
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
