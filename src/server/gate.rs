//! Which requests are answered or passed on at all.
//!
//! With a client's own credentials that is nearly everything: the upstream judges. With the
//! proxy's credentials it is the distribution API, and of that, what this client may do.

use http::Method;

use super::config::{Access, ServerConfig};
use super::respond::Failure;
use super::route::{Kind, Route};

/// Methods that registries have a use for. `TRACE` and its like echo what the upstream was
/// sent, credentials and all; `CONNECT` is for another kind of proxy.
const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Whether a method is passed on to anybody.
///
/// # Errors
/// What the client is told.
pub(super) fn method(method: &Method) -> Result<(), Failure> {
    if KNOWN.contains(&method.as_str()) {
        Ok(())
    } else {
        Err(Failure::method(&KNOWN))
    }
}

/// Whether a request of a client that was let in is one that it may make here.
///
/// # Errors
/// What the client is told.
pub(super) fn request(
    config: &ServerConfig,
    method: &Method,
    route: &Route,
) -> Result<(), Failure> {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let is_own = matches!(config.access, Access::Own { .. });
    if is_own {
        match route.methods() {
            [] => return Err(Failure::outside_of_the_api()),
            known if !known.contains(&method.as_str()) => return Err(Failure::method(known)),
            _ => {}
        }
    }
    if config.read_only && !is_read && *method != Method::OPTIONS {
        return Err(Failure::read_only());
    }
    // Nobody could have begun an upload, so nobody asks for the state of one.
    let is_write = !is_read || route.kind() == Kind::Upload;
    if is_write && config.is_for_anyone() && !config.allow_anonymous_push {
        return Err(Failure::anonymous_push());
    }
    Ok(())
}
