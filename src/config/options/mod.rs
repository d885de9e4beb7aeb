//! The options, by the part that they are for. Each field is a flag, an environment variable
//! and a key of the TOML file; a field whose value is called BOOL is a switch.

mod blob_store;
mod clients;
mod conversion;
mod limits;
mod log;
mod policy;
mod push;
mod registries;
mod registry;
mod scrub;
mod server;
mod store;
mod traces;
mod upstream;

use std::fmt::Display;

pub use blob_store::BlobStoreOptions;
pub use clients::ClientOptions;
pub use conversion::ConversionOptions;
pub use limits::LimitOptions;
pub use log::{LogConfig, LogFormat, LogOptions};
pub use policy::PolicyOptions;
pub use push::PushOptions;
pub use registries::Registries;
pub use registry::RegistryOptions;
pub use scrub::ScrubOptions;
pub use server::ServerOptions;
pub(super) use server::remark;
pub use store::StoreOptions;
pub use traces::TraceOptions;
pub use upstream::{NamedUpstream, Target, UpstreamOptions};
pub(super) use upstream::{upstream_address, upstream_keys};

use super::{ConfigErrors, Text, boolean};

/// The value of an option, `None` if nobody gave one or it is a mistake.
fn optional<T, E: Display>(
    errors: &mut ConfigErrors,
    name: &str,
    value: Option<&Text>,
    read: impl FnOnce(&str) -> Result<T, E>,
) -> Option<T> {
    let value = value?;
    errors.take(name, read(value.as_str()))
}

/// The value of an option that must have one.
fn required<T, E: Display>(
    errors: &mut ConfigErrors,
    name: &str,
    value: Option<&Text>,
    read: impl FnOnce(&str) -> Result<T, E>,
) -> Option<T> {
    if value.is_none() {
        errors.add(name, "a value is needed");
    }
    optional(errors, name, value, read)
}

/// Whether a switch is on; off if nobody says.
fn switch(errors: &mut ConfigErrors, name: &str, value: Option<&Text>) -> bool {
    optional(errors, name, value, boolean).unwrap_or_default()
}

/// The good values of a list; the others are mistakes.
fn list<T, E: Display>(
    errors: &mut ConfigErrors,
    name: &str,
    values: &[Text],
    read: impl Fn(&str) -> Result<T, E>,
) -> Vec<T> {
    let texts = values.iter().filter(|value| !value.as_str().is_empty());
    texts
        .filter_map(|value| errors.take(name, read(value.as_str())))
        .collect()
}

/// A file that is there.
fn existing_file(text: &str) -> Result<std::path::PathBuf, String> {
    match std::fs::File::open(text).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_dir() => Err(format!("{text} is a directory, not a file")),
        Ok(_) => Ok(text.into()),
        Err(error) => Err(format!("{text} cannot be read: {error}")),
    }
}
