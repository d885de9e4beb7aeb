//! Whether the proxy has credentials of its own where it is to push converted images: looked at once,
//! when it starts. What lacks them is pulled all the same, and stays here.

use std::sync::Arc;

use http::{Request, StatusCode};

use crate::registry::{Error, ForwardOptions, Redirects, Upstream, body};
use crate::server::state::AppState;

/// Why nothing can be pushed to a registry.
enum PushLoginProblem {
    /// It wants credentials, and there are none.
    None,
    /// It refuses them, or they cannot be had.
    Refused(String),
}

/// Warns of each registry that images are pushed to and that refuses the proxy's own credentials.
pub(in crate::server) async fn check_push_logins(state: Arc<AppState>) {
    let Some(target) = state.converted.converter.push_target() else {
        return;
    };
    let registries: Vec<Upstream> = if let Some(upstream) = &target.upstream {
        vec![upstream.clone()]
    } else {
        let entries = state.config.upstreams.iter();
        entries.map(|entry| entry.upstream.clone()).collect()
    };
    for registry in registries {
        let host = registry.host();
        match Box::pin(lack(&registry)).await {
            Ok(None) => {}
            Ok(Some(PushLoginProblem::None)) => tracing::warn!(
                registry = host,
                "converted images cannot be pushed: the registry wants credentials, and the proxy \
                 has none for it (--user, --push-user, --docker-config); images are served from here"
            ),
            Ok(Some(PushLoginProblem::Refused(error))) => tracing::warn!(
                registry = host,
                error,
                "converted images cannot be pushed: the registry refuses the proxy's own \
                 credentials (--user, --push-user, --docker-config); images are served from here"
            ),
            Err(error) => {
                tracing::debug!(registry = host, %error, "it is not known who may push there");
            }
        }
    }
}

/// Why nothing can be pushed to a registry, as far as it says so without a push.
async fn lack(registry: &Upstream) -> Result<Option<PushLoginProblem>, Error> {
    if ping(registry, false).await? != StatusCode::UNAUTHORIZED {
        // It may want none.
        return Ok(None);
    }
    match registry.has_credentials().await {
        Ok(true) => {}
        Ok(false) => return Ok(Some(PushLoginProblem::None)),
        Err(error) => return Ok(Some(PushLoginProblem::Refused(error.to_string()))),
    }
    match ping(registry, true).await {
        Ok(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => Ok(Some(
            PushLoginProblem::Refused(format!("it answers {status}")),
        )),
        Ok(_) => Ok(None),
        Err(
            error @ (Error::Unauthorized { .. }
            | Error::Forbidden { .. }
            | Error::Credentials { .. }),
        ) => Ok(Some(PushLoginProblem::Refused(error.to_string()))),
        Err(error) => Err(error),
    }
}

/// What a registry says to nobody, or to the proxy's own credentials.
async fn ping(registry: &Upstream, own_credentials: bool) -> Result<StatusCode, Error> {
    let request = Request::get("/v2/").body(body::empty());
    let request = request.map_err(|error| Error::Configuration(error.to_string()))?;
    let options = ForwardOptions {
        own_credentials,
        redirects: Redirects::FollowedAtHome,
    };
    Ok(registry.forward(request, options).await?.status())
}
