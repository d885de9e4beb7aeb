//! The registry client: auth, pull, push, OCI layout directories.
//!
//! [`Upstream`] is the whole of it: a registry spoken to over HTTP, or an OCI image layout
//! that answers as if it were one.

pub mod body;
mod client;
pub mod config;
pub(crate) mod content_headers;
mod egress;
pub mod error;
pub(crate) mod error_body;
pub(crate) mod header_names;
mod layout;
pub(crate) mod link;
pub(crate) mod pem;
pub(crate) mod ranges;
mod renewal;
pub(crate) mod stall;
mod types;
mod upstream;

pub use body::{Body, BoxError};
pub use client::{
    Answered, Challenge, ClientAuth, ClientToken, Direct, DockerLogin, DockerLogins, PostError,
    Poster, Registry, StorageConnector, challenges, needed_scopes,
};
pub(crate) use client::{HostEntry, fallback_tag, parse_hosts_toml, referrer, subject_of};
pub use config::{
    ClientIdentity, Credentials, DialOptions, RegistryConfig, RetryPolicy, Secret, Timeouts,
    TlsOptions, UploadMode,
};
pub use egress::{Egress, EgressProxy};
pub use error::Error;
pub use layout::{Layout, TemporaryDirectory};
pub use renewal::Renewal;
pub use types::{
    Authorization, BlobSource, BlobStream, ForwardOptions, ManifestHead, Pushed, PushedManifest,
    RawManifest, Redirects, Sharing,
};
pub use upstream::Upstream;
