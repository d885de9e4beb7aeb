//! Names of headers that answers share, besides those of the distribution API.

use http::header::HeaderName;

/// `OCI-Namespace`: the registry that the answer is for.
pub(in crate::server) const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
/// `Overlaybd-Format`: the form in which a node wants images that it pulls by a plain tag: `auto`,
/// `native`, `turbo` or `original`. containerd's `hosts.toml` can set it.
pub(in crate::server) const FORMAT: HeaderName = HeaderName::from_static("overlaybd-format");
/// `X-Request-Id`.
pub(in crate::server) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Whether an image was there when it was asked for (`found`), was `converted` for the request, or
/// is what the `upstream` has under the tag that was asked for, or the `original` because the
/// conversion takes longer than requests wait or is not to be had; or that it is no image to
/// convert (`no-image`). Of a source's manifest or blob, whether it was in the cache (`hit`), was
/// being downloaded (`joined`), or was downloaded for the request (`filled`).
pub(in crate::server) const OUTCOME: HeaderName = HeaderName::from_static("overlaybd-outcome");
/// The form in which an image is served that could not be converted to the one that was asked for,
/// and why.
pub(in crate::server) const FALLBACK: HeaderName = HeaderName::from_static("overlaybd-fallback");

/// With what overlaybd's User-Agent begins, unless its configuration says otherwise.
pub(in crate::server) const OVERLAYBD_AGENT: &[u8] = b"overlaybd/";
