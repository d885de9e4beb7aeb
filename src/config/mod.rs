//! From texts to settings: one definition gives the flag, the environment variable and the
//! key of the TOML file; every error is collected, so that one run shows them all.
//!
//! ```text
//! built-in default < file < environment < flag        (sources)
//!        └→ options/* : one group of options a part, each becomes that part's Config
//! ```

mod defaults;
mod errors;
mod file;
mod fstype;
mod keys;
pub mod options;
mod origin;
mod scalar;
mod serve;
mod show;
mod sources;
mod text;

pub use errors::ConfigErrors;
pub use file::DEFAULT_PATH;
pub use fstype::{FsType, InvalidFsType};
pub use keys::{BLOCK_CACHE_SIZE, ONE_PLATFORM, decorate};
pub use origin::{Origin, environment_variable, origins};
pub use scalar::{boolean, bytes, duration, gibibytes, number};
pub use serve::{ServeConfig, ServeOptions, needs_url_keys};
pub use show::show;
pub use sources::Sources;
pub use text::Text;

#[cfg(test)]
mod tests;
