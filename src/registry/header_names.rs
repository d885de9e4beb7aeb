//! Names of the headers of the distribution API.

use http::header::{HeaderName, HeaderValue};

/// `Docker-Content-Digest`.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// `Docker-Distribution-Api-Version`.
pub(crate) const API_VERSION: HeaderName =
    HeaderName::from_static("docker-distribution-api-version");
/// The value of [`API_VERSION`].
pub(crate) const REGISTRY_2: HeaderValue = HeaderValue::from_static("registry/2.0");
/// `OCI-Filters-Applied`: what a list of referrers was filtered by.
pub(crate) const OCI_FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
/// `OCI-Subject`: the registry has listed the manifest under its subject.
pub(crate) const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
