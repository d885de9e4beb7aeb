//! Which requests are answered or passed on at all.
//!
//! With a client's own credentials that is nearly everything: the upstream decides. With the
//! proxy's credentials it is the distribution API, and of that, what this client may do.

use http::Method;

use crate::server::config::{Access, ServerConfig};
use crate::server::error::ApiError;
use crate::server::route::{Kind, Route};

/// Methods that registries have a use for. `TRACE` and its like echo what the upstream was
/// sent, credentials and all; `CONNECT` is for another kind of proxy.
const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Whether a method is passed on to anybody.
///
/// # Errors
/// The answer to the client.
pub(in crate::server) fn method(method: &Method) -> Result<(), ApiError> {
    if KNOWN.contains(&method.as_str()) {
        Ok(())
    } else {
        Err(ApiError::method(&KNOWN))
    }
}

/// Whether a request of a client that was let in is one that it may make here.
///
/// # Errors
/// The answer to the client.
pub(in crate::server) fn request(
    config: &ServerConfig,
    method: &Method,
    route: &Route,
) -> Result<(), ApiError> {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let is_own = matches!(config.access, Access::Own { .. });
    if is_own {
        match route.methods() {
            [] => return Err(ApiError::outside_of_the_api()),
            known if !known.contains(&method.as_str()) => return Err(ApiError::method(known)),
            _ => {}
        }
    }
    if config.read_only && !is_read && *method != Method::OPTIONS {
        return Err(ApiError::read_only());
    }
    // Nobody could have begun an upload, so nobody asks for the state of one.
    let is_write = !is_read || route.kind() == Kind::Upload;
    if is_write && config.is_for_anyone() && !config.allow_anonymous_push {
        return Err(ApiError::anonymous_push());
    }
    Ok(())
}
